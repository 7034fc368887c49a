//! One device of this process, and what all graphs on it share: the stream, the workspace and the
//! staging buffers. Graphs run one after the other, so one of each is enough.
//!
//! | Buffer | Where | Size |
//! | --- | --- | --- |
//! | workspace | device | what the hungriest graph needs between its inputs and outputs |
//! | staging | pinned and device | the largest step |
//! | results | pinned and device | the largest output |
//!
//! What this module deliberately does not do: it knows neither graphs nor steps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_ffi::{AclError, Current, Device, DeviceBuffer, PinnedBuffer, StatusClass, Stream};

use super::logs::NewErrors;
use crate::backend::{BackendError, DeviceFate};

/// A device and what its graphs share.
pub(super) struct Session {
    device: Arc<Device>,
    /// How long a step may take.
    timeout: Duration,
    /// What CANN logs meanwhile.
    log: NewErrors,
    shared: Mutex<Shared>,
}

/// What graphs use in turn.
#[derive(Default)]
pub(super) struct Shared {
    /// Created with the first step or copy.
    stream: Option<Stream>,
    workspace: Option<Arc<DeviceBuffer>>,
    staging: Option<Staging>,
    /// What the graphs loaded so far ask of the staging buffers.
    step_bytes: usize,
    result_bytes: usize,
}

/// The buffers between host and device.
pub(super) struct Staging {
    /// What a step is written to.
    pub(super) step: PinnedBuffer,
    /// Where it lies on the device.
    pub(super) device_step: Arc<DeviceBuffer>,
    /// What results are read from.
    pub(super) results: PinnedBuffer,
    /// Where they lie on the device.
    pub(super) device_results: Arc<DeviceBuffer>,
}

impl Session {
    /// A session on a device; a step that takes longer than `timeout` is given up.
    pub(super) fn new(device: Arc<Device>, timeout: Duration, log: NewErrors) -> Self {
        device.runtime().tell_of_leaks(|error| {
            tracing::warn!(%error, "not everything on the device could be given back");
        });
        Self { device, timeout, log, shared: Mutex::default() }
    }

    /// The device.
    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// How long a step may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Makes the device's context current on this thread.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device is lost to this process.
    pub(super) fn enter(&self) -> Result<Current<'_>, BackendError> {
        self.device.enter().map_err(|error| run_error(&error))
    }

    /// A failure with what CANN has logged since the last one. A failure that CANN has no part in stays
    /// as it is.
    pub(super) fn with_log(&self, mut error: BackendError) -> BackendError {
        match &mut error {
            BackendError::BadArtifact { what, .. }
            | BackendError::OutOfMemory { detail: what, .. }
            | BackendError::Execution(what)
            | BackendError::Device { what, .. }
            | BackendError::StaleArtifact(what) => what.push_str(&self.log.quoted()),
            BackendError::Unsupported { .. }
            | BackendError::Compile { .. }
            | BackendError::BadInput(_) => {}
        }
        error
    }

    /// What graphs use in turn.
    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        // A panic between two steps leaves nothing half done that the next step would not redo.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("device", &self.device.id()).finish_non_exhaustive()
    }
}

impl Shared {
    /// A workspace of at least that size. A larger one replaces the last one, which stays with the
    /// graphs that were loaded with it: whoever loads the largest graph first has only one.
    pub(super) fn workspace(
        &mut self,
        current: &Current<'_>,
        bytes: usize,
    ) -> Result<Arc<DeviceBuffer>, BackendError> {
        if let Some(workspace) = self.workspace.as_ref().filter(|buffer| buffer.len() >= bytes) {
            return Ok(Arc::clone(workspace));
        }
        let workspace = Arc::new(allocate(current, "the graphs' workspace", bytes)?);
        self.workspace = Some(Arc::clone(&workspace));
        Ok(workspace)
    }

    /// Takes note of a graph whose steps and results have those sizes.
    pub(super) fn announce(&mut self, step_bytes: usize, result_bytes: usize) {
        self.step_bytes = self.step_bytes.max(step_bytes);
        self.result_bytes = self.result_bytes.max(result_bytes);
    }

