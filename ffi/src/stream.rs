//! Work that the device does by itself, in order, and the wait for its end.
//!
//! ```text
//! stream.run(&current, timeout, |queue| {
//!     queue.upload(&staging, 0..64, &tokens)?;        aclrtMemcpyAsync   -\
//!     queue.execute(&model, &inputs, &outputs)?;      aclmdlExecuteAsync  > only enqueued
//!     queue.download(&logits, &mut results, 0..256)   aclrtMemcpyAsync   -/
//! })?;                                                aclrtSynchronizeStreamWithTimeout, always
//! ```
//!
//! What is passed in is borrowed for `'s`, which is longer than the call of [`Stream::run`]; and that
//! does not end, be it by a result, an error or a panic, before the device has, or before the device
//! was given up. So nothing of it can be freed, changed or read too early.
//!
//! Errors of the device's own work are known at the wait only. One that was only waited for in vain is
//! waited for once more: success says that everything has ended, and the error is an ordinary one. All
//! others give the device up.
//!
//! What this module deliberately does not do: it leaves nothing running when a run ends, and it lets
//! one stream of a device at a time execute models, since models may share a workspace.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::current::{Current, milliseconds};
use crate::dataset::Dataset;
use crate::device::Device;
use crate::error::AclError;
use crate::event::Event;
use crate::memory::{DeviceSlice, PinnedBuffer};
use crate::model::Model;
use crate::result::memory::Copy;
use crate::result::{self, Handle};
use crate::sys;

/// A queue of the device.
#[derive(Debug)]
pub struct Stream {
    device: Arc<Device>,
    stream: Handle,
}

impl Stream {
    /// Makes a stream that is quick to launch on and to wait for, and that stops at the first failure
    /// (`aclrtCreateStreamWithConfig`, `aclrtSetStreamFailureMode`, `acl_rt.h`).
    ///
    /// # Errors
    /// When there are no more, or the device was given up.
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn new(current: &Current<'_>) -> Result<Self, AclError> {
        let device = Arc::clone(current.device());
        device.usable("Stream::new")?;
        let flags = sys::ACL_STREAM_FAST_LAUNCH | sys::ACL_STREAM_FAST_SYNC;
        let stream = result::stream::create(current.acl(), flags)?;
        let stream = Self { device, stream };
        let mode = u64::from(sys::ACL_STOP_ON_FAILURE);
        // SAFETY: the stream was just made in the current context.
        unsafe { result::stream::set_failure_mode(current.acl(), stream.stream, mode) }?;
        Ok(stream)
    }

    /// The device that it is of.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Enqueues what `work` says, then waits for all of it, always
    /// (`aclrtSynchronizeStreamWithTimeout`, `acl_rt.h`).
    ///
    /// # Errors
    /// What `work` fails with, what the device failed with, or the time-out; see the module for when
    /// the device is then given up.
    pub fn run<'s, R>(
        &mut self,
        current: &Current<'_>,
        timeout: Duration,
        work: impl FnOnce(&mut Queue<'s, '_>) -> Result<R, AclError>,
    ) -> Result<R, AclError> {
        current.check(&self.device, "Stream::run")?;
        let wait = Wait {
            stream: self.stream,
            current,
            timeout,
            is_executing: Cell::new(false),
            is_over: Cell::new(false),
        };
        // When `work` panics, dropping `wait` waits.
        let outcome = work(&mut Queue { wait: &wait, scope: PhantomData });
        let waited = wait.finish();
        match (outcome, waited) {
            (Ok(value), Ok(())) => Ok(value),
            // That the device is lost matters more than what came before.
            (Err(_), Err(lost)) if self.device.is_poisoned() => Err(lost),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        }
    }
}

impl Drop for Stream {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        let (acl, stream) = (self.device.runtime().acl(), self.stream);
        // SAFETY: every run has waited for its end, or the device was given up and this is not called.
        self.device.release(|| unsafe { result::stream::destroy(acl, stream) });
    }
}

/// The duty to wait at the end of a run.
#[derive(Debug)]
struct Wait<'q> {
    stream: Handle,
    current: &'q Current<'q>,
    timeout: Duration,
    /// Whether this run has the right to execute models.
    is_executing: Cell<bool>,
    is_over: Cell<bool>,
}

