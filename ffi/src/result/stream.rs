//! Streams and events: `acl_rt.h`.
#![expect(unsafe_code, reason = "calls ACL")]

use std::ptr;

use super::{Handle, call};
use crate::error::AclError;
use crate::loader::Acl;

/// `aclrtCreateStreamWithConfig`, of the highest priority.
pub(crate) fn create(acl: &Acl, flags: u32) -> Result<Handle, AclError> {
    let mut stream = ptr::null_mut();
    // SAFETY: writes one pointer; any flags may be passed.
    unsafe { call!(acl, aclrtCreateStreamWithConfig(&raw mut stream, 0, flags)) }?;
    Handle::given("aclrtCreateStreamWithConfig", stream)
}

/// `aclrtDestroyStream`
///
/// # Safety
/// Everything on it has ended.
pub(crate) unsafe fn destroy(acl: &Acl, stream: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtDestroyStream(stream.as_ptr())) }
}

/// `aclrtSetStreamFailureMode`
///
/// # Safety
/// A stream of this library.
pub(crate) unsafe fn set_failure_mode(
    acl: &Acl,
    stream: Handle,
    mode: u64,
) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtSetStreamFailureMode(stream.as_ptr(), mode)) }
}

/// `aclrtSynchronizeStreamWithTimeout`: success says that everything on it has ended.
///
/// # Safety
/// A stream of this library.
pub(crate) unsafe fn synchronize(
    acl: &Acl,
    stream: Handle,
    milliseconds: i32,
) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtSynchronizeStreamWithTimeout(stream.as_ptr(), milliseconds)) }
}

/// `aclrtStreamWaitEvent`: what comes later on the stream waits for the event.
///
/// # Safety
/// A stream and an event of this library, both alive until the stream has been waited for.
pub(crate) unsafe fn wait_event(acl: &Acl, stream: Handle, event: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtStreamWaitEvent(stream.as_ptr(), event.as_ptr())) }
}

/// `aclrtCreateEventWithFlag`
pub(crate) fn create_event(acl: &Acl, flags: u32) -> Result<Handle, AclError> {
    let mut event = ptr::null_mut();
    // SAFETY: writes one pointer; any flags may be passed.
    unsafe { call!(acl, aclrtCreateEventWithFlag(&raw mut event, flags)) }?;
    Handle::given("aclrtCreateEventWithFlag", event)
}

/// `aclrtDestroyEvent`
///
/// # Safety
/// No stream records it or waits for it any more.
pub(crate) unsafe fn destroy_event(acl: &Acl, event: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtDestroyEvent(event.as_ptr())) }
}

/// `aclrtRecordEvent`: the event has happened once everything before it on the stream has ended.
///
/// # Safety
/// As of [`wait_event`].
pub(crate) unsafe fn record_event(
    acl: &Acl,
    event: Handle,
    stream: Handle,
) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtRecordEvent(event.as_ptr(), stream.as_ptr())) }
}

/// `aclrtEventElapsedTime`: milliseconds between two events that have happened.
///
/// # Safety
/// Two events of this library.
pub(crate) unsafe fn elapsed(acl: &Acl, start: Handle, end: Handle) -> Result<f32, AclError> {
    let mut milliseconds = 0.0;
    // SAFETY: writes one `float`; the rest is this function's condition.
    unsafe {
        call!(acl, aclrtEventElapsedTime(&raw mut milliseconds, start.as_ptr(), end.as_ptr()))
    }?;
    Ok(milliseconds)
}