    /// The stream.
    pub(super) fn stream(&mut self, current: &Current<'_>) -> Result<&mut Stream, BackendError> {
        open(&mut self.stream, current)
    }

    /// The stream, and buffers that are large enough for every graph that was announced.
    pub(super) fn stream_and_staging(
        &mut self,
        current: &Current<'_>,
    ) -> Result<(&mut Stream, &mut Staging), BackendError> {
        let is_large_enough = |staging: &Staging| {
            staging.device_step.len() >= self.step_bytes
                && staging.device_results.len() >= self.result_bytes
        };
        if !self.staging.as_ref().is_some_and(is_large_enough) {
            self.staging = Some(Staging::new(current, self.step_bytes, self.result_bytes)?);
        }
        let staging = self.staging.as_mut().expect("invariant: it was made above");
        Ok((open(&mut self.stream, current)?, staging))
    }
}

/// The stream, made when it is not there yet.
fn open<'a>(
    stream: &'a mut Option<Stream>,
    current: &Current<'_>,
) -> Result<&'a mut Stream, BackendError> {
    match stream {
        Some(stream) => Ok(stream),
        None => Ok(stream.insert(Stream::new(current).map_err(|error| run_error(&error))?)),
    }
}

impl Staging {
    fn new(current: &Current<'_>, step: usize, results: usize) -> Result<Self, BackendError> {
        let pinned = |what: &str, bytes: usize| {
            PinnedBuffer::new(current, bytes.max(1))
                .map_err(|error| allocation_error(&error, what, bytes, ""))
        };
        Ok(Self {
            step: pinned("the staging buffer of steps", step)?,
            device_step: Arc::new(allocate(current, "the inputs of a step", step)?),
            results: pinned("the staging buffer of results", results)?,
            device_results: Arc::new(allocate(current, "the outputs of a step", results)?),
        })
    }
}

/// Device memory; an empty buffer is one byte, since the device has none of size 0.
pub(super) fn allocate(
    current: &Current<'_>,
    what: &str,
    bytes: usize,
) -> Result<DeviceBuffer, BackendError> {
    DeviceBuffer::new(current, bytes.max(1)).map_err(|error| {
        let free = match current.memory_info() {
            Ok(info) => format!("{} of the device's {} bytes are free; ", info.free, info.total),
            Err(_) => String::new(),
        };
        allocation_error(&error, what, bytes, &free)
    })
}

/// What a failed allocation means: mostly that the memory is used up.
fn allocation_error(error: &AclError, what: &str, bytes: usize, free: &str) -> BackendError {
    match error.class() {
        StatusClass::Retry => BackendError::OutOfMemory {
            what: what.to_owned(),
            needed: Some(bytes as u64),
            detail: format!("{free}{error}"),
        },
        _ => run_error(error),
    }
}

/// What a failed load means: mostly that the artifact does not fit this runtime.
pub(super) fn load_error(error: &AclError) -> BackendError {
    match error.class() {
        StatusClass::DropEntry => {
            BackendError::BadArtifact { backend: super::NAME, what: error.to_string() }
        }
        StatusClass::Retry => BackendError::OutOfMemory {
            what: "the loaded graph".to_owned(),
            needed: None,
            detail: error.to_string(),
        },
        _ => run_error(error),
    }
}

/// What a failed call between two steps means.
pub(super) fn run_error(error: &AclError) -> BackendError {
    let what = error.to_string();
    match error.class() {
        StatusClass::DropEntry => BackendError::StaleArtifact(what),
        StatusClass::Restart => BackendError::Device { what, fate: DeviceFate::Restart },
        StatusClass::DeviceLost | StatusClass::Environment => {
            BackendError::Device { what, fate: DeviceFate::Lost }
        }
        StatusClass::Ok | StatusClass::Misuse | StatusClass::Retry => BackendError::Execution(what),
    }
}
