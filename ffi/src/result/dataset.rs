//! Data buffers, datasets and execution: `acl_base.h`, `acl_mdl.h`.
#![expect(unsafe_code, reason = "calls ACL")]

use std::ffi::c_void;

use super::{Handle, call};
use crate::error::AclError;
use crate::loader::Acl;

/// `aclmdlCreateDataset`
pub(crate) fn create(acl: &Acl) -> Result<Handle, AclError> {
    // SAFETY: the function has no conditions.
    let dataset = unsafe { (acl.symbols().aclmdlCreateDataset)() };
    Handle::returned(acl, "aclmdlCreateDataset", dataset)
}

/// `aclmdlDestroyDataset`; its data buffers stay.
///
/// # Safety
/// No execution uses it any more.
pub(crate) unsafe fn destroy(acl: &Acl, dataset: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclmdlDestroyDataset(dataset.as_ptr())) }
}

/// `aclmdlAddDatasetBuffer`: appends a data buffer.
///
/// # Safety
/// Both of this library; the data buffer stays as long as the dataset.
pub(crate) unsafe fn add(acl: &Acl, dataset: Handle, buffer: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclmdlAddDatasetBuffer(dataset.as_ptr(), buffer.as_ptr())) }
}

/// `aclCreateDataBuffer`: an address with a length; the memory stays its owner's.
pub(crate) fn create_buffer(
    acl: &Acl,
    address: *mut c_void,
    bytes: usize,
) -> Result<Handle, AclError> {
    // SAFETY: only writes the two numbers down.
    let buffer = unsafe { (acl.symbols().aclCreateDataBuffer)(address, bytes) };
    Handle::returned(acl, "aclCreateDataBuffer", buffer)
}

/// `aclDestroyDataBuffer`
///
/// # Safety
/// No dataset that is still used has it.
pub(crate) unsafe fn destroy_buffer(acl: &Acl, buffer: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclDestroyDataBuffer(buffer.as_ptr())) }
}

/// `aclmdlExecuteAsync`: the model runs at some time until the stream has been waited for.
///
/// # Safety
/// Until then: the model stays loaded, runs on no other stream, and neither does one that shares its
/// workspace; the datasets stay, have one buffer for each input and output, and each of these is
/// device memory of at least the size that the model says.
pub(crate) unsafe fn execute_async(
    acl: &Acl,
    id: u32,
    inputs: Handle,
    outputs: Handle,
    stream: Handle,
) -> Result<(), AclError> {
    let (inputs, outputs, stream) = (inputs.as_ptr(), outputs.as_ptr(), stream.as_ptr());
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclmdlExecuteAsync(id, inputs, outputs, stream)) }
}
