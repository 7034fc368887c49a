//! Datasets and data buffers.

use std::ffi::c_void;
use std::ptr;

use crate::acl::call::{Needs, status, value};
use crate::acl::dataset::{Buffer, Dataset};
use crate::acl::error::{Fail, code};
use crate::acl::handle::{from_pointer, to_pointer};

/// `aclmdlCreateDataset`; null when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlCreateDataset() -> *mut c_void {
    value("aclmdlCreateDataset", Needs::Init, ptr::null_mut(), |mut env| {
        Ok(to_pointer(env.state.datasets.insert(Dataset::default())))
    })
}

/// `aclmdlDestroyDataset`: not its buffers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlDestroyDataset(dataset: *const c_void) -> i32 {
    status("aclmdlDestroyDataset", Needs::Init, |mut env| {
        env.state.datasets.remove(from_pointer(dataset))?;
        env.state.unbind();
        Ok(())
    })
}

/// `aclmdlAddDatasetBuffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlAddDatasetBuffer(dataset: *mut c_void, buffer: *mut c_void) -> i32 {
    status("aclmdlAddDatasetBuffer", Needs::Init, |mut env| {
        let buffer = from_pointer(buffer);
        env.state.buffers.get(buffer)?;
        env.state.datasets.get_mut(from_pointer(dataset))?.buffers.push(buffer);
        env.state.unbind();
        Ok(())
    })
}

/// `aclmdlGetDatasetNumBuffers`; 0 when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetDatasetNumBuffers(dataset: *const c_void) -> usize {
    value("aclmdlGetDatasetNumBuffers", Needs::Init, 0, |env| {
        Ok(env.state.datasets.get(from_pointer(dataset))?.buffers.len())
    })
}

/// `aclmdlGetDatasetBuffer`; null when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetDatasetBuffer(
    dataset: *const c_void,
    index: usize,
) -> *mut c_void {
    value("aclmdlGetDatasetBuffer", Needs::Init, ptr::null_mut(), |env| {
        let dataset = env.state.datasets.get(from_pointer(dataset))?;
        let buffer = dataset.buffers.get(index).copied().ok_or_else(|| {
            let text = format!("the dataset has no buffer {index}");
            Fail::new(code::INVALID_PARAM, text)
        })?;
        env.state.buffers.get(buffer)?;
        Ok(to_pointer(buffer))
    })
}

/// `aclCreateDataBuffer`; null when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateDataBuffer(data: *mut c_void, size: usize) -> *mut c_void {
    value("aclCreateDataBuffer", Needs::Init, ptr::null_mut(), |mut env| {
        let buffer = Buffer { address: data.addr(), size };
        Ok(to_pointer(env.state.buffers.insert(buffer)))
    })
}

/// `aclDestroyDataBuffer`: not the memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclDestroyDataBuffer(buffer: *const c_void) -> i32 {
    status("aclDestroyDataBuffer", Needs::Init, |mut env| {
        env.state.buffers.remove(from_pointer(buffer))?;
        env.state.unbind();
        Ok(())
    })
}

/// `aclUpdateDataBuffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclUpdateDataBuffer(
    buffer: *mut c_void,
    data: *mut c_void,
    size: usize,
) -> i32 {
    status("aclUpdateDataBuffer", Needs::Init, |mut env| {
        let updated = Buffer { address: data.addr(), size };
        *env.state.buffers.get_mut(from_pointer(buffer))? = updated;
        env.state.unbind();
        Ok(())
    })
}

/// `aclGetDataBufferAddr`; null when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclGetDataBufferAddr(buffer: *const c_void) -> *mut c_void {
    value("aclGetDataBufferAddr", Needs::Init, ptr::null_mut(), |env| {
        let buffer = env.state.buffers.get(from_pointer(buffer))?;
        Ok(ptr::without_provenance_mut(buffer.address))
    })
}

/// `aclGetDataBufferSizeV2`; 0 when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclGetDataBufferSizeV2(buffer: *const c_void) -> usize {
    value("aclGetDataBufferSizeV2", Needs::Init, 0, |env| {
        Ok(env.state.buffers.get(from_pointer(buffer))?.size)
    })
}
