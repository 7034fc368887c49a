//! Streams, and what devices tell of failed tasks.

use std::ffi::c_void;
use std::thread;

use super::pointer::{Out, timeout};
use super::system::since_9;
use crate::acl::call::{Env, Needs, status, value};
use crate::acl::error::{Fail, code};
use crate::acl::handle::{from_pointer, to_pointer};
use crate::acl::state::{Exception, ExceptionCallback, MAX_STREAMS};

/// `aclrtCreateStreamWithConfig`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtCreateStreamWithConfig(
    stream: *mut *mut c_void,
    priority: u32,
    flag: u32,
) -> i32 {
    status("aclrtCreateStreamWithConfig", Needs::Context, |mut env| {
        // SAFETY: the caller's place for a handle.
        let out = unsafe { Out::new(stream, "stream") }?;
        if priority > 7 || flag & !0x3f != 0 {
            let text = format!("priority {priority} is above 7, or flags {flag:#x} are unknown");
            return Err(Fail::new(code::RT_PARAM_INVALID, text));
        }
        let context = env.context()?;
        let stream = env.state.start_stream(&context)?;
        out.set(to_pointer(env.state.streams.insert(stream)));
        Ok(())
    })
}

/// `aclrtDestroyStream`: of this thread's context, and after it was waited for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtDestroyStream(stream: *mut c_void) -> i32 {
    status("aclrtDestroyStream", Needs::AnyContext, |env| destroy(env, stream, false))
}

/// `aclrtDestroyStreamForce`: whatever there still is to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtDestroyStreamForce(stream: *mut c_void) -> i32 {
    status("aclrtDestroyStreamForce", Needs::AnyContext, |env| destroy(env, stream, true))
}

fn destroy(mut env: Env, pointer: *mut c_void, is_forced: bool) -> Result<(), Fail> {
    if pointer.is_null() {
        return Err(Fail::new(code::RT_PARAM_INVALID, "the stream is null"));
    }
    let stream = env.stream(pointer)?;
    env.state.streams.remove(from_pointer(pointer))?;
    if !is_forced && !stream.is_idle() {
        env.state.violate("a stream was destroyed with unfinished tasks");
    }
    drop(env);
    stream.close();
    Ok(())
}

/// `aclrtSynchronizeStream`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSynchronizeStream(stream: *mut c_void) -> i32 {
    status("aclrtSynchronizeStream", Needs::Context, |env| synchronize(env, stream, -1))
}

/// `aclrtSynchronizeStreamWithTimeout`, milliseconds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSynchronizeStreamWithTimeout(
    stream: *mut c_void,
    millis: i32,
) -> i32 {
    status("aclrtSynchronizeStreamWithTimeout", Needs::Context, |env| {
        synchronize(env, stream, millis)
    })
}

fn synchronize(mut env: Env, stream: *mut c_void, millis: i32) -> Result<(), Fail> {
    let stream = env.stream(stream)?;
    let timeout = timeout(millis)?;
    let is_done = if env.hangs() {
        if timeout.is_none() {
            env.state.violate("a stream hangs and is waited for without a time-out");
        }
        drop(env);
        thread::sleep(timeout.unwrap_or_default());
        false
    } else {
        drop(env);
        stream.synchronize(timeout)?
    };
    if is_done {
        return Ok(());
    }
    let text = format!("stream {} is not done within {millis} ms", stream.id);
    Err(Fail::new(code::RT_STREAM_SYNC_TIMEOUT, text))
}

/// `aclrtStreamQuery`: 0 complete, 1 not ready.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtStreamQuery(stream: *mut c_void, stream_status: *mut i32) -> i32 {
    status("aclrtStreamQuery", Needs::Context, |mut env| {
        // SAFETY: the caller's place for an enumeration.
        let out = unsafe { Out::new(stream_status, "status") }?;
        let is_complete = env.stream(stream)?.is_complete()?;
        out.set(i32::from(!is_complete));
        Ok(())
    })
}

/// `aclrtStreamAbort`: what has not been done is discarded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtStreamAbort(stream: *mut c_void) -> i32 {
    status("aclrtStreamAbort", Needs::AnyContext, |mut env| {
        let stream = env.stream(stream)?;
        drop(env);
        stream.abort(&Fail::new(code::RT_STREAM_ABORT, "the stream's tasks were aborted"));
        Ok(())
    })
}

/// `aclrtSetStreamFailureMode`: 0 goes on after a failure, 1 stops; not for the default stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSetStreamFailureMode(stream: *mut c_void, mode: u64) -> i32 {
    status("aclrtSetStreamFailureMode", Needs::Context, |mut env| {
        if stream.is_null() || mode > 1 {
            let text = format!("mode {mode} is neither 0 nor 1, or the stream is null");
            return Err(Fail::new(code::RT_PARAM_INVALID, text));
        }
        env.stream(stream)?.set_stops_on_failure(mode == 1);
        Ok(())
    })
}

/// `aclrtGetStreamAvailableNum`, since CANN 9.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetStreamAvailableNum(count: *mut u32) -> i32 {
    status("aclrtGetStreamAvailableNum", Needs::Context, |env| {
        since_9(&env)?;
        // SAFETY: the caller's place for a `uint32_t`.
        let out = unsafe { Out::new(count, "streamCount") }?;
        out.set(MAX_STREAMS.saturating_sub(env.state.streams.len()) as u32);
        Ok(())
    })
}

/// `aclrtSetExceptionInfoCallback`: one for the process, called from the failing stream's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSetExceptionInfoCallback(callback: Option<ExceptionCallback>) -> i32 {
    status("aclrtSetExceptionInfoCallback", Needs::Init, |mut env| {
        env.state.exception_callback = callback;
        Ok(())
    })
}

/// A field of an exception info, which is only alive during its callback.
fn exception(name: &'static str, info: *const c_void, field: fn(&Exception) -> u32) -> u32 {
    value(name, Needs::Nothing, u32::MAX, |env| {
        env.state.exceptions.get(from_pointer(info)).map(field)
    })
}

/// `aclrtGetTaskIdFromExceptionInfo`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetTaskIdFromExceptionInfo(info: *const c_void) -> u32 {
    exception("aclrtGetTaskIdFromExceptionInfo", info, |info| info.task)
}

/// `aclrtGetStreamIdFromExceptionInfo`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetStreamIdFromExceptionInfo(info: *const c_void) -> u32 {
    exception("aclrtGetStreamIdFromExceptionInfo", info, |info| info.stream)
}

/// `aclrtGetErrorCodeFromExceptionInfo`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetErrorCodeFromExceptionInfo(info: *const c_void) -> u32 {
    exception("aclrtGetErrorCodeFromExceptionInfo", info, |info| info.code.cast_unsigned())
}

/// `aclrtGetDeviceIdFromExceptionInfo`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetDeviceIdFromExceptionInfo(info: *const c_void) -> u32 {
    exception("aclrtGetDeviceIdFromExceptionInfo", info, |info| info.device)
}