impl Wait<'_> {
    /// Waits, the first time. Afterwards everything on the stream has ended, or the device was given
    /// up.
    fn finish(&self) -> Result<(), AclError> {
        if self.is_over.replace(true) {
            return Ok(());
        }
        let device = self.current.device();
        let waited = device.after_waiting(self.synchronize()).or_else(|error| {
            if device.is_poisoned() {
                return Err(error);
            }
            // A failure of another kind does not say that everything has ended: this does.
            if let Err(again) = self.synchronize() {
                device.give_up(again);
                device.usable("Stream::run")?;
            }
            Err(error)
        });
        if self.is_executing.get() && !device.is_poisoned() {
            device.end_execution();
        }
        waited
    }

    #[expect(unsafe_code, reason = "calls ACL")]
    fn synchronize(&self) -> Result<(), AclError> {
        let (acl, milliseconds) = (self.current.acl(), milliseconds(self.timeout));
        // SAFETY: the stream is borrowed by the run; its context is current.
        unsafe { result::stream::synchronize(acl, self.stream, milliseconds) }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        // Only after a panic is there still something to wait for; its failure is remembered by the
        // device.
        let _ = self.finish();
    }
}

/// A stream, while a run enqueues.
///
/// What is passed in stays borrowed until the run has waited, so this does not compile:
///
/// ```compile_fail,E0502
/// # use cairn_ffi::{AclError, Current, DeviceSlice, PinnedBuffer, Stream};
/// # use std::time::Duration;
/// fn too_early(
///     stream: &mut Stream, current: &Current<'_>, from: &DeviceSlice, to: &mut PinnedBuffer,
/// ) -> Result<(), AclError> {
///     stream.run(current, Duration::from_secs(1), |queue| {
///         queue.download(from, to, 0..4)?;
///         to.as_slice().map(|bytes| bytes[0]).map(drop)
///     })
/// }
/// ```
///
/// nor can something be passed in that ends sooner:
///
/// ```compile_fail,E0597
/// # use cairn_ffi::{AclError, Current, DeviceSlice, PinnedBuffer, Stream};
/// # use std::time::Duration;
/// fn too_short(stream: &mut Stream, current: &Current<'_>, to: &DeviceSlice) -> Result<(), AclError> {
///     stream.run(current, Duration::from_secs(1), |queue| {
///         let from = PinnedBuffer::new(current, 4)?;
///         queue.upload(&from, 0..4, to)
///     })
/// }
/// ```
#[derive(Debug)]
pub struct Queue<'s, 'q> {
    wait: &'q Wait<'q>,
    /// Exactly `'s`: a shorter or longer one would let a borrow end too early.
    scope: PhantomData<&'s mut &'s ()>,
}

