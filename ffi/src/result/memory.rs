//! Device and pinned memory, and copies between them: `acl_rt.h`.
#![expect(unsafe_code, reason = "calls ACL")]

use std::ffi::c_void;
use std::ptr;

use super::{Handle, call};
use crate::error::AclError;
use crate::loader::Acl;
use crate::sys;

/// `aclrtMalloc`: device memory, at a multiple of 64; of large pages where there are some. Its
/// contents are whatever was there.
pub(crate) fn malloc(acl: &Acl, bytes: usize) -> Result<Handle, AclError> {
    let mut memory = ptr::null_mut();
    let policy = sys::ACL_MEM_MALLOC_HUGE_FIRST;
    // SAFETY: writes one pointer; any size may be asked for.
    unsafe { call!(acl, aclrtMalloc(&raw mut memory, bytes, policy)) }?;
    Handle::given("aclrtMalloc", memory)
}

/// `aclrtFree`
///
/// # Safety
/// Memory of [`malloc`] that nothing on the device uses any more.
pub(crate) unsafe fn free(acl: &Acl, memory: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtFree(memory.as_ptr())) }
}

/// `aclrtMallocHost`: host memory that the device can reach by itself.
pub(crate) fn malloc_host(acl: &Acl, bytes: usize) -> Result<Handle, AclError> {
    let mut memory = ptr::null_mut();
    // SAFETY: writes one pointer; any size may be asked for.
    unsafe { call!(acl, aclrtMallocHost(&raw mut memory, bytes)) }?;
    Handle::given("aclrtMallocHost", memory)
}

/// `aclrtFreeHost`
///
/// # Safety
/// Memory of [`malloc_host`] that neither the host nor the device uses any more.
pub(crate) unsafe fn free_host(acl: &Acl, memory: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtFreeHost(memory.as_ptr())) }
}

/// From where to where, and how much. The host's side is a Rust address, the device's a device one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub(crate) to: *mut c_void,
    pub(crate) from: *const c_void,
    pub(crate) bytes: usize,
    pub(crate) kind: sys::aclrtMemcpyKind,
}

/// `aclrtMemcpy`: returns when the copy has ended, or failed.
///
/// # Safety
/// `from` is readable and `to` writable for `bytes`, on the sides that `kind` names.
pub(crate) unsafe fn copy(acl: &Acl, copy: Copy) -> Result<(), AclError> {
    let Copy { to, from, bytes, kind } = copy;
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtMemcpy(to, bytes, from, bytes, kind)) }
}

/// `aclrtMemcpyAsync`: the copy happens at some time until the stream has been waited for.
///
/// # Safety
/// As of [`copy`], until then; the host's side is pinned.
pub(crate) unsafe fn copy_async(acl: &Acl, copy: Copy, stream: Handle) -> Result<(), AclError> {
    let Copy { to, from, bytes, kind } = copy;
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtMemcpyAsync(to, bytes, from, bytes, kind, stream.as_ptr())) }
}

/// `aclrtMemset`
///
/// # Safety
/// `to` is device memory, writable for `bytes`.
pub(crate) unsafe fn set(
    acl: &Acl,
    to: *mut c_void,
    value: u8,
    bytes: usize,
) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclrtMemset(to, bytes, i32::from(value), bytes)) }
}
