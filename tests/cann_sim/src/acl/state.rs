//! Everything that is alive between two calls, and the summary of what was not freed.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::config::{self, Config};
use super::context::Context;
use super::dataset::{Buffer, Dataset};
use super::error::{Fail, code};
use super::event::Event;
use super::handle::{Kind, Table, to_pointer};
use super::log::CallLog;
use super::memory::Memory;
use super::model::{LoadConfig, Model, Program};
use super::plog;
use super::script::Script;
use super::stream::Stream;

/// Streams of a device, as the 910B series has.
pub(super) const MAX_STREAMS: usize = 1984;

/// `aclrtExceptionInfoCallback`.
pub(super) type ExceptionCallback = unsafe extern "C" fn(*mut c_void);

/// What an exception callback can ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exception {
    pub(super) task: u32,
    pub(super) stream: u32,
    pub(super) device: u32,
    pub(super) code: i32,
}

/// How a device is used by this process.
#[derive(Debug, Default)]
pub(super) struct DeviceUse {
    /// `aclrtSetDevice` less `aclrtResetDevice`.
    pub(super) count: u32,
    /// Its own context; 0 when there is none.
    pub(super) default_context: u64,
}

/// Everything there is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Arc<Config>,
    pub(super) script: Script,
    pub(super) log: Option<Arc<CallLog>>,
    pub(super) is_initialised: bool,
    pub(super) devices: Vec<DeviceUse>,
    pub(super) memory: Memory,
    pub(super) contexts: Table<Arc<Context>>,
    pub(super) streams: Table<Arc<Stream>>,
    pub(super) events: Table<Arc<Event>>,
    pub(super) models: BTreeMap<u32, Model>,
    pub(super) descs: Table<Option<Arc<Program>>>,
    pub(super) datasets: Table<Dataset>,
    pub(super) buffers: Table<Buffer>,
    pub(super) configs: Table<LoadConfig>,
    pub(super) exceptions: Table<Exception>,
    pub(super) exception_callback: Option<ExceptionCallback>,
    /// What ended with its context instead of being destroyed.
    orphans: BTreeMap<&'static str, usize>,
    violations: Vec<String>,
    last_model: u32,
    last_stream: u32,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| Mutex::new(State::new()));

