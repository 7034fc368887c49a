//! Devices and contexts.

use std::ffi::c_void;
use std::sync::Arc;
use std::thread;

use super::pointer::{Out, timeout};
use super::system::since_9;
use crate::acl::call::{Env, Needs, status};
use crate::acl::context::{self, Context};
use crate::acl::error::{Fail, code};
use crate::acl::handle::{from_pointer, to_pointer};

/// The device's index, checked.
fn device(env: &Env, device: i32) -> Result<u32, Fail> {
    let num_devices = env.state.config.num_devices;
    u32::try_from(device).ok().filter(|device| *device < num_devices).ok_or_else(|| {
        let text = format!("there is no device {device}: {num_devices} in all");
        Fail::new(code::RT_INVALID_DEVICEID, text)
    })
}

/// `aclrtGetDeviceCount`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetDeviceCount(count: *mut u32) -> i32 {
    status("aclrtGetDeviceCount", Needs::Init, |env| {
        // SAFETY: the caller's place for a `uint32_t`.
        let count = unsafe { Out::new(count, "count") }?;
        count.set(env.state.config.num_devices);
        Ok(())
    })
}

/// `aclrtSetDevice`: makes the device's own context current on this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSetDevice(device_id: i32) -> i32 {
    status("aclrtSetDevice", Needs::Init, |mut env| {
        let device = device(&env, device_id)?;
        let state = &mut *env.state;
        let Some(usage) = state.devices.get_mut(device as usize) else {
            return Err(Fail::new(code::RT_INVALID_DEVICEID, "the device is gone"));
        };
        usage.count += 1;
        if usage.default_context == 0 {
            usage.default_context = state.contexts.insert(Context::new(device, true));
        }
        context::set_current(usage.default_context);
        Ok(())
    })
}

/// `aclrtGetDevice`: of this thread's context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetDevice(device_id: *mut i32) -> i32 {
    status("aclrtGetDevice", Needs::AnyContext, |env| {
        // SAFETY: the caller's place for an `int32_t`.
        let device = unsafe { Out::new(device_id, "deviceId") }?;
        device.set(env.context()?.device as i32);
        Ok(())
    })
}

/// `aclrtResetDevice`: as many as there were `aclrtSetDevice`; the last one ends the device's own
/// context with its streams and events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtResetDevice(device_id: i32) -> i32 {
    status("aclrtResetDevice", Needs::Init, |mut env| {
        let device = device(&env, device_id)?;
        let state = &mut *env.state;
        let usage = state.devices.get_mut(device as usize).filter(|usage| usage.count > 0);
        let Some(usage) = usage else {
            let text = format!("device {device} is not in use");
            return Err(Fail::new(code::RT_PARAM_INVALID, text));
        };
        usage.count -= 1;
        if usage.count > 0 {
            return Ok(());
        }
        let context = std::mem::take(&mut usage.default_context);
        let streams = state.remove_context(context)?;
        drop(env.state);
        for stream in streams {
            stream.close();
        }
        Ok(())
    })
}

/// `aclrtSynchronizeDevice`: all streams of the current device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSynchronizeDevice() -> i32 {
    status("aclrtSynchronizeDevice", Needs::Context, |env| synchronize(env, -1))
}

/// `aclrtSynchronizeDeviceWithTimeout`, milliseconds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSynchronizeDeviceWithTimeout(millis: i32) -> i32 {
    status("aclrtSynchronizeDeviceWithTimeout", Needs::Context, |env| synchronize(env, millis))
}

fn synchronize(mut env: Env, millis: i32) -> Result<(), Fail> {
    let timeout = timeout(millis)?;
    let timed_out = || Fail::new(code::RT_TASK_TIMEOUT, format!("not done within {millis} ms"));
    if env.hangs() {
        if timeout.is_none() {
            env.state.violate("the device hangs and is waited for without a time-out");
        }
        drop(env);
        thread::sleep(timeout.unwrap_or_default());
        return Err(timed_out());
    }
    let streams = env.state.streams_of(env.context()?.device);
    drop(env);
    for stream in streams {
        if !stream.synchronize(timeout)? {
            return Err(timed_out());
        }
    }
    Ok(())
}

/// `aclrtGetRunMode`: a host with a device, `ACL_HOST`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetRunMode(run_mode: *mut i32) -> i32 {
    status("aclrtGetRunMode", Needs::Init, |_| {
        // SAFETY: the caller's place for an enumeration.
        let mode = unsafe { Out::new(run_mode, "runMode") }?;
        mode.set(1);
        Ok(())
    })
}

