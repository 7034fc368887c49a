//! Which device's context is current on which thread.
//!
//! CANN keeps the current context by thread, and most calls mean "on the current one". A [`Current`]
//! is the proof that it is the right one: every call on a device wants one, and it cannot leave its
//! thread.
//!
//! ```text
//! thread 1   |-- Current of device 0 ------------------------|     |-- Current of device 1 --|
//!                 |-- Current of device 0 again: fine --|
//!                 |-- Current of device 1: refused
//! thread 2      |-- Current of device 0 ----|
//! ```
//!
//! Dropping things needs a context too, and happens anywhere: `within` sets the right one, and
//! afterwards the one before. Nothing else in the process may change the context of a thread that has
//! a [`Current`].
//!
//! What this module deliberately does not do: it takes no context away. ACL cannot, and whoever needs
//! one sets it.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::device::Device;
use crate::error::AclError;
use crate::loader::Acl;
use crate::result::{self, Handle};
use crate::sys;

thread_local! {
    /// The device that is entered on this thread.
    static ENTERED: RefCell<Entered> = const { RefCell::new(Entered::nothing()) };
}

#[derive(Clone, Debug)]
struct Entered {
    /// Weak: a `Current` that was forgotten must not keep its device, nor a context that is gone.
    device: Weak<Device>,
    depth: usize,
}

impl Entered {
    const fn nothing() -> Self {
        Self { device: Weak::new(), depth: 0 }
    }

    /// The device that is entered on this thread. Also asked while the thread ends.
    fn device() -> Option<Arc<Device>> {
        let entered = ENTERED.try_with(|entered| entered.borrow().clone()).ok()?;
        entered.device.upgrade()
    }
}

/// The proof that a device's context is current on this thread.
///
/// It stays on its thread:
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// is_send::<cairn_ffi::Current<'static>>();
/// ```
///
/// and is not seen from others:
///
/// ```compile_fail,E0277
/// fn is_sync<T: Sync>() {}
/// is_sync::<cairn_ffi::Current<'static>>();
/// ```
///
/// unlike what it is a proof for:
///
/// ```
/// fn is_send_and_sync<T: Send + Sync>() {}
/// is_send_and_sync::<cairn_ffi::Device>();
/// is_send_and_sync::<cairn_ffi::DeviceBuffer>();
/// is_send_and_sync::<cairn_ffi::PinnedBuffer>();
/// is_send_and_sync::<cairn_ffi::Stream>();
/// is_send_and_sync::<cairn_ffi::Model>();
/// is_send_and_sync::<cairn_ffi::Dataset>();
/// ```
pub struct Current<'a> {
    device: &'a Arc<Device>,
    /// Neither `Send` nor `Sync`: it speaks of one thread.
    thread: PhantomData<*mut ()>,
}

impl fmt::Debug for Current<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").field("device", &self.device.id()).finish()
    }
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What is left.
    pub free: u64,
    /// What there is.
    pub total: u64,
}

impl<'a> Current<'a> {
    #[expect(unsafe_code, reason = "calls ACL")]
    pub(crate) fn enter(device: &'a Arc<Device>) -> Result<Self, AclError> {
        let entered = Entered::device();
        if let Some(other) = entered.filter(|entered| !Arc::ptr_eq(entered, device)) {
            let (this, other) = (device.id(), other.id());
            let message = format!("device {this}, while device {other} is entered on this thread");
            return Err(AclError::refused("Device::enter", message));
        }
        // Also where it should be current already: it costs next to nothing.
        // SAFETY: the context of a device that lives.
        unsafe { result::device::set_current_context(device.runtime().acl(), device.context()) }?;
        ENTERED.with_borrow_mut(|entered| {
            if !entered.device.ptr_eq(&Arc::downgrade(device)) {
                *entered = Entered { device: Arc::downgrade(device), depth: 0 };
            }
            entered.depth += 1;
        });
        Ok(Self { device, thread: PhantomData })
    }

