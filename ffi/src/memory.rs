//! Memory on a device, and memory of the host that the device reaches.
//!
//! | Noun | Where | Who may touch it |
//! | --- | --- | --- |
//! | [`DeviceBuffer`] | device | the device; the host by copies only |
//! | [`DeviceSlice`] | a part of a buffer | as its buffer, which it keeps |
//! | [`PinnedBuffer`] | host, never paged out | the host; the device while a [`Stream`](crate::Stream) runs |
//!
//! A buffer is freed when its last owner is gone, in the right context, on any thread. One of a
//! device that was given up is leaked: the device may still write to it.
//!
//! What this module deliberately does not do: it pools nothing, and it does not know of types, only
//! of bytes.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use crate::current::Current;
use crate::device::Device;
use crate::error::AclError;
use crate::result::Handle;
use crate::result::memory::{self, Copy};
use crate::sys;

/// Kernels read in steps of so many bytes, and a little beyond the end.
const STEP: usize = 32;

/// Memory on a device. What is in a new one is unknown.
#[derive(Debug)]
pub struct DeviceBuffer {
    device: Arc<Device>,
    memory: Handle,
    len: usize,
}

impl DeviceBuffer {
    /// Takes memory at a multiple of 64 bytes, in large pages where there are some (`aclrtMalloc`,
    /// `acl_rt.h`), with the room after it that kernels want.
    ///
    /// # Errors
    /// When there is not so much, or the device was given up.
    pub fn new(current: &Current<'_>, bytes: usize) -> Result<Self, AclError> {
        const FUNCTION: &str = "DeviceBuffer::new";
        let device = Arc::clone(current.device());
        device.usable(FUNCTION)?;
        let with_room = bytes.checked_next_multiple_of(STEP).and_then(|all| all.checked_add(STEP));
        let with_room = with_room
            .ok_or_else(|| AclError::refused(FUNCTION, format!("{bytes} bytes are too many")))?;
        let memory = memory::malloc(current.acl(), with_room)?;
        Ok(Self { device, memory, len: bytes })
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device that it is on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Copies `bytes` to `offset`, now (`aclrtMemcpy`, `acl_rt.h`).
    ///
    /// # Errors
    /// When they do not fit, the buffer is of another device, that was given up, or what CANN says.
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn upload(
        &self,
        current: &Current<'_>,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), AclError> {
        const FUNCTION: &str = "DeviceBuffer::upload";
        current.check(&self.device, FUNCTION)?;
        within(FUNCTION, offset, bytes.len(), self.len)?;
        let (to, from) = (self.address(offset), bytes.as_ptr().cast());
        let kind = sys::ACL_MEMCPY_HOST_TO_DEVICE;
        // SAFETY: the slice is readable for its length, and has ended being read when the call
        // returns; so much of the buffer is left from `offset` on, as checked; the context is current.
        self.after_copy(bytes.len(), || unsafe {
            memory::copy(current.acl(), Copy { to, from, bytes: bytes.len(), kind })
        })
    }

    /// Copies what is at `offset` to `out`, now (`aclrtMemcpy`, `acl_rt.h`).
    ///
    /// # Errors
    /// As of [`Self::upload`].
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn download(
        &self,
        current: &Current<'_>,
        offset: usize,
        out: &mut [u8],
    ) -> Result<(), AclError> {
        const FUNCTION: &str = "DeviceBuffer::download";
        current.check(&self.device, FUNCTION)?;
        within(FUNCTION, offset, out.len(), self.len)?;
        let (to, from) = (out.as_mut_ptr().cast(), self.address(offset).cast_const());
        let (bytes, kind) = (out.len(), sys::ACL_MEMCPY_DEVICE_TO_HOST);
        // SAFETY: the slice is ours alone, writable for its length, and has ended being written when
        // the call returns; so much of the buffer is left, as checked; the context is current.
        self.after_copy(bytes, || unsafe {
            memory::copy(current.acl(), Copy { to, from, bytes, kind })
        })
    }

    /// Sets every byte to zero, now (`aclrtMemset`, `acl_rt.h`).
    ///
    /// # Errors
    /// As of [`Self::upload`].
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn fill_zero(&self, current: &Current<'_>) -> Result<(), AclError> {
        current.check(&self.device, "DeviceBuffer::fill_zero")?;
        // SAFETY: the memory is at least so long; the context is current.
        self.after_copy(self.len, || unsafe {
            memory::set(current.acl(), self.address(0), 0, self.len)
        })
    }

    /// Does a copy that the device has a part in, unless there is nothing to copy, which ACL refuses.
    fn after_copy(
        &self,
        bytes: usize,
        copy: impl FnOnce() -> Result<(), AclError>,
    ) -> Result<(), AclError> {
        if bytes == 0 { Ok(()) } else { self.device.after_waiting(copy()) }
    }

    /// The device's address of a byte. Not a pointer that the host could follow.
    pub(crate) fn address(&self, offset: usize) -> *mut c_void {
        self.memory.as_ptr::<c_void>().wrapping_byte_add(offset)
    }
}

impl Drop for DeviceBuffer {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        let (acl, memory) = (self.device.runtime().acl(), self.memory);
        // SAFETY: ours since `new`. Slices keep their buffer, and a stream's run ends before what it
        // borrows: nothing on the device uses it, or the device was given up and this is not called.
        self.device.release(|| unsafe { memory::free(acl, memory) });
    }
}

