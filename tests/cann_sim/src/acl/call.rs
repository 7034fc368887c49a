//! What happens around the work of every exported function.
//!
//! ```text
//!  count, script -> initialised? -> context? -> exception before? -> the work -> log, plog, message
//! ```

use std::ffi::c_void;
use std::sync::{Arc, MutexGuard};

use super::context::{self, Context};
use super::error::{self, Fail, code};
use super::event::Event;
use super::handle::from_pointer;
use super::plog;
use super::script::Action;
use super::state::{State, state};
use super::stream::Stream;
use super::task::Task;

/// What a function needs before it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    Init,
    /// A current context in which no exception was reported.
    Context,
    /// A current context, whatever happened in it: frees something.
    AnyContext,
}

/// What the work of a function has at hand.
#[derive(Debug)]
pub(super) struct Env {
    /// Given up before waiting for anything.
    pub(super) state: MutexGuard<'static, State>,
    context: Option<Arc<Context>>,
    action: Option<Action>,
}

impl Env {
    /// The current context.
    ///
    /// # Errors
    /// When this thread has none.
    pub(super) fn context(&self) -> Result<Arc<Context>, Fail> {
        self.context.clone().ok_or_else(no_context)
    }

    /// Whether the wait is to end in a time-out, on order.
    pub(super) fn hangs(&self) -> bool {
        self.action == Some(Action::Hang)
    }

    /// A stream of the current context; null is its default stream.
    ///
    /// # Errors
    /// When it is not alive, or of another context.
    pub(super) fn stream(&mut self, stream: *const c_void) -> Result<Arc<Stream>, Fail> {
        let context = self.context()?;
        if stream.is_null() {
            return context.default_stream(|| self.state.start_stream(&context));
        }
        let stream = self.state.streams.get(from_pointer(stream))?;
        if !Arc::ptr_eq(&stream.context, &context) {
            let text = "the stream is of another context than this thread's current one";
            return Err(Fail::new(code::RT_STREAM_CONTEXT, text));
        }
        Ok(Arc::clone(stream))
    }

    /// An event of the current context.
    ///
    /// # Errors
    /// When it is not alive, or of another context.
    pub(super) fn event(&self, event: *const c_void) -> Result<Arc<Event>, Fail> {
        let event = self.state.events.get(from_pointer(event))?;
        if !Arc::ptr_eq(&event.context, &self.context()?) {
            let text = "the event is of another context than this thread's current one";
            return Err(Fail::new(code::RT_PARAM_INVALID, text));
        }
        Ok(Arc::clone(event))
    }

    /// Adds a task to a stream, or what was ordered instead of it.
    pub(super) fn submit(&self, stream: &Stream, task: Task) {
        let instead = match self.action {
            Some(Action::FailTask(code)) => Task::Fail(code),
            Some(Action::Hang) => Task::Hang,
            _ => return stream.submit(task),
        };
        stream.submit(instead);
        task.discard(&Fail::new(code::RT_STREAM_ABORT, "replaced by CANN_SIM_FAIL"));
    }
}

fn no_context() -> Fail {
    Fail::new(code::RT_CONTEXT_NULL, "this thread has no current context")
}

/// Runs a function that returns an `aclError`.
pub(super) fn status(
    name: &'static str,
    needs: Needs,
    work: impl FnOnce(Env) -> Result<(), Fail>,
) -> i32 {
    call(name, needs, work).map_or_else(|code| code, |()| 0)
}

/// Runs a function that returns something else, and `otherwise` when it fails.
pub(super) fn value<T>(
    name: &'static str,
    needs: Needs,
    otherwise: T,
    work: impl FnOnce(Env) -> Result<T, Fail>,
) -> T {
    call(name, needs, work).unwrap_or(otherwise)
}

fn call<T>(
    name: &'static str,
    needs: Needs,
    work: impl FnOnce(Env) -> Result<T, Fail>,
) -> Result<T, i32> {
    let mut state = state();
    let script = if name == "aclInit" { state.read_script() } else { Ok(()) };
    let log = state.log.clone();
    let action = state.script.next(name);
    let context = current_context(&state);
    let result = script
        .and_then(|()| check(&state, needs, context.as_ref(), action))
        .and_then(|()| work(Env { state, context: context.clone(), action }));
    match &result {
        Ok(_) => {
            if let Some(log) = log {
                log.line(&format!("{name} 0"));
            }
        }
        Err(fail) => {
            if let Some(log) = log {
                log.line(&format!("{name} {} {}", fail.code, fail.message));
            }
            if let Some(context) = context.filter(|_| fail.is_device_exception()) {
                context.poison(fail);
            }
            plog::error(name, fail.code, &fail.message);
            error::remember(fail.code, &format!("EE9999: {name} failed: {}", fail.message));
        }
    }
    result.map_err(|fail| fail.code)
}

/// The context of this thread, if it is still alive.
fn current_context(state: &State) -> Option<Arc<Context>> {
    state.contexts.get(context::current()).ok().cloned()
}

fn check(
    state: &State,
    needs: Needs,
    context: Option<&Arc<Context>>,
    action: Option<Action>,
) -> Result<(), Fail> {
    if let Some(Action::Fail(code)) = action {
        return Err(Fail::new(code, "ordered by CANN_SIM_FAIL"));
    }
    if needs == Needs::Nothing {
        return Ok(());
    }
    if !state.is_initialised {
        return Err(Fail::new(code::UNINITIALIZE, "aclInit was not called, or aclFinalize was"));
    }
    if needs == Needs::Init {
        return Ok(());
    }
    let context = context.ok_or_else(no_context)?;
    match context.exception().filter(|_| needs == Needs::Context) {
        Some(exception) => {
            let text = format!("the context is unusable since: {}", exception.message);
            Err(Fail::new(exception.code, text))
        }
        None => Ok(()),
    }
}