/// The state, locked. Whoever holds it waits for nothing: neither a stream nor the bus.
pub(super) fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn new() -> Self {
        // Functions that work before `aclInit` want to know something; a wrong variable is told
        // by `aclInit`.
        let config = Config::from_env().unwrap_or_else(|_| Config::default());
        Self {
            config: Arc::new(config),
            script: Config::script().unwrap_or_default(),
            log: open_log(None),
            is_initialised: false,
            devices: Vec::new(),
            memory: Memory::new(),
            contexts: Table::new(Kind::Context),
            streams: Table::new(Kind::Stream),
            events: Table::new(Kind::Event),
            models: BTreeMap::new(),
            descs: Table::new(Kind::Desc),
            datasets: Table::new(Kind::Dataset),
            buffers: Table::new(Kind::Buffer),
            configs: Table::new(Kind::Config),
            exceptions: Table::new(Kind::Exception),
            exception_callback: None,
            orphans: BTreeMap::new(),
            violations: Vec::new(),
            last_model: 0,
            last_stream: 0,
        }
    }

    /// Reads the variables and starts anew.
    ///
    /// # Errors
    /// A variable that makes no sense.
    pub(super) fn initialise(&mut self) -> Result<(), Fail> {
        let refusal = |text: String| Fail::new(code::INVALID_PARAM, text);
        let config = Config::from_env().map_err(refusal)?;
        self.memory.set_up(config.num_devices, config.hbm_bytes)?;
        self.devices = (0..config.num_devices).map(|_| DeviceUse::default()).collect();
        self.config = Arc::new(config);
        // Delays depend on the number of the stream, and are to be the same in every run.
        self.last_stream = 0;
        self.is_initialised = true;
        Ok(())
    }

    /// Reads the variables that matter from the first call on, `aclInit` included.
    ///
    /// # Errors
    /// A script that makes no sense.
    pub(super) fn read_script(&mut self) -> Result<(), Fail> {
        self.log = open_log(self.log.take());
        self.script = Config::script().map_err(|text| Fail::new(code::INVALID_PARAM, text))?;
        Ok(())
    }

    /// Notes that a rule was broken which no code tells of.
    pub(super) fn violate(&mut self, text: &str) {
        if let Some(log) = &self.log {
            log.line(&format!("violation: {text}"));
        }
        self.violations.push(text.to_owned());
    }

    /// Notes that something ended without being destroyed.
    pub(super) fn orphan(&mut self, what: &'static str, count: usize) {
        if count > 0 {
            *self.orphans.entry(what).or_default() += count;
        }
    }

    pub(super) fn add_model(&mut self, model: Model) -> u32 {
        self.last_model += 1;
        self.models.insert(self.last_model, model);
        self.last_model
    }

    /// A model that was loaded in that context.
    ///
    /// # Errors
    /// When there is none of that id, or in another context.
    pub(super) fn model(&mut self, id: u32, context: &Arc<Context>) -> Result<&mut Model, Fail> {
        let refusal = || Fail::new(code::GE_MODEL_ID_INVALID, format!("no model {id} is loaded"));
        let model = self.models.get_mut(&id).ok_or_else(refusal)?;
        if !Arc::ptr_eq(&model.context, context) {
            let text = format!("model {id} was loaded in another context");
            return Err(Fail::new(code::RT_MODEL_CONTEXT, text));
        }
        Ok(model)
    }

    /// Starts a stream; it is nobody's yet.
    ///
    /// # Errors
    /// When the device has no more.
    pub(super) fn start_stream(&mut self, context: &Arc<Context>) -> Result<Arc<Stream>, Fail> {
        if self.streams.len() >= MAX_STREAMS {
            let text = format!("all {MAX_STREAMS} streams are in use");
            return Err(Fail::new(code::RT_NO_STREAM_RESOURCE, text));
        }
        self.last_stream += 1;
        Stream::start(self.last_stream, Arc::clone(context), &self.config)
    }

    /// Forgets what datasets were bound to, because a buffer, dataset or memory has changed.
    pub(super) fn unbind(&mut self) {
        for model in self.models.values_mut() {
            model.bound = None;
        }
    }

    /// All streams of a device, those without handle included.
    pub(super) fn streams_of(&self, device: u32) -> Vec<Arc<Stream>> {
        let named = self.streams.iter().map(|(_, stream)| Arc::clone(stream));
        let defaults = self.contexts.iter().filter_map(|(_, c)| c.used_default_stream());
        named.chain(defaults).filter(|stream| stream.context.device == device).collect()
    }

    /// Takes a context away with its streams and events, which are leaks. The streams are returned
    /// to be closed without the lock.
    ///
    /// # Errors
    /// When there is no such context.
    pub(super) fn remove_context(&mut self, handle: u64) -> Result<Vec<Arc<Stream>>, Fail> {
        let context = self.contexts.remove(handle)?;
        let of = |other: &Arc<Context>| Arc::ptr_eq(other, &context);
        let streams: Vec<u64> = self
            .streams
            .iter()
            .filter_map(|(handle, stream)| of(&stream.context).then_some(handle))
            .collect();
        let events: Vec<u64> = self
            .events
            .iter()
            .filter_map(|(handle, event)| of(&event.context).then_some(handle))
            .collect();
        self.orphan("streams", streams.len());
        self.orphan("events", events.len());
        for event in events {
            drop(self.events.remove(event));
        }
        let mut removed: Vec<_> =
            streams.into_iter().filter_map(|stream| self.streams.remove(stream).ok()).collect();
        removed.extend(context.take_default_stream());
        Ok(removed)
    }

    /// Says that nothing works any more. The streams are returned to be closed without the lock,
    /// before [`clear`](Self::clear).
    pub(super) fn finalise(&mut self) -> Vec<Arc<Stream>> {
        self.is_initialised = false;
        let mut streams: Vec<_> = Vec::new();
        for device in 0..self.config.num_devices {
            streams.extend(self.streams_of(device));
        }
        if streams.iter().any(|stream| !stream.is_idle()) {
            self.violate("aclFinalize was called with unfinished tasks");
        }
        streams
    }

    /// Writes the summary and forgets everything.
    pub(super) fn clear(&mut self) {
        self.summarise();
        drop(self.streams.drain());
        drop(self.contexts.drain());
        drop(self.events.drain());
        drop(self.descs.drain());
        drop(self.datasets.drain());
        drop(self.buffers.drain());
        drop(self.configs.drain());
        self.models.clear();
        self.memory.clear();
        self.devices.clear();
        self.exception_callback = None;
        self.orphans.clear();
        self.violations.clear();
    }

    /// Writes what was not freed and which rules were broken to the call log.
    pub(super) fn summarise(&self) {
        let Some(log) = &self.log else {
            return;
        };
        let [device, pinned] = self.memory.leaks();
        let contexts = self.contexts.iter().filter(|(_, context)| !context.is_default).count();
        let devices = self.devices.iter().filter(|device| device.count > 0).count();
        let orphans = |what| self.orphans.get(what).copied().unwrap_or_default();
        let counts = [
            ("memory", device.0),
            ("pinned", pinned.0),
            ("streams", self.streams.len() + orphans("streams")),
            ("events", self.events.len() + orphans("events")),
            ("contexts", contexts),
            ("devices", devices),
            ("models", self.models.len()),
            ("descs", self.descs.len()),
            ("datasets", self.datasets.len()),
            ("buffers", self.buffers.len()),
            ("configs", self.configs.len()),
        ];
        let mut leaks = format!("leaks: {}", counts.iter().map(|(_, count)| count).sum::<usize>());
        for (what, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let bytes = match what {
                "memory" => format!(" ({} bytes)", device.1),
                "pinned" => format!(" ({} bytes)", pinned.1),
                _ => String::new(),
            };
            // Writing to a string does not fail.
            let _ = write!(leaks, " {what}={count}{bytes}");
        }
        log.line(&leaks);
        let violations = self.violations.join("; ");
        log.line(format!("violations: {} {violations}", self.violations.len()).trim_end());
    }
}

fn open_log(open: Option<Arc<CallLog>>) -> Option<Arc<CallLog>> {
    let path = config::log_path()?;
    open.filter(|log| log.is_at(&path)).or_else(|| CallLog::open(path).ok().map(Arc::new))
}

/// Calls the exception callback for a task of a stream, on the calling thread and without a lock.
pub(super) fn tell_of_exception(stream: &Stream, task: u32, code: i32) {
    let device = stream.context.device;
    let exception = Exception { task, stream: stream.id, device, code };
    let (callback, handle) = {
        let mut state = state();
        let Some(callback) = state.exception_callback else {
            return;
        };
        (callback, state.exceptions.insert(exception))
    };
    call_back(callback, handle);
    if let Err(fail) = state().exceptions.remove(handle) {
        plog::error("exception callback", fail.code, &fail.message);
    }
}

#[expect(unsafe_code, reason = "calls a function of the program under test")]
fn call_back(callback: ExceptionCallback, handle: u64) {
    // SAFETY: `aclrtSetExceptionInfoCallback` asks for a function that takes an exception info, from
    // any thread, until another one is set. The handle is not to be followed, only to be given back.
    unsafe { callback(to_pointer(handle)) };
}
