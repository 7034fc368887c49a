//! Events.

use std::ffi::c_void;
use std::thread;

use super::pointer::{Out, timeout};
use crate::acl::call::{Env, Needs, status};
use crate::acl::error::{Fail, code};
use crate::acl::event::{Event, FLAG_SYNC, FLAG_TIME_LINE, FLAGS, Waited};
use crate::acl::handle::{from_pointer, to_pointer};
use crate::acl::task::Task;

/// `aclrtCreateEventWithFlag`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtCreateEventWithFlag(event: *mut *mut c_void, flag: u32) -> i32 {
    status("aclrtCreateEventWithFlag", Needs::Context, |mut env| {
        // SAFETY: the caller's place for a handle.
        let out = unsafe { Out::new(event, "event") }?;
        if flag == 0 || flag & !FLAGS != 0 {
            let text = format!("flags {flag:#x}: at least one of {FLAGS:#x} expected");
            return Err(Fail::new(code::RT_PARAM_INVALID, text));
        }
        let event = Event::new(flag, env.context()?);
        out.set(to_pointer(env.state.events.insert(event)));
        Ok(())
    })
}

/// `aclrtDestroyEvent`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtDestroyEvent(event: *mut c_void) -> i32 {
    status("aclrtDestroyEvent", Needs::AnyContext, |mut env| {
        env.event(event)?;
        env.state.events.remove(from_pointer(event)).map(drop)
    })
}

/// `aclrtRecordEvent`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtRecordEvent(event: *mut c_void, stream: *mut c_void) -> i32 {
    status("aclrtRecordEvent", Needs::Context, |mut env| {
        let (event, stream) = (env.event(event)?, env.stream(stream)?);
        let record = event.issue();
        env.submit(&stream, Task::Record(event, record));
        Ok(())
    })
}

/// `aclrtResetEvent`: as if not recorded, once the stream gets there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtResetEvent(event: *mut c_void, stream: *mut c_void) -> i32 {
    status("aclrtResetEvent", Needs::Context, |mut env| {
        let (event, stream) = (env.event(event)?, env.stream(stream)?);
        env.submit(&stream, Task::Reset(event));
        Ok(())
    })
}

/// `aclrtStreamWaitEvent`: for the last record, which there must be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtStreamWaitEvent(stream: *mut c_void, event: *mut c_void) -> i32 {
    status("aclrtStreamWaitEvent", Needs::Context, |mut env| {
        let (event, stream) = (env.event(event)?, env.stream(stream)?);
        if event.flags & FLAG_SYNC == 0 {
            let text = "the event was made without ACL_EVENT_SYNC";
            return Err(Fail::new(code::RT_PARAM_INVALID, text));
        }
        let record = last_record(&event)?;
        env.submit(&stream, Task::Wait(event, record));
        Ok(())
    })
}

fn last_record(event: &Event) -> Result<u64, Fail> {
    let refusal = || Fail::new(code::RT_PARAM_INVALID, "the event was never recorded");
    event.last().ok_or_else(refusal)
}

/// `aclrtQueryEventStatus`: 0 not ready, 1 complete.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtQueryEventStatus(event: *mut c_void, event_status: *mut i32) -> i32 {
    status("aclrtQueryEventStatus", Needs::Context, |env| {
        // SAFETY: the caller's place for an enumeration.
        let out = unsafe { Out::new(event_status, "status") }?;
        let is_complete = env.event(event)?.is_complete()?;
        out.set(i32::from(is_complete));
        Ok(())
    })
}

/// `aclrtSynchronizeEvent`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSynchronizeEvent(event: *mut c_void) -> i32 {
    status("aclrtSynchronizeEvent", Needs::Context, |env| synchronize(env, event, -1))
}

/// `aclrtSynchronizeEventWithTimeout`, milliseconds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSynchronizeEventWithTimeout(event: *mut c_void, millis: i32) -> i32 {
    status("aclrtSynchronizeEventWithTimeout", Needs::Context, |env| {
        synchronize(env, event, millis)
    })
}

fn synchronize(mut env: Env, event: *mut c_void, millis: i32) -> Result<(), Fail> {
    let event = env.event(event)?;
    let timeout = timeout(millis)?;
    let record = last_record(&event)?;
    let waited = if env.hangs() {
        if timeout.is_none() {
            env.state.violate("an event hangs and is waited for without a time-out");
        }
        drop(env);
        thread::sleep(timeout.unwrap_or_default());
        Waited::TimedOut
    } else {
        drop(env);
        event.wait(record, timeout, || true)
    };
    match waited {
        Waited::Done => Ok(()),
        Waited::Failed(fail) => Err(fail),
        Waited::TimedOut | Waited::GivenUp => {
            let text = format!("the event did not happen within {millis} ms");
            Err(Fail::new(code::RT_EVENT_SYNC_TIMEOUT, text))
        }
    }
}

/// `aclrtEventElapsedTime`: milliseconds between two events that happened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtEventElapsedTime(
    millis: *mut f32,
    start: *mut c_void,
    end: *mut c_void,
) -> i32 {
    status("aclrtEventElapsedTime", Needs::Context, |env| {
        // SAFETY: the caller's place for a `float`.
        let out = unsafe { Out::new(millis, "ms") }?;
        let (start, end) = (env.event(start)?, env.event(end)?);
        if start.flags & end.flags & FLAG_TIME_LINE == 0 {
            let text = "both events need ACL_EVENT_TIME_LINE";
            return Err(Fail::new(code::RT_EVENT_TIMESTAMP_INVALID, text));
        }
        let (Some(start), Some(end)) = (start.happened(), end.happened()) else {
            let text = "one of the events has not happened";
            return Err(Fail::new(code::RT_EVENT_NOT_COMPLETE, text));
        };
        let elapsed = end.checked_duration_since(start).ok_or_else(|| {
            Fail::new(code::RT_EVENT_TIMESTAMP_REVERSAL, "the end happened before the start")
        })?;
        out.set(elapsed.as_secs_f32() * 1e3);
        Ok(())
    })
}
