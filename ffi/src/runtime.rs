//! ACL, initialised: once for the process, however many owners there are.
//!
//! ```text
//! Runtime::init ----> aclInit(NULL)      the first of the process; "repeated" is fine: somebody else
//!     |                                  did it, and somebody else will end it
//!     v
//! last Runtime dropped ----> aclFinalize only if we began it, and no device was given up
//! ```
//!
//! Everything made on a device holds its device, and every device its runtime: when the last one is
//! dropped there is nothing left. Devices that were given up are the exception; what they had stays,
//! and ACL is then not finalised, since that might wait for them.
//!
//! What this module deliberately does not do: it starts no child process. CANN's threads do not
//! survive a fork: compilers are to be started before, or by `posix_spawn`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::AclError;
use crate::loader::Acl;
use crate::result;
use crate::status::AclStatus;

/// `ACL_ERROR_REPEAT_INITIALIZE`
const REPEATED: AclStatus = AclStatus(100_002);

/// How often each library is initialised, by the address of its `aclInit`.
static INITIALISED: Mutex<BTreeMap<usize, Initialised>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct Initialised {
    runtimes: usize,
    /// Whether it was us who called `aclInit`.
    is_ours: bool,
    /// Whether there is something that cannot be freed.
    is_tainted: bool,
}

fn initialised() -> MutexGuard<'static, BTreeMap<usize, Initialised>> {
    // The map is changed in single steps only: it is sound after a panic.
    INITIALISED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// ACL, initialised.
#[derive(Debug)]
pub struct Runtime {
    acl: Arc<Acl>,
    is_tainted: AtomicBool,
    leaked: AtomicU64,
    release_error: OnceLock<AclError>,
    /// Whom to tell of it.
    listener: OnceLock<fn(&AclError)>,
}

impl Runtime {
    /// Initialises ACL unless it already is (`aclInit`, `acl.h`).
    ///
    /// # Errors
    /// When `aclInit` fails other than with "repeated".
    #[expect(unsafe_code, reason = "calls ACL")]
    pub fn init(acl: Arc<Acl>) -> Result<Arc<Self>, AclError> {
        let mut initialised = initialised();
        if let Some(entry) = initialised.get_mut(&key(&acl)) {
            entry.runtimes += 1;
        } else {
            // SAFETY: there is no other runtime of this library, and none begins or ends while the
            // lock is held.
            let is_ours = match unsafe { result::device::init(&acl) } {
                Ok(()) => true,
                Err(error) if error.status == REPEATED => false,
                Err(error) => return Err(error),
            };
            let entry = Initialised { runtimes: 1, is_ours, is_tainted: false };
            initialised.insert(key(&acl), entry);
        }
        let (is_tainted, leaked) = (AtomicBool::new(false), AtomicU64::new(0));
        let (release_error, listener) = (OnceLock::new(), OnceLock::new());
        Ok(Arc::new(Self { acl, is_tainted, leaked, release_error, listener }))
    }

    /// The library.
    pub fn acl(&self) -> &Arc<Acl> {
        &self.acl
    }

    /// How many devices there are (`aclrtGetDeviceCount`).
    ///
    /// # Errors
    /// When ACL cannot tell, for lack of a driver or a permission.
    pub fn device_count(&self) -> Result<u32, AclError> {
        result::device::count(&self.acl)
    }

    /// What the chip is called, such as `Ascend910B3` (`aclrtGetSocName`).
    pub fn soc_name(&self) -> Option<String> {
        result::device::soc_name(&self.acl)
    }

    /// The release of CANN, such as `8.1.RC1`, where CANN can tell.
    pub fn cann_version(&self) -> Option<String> {
        self.acl.cann_version().map(ToString::to_string)
    }

    /// How many buffers, streams, events, models and datasets could not be freed: those of devices
    /// that were given up, and those that CANN would not take back.
    pub fn leaked(&self) -> u64 {
        self.leaked.load(Ordering::Relaxed)
    }

    /// The first failure to free something; dropping returns nothing.
    pub fn release_error(&self) -> Option<&AclError> {
        self.release_error.get()
    }

    /// Whom to tell of the first failure to free something, on whatever thread it happens. Whoever
    /// asks first is told.
    pub fn tell_of_leaks(&self, listener: fn(&AclError)) {
        let _ = self.listener.set(listener);
    }

    /// Something stays behind, for `error` if CANN did not want it.
    pub(crate) fn record_leak(&self, error: Option<AclError>) {
        self.leaked.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = error {
            self.record_release_error(error);
        }
    }

    fn record_release_error(&self, error: AclError) {
        // Only the first one is kept: the others mostly follow from it.
        let is_first = self.release_error.set(error).is_ok();
        if is_first
            && let (Some(listener), Some(error)) = (self.listener.get(), self.release_error())
        {
            listener(error);
        }
    }

    /// A device was given up: ACL is not to be finalised.
    pub(crate) fn taint(&self) {
        self.is_tainted.store(true, Ordering::Release);
    }
}

impl Drop for Runtime {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        let mut initialised = initialised();
        let Some(entry) = initialised.get_mut(&key(&self.acl)) else { return };
        entry.is_tainted |= self.is_tainted.load(Ordering::Acquire);
        entry.runtimes -= 1;
        // A tainted entry stays: ACL is still initialised.
        if entry.runtimes > 0 || entry.is_tainted {
            return;
        }
        let is_ours = entry.is_ours;
        initialised.remove(&key(&self.acl));
        if is_ours {
            // SAFETY: this was the last runtime, so there is no device and nothing on one; ours was
            // the `aclInit`. Nobody begins anew while the lock is held.
            let finalised = unsafe { result::device::finalize(&self.acl) };
            if let Err(error) = finalised {
                self.record_release_error(error);
            }
        }
    }
}

/// Tells libraries apart.
fn key(acl: &Acl) -> usize {
    acl.symbols().aclInit as usize
}
