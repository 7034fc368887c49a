//! Failures: a code of the C interface and the text that `aclGetRecentErrMsg` gives for it.
//!
//! The numbers are those of `acl_base.h`, `rt_error_codes.h` and `ge_error_codes.h`. The text and the
//! last code belong to the thread whose call failed.

use std::cell::RefCell;
use std::ffi::{CStr, CString};

/// The codes that the simulator itself answers with.
pub(super) mod code {
    pub(crate) const INVALID_PARAM: i32 = 100_000;
    pub(crate) const UNINITIALIZE: i32 = 100_001;
    pub(crate) const REPEAT_INITIALIZE: i32 = 100_002;
    pub(crate) const INVALID_FILE: i32 = 100_003;
    pub(crate) const PARSE_FILE: i32 = 100_006;
    pub(crate) const REPEAT_FINALIZE: i32 = 100_037;
    pub(crate) const RT_PARAM_INVALID: i32 = 107_000;
    pub(crate) const RT_INVALID_DEVICEID: i32 = 107_001;
    pub(crate) const RT_CONTEXT_NULL: i32 = 107_002;
    pub(crate) const RT_STREAM_CONTEXT: i32 = 107_003;
    pub(crate) const RT_MODEL_CONTEXT: i32 = 107_004;
    pub(crate) const RT_EVENT_TIMESTAMP_INVALID: i32 = 107_006;
    pub(crate) const RT_EVENT_TIMESTAMP_REVERSAL: i32 = 107_007;
    pub(crate) const RT_INVALID_MEMORY_TYPE: i32 = 107_016;
    pub(crate) const RT_INVALID_HANDLE: i32 = 107_017;
    pub(crate) const RT_INVALID_MALLOC_TYPE: i32 = 107_018;
    pub(crate) const RT_TASK_TIMEOUT: i32 = 107_020;
    pub(crate) const RT_DEVICE_TASK_ABORT: i32 = 107_022;
    pub(crate) const RT_STREAM_ABORT: i32 = 107_023;
    pub(crate) const GE_PARAM_INVALID: i32 = 145_000;
    pub(crate) const GE_MODEL_PATH_INVALID: i32 = 145_002;
    pub(crate) const GE_MODEL_ID_INVALID: i32 = 145_003;
    pub(crate) const GE_MODEL_DATA_SIZE_INVALID: i32 = 145_006;
    pub(crate) const GE_MODEL_ADDR_INVALID: i32 = 145_007;
    pub(crate) const GE_SHAPE_INVALID: i32 = 145_021;
    pub(crate) const API_NOT_SUPPORT: i32 = 200_001;
    pub(crate) const RT_FEATURE_NOT_SUPPORT: i32 = 207_000;
    pub(crate) const RT_MEMORY_ALLOCATION: i32 = 207_001;
    pub(crate) const RT_MEMORY_FREE: i32 = 207_002;
    pub(crate) const RT_RESOURCE_ALLOC_FAIL: i32 = 207_005;
    pub(crate) const RT_NO_STREAM_RESOURCE: i32 = 207_008;
    pub(crate) const RT_DEVICE_OOM: i32 = 207_018;
    pub(crate) const GE_MEMORY_ALLOCATION: i32 = 245_000;
    pub(crate) const GE_DATA_NOT_ALIGNED: i32 = 345_104;
    pub(crate) const RT_EVENT_NOT_COMPLETE: i32 = 507_006;
    pub(crate) const RT_MODEL_EXECUTE: i32 = 507_011;
    pub(crate) const RT_SYS_DMA: i32 = 507_013;
    pub(crate) const RT_AICORE_EXCEPTION: i32 = 507_015;
    pub(crate) const RT_STREAM_SYNC_TIMEOUT: i32 = 507_046;
    pub(crate) const RT_EVENT_SYNC_TIMEOUT: i32 = 507_047;
    pub(crate) const GE_LOAD_MODEL: i32 = 545_001;
    pub(crate) const GE_UNLOAD_MODEL: i32 = 545_009;
    pub(crate) const GE_MODEL_EXECUTE_TIMEOUT: i32 = 545_601;
}

/// Why a call, or a task of a stream, failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fail {
    /// An `aclError` other than 0.
    pub(super) code: i32,
    /// The reason, without the name of the function.
    pub(super) message: String,
}

impl Fail {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Whether the failure leaves its context unusable: an exception on the device, but neither a
    /// wait that was given up nor a run that was refused.
    pub(super) fn is_device_exception(&self) -> bool {
        use code::{
            RT_EVENT_NOT_COMPLETE, RT_EVENT_SYNC_TIMEOUT, RT_MODEL_EXECUTE, RT_STREAM_SYNC_TIMEOUT,
        };
        let is_mild = [
            RT_EVENT_NOT_COMPLETE,
            RT_MODEL_EXECUTE,
            RT_STREAM_SYNC_TIMEOUT,
            RT_EVENT_SYNC_TIMEOUT,
        ];
        (507_000..508_000).contains(&self.code) && !is_mild.contains(&self.code)
    }
}

/// What a thread remembers of its failed calls.
#[derive(Default)]
struct Last {
    code: i32,
    message: Option<CString>,
    /// What was handed out last; it stays valid until the next call that hands something out.
    handed: Option<CString>,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::default();
}

/// Remembers the failure for the calling thread.
pub(super) fn remember(code: i32, text: &str) {
    let text: Vec<u8> = text.bytes().filter(|byte| *byte != 0).collect();
    LAST.with_borrow_mut(|last| {
        last.code = code;
        last.message = CString::new(text).ok();
    });
}

/// The text of the last failure and nothing the second time; for `aclGetRecentErrMsg`.
pub(super) fn take_message() -> Option<*const std::ffi::c_char> {
    LAST.with_borrow_mut(|last| {
        last.handed = last.message.take();
        last.handed.as_deref().map(CStr::as_ptr)
    })
}

/// The code of the last failure of this thread; 0 when there was none.
pub(super) fn last_code() -> i32 {
    LAST.with_borrow(|last| last.code)
}

/// Forgets the code of the last failure.
pub(super) fn clear_last_code() -> i32 {
    LAST.with_borrow_mut(|last| std::mem::take(&mut last.code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_poison_and_timeouts_do_not() {
        for (code, is_exception) in
            [(507_015, true), (507_054, true), (507_046, false), (507_011, false), (107_020, false)]
        {
            assert_eq!(Fail::new(code, "").is_device_exception(), is_exception, "{code}");
        }
    }

    #[test]
    fn the_message_is_read_once_and_the_code_stays() {
        remember(7, "a\0b");
        assert!(take_message().is_some());
        assert!(take_message().is_none());
        assert_eq!((last_code(), clear_last_code(), last_code()), (7, 7, 0));
    }
}
