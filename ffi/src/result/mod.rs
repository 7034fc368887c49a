//! One thin function for each function of ACL that we call: a status becomes a [`Result`], an output
//! pointer becomes a value, and a null handle is found out where it is born.
//!
//! | File | Functions |
//! | --- | --- |
//! | `device` | initialisation, devices, contexts |
//! | `memory` | device and pinned memory, copies |
//! | `stream` | streams and events |
//! | `model` | models and their descriptions |
//! | `dataset` | data buffers, datasets, execution |
//!
//! Each of them has, besides what it says itself, one condition: every handle and pointer passed in is
//! one that this library gave out and has not taken back, and where ACL wants a current context, it
//! is current on this thread. The safe layer above keeps that by its types.
//!
//! What this layer deliberately does not do: it owns nothing and orders nothing.

pub(crate) mod dataset;
pub(crate) mod device;
pub(crate) mod memory;
pub(crate) mod model;
pub(crate) mod stream;

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

use crate::error::{AclError, Origin};
use crate::loader::Acl;
use crate::status::AclStatus;

/// What ACL gives out and takes back: a context, stream, event, description, dataset or address.
/// Never null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle(NonNull<c_void>);

#[expect(unsafe_code, reason = "a pointer to C's things")]
// SAFETY: a handle is only a number to us, never followed. ACL's handles are those of the process:
// every thread may use them once it has called `aclrtSetCurrentContext` with their context
// (documentation of `aclrtSetCurrentContext`: a context may be current on several threads).
unsafe impl Send for Handle {}
#[expect(unsafe_code, reason = "a pointer to C's things")]
// SAFETY: as above; a shared handle can only be copied.
unsafe impl Sync for Handle {}

impl Handle {
    /// As ACL wants it.
    pub(crate) fn as_ptr<T>(self) -> *mut T {
        self.0.as_ptr().cast()
    }

    /// The handle that `function` returned through a pointer, having succeeded.
    fn given<T>(function: &'static str, pointer: *mut T) -> Result<Self, AclError> {
        NonNull::new(pointer.cast()).map(Self).ok_or_else(|| AclError {
            function,
            status: INTERNAL_ERROR,
            message: "success, but nothing was given out".to_owned(),
            origin: Origin::Cann,
        })
    }

    /// The handle that `function` returned, where null means that it failed.
    fn returned<T>(acl: &Acl, function: &'static str, pointer: *mut T) -> Result<Self, AclError> {
        NonNull::new(pointer.cast()).map(Self).ok_or_else(|| AclError {
            function,
            status: BAD_ALLOC,
            message: recent_message(acl),
            origin: Origin::Cann,
        })
    }
}

/// `ACL_ERROR_INTERNAL_ERROR`
const INTERNAL_ERROR: AclStatus = AclStatus(500_000);
/// `ACL_ERROR_BAD_ALLOC`
const BAD_ALLOC: AclStatus = AclStatus(200_000);

/// Turns a status into a result; CANN's words about a failure are taken before anything else is
/// called, since the next call on this thread may replace them.
pub(crate) fn check(acl: &Acl, function: &'static str, status: i32) -> Result<(), AclError> {
    let status = AclStatus(status);
    if status.is_success() {
        return Ok(());
    }
    Err(AclError { function, status, message: recent_message(acl), origin: Origin::Cann })
}

/// Calls a function of the table; to be used inside `unsafe`.
macro_rules! call {
    ($acl:expr, $function:ident($($argument:expr),* $(,)?)) => {
        $crate::result::check(
            $acl,
            stringify!($function),
            ($acl.symbols().$function)($($argument),*),
        )
    };
}
use call;

/// The longest message that is kept; CANN's may hold whole stack traces.
const MAX_MESSAGE_BYTES: usize = 4096;

/// What CANN says about the last failure on this thread. Asking clears it.
#[expect(unsafe_code, reason = "calls ACL")]
fn recent_message(acl: &Acl) -> String {
    // SAFETY: the function has no conditions.
    let message = unsafe { (acl.symbols().aclGetRecentErrMsg)() };
    // SAFETY: null or a C string of this thread, valid until the next call of ACL on it; copied here.
    let message = unsafe { text(message) };
    limited(message.as_deref().unwrap_or_default())
}

/// The trimmed message, cut between two characters.
fn limited(message: &str) -> String {
    let message = message.trim();
    if message.len() <= MAX_MESSAGE_BYTES {
        return message.to_owned();
    }
    format!("{} ...", &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)])
}

/// A copy of a C string; nothing for null.
///
/// # Safety
/// The pointer is null or that of a C string.
#[expect(unsafe_code, reason = "reads C's memory")]
unsafe fn text(characters: *const c_char) -> Option<String> {
    if characters.is_null() {
        return None;
    }
    // SAFETY: a C string, by this function's condition.
    let characters = unsafe { CStr::from_ptr(characters) };
    Some(characters.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_trimmed_and_cut_between_characters() {
        assert_eq!(limited(" \n EZ9999 \n"), "EZ9999");
        let long = "é".repeat(MAX_MESSAGE_BYTES);
        let cut = limited(&format!("x{long}"));
        assert!(cut.len() <= MAX_MESSAGE_BYTES + 4);
        assert!(cut.ends_with("é ..."));
    }
}
