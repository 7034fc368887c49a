//! Initialisation, devices and contexts: `acl.h`, `acl_rt.h`.
#![expect(unsafe_code, reason = "calls ACL")]

use std::ptr;

use super::{Handle, call, check, text};
use crate::error::AclError;
use crate::loader::Acl;
use crate::sys;

/// `aclInit` with no configuration file.
///
/// # Safety
/// Once per process until [`finalize`]; 100002 says that somebody else has called it.
pub(crate) unsafe fn init(acl: &Acl) -> Result<(), AclError> {
    // SAFETY: null stands for no file; the rest is this function's condition.
    unsafe { call!(acl, aclInit(ptr::null())) }
}

/// `aclFinalize`
///
/// # Safety
/// Nothing of ACL is in use any more, and [`init`] has succeeded.
pub(crate) unsafe fn finalize(acl: &Acl) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclFinalize()) }
}

/// `aclrtGetSocName`; nothing where there is no device.
pub(crate) fn soc_name(acl: &Acl) -> Option<String> {
    // SAFETY: the function has no conditions.
    let name = unsafe { (acl.symbols().aclrtGetSocName)() };
    // SAFETY: null, or a C string that lives as long as the library.
    let name = unsafe { text(name) }?;
    if name.is_empty() { None } else { Some(name) }
}

/// `aclrtGetDeviceCount`
pub(crate) fn count(acl: &Acl) -> Result<u32, AclError> {
    let mut count = 0;
    // SAFETY: writes one `uint32_t`.
    unsafe { call!(acl, aclrtGetDeviceCount(&raw mut count)) }?;
    Ok(count)
}

/// `aclrtSetDevice`: takes the device for this process, counted, and makes its default context
/// current.
pub(crate) fn set(acl: &Acl, id: i32) -> Result<(), AclError> {
    // SAFETY: any number may be passed; whoever relies on the current context sets it again.
    unsafe { call!(acl, aclrtSetDevice(id)) }
}

/// `aclrtResetDevice`: gives the device back, counted.
///
/// # Safety
/// Belongs to a [`set`]; nothing on the device made since then is in use any more.
pub(crate) unsafe fn reset(acl: &Acl, id: i32) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtResetDevice(id)) }
}

/// `aclrtSynchronizeDeviceWithTimeout`: waits for everything in the current context.
pub(crate) fn synchronize(acl: &Acl, milliseconds: i32) -> Result<(), AclError> {
    // SAFETY: any number may be passed.
    unsafe { call!(acl, aclrtSynchronizeDeviceWithTimeout(milliseconds)) }
}

/// `aclrtGetDeviceCapability`; nothing where the release does not have it, as 8.1.
pub(crate) fn capability(
    acl: &Acl,
    id: i32,
    feature: sys::aclrtDevFeatureType,
) -> Option<Result<i32, AclError>> {
    let function = acl.symbols().aclrtGetDeviceCapability?;
    let mut value = 0;
    // SAFETY: writes one `int32_t`; any numbers may be passed.
    let status = unsafe { function(id, feature, &raw mut value) };
    Some(check(acl, "aclrtGetDeviceCapability", status).map(|()| value))
}

/// `aclrtGetMemInfo`: free and all bytes of a kind of memory of the current device.
pub(crate) fn memory_info(acl: &Acl, kind: sys::aclrtMemAttr) -> Result<(usize, usize), AclError> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: writes one `size_t` through each pointer.
    unsafe { call!(acl, aclrtGetMemInfo(kind, &raw mut free, &raw mut total)) }?;
    Ok((free, total))
}

/// `aclrtCreateContext`; the new context becomes current.
pub(crate) fn create_context(acl: &Acl, id: i32) -> Result<Handle, AclError> {
    let mut context = ptr::null_mut();
    // SAFETY: writes one pointer; any number may be passed.
    unsafe { call!(acl, aclrtCreateContext(&raw mut context, id)) }?;
    Handle::given("aclrtCreateContext", context)
}

/// `aclrtDestroyContext`
///
/// # Safety
/// Nothing made in it is in use any more.
pub(crate) unsafe fn destroy_context(acl: &Acl, context: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtDestroyContext(context.as_ptr())) }
}

/// `aclrtSetCurrentContext`: of this thread.
///
/// # Safety
/// A context; one that has been destroyed is refused by ACL, as long as it knows.
pub(crate) unsafe fn set_current_context(acl: &Acl, context: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtSetCurrentContext(context.as_ptr())) }
}

/// `aclrtGetCurrentContext`: of this thread; nothing where there is none, which ACL calls an error.
pub(crate) fn current_context(acl: &Acl) -> Option<Handle> {
    let mut context = ptr::null_mut();
    // SAFETY: writes one pointer.
    unsafe { call!(acl, aclrtGetCurrentContext(&raw mut context)) }.ok()?;
    Handle::given("aclrtGetCurrentContext", context).ok()
}
