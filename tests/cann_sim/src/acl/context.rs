//! Contexts, and which one is current on a thread.
//!
//! `aclrtSetDevice` makes the device's own context current, `aclrtCreateContext` and
//! `aclrtSetCurrentContext` any other. A thread that did none of them has no context, whatever other
//! threads did.

use std::cell::Cell;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::error::Fail;
use super::stream::Stream;

/// A context of a device.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) device: u32,
    /// The device's own one, which only `aclrtResetDevice` ends.
    pub(super) is_default: bool,
    exception: OnceLock<Fail>,
    /// What stream 0 means here; made when it is first used.
    default_stream: Mutex<Option<Arc<Stream>>>,
}

impl Context {
    pub(super) fn new(device: u32, is_default: bool) -> Arc<Self> {
        let default_stream = Mutex::new(None);
        Arc::new(Self { device, is_default, exception: OnceLock::new(), default_stream })
    }

    /// The exception after which nothing works here any more.
    pub(super) fn exception(&self) -> Option<&Fail> {
        self.exception.get()
    }

    /// Makes the context unusable; the first exception stays.
    pub(super) fn poison(&self, fail: &Fail) {
        let _ = self.exception.set(fail.clone());
    }

    /// The context's stream 0, made by `start` when there is none.
    ///
    /// # Errors
    /// Those of `start`.
    pub(super) fn default_stream(
        &self,
        start: impl FnOnce() -> Result<Arc<Stream>, Fail>,
    ) -> Result<Arc<Stream>, Fail> {
        let mut stream = self.default_stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = stream.as_ref() {
            return Ok(Arc::clone(stream));
        }
        let started = start()?;
        *stream = Some(Arc::clone(&started));
        Ok(started)
    }

    /// The context's stream 0, if it was used.
    pub(super) fn used_default_stream(&self) -> Option<Arc<Stream>> {
        self.default_stream.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes stream 0 away, for the end of the context.
    pub(super) fn take_default_stream(&self) -> Option<Arc<Stream>> {
        self.default_stream.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// The handle of this thread's context; it may have been destroyed since. 0 is none.
pub(super) fn current() -> u64 {
    CURRENT.get()
}

/// Makes a context the current one of this thread.
pub(super) fn set_current(handle: u64) {
    CURRENT.set(handle);
}