    /// The device.
    pub fn device(&self) -> &'a Arc<Device> {
        self.device
    }

    /// The device's memory (`aclrtGetMemInfo`, `acl_rt.h`); on chips without HBM, its DDR.
    ///
    /// # Errors
    /// When the device was given up, or what CANN says.
    pub fn memory_info(&self) -> Result<MemoryInfo, AclError> {
        self.device.usable("Current::memory_info")?;
        let hbm = result::device::memory_info(self.acl(), sys::ACL_HBM_MEM)?;
        let (free, total) = match hbm {
            (_, 0) => result::device::memory_info(self.acl(), sys::ACL_DDR_MEM)?,
            hbm => hbm,
        };
        Ok(MemoryInfo { free: free as u64, total: total as u64 })
    }

    /// Whether the device can compute tilings itself, which attention with lengths in device memory
    /// needs (`aclrtGetDeviceCapability`, `acl_rt.h`); nothing where CANN cannot tell, as 8.1.
    pub fn supports_tiling_sink(&self) -> Option<bool> {
        let feature = sys::ACL_FEATURE_TSCPU_TASK_UPDATE_SUPPORT_AIC_AIV;
        let answer = result::device::capability(self.acl(), self.device.signed_id(), feature)?;
        Some(answer.ok()? != 0)
    }

    /// Waits for everything on the device (`aclrtSynchronizeDeviceWithTimeout`, `acl_rt.h`).
    ///
    /// # Errors
    /// What CANN says; the device is given up when its state is then unknown, as after a time-out.
    pub fn synchronize(&self, timeout: Duration) -> Result<(), AclError> {
        self.device.usable("Current::synchronize")?;
        let result = result::device::synchronize(self.acl(), milliseconds(timeout));
        self.device.after_waiting(result)
    }

    pub(crate) fn acl(&self) -> &'a Acl {
        self.device.runtime().acl()
    }

    /// Fails unless `device` is the current one and was not given up.
    pub(crate) fn check(
        &self,
        device: &Arc<Device>,
        function: &'static str,
    ) -> Result<(), AclError> {
        if !Arc::ptr_eq(self.device, device) {
            let (this, other) = (device.id(), self.device.id());
            let message = format!(
                "it is of device {this} (or another runtime), the current context of device {other}"
            );
            return Err(AclError::refused(function, message));
        }
        device.usable(function)
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        // Fails only while the thread ends, when nobody asks any more.
        let _ = ENTERED.try_with(|entered| {
            let mut entered = entered.borrow_mut();
            entered.depth = entered.depth.saturating_sub(1);
            if entered.depth == 0 {
                *entered = Entered::nothing();
            }
        });
    }
}

/// Calls in the device's context, on a thread where anything may be current.
///
/// # Errors
/// When the context cannot be set, or what `call` fails with.
#[expect(unsafe_code, reason = "calls ACL")]
pub(crate) fn within(
    device: &Device,
    call: impl FnOnce() -> Result<(), AclError>,
) -> Result<(), AclError> {
    let is_here = |entered: &Arc<Device>| std::ptr::eq(Arc::as_ptr(entered), device);
    if Entered::device().as_ref().is_some_and(is_here) {
        return call();
    }
    let acl = device.runtime().acl();
    let restored = restore_later(acl, None);
    // SAFETY: the context of a device that lives.
    unsafe { result::device::set_current_context(acl, device.context()) }?;
    let result = call();
    drop(restored);
    result
}

/// Remembers what is current on this thread, to be set again when the result is dropped; unless it
/// is `doomed`, a context that will then be gone.
pub(crate) fn restore_later(acl: &Arc<Acl>, doomed: Option<Handle>) -> Restore {
    let before = match Entered::device() {
        Some(device) => Before::Ours(device),
        None => match result::device::current_context(acl) {
            Some(context) if Some(context) != doomed => Before::Unknown(Arc::clone(acl), context),
            _ => Before::Nothing,
        },
    };
    Restore(before)
}

/// Sets again what was current.
#[derive(Debug)]
pub(crate) struct Restore(Before);

#[derive(Debug)]
enum Before {
    Nothing,
    /// Entered on this thread: it must be current again, or the thread's `Current` would lie.
    Ours(Arc<Device>),
    /// Left behind by us or set by somebody else; whether it still exists is for ACL to know.
    Unknown(Arc<Acl>, Handle),
}

impl Drop for Restore {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        match &self.0 {
            Before::Nothing => {}
            Before::Ours(device) => {
                let acl = device.runtime().acl();
                // SAFETY: the context of a device that lives.
                let set = unsafe { result::device::set_current_context(acl, device.context()) };
                if let Err(error) = set {
                    device.give_up(error);
                }
            }
            Before::Unknown(acl, context) => {
                // SAFETY: a context that ACL itself named; it refuses one that is gone.
                let set = unsafe { result::device::set_current_context(acl, *context) };
                // Nobody relies on it.
                drop(set);
            }
        }
    }
}

/// As ACL counts: at least one, as 0 and less mean something else.
pub(crate) fn milliseconds(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_never_none_at_all_nor_for_ever() {
        assert_eq!(milliseconds(Duration::ZERO), 1);
        assert_eq!(milliseconds(Duration::from_micros(1500)), 1);
        assert_eq!(milliseconds(Duration::from_mins(1)), 60_000);
        assert_eq!(milliseconds(Duration::MAX), i32::MAX);
    }
}