impl<'s> Queue<'s, '_> {
    /// Copies a range of the host's memory to the beginning of `to` (`aclrtMemcpyAsync`, `acl_rt.h`).
    ///
    /// # Errors
    /// When it does not fit, one of them is of another device, or what CANN says.
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn upload(
        &mut self,
        from: &'s PinnedBuffer,
        range: Range<usize>,
        to: &'s DeviceSlice,
    ) -> Result<(), AclError> {
        const FUNCTION: &str = "Queue::upload";
        let Some((host, device)) = self.ends(FUNCTION, from, &range, to)? else { return Ok(()) };
        let kind = sys::ACL_MEMCPY_HOST_TO_DEVICE;
        let copy = Copy { to: device, from: host.cast_const(), bytes: range.len(), kind };
        // SAFETY: both ends are long enough, as checked, and borrowed until after the wait; the host's
        // is pinned and, while borrowed, not written to.
        unsafe { result::memory::copy_async(self.wait.current.acl(), copy, self.wait.stream) }
    }

    /// Copies the beginning of `from` to a range of the host's memory (`aclrtMemcpyAsync`,
    /// `acl_rt.h`).
    ///
    /// # Errors
    /// As of [`Self::upload`].
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn download(
        &mut self,
        from: &'s DeviceSlice,
        to: &'s mut PinnedBuffer,
        range: Range<usize>,
    ) -> Result<(), AclError> {
        const FUNCTION: &str = "Queue::download";
        let Some((host, device)) = self.ends(FUNCTION, to, &range, from)? else { return Ok(()) };
        let kind = sys::ACL_MEMCPY_DEVICE_TO_HOST;
        let copy = Copy { to: host, from: device.cast_const(), bytes: range.len(), kind };
        // SAFETY: as above; the mutable borrow keeps everybody else from the host's end.
        unsafe { result::memory::copy_async(self.wait.current.acl(), copy, self.wait.stream) }
    }

    /// Copies a range of the device's memory to `offset` in memory of the same device
    /// (`aclrtMemcpyAsync`, `acl_rt.h`).
    ///
    /// # Errors
    /// As of [`Self::upload`], or when the two overlap, of which CANN says nothing.
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn copy(
        &mut self,
        from: &'s DeviceSlice,
        range: Range<usize>,
        to: &'s DeviceSlice,
        offset: usize,
    ) -> Result<(), AclError> {
        const FUNCTION: &str = "Queue::copy";
        for slice in [from, to] {
            self.wait.current.check(slice.buffer().device(), FUNCTION)?;
        }
        let bytes = range.end.checked_sub(range.start);
        let bytes = bytes.ok_or_else(|| AclError::refused(FUNCTION, format!("range {range:?}")))?;
        let source = from.address_of(FUNCTION, range.start, bytes)?;
        let target = to.address_of(FUNCTION, offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        if source.addr().abs_diff(target.addr()) < bytes {
            let message = format!("{range:?} overlaps with where it is copied to");
            return Err(AclError::refused(FUNCTION, message));
        }
        let kind = sys::ACL_MEMCPY_DEVICE_TO_DEVICE;
        let copy = Copy { to: target, from: source.cast_const(), bytes, kind };
        // SAFETY: both ends are memory of this device, long enough, as checked, and kept by their
        // slices, which are borrowed until after the wait.
        unsafe { result::memory::copy_async(self.wait.current.acl(), copy, self.wait.stream) }
    }

    /// Executes a model (`aclmdlExecuteAsync`, `acl_mdl.h`).
    ///
    /// # Errors
    /// When the datasets are not what the model has, something is of another device, another stream of
    /// the device is executing models, or what CANN says.
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn execute(
        &mut self,
        model: &'s Model,
        inputs: &'s Dataset,
        outputs: &'s Dataset,
    ) -> Result<(), AclError> {
        const FUNCTION: &str = "Queue::execute";
        for device in [model.device(), inputs.device(), outputs.device()] {
            self.wait.current.check(device, FUNCTION)?;
        }
        inputs.check(FUNCTION, "input", model.inputs())?;
        outputs.check(FUNCTION, "output", model.outputs())?;
        if !self.wait.is_executing.get() {
            if !self.wait.current.device().claim_execution() {
                return Err(AclError::refused(FUNCTION, "another stream is executing models"));
            }
            self.wait.is_executing.set(true);
        }
        let (acl, stream) = (self.wait.current.acl(), self.wait.stream);
        let (id, inputs, outputs) = (model.id(), inputs.handle(), outputs.handle());
        // SAFETY: all are borrowed until after the wait; the datasets fit, as checked; no other stream
        // of the device executes anything, as claimed; on one stream executions do not overlap.
        unsafe { result::dataset::execute_async(acl, id, inputs, outputs, stream) }
    }

    /// Lets the event happen once everything before it has ended (`aclrtRecordEvent`, `acl_rt.h`).
    ///
    /// # Errors
    /// When it is of another device, or what CANN says.
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn record(&mut self, event: &'s Event) -> Result<(), AclError> {
        self.wait.current.check(event.device(), "Queue::record")?;
        let (acl, stream) = (self.wait.current.acl(), self.wait.stream);
        // SAFETY: both are borrowed until after the wait; the context is current.
        unsafe { result::stream::record_event(acl, event.handle(), stream) }?;
        event.set_recorded();
        Ok(())
    }

    /// Lets what comes later wait for the event (`aclrtStreamWaitEvent`, `acl_rt.h`).
    ///
    /// # Errors
    /// When no stream has recorded it, for that would mean waiting for ever; when it is of another
    /// device; or what CANN says.
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn wait(&mut self, event: &'s Event) -> Result<(), AclError> {
        const FUNCTION: &str = "Queue::wait";
        self.wait.current.check(event.device(), FUNCTION)?;
        event.must_be_recorded(FUNCTION)?;
        let (acl, stream) = (self.wait.current.acl(), self.wait.stream);
        // SAFETY: both are borrowed until after the wait; the context is current.
        unsafe { result::stream::wait_event(acl, stream, event.handle()) }
    }

    /// Both ends of a copy, checked; nothing when there is nothing to copy, which ACL refuses.
    fn ends(
        &self,
        function: &'static str,
        host: &PinnedBuffer,
        range: &Range<usize>,
        device: &DeviceSlice,
    ) -> Result<Option<(*mut std::ffi::c_void, *mut std::ffi::c_void)>, AclError> {
        for owner in [host.device(), device.buffer().device()] {
            self.wait.current.check(owner, function)?;
        }
        let address = host.address(function, range)?;
        if range.len() > device.len() {
            let message = format!("{} bytes, {} on the device", range.len(), device.len());
            return Err(AclError::refused(function, message));
        }
        Ok(if range.is_empty() { None } else { Some((address, device.address())) })
    }
}
