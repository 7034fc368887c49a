//! Pointers that C callers pass.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;
use std::time::Duration;

use crate::acl::error::{Fail, code};

/// Where a result goes.
#[derive(Debug)]
pub(super) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Errors
    /// For null.
    ///
    /// # Safety
    /// The pointer is null, or aligned and valid for writing a `T` as long as this lives.
    pub(super) unsafe fn new(pointer: *mut T, what: &str) -> Result<Self, Fail> {
        let refusal = || Fail::new(code::INVALID_PARAM, format!("`{what}` is null"));
        NonNull::new(pointer).map(Self).ok_or_else(refusal)
    }

    pub(super) fn set(self, value: T) {
        // SAFETY: valid for writing a `T` by the condition of `new`.
        unsafe { self.0.write(value) };
    }
}

/// The text behind a pointer.
///
/// # Errors
/// For null, and for what is no UTF-8.
///
/// # Safety
/// The pointer is null or leads to a string that ends with a zero byte and lives until this returns.
pub(super) unsafe fn text(pointer: *const c_char, what: &str) -> Result<String, Fail> {
    if pointer.is_null() {
        return Err(Fail::new(code::INVALID_PARAM, format!("`{what}` is null")));
    }
    // SAFETY: not null, hence a string by this function's condition.
    let text = unsafe { CStr::from_ptr(pointer) };
    let text = text.to_str();
    let text =
        text.map_err(|_| Fail::new(code::INVALID_PARAM, format!("`{what}` is not UTF-8")))?;
    Ok(text.to_owned())
}

/// A time-out in milliseconds; -1 is none.
///
/// # Errors
/// For other negative numbers.
pub(super) fn timeout(millis: i32) -> Result<Option<Duration>, Fail> {
    match u64::try_from(millis) {
        Ok(millis) => Ok(Some(Duration::from_millis(millis))),
        Err(_) if millis == -1 => Ok(None),
        Err(_) => {
            let text = format!("a time-out of {millis} ms: -1, 0 or more expected");
            Err(Fail::new(code::RT_PARAM_INVALID, text))
        }
    }
}