/// `aclrtQueryDeviceStatus`: abnormal after an exception was reported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtQueryDeviceStatus(device_id: i32, device_status: *mut i32) -> i32 {
    status("aclrtQueryDeviceStatus", Needs::Init, |env| {
        let device = device(&env, device_id)?;
        // SAFETY: the caller's place for an enumeration.
        let out = unsafe { Out::new(device_status, "deviceStatus") }?;
        let is_abnormal = env
            .state
            .contexts
            .iter()
            .any(|(_, context)| context.device == device && context.exception().is_some());
        out.set(i32::from(is_abnormal));
        Ok(())
    })
}

/// `aclrtGetDeviceInfo`, since CANN 9: counts of cores, memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetDeviceInfo(device_id: u32, attr: i32, info: *mut i64) -> i32 {
    status("aclrtGetDeviceInfo", Needs::Init, |env| {
        since_9(&env)?;
        // SAFETY: the caller's place for an `int64_t`.
        let out = unsafe { Out::new(info, "value") }?;
        device(&env, i32::try_from(device_id).unwrap_or(-1))?;
        out.set(match attr {
            1 => 6,
            101 | 102 => 20,
            201 => 40,
            301 => env.state.config.hbm_bytes as i64,
            302 => 192 << 20,
            501 => 0,
            _ => {
                let text = format!("attribute {attr} is not known of this device");
                return Err(Fail::new(code::RT_FEATURE_NOT_SUPPORT, text));
            }
        });
        Ok(())
    })
}

/// `aclrtGetDeviceCapability`, since CANN 9: tiling on the device is there, nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetDeviceCapability(
    device_id: i32,
    feature: i32,
    capability: *mut i32,
) -> i32 {
    status("aclrtGetDeviceCapability", Needs::Init, |env| {
        since_9(&env)?;
        // SAFETY: the caller's place for an `int32_t`.
        let out = unsafe { Out::new(capability, "value") }?;
        device(&env, device_id)?;
        out.set(i32::from(feature == 1));
        Ok(())
    })
}

/// `aclrtDeviceTaskAbort`: what has not been done on the device is discarded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtDeviceTaskAbort(device_id: i32, _timeout: u32) -> i32 {
    status("aclrtDeviceTaskAbort", Needs::Init, |env| {
        let device = device(&env, device_id)?;
        let streams = env.state.streams_of(device);
        drop(env);
        let why = Fail::new(code::RT_DEVICE_TASK_ABORT, "the device's tasks were aborted");
        for stream in streams {
            stream.abort(&why);
        }
        Ok(())
    })
}

/// `aclrtCreateContext`: makes it current on this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtCreateContext(context: *mut *mut c_void, device_id: i32) -> i32 {
    status("aclrtCreateContext", Needs::Init, |mut env| {
        // SAFETY: the caller's place for a handle.
        let out = unsafe { Out::new(context, "context") }?;
        let device = device(&env, device_id)?;
        let handle = env.state.contexts.insert(Context::new(device, false));
        context::set_current(handle);
        out.set(to_pointer(handle));
        Ok(())
    })
}

/// `aclrtDestroyContext`: its streams, events and models are to be gone before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtDestroyContext(context: *mut c_void) -> i32 {
    status("aclrtDestroyContext", Needs::Init, |mut env| {
        let handle = from_pointer(context);
        let context = Arc::clone(env.state.contexts.get(handle)?);
        if context.is_default {
            let text = "the device's own context ends with aclrtResetDevice";
            return Err(Fail::new(code::RT_PARAM_INVALID, text));
        }
        let streams = env.state.remove_context(handle)?;
        drop(env);
        for stream in streams {
            stream.close();
        }
        Ok(())
    })
}

/// `aclrtSetCurrentContext`, of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSetCurrentContext(context: *mut c_void) -> i32 {
    status("aclrtSetCurrentContext", Needs::Init, |env| {
        let handle = from_pointer(context);
        env.state.contexts.get(handle)?;
        context::set_current(handle);
        Ok(())
    })
}

/// `aclrtGetCurrentContext`, of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetCurrentContext(context: *mut *mut c_void) -> i32 {
    status("aclrtGetCurrentContext", Needs::AnyContext, |_| {
        // SAFETY: the caller's place for a handle.
        let out = unsafe { Out::new(context, "context") }?;
        out.set(to_pointer(context::current()));
        Ok(())
    })
}
