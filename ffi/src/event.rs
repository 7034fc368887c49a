//! A point in a stream: to wait for it on another one, or to measure time.
//!
//! ```text
//! stream a  --[upload]--record(e)----[more]--
//!                          \
//! stream b  --------------wait(e)--[execute]--
//! ```
//!
//! Times are the device's own, between two events that have happened.
//!
//! What this module deliberately does not do: the host waits for streams, never for events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::current::Current;
use crate::device::Device;
use crate::error::AclError;
use crate::result::{self, Handle};
use crate::sys;

/// A point in a stream.
#[derive(Debug)]
pub struct Event {
    device: Arc<Device>,
    handle: Handle,
    is_recorded: AtomicBool,
}

impl Event {
    /// Makes an event that streams can wait for and that knows its time (`aclrtCreateEventWithFlag`,
    /// `acl_rt.h`).
    ///
    /// # Errors
    /// When there are no more, or the device was given up.
    pub fn new(current: &Current<'_>) -> Result<Self, AclError> {
        let device = Arc::clone(current.device());
        device.usable("Event::new")?;
        let flags = sys::ACL_EVENT_SYNC | sys::ACL_EVENT_TIME_LINE;
        let handle = result::stream::create_event(current.acl(), flags)?;
        Ok(Self { device, handle, is_recorded: AtomicBool::new(false) })
    }

    /// The time from this event to a later one (`aclrtEventElapsedTime`, `acl_rt.h`).
    ///
    /// # Errors
    /// When one of them has not been recorded or is of another device, or what CANN says.
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn elapsed(&self, current: &Current<'_>, later: &Self) -> Result<Duration, AclError> {
        const FUNCTION: &str = "Event::elapsed";
        for event in [self, later] {
            current.check(&event.device, FUNCTION)?;
            event.must_be_recorded(FUNCTION)?;
        }
        // SAFETY: two events of the current context.
        let milliseconds =
            unsafe { result::stream::elapsed(current.acl(), self.handle, later.handle) }?;
        let elapsed = Duration::try_from_secs_f64(f64::from(milliseconds) / 1000.0);
        elapsed.map_err(|_| AclError::refused(FUNCTION, format!("{milliseconds} ms is no time")))
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }

    pub(crate) fn set_recorded(&self) {
        self.is_recorded.store(true, Ordering::Release);
    }

    pub(crate) fn must_be_recorded(&self, function: &'static str) -> Result<(), AclError> {
        if self.is_recorded.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(AclError::refused(function, "no stream has recorded the event"))
    }
}

impl Drop for Event {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        let (acl, event) = (self.device.runtime().acl(), self.handle);
        // SAFETY: a run that records it or waits for it borrows it until it has ended, or the device
        // was given up and this is not called.
        self.device.release(|| unsafe { result::stream::destroy_event(acl, event) });
    }
}