/// A part of a buffer, which it keeps.
#[derive(Clone, Debug)]
pub struct DeviceSlice {
    buffer: Arc<DeviceBuffer>,
    offset: usize,
    len: usize,
}

impl DeviceSlice {
    /// The `len` bytes of `buffer` at `offset`. Kernels want the offset to be a multiple of 32.
    ///
    /// # Errors
    /// When the buffer is too short.
    pub fn new(buffer: Arc<DeviceBuffer>, offset: usize, len: usize) -> Result<Self, AclError> {
        within("DeviceSlice::new", offset, len, buffer.len)?;
        Ok(Self { buffer, offset, len })
    }

    /// All of `buffer`.
    pub fn whole(buffer: Arc<DeviceBuffer>) -> Self {
        let len = buffer.len;
        Self { buffer, offset: 0, len }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it begins in its buffer.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The buffer that it is of.
    pub fn buffer(&self) -> &Arc<DeviceBuffer> {
        &self.buffer
    }

    /// The device's address.
    pub(crate) fn address(&self) -> *mut c_void {
        self.buffer.address(self.offset)
    }

    /// The device's address of `len` bytes at `offset`.
    ///
    /// # Errors
    /// When they are not inside.
    pub(crate) fn address_of(
        &self,
        function: &'static str,
        offset: usize,
        len: usize,
    ) -> Result<*mut c_void, AclError> {
        within(function, offset, len, self.len)?;
        Ok(self.address().wrapping_byte_add(offset))
    }
}

/// Memory of the host that the device copies to and from by itself. A new one is all zeros.
#[derive(Debug)]
pub struct PinnedBuffer {
    device: Arc<Device>,
    memory: Handle,
    len: usize,
}

impl PinnedBuffer {
    /// Takes memory (`aclrtMallocHost`, `acl_rt.h`).
    ///
    /// # Errors
    /// When there is not so much, or the device was given up.
    #[expect(unsafe_code, reason = "uses C's memory")]
    pub fn new(current: &Current<'_>, bytes: usize) -> Result<Self, AclError> {
        const FUNCTION: &str = "PinnedBuffer::new";
        let device = Arc::clone(current.device());
        device.usable(FUNCTION)?;
        if isize::try_from(bytes).is_err() {
            return Err(AclError::refused(FUNCTION, format!("{bytes} bytes are too many")));
        }
        // ACL refuses to take nothing.
        let memory = memory::malloc_host(current.acl(), bytes.max(1))?;
        // SAFETY: host memory of so many bytes, just taken.
        unsafe { memory.as_ptr::<u8>().write_bytes(0, bytes) };
        Ok(Self { device, memory, len: bytes })
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bytes.
    ///
    /// # Errors
    /// When the device was given up: it may still be writing to them.
    #[expect(unsafe_code, reason = "uses C's memory")]
    pub fn as_slice(&self) -> Result<&[u8], AclError> {
        self.device.usable("PinnedBuffer::as_slice")?;
        // SAFETY: host memory of `len` bytes, at most `isize::MAX`, written in `new`, and ours. The
        // device writes to it during `Stream::run` only, which then has a mutable borrow, and longer
        // only if the device was given up.
        Ok(unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) })
    }

    /// Its bytes, to be changed.
    ///
    /// # Errors
    /// When the device was given up: it may still be using them.
    #[expect(unsafe_code, reason = "uses C's memory")]
    pub fn as_mut_slice(&mut self) -> Result<&mut [u8], AclError> {
        self.device.usable("PinnedBuffer::as_mut_slice")?;
        // SAFETY: as above; the device reads it during `Stream::run` only, which has a borrow then.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) })
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Where a range begins.
    ///
    /// # Errors
    /// When the range is not inside.
    pub(crate) fn address(
        &self,
        function: &'static str,
        range: &Range<usize>,
    ) -> Result<*mut c_void, AclError> {
        let len = range.end.checked_sub(range.start);
        let len = len.ok_or_else(|| AclError::refused(function, format!("range {range:?}")))?;
        within(function, range.start, len, self.len)?;
        Ok(self.memory.as_ptr::<c_void>().wrapping_byte_add(range.start))
    }
}

impl Drop for PinnedBuffer {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        let (acl, memory) = (self.device.runtime().acl(), self.memory);
        // SAFETY: ours since `new`; what was borrowed from it is gone, a stream's run included, or the
        // device was given up and this is not called.
        self.device.release(|| unsafe { memory::free_host(acl, memory) });
    }
}

/// Fails unless `len` bytes at `offset` are inside of `of` bytes.
fn within(function: &'static str, offset: usize, len: usize, of: usize) -> Result<(), AclError> {
    if offset.checked_add(len).is_some_and(|end| end <= of) {
        return Ok(());
    }
    Err(AclError::refused(function, format!("{len} bytes at {offset} of {of}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_must_be_inside_also_where_its_end_overflows() {
        for (offset, len, of, fits) in [
            (0, 0, 0, true),
            (0, 12, 12, true),
            (12, 0, 12, true),
            (13, 0, 12, false),
            (8, 5, 12, false),
            (usize::MAX, 2, 12, false),
            (2, usize::MAX, 12, false),
        ] {
            assert_eq!(within("f", offset, len, of).is_ok(), fits, "{len} at {offset} of {of}");
        }
        let error = within("DeviceBuffer::upload", 8, 5, 12).unwrap_err();
        assert_eq!(error.to_string(), "`DeviceBuffer::upload` refused: 5 bytes at 8 of 12");
    }
}
