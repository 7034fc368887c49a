//! Device and pinned memory, copies.

use std::ffi::c_void;
use std::ptr;

use super::pointer::Out;
use crate::acl::call::{Env, Needs, status};
use crate::acl::error::{Fail, code};
use crate::acl::memory::{Span, bus};
use crate::acl::task::{Task, fill};

/// `aclrtMalloc`: 64-byte aligned memory of this thread's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMalloc(
    device_pointer: *mut *mut c_void,
    size: usize,
    policy: i32,
) -> i32 {
    status("aclrtMalloc", Needs::Context, |mut env| {
        // SAFETY: the caller's place for a pointer.
        let out = unsafe { Out::new(device_pointer, "devPtr") }?;
        check_size(size)?;
        if !(0..=7).contains(&(policy & !0x0010_1100)) {
            let text = format!("there is no policy {policy:#x}");
            return Err(Fail::new(code::RT_INVALID_MALLOC_TYPE, text));
        }
        let device = env.context()?.device;
        let address = env.state.memory.allocate(device, size)?;
        out.set(ptr::without_provenance_mut(address));
        Ok(())
    })
}

fn check_size(size: usize) -> Result<(), Fail> {
    if size > 0 { Ok(()) } else { Err(Fail::new(code::INVALID_PARAM, "the size is 0")) }
}

/// `aclrtFree`: of this thread's device, at its start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtFree(device_pointer: *mut c_void) -> i32 {
    status("aclrtFree", Needs::AnyContext, |mut env| {
        check_pointer(device_pointer, "devPtr")?;
        let device = env.context()?.device;
        env.state.memory.free(device, device_pointer.addr())?;
        env.state.unbind();
        Ok(())
    })
}

fn check_pointer(pointer: *const c_void, what: &str) -> Result<(), Fail> {
    if !pointer.is_null() {
        return Ok(());
    }
    Err(Fail::new(code::INVALID_PARAM, format!("`{what}` is null")))
}

/// `aclrtMallocHost`: pinned memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMallocHost(host_pointer: *mut *mut c_void, size: usize) -> i32 {
    status("aclrtMallocHost", Needs::Context, |mut env| {
        // SAFETY: the caller's place for a pointer.
        let out = unsafe { Out::new(host_pointer, "hostPtr") }?;
        check_size(size)?;
        let address = env.state.memory.allocate_pinned(size)?;
        out.set(ptr::with_exposed_provenance_mut(address));
        Ok(())
    })
}

/// `aclrtFreeHost`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtFreeHost(host_pointer: *mut c_void) -> i32 {
    status("aclrtFreeHost", Needs::AnyContext, |mut env| {
        check_pointer(host_pointer, "hostPtr")?;
        env.state.memory.free_pinned(host_pointer.addr())
    })
}

/// One side of a copy.
#[derive(Debug)]
enum Side {
    Known(Span),
    /// Ordinary host memory, which is the caller's business.
    Pageable(*mut u8),
}

impl Side {
    fn pointer(&self) -> *mut u8 {
        match self {
            Self::Known(span) => span.pointer(),
            Self::Pageable(pointer) => *pointer,
        }
    }

    /// # Errors
    /// For ordinary host memory.
    fn known(self, len: usize) -> Result<Span, Fail> {
        match self {
            Self::Known(span) => Ok(span.prefix(len)),
            Self::Pageable(pointer) => {
                let text = format!("host memory at {pointer:p} is not pinned");
                Err(Fail::new(code::RT_INVALID_MEMORY_TYPE, text))
            }
        }
    }
}

/// Finds memory and checks that it is where the kind of copy says.
fn side(
    env: &Env,
    pointer: *mut c_void,
    len: usize,
    on_device: Option<bool>,
) -> Result<Side, Fail> {
    let address = pointer.addr();
    let is_device = env.state.memory.is_device_address(address);
    if is_device != on_device.unwrap_or(is_device) {
        let place = if is_device { "device" } else { "host" };
        let text = format!("{address:#x} is {place} memory, the kind of copy says otherwise");
        return Err(Fail::new(code::RT_PARAM_INVALID, text));
    }
    if is_device {
        let device = env.context()?.device;
        return env.state.memory.device_span(device, address, len).map(Side::Known);
    }
    match env.state.memory.pinned_span(address, len) {
        Some(span) => span.map(Side::Known),
        None => Ok(Side::Pageable(pointer.cast())),
    }
}

