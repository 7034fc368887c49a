//! A device, taken by this process, with a context of its own.
//!
//! ```text
//! Device::open      aclrtSetDevice, aclrtCreateContext
//! Device::enter     -> Current, the proof for this thread    (module `current`)
//! last owner gone   aclrtDestroyContext, aclrtResetDevice
//! ```
//!
//! Buffers, streams, events, models and datasets each hold their device: it goes last.
//!
//! When waiting for the device fails so that nobody knows what it is still doing, it is given up
//! ("poisoned"): from then on nothing enters it, nothing is called on it, and everything on it is
//! leaked instead of freed, since the device may still be using it. The way out is a new process.
//!
//! What this module deliberately does not do: it does not try to bring a device back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::current::{self, Current};
use crate::error::AclError;
use crate::result::{self, Handle};
use crate::runtime::Runtime;
use crate::status::StatusClass;

/// A device with our context on it.
#[derive(Debug)]
pub struct Device {
    runtime: Arc<Runtime>,
    id: u32,
    context: Handle,
    /// Why it was given up.
    failure: OnceLock<AclError>,
    /// Whether a stream is executing models.
    is_executing: AtomicBool,
}

impl Device {
    /// Takes a device and makes a context on it (`aclrtSetDevice`, `aclrtCreateContext`,
    /// `acl_rt.h`). What is current on this thread stays current.
    ///
    /// # Errors
    /// When there is no such device, it may not be used, or it cannot start.
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn open(runtime: Arc<Runtime>, id: u32) -> Result<Arc<Self>, AclError> {
        let acl = runtime.acl();
        let signed_id = signed(id)?;
        let restored = current::restore_later(acl, None);
        result::device::set(acl, signed_id)?;
        let context = result::device::create_context(acl, signed_id).inspect_err(|_| {
            // SAFETY: belongs to the call above; nothing was made on the device. The failure that
            // counts is the one that is being returned.
            let reset = unsafe { result::device::reset(acl, signed_id) };
            drop(reset);
        })?;
        drop(restored);
        let (failure, is_executing) = (OnceLock::new(), AtomicBool::new(false));
        Ok(Arc::new(Self { runtime, id, context, failure, is_executing }))
    }

    /// Its number, as in `npu-smi`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The runtime that it belongs to.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Makes the device's context current on this thread, for as long as the result lives
    /// (`aclrtSetCurrentContext`).
    ///
    /// # Errors
    /// [`Origin::Poisoned`](crate::Origin) when the device was given up;
    /// [`Origin::Refused`](crate::Origin) while another device is entered on this thread; or what CANN
    /// says.
    pub fn enter(self: &Arc<Self>) -> Result<Current<'_>, AclError> {
        self.usable("Device::enter")?;
        Current::enter(self)
    }

    /// Whether the device was given up.
    pub fn is_poisoned(&self) -> bool {
        self.failure.get().is_some()
    }

    /// The failure that it was given up for.
    pub fn failure(&self) -> Option<&AclError> {
        self.failure.get()
    }

    pub(crate) fn context(&self) -> Handle {
        self.context
    }

    /// Its number, as ACL wants it.
    pub(crate) fn signed_id(&self) -> i32 {
        self.id.cast_signed()
    }

    /// Fails when the device was given up.
    pub(crate) fn usable(&self, function: &'static str) -> Result<(), AclError> {
        match self.failure.get() {
            Some(failure) => Err(AclError::poisoned(function, self.id, failure)),
            None => Ok(()),
        }
    }

    /// Gives the device up. The first failure is the one that is told.
    pub(crate) fn give_up(&self, failure: AclError) {
        self.runtime.taint();
        // Already given up: the first failure explains the later ones.
        let _ = self.failure.set(failure);
    }

    /// Passes on the result of a call that waits for the device; gives the device up when the failure
    /// says that its state is unknown.
    pub(crate) fn after_waiting(&self, result: Result<(), AclError>) -> Result<(), AclError> {
        result.inspect_err(|error| {
            if matches!(error.class(), StatusClass::Restart | StatusClass::DeviceLost) {
                self.give_up(error.clone());
            }
        })
    }

    /// Frees something in the device's context, on whatever thread this is; leaks it when the device
    /// was given up.
    pub(crate) fn release(&self, free: impl FnOnce() -> Result<(), AclError>) {
        if self.is_poisoned() {
            self.runtime.record_leak(None);
        } else if let Err(error) = current::within(self, free) {
            self.runtime.record_leak(Some(error));
        }
    }

    /// Claims the right to execute models, which one stream has at a time.
    pub(crate) fn claim_execution(&self) -> bool {
        !self.is_executing.swap(true, Ordering::Acquire)
    }

    /// Gives that right back.
    pub(crate) fn end_execution(&self) {
        self.is_executing.store(false, Ordering::Release);
    }
}

impl Drop for Device {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        if self.is_poisoned() {
            self.runtime.record_leak(None);
            return;
        }
        let acl = self.runtime.acl();
        let restored = current::restore_later(acl, Some(self.context));
        // SAFETY: everything made in the context held this device: it is gone. So are all `Current`s,
        // which borrow it.
        let destroyed = unsafe { result::device::destroy_context(acl, self.context) };
        // SAFETY: belongs to the `aclrtSetDevice` of `open`; nothing of ours is on the device.
        let reset = unsafe { result::device::reset(acl, self.signed_id()) };
        drop(restored);
        for error in [destroyed, reset].into_iter().filter_map(Result::err) {
            self.runtime.record_leak(Some(error));
        }
    }
}

fn signed(id: u32) -> Result<i32, AclError> {
    i32::try_from(id)
        .map_err(|_| AclError::refused("Device::open", format!("there is no device {id}")))
}