/// Both sides of a copy, the source first.
fn sides(
    env: &Env,
    (dst, dest_max): (*mut c_void, usize),
    (src, count): (*const c_void, usize),
    kind: i32,
) -> Result<(Side, Side), Fail> {
    check_pointer(dst, "dst")?;
    check_pointer(src, "src")?;
    if count == 0 || count > dest_max {
        let text = format!("{count} bytes to copy, 1 to destMax = {dest_max} expected");
        return Err(Fail::new(code::RT_PARAM_INVALID, text));
    }
    let (from, to) = match kind {
        0 => (Some(false), Some(false)),
        1 => (Some(false), Some(true)),
        2 => (Some(true), Some(false)),
        3 => (Some(true), Some(true)),
        4 => (None, None),
        _ => {
            let text = format!("copies of kind {kind} are not supported");
            return Err(Fail::new(code::RT_FEATURE_NOT_SUPPORT, text));
        }
    };
    Ok((side(env, src.cast_mut(), count, from)?, side(env, dst, dest_max, to)?))
}

/// `aclrtMemcpy`: at once, whatever streams are doing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemcpy(
    dst: *mut c_void,
    dest_max: usize,
    src: *const c_void,
    count: usize,
    kind: i32,
) -> i32 {
    status("aclrtMemcpy", Needs::Context, |env| {
        let (from, to) = sides(&env, (dst, dest_max), (src, count), kind)?;
        drop(env);
        let _bus = bus();
        // SAFETY: known memory was checked to have `count` bytes in a mapping that its span keeps
        // alive, and the bus lock keeps streams out of device memory; ordinary host memory is valid
        // for `count` bytes by the function's contract. `copy` allows overlap.
        unsafe { ptr::copy(from.pointer(), to.pointer(), count) };
        Ok(())
    })
}

/// `aclrtMemcpyAsync`: host memory must be pinned, and one side is a device's. The source is read
/// when the stream gets there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemcpyAsync(
    dst: *mut c_void,
    dest_max: usize,
    src: *const c_void,
    count: usize,
    kind: i32,
    stream: *mut c_void,
) -> i32 {
    status("aclrtMemcpyAsync", Needs::Context, |mut env| {
        let stream = env.stream(stream)?;
        let (from, to) = sides(&env, (dst, dest_max), (src, count), kind)?;
        let is_on_device = |address| env.state.memory.is_device_address(address);
        if !is_on_device(dst.addr()) && !is_on_device(src.addr()) {
            let text = "streams do not copy from host to host";
            return Err(Fail::new(code::RT_PARAM_INVALID, text));
        }
        let (from, to) = (from.known(count)?, to.known(count)?);
        if from.overlaps(&to) {
            env.state.violate("a stream copies memory to where it lies itself");
        }
        env.submit(&stream, Task::Copy { from, to });
        Ok(())
    })
}

/// The memory of a memset: a device's, or pinned.
fn filled(env: &Env, pointer: *mut c_void, max: usize, count: usize) -> Result<Span, Fail> {
    check_pointer(pointer, "devPtr")?;
    if count == 0 || count > max {
        let text = format!("{count} bytes to set, 1 to maxCount = {max} expected");
        return Err(Fail::new(code::RT_PARAM_INVALID, text));
    }
    side(env, pointer, max, None)?.known(count)
}

/// `aclrtMemset`: of device or pinned memory, at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemset(
    pointer: *mut c_void,
    max: usize,
    byte: i32,
    count: usize,
) -> i32 {
    status("aclrtMemset", Needs::Context, |env| {
        let to = filled(&env, pointer, max, count)?;
        drop(env);
        fill(&to, byte as u8)
    })
}

/// `aclrtMemsetAsync`: of device or pinned memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemsetAsync(
    pointer: *mut c_void,
    max: usize,
    byte: i32,
    count: usize,
    stream: *mut c_void,
) -> i32 {
    status("aclrtMemsetAsync", Needs::Context, |mut env| {
        let stream = env.stream(stream)?;
        let to = filled(&env, pointer, max, count)?;
        env.submit(&stream, Task::Fill { to, value: byte as u8 });
        Ok(())
    })
}

/// `aclrtGetMemInfo`: all memory is HBM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetMemInfo(attr: i32, free: *mut usize, total: *mut usize) -> i32 {
    status("aclrtGetMemInfo", Needs::Context, |env| {
        // SAFETY: the caller's place for a `size_t`.
        let free_out = unsafe { Out::new(free, "free") }?;
        // SAFETY: as above.
        let total_out = unsafe { Out::new(total, "total") }?;
        let (free, total) = match attr {
            1 | 4 | 5 => env.state.memory.info(env.context()?.device),
            0 | 2 | 3 | 6..=17 => (0, 0),
            _ => {
                let text = format!("there is no memory attribute {attr}");
                return Err(Fail::new(code::RT_PARAM_INVALID, text));
            }
        };
        free_out.set(free as usize);
        total_out.set(total as usize);
        Ok(())
    })
}
