//! Loading, running and unloading offline models.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use fs_err as fs;

use super::pointer::{Out, text};
use crate::acl::call::{Env, Needs, status, value};
use crate::acl::error::{Fail, code};
use crate::acl::execute::{Bound, Execution, InFlight};
use crate::acl::handle::{from_pointer, to_pointer};
use crate::acl::model::{Given, LoadConfig, Program, load, unload};
use crate::acl::task::Task;

/// The bytes of a model in host memory.
///
/// # Errors
/// For null, no bytes, and device memory.
///
/// # Safety
/// The pointer is null, an address of the device, or valid for reading `size` bytes until the slice
/// is done with.
unsafe fn model_bytes<'a>(env: &Env, model: *const c_void, size: usize) -> Result<&'a [u8], Fail> {
    if model.is_null() || size == 0 {
        return Err(Fail::new(code::INVALID_PARAM, "the model is null or has no bytes"));
    }
    if env.state.memory.is_device_address(model.addr()) {
        let text = "the model is in device memory, host memory expected";
        return Err(Fail::new(code::GE_MODEL_ADDR_INVALID, text));
    }
    if size > isize::MAX as usize {
        let text = format!("a model of {size} bytes");
        return Err(Fail::new(code::GE_MODEL_DATA_SIZE_INVALID, text));
    }
    // SAFETY: neither null nor the device's, hence valid by this function's condition.
    Ok(unsafe { std::slice::from_raw_parts(model.cast(), size) })
}

/// `aclmdlQuerySizeFromMem`: the work size includes inputs and outputs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlQuerySizeFromMem(
    model: *const c_void,
    model_size: usize,
    work_size: *mut usize,
    weight_size: *mut usize,
) -> i32 {
    status("aclmdlQuerySizeFromMem", Needs::Init, |env| {
        // SAFETY: the caller's place for a `size_t`.
        let work = unsafe { Out::new(work_size, "workSize") }?;
        // SAFETY: as above.
        let weights = unsafe { Out::new(weight_size, "weightSize") }?;
        // SAFETY: the caller's model.
        let bytes = unsafe { model_bytes(&env, model, model_size) }?;
        let program = Program::open(bytes, &env.state.config)?;
        work.set(program.memory_size as usize);
        weights.set(program.weight_size as usize);
        Ok(())
    })
}

/// `aclmdlCreateConfigHandle`; null when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlCreateConfigHandle() -> *mut c_void {
    value("aclmdlCreateConfigHandle", Needs::Init, ptr::null_mut(), |mut env| {
        Ok(to_pointer(env.state.configs.insert(LoadConfig::default())))
    })
}

/// `aclmdlDestroyConfigHandle`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlDestroyConfigHandle(handle: *mut c_void) -> i32 {
    status("aclmdlDestroyConfigHandle", Needs::Init, |mut env| {
        env.state.configs.remove(from_pointer(handle)).map(drop)
    })
}

/// Bytes of an attribute of a load; `None` for those that a load from memory or a file has not.
const fn attribute_size(attribute: i32) -> Option<usize> {
    match attribute {
        // ACL_MDL_PRIORITY_INT32
        0 => Some(4),
        // Pointers are given as the address of the pointer; sizes are `size_t`.
        1..=8 | 13 => Some(8),
        _ => None,
    }
}

/// `aclmdlSetConfigOpt`: `value` is the address of the value, of a pointer too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlSetConfigOpt(
    handle: *mut c_void,
    attribute: i32,
    attribute_value: *const c_void,
    size: usize,
) -> i32 {
    status("aclmdlSetConfigOpt", Needs::Init, |mut env| {
        let config = env.state.configs.get_mut(from_pointer(handle))?;
        let wanted = attribute_size(attribute).ok_or_else(|| {
            let text = format!("attribute {attribute} is not supported");
            Fail::new(code::INVALID_PARAM, text)
        })?;
        if attribute_value.is_null() || size != wanted {
            let text = format!(
                "attribute {attribute}: {wanted} bytes at an address expected, got {size} at \
                 {attribute_value:p}"
            );
            return Err(Fail::new(code::INVALID_PARAM, text));
        }
        if wanted == 4 {
            return Ok(());
        }
        // SAFETY: not null, and `size` bytes are the caller's, here those of a pointer or `size_t`.
        let value = unsafe { attribute_value.cast::<usize>().read_unaligned() };
        match attribute {
            1 => config.load_type = Some(value),
            2 => {
                let path: *const c_char = ptr::with_exposed_provenance(value);
                // SAFETY: the value of this attribute is a pointer to the caller's string.
                config.path = Some(unsafe { text(path, "path") }?);
            }
            3 => config.model.0 = value,
            4 => config.model.1 = value,
            5 => config.given.weights.0 = value,
            6 => config.given.weights.1 = value,
            7 => config.given.workspace.0 = value,
            8 => config.given.workspace.1 = value,
            _ if value <= 1 => config.given.reuses_io = value == 1,
            _ => {
                let text = format!("workspace optimisation {value}: 0 or 1 expected");
                return Err(Fail::new(code::INVALID_PARAM, text));
            }
        }
        Ok(())
    })
}

/// `aclmdlLoadWithConfig`: load types 1 to 4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlLoadWithConfig(handle: *const c_void, model_id: *mut u32) -> i32 {
    status("aclmdlLoadWithConfig", Needs::Context, |mut env| {
        // SAFETY: the caller's place for a `uint32_t`.
        let out = unsafe { Out::new(model_id, "modelId") }?;
        let config = env.state.configs.get(from_pointer(handle))?.clone();
        let load_type = config.load_type.unwrap_or_default();
        // Only the types "with memory" look at the memory that was given.
        let given = match load_type {
            2 | 4 => config.given,
            _ => Given { reuses_io: config.given.reuses_io, ..Given::default() },
        };
        let from_file;
        let bytes = match load_type {
            1 | 2 => {
                from_file = read_model(config.path.as_deref())?;
                from_file.as_slice()
            }
            3 | 4 => {
                let (address, size) = config.model;
                let model: *const c_void = ptr::with_exposed_provenance(address);
                // SAFETY: the value of this attribute is a pointer to the caller's model.
                unsafe { model_bytes(&env, model, size) }?
            }
            _ => {
                let text = format!("load type {:?} is not 1 to 4", config.load_type);
                return Err(Fail::new(code::INVALID_PARAM, text));
            }
        };
        let context = env.context()?;
        out.set(load(&mut env.state, &context, bytes, given)?);
        Ok(())
    })
}

fn read_model(path: Option<&str>) -> Result<Vec<u8>, Fail> {
    let path = path.ok_or_else(|| Fail::new(code::INVALID_PARAM, "no path was given"))?;
    fs::read(Path::new(path))
        .map_err(|error| Fail::new(code::GE_MODEL_PATH_INVALID, error.to_string()))
}

/// `aclmdlLoadFromMem`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlLoadFromMem(
    model: *const c_void,
    model_size: usize,
    model_id: *mut u32,
) -> i32 {
    status("aclmdlLoadFromMem", Needs::Context, |mut env| {
        // SAFETY: the caller's place for a `uint32_t`.
        let out = unsafe { Out::new(model_id, "modelId") }?;
        // SAFETY: the caller's model.
        let bytes = unsafe { model_bytes(&env, model, model_size) }?;
        let context = env.context()?;
        out.set(load(&mut env.state, &context, bytes, Given::default())?);
        Ok(())
    })
}

/// `aclmdlLoadFromMemWithMem`: a null workspace or weight memory is taken from the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlLoadFromMemWithMem(
    model: *const c_void,
    model_size: usize,
    model_id: *mut u32,
    work: *mut c_void,
    work_size: usize,
    weights: *mut c_void,
    weight_size: usize,
) -> i32 {
    status("aclmdlLoadFromMemWithMem", Needs::Context, |mut env| {
        // SAFETY: the caller's place for a `uint32_t`.
        let out = unsafe { Out::new(model_id, "modelId") }?;
        // SAFETY: the caller's model.
        let bytes = unsafe { model_bytes(&env, model, model_size) }?;
        let context = env.context()?;
        let given = Given {
            workspace: (work.addr(), work_size),
            weights: (weights.addr(), weight_size),
            reuses_io: false,
        };
        out.set(load(&mut env.state, &context, bytes, given)?);
        Ok(())
    })
}

/// `aclmdlUnload`: of this thread's context, and not while it is to run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlUnload(model_id: u32) -> i32 {
    status("aclmdlUnload", Needs::AnyContext, |mut env| {
        let context = env.context()?;
        unload(&mut env.state, &context, model_id)
    })
}

/// The execution of a model with two datasets; the last pair was checked before.
fn execution(
    env: &mut Env,
    id: u32,
    input: *const c_void,
    output: *const c_void,
) -> Result<Execution, Fail> {
    let context = env.context()?;
    let pair = (from_pointer(input), from_pointer(output));
    let model = env.state.model(id, &context)?;
    let program = Arc::clone(&model.program);
    let known = model.bound.as_ref().filter(|bound| (bound.0, bound.1) == pair);
    let bound = if let Some((_, _, bound)) = known {
        Arc::clone(bound)
    } else {
        let inputs = env.state.datasets.get(pair.0)?;
        let outputs = env.state.datasets.get(pair.1)?;
        let bound = Bound::new(&env.state, context.device, &program, inputs, outputs)?;
        env.state.model(id, &context)?.bound = Some((pair.0, pair.1, Arc::clone(&bound)));
        bound
    };
    let skips_computing = env.state.config.skips_execution;
    let model = env.state.model(id, &context)?;
    Ok(Execution {
        model: id,
        program,
        bound,
        workspace: model.workspace.clone(),
        skips_computing,
        _in_flight: InFlight::new(&model.in_flight),
    })
}

/// `aclmdlExecuteAsync`: what the datasets hold is looked at now, the memory when the stream gets
/// there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlExecuteAsync(
    model_id: u32,
    input: *const c_void,
    output: *mut c_void,
    stream: *mut c_void,
) -> i32 {
    status("aclmdlExecuteAsync", Needs::Context, |mut env| {
        let stream = env.stream(stream)?;
        let execution = execution(&mut env, model_id, input, output)?;
        env.submit(&stream, Task::Execute(execution));
        Ok(())
    })
}

/// `aclmdlExecute`: on the default stream, and waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlExecute(
    model_id: u32,
    input: *const c_void,
    output: *mut c_void,
) -> i32 {
    status("aclmdlExecute", Needs::Context, |mut env| {
        if env.hangs() {
            let text = "the model did not end in time, ordered by CANN_SIM_FAIL";
            return Err(Fail::new(code::GE_MODEL_EXECUTE_TIMEOUT, text));
        }
        let stream = env.stream(ptr::null())?;
        let execution = execution(&mut env, model_id, input, output)?;
        stream.submit(Task::Execute(execution));
        drop(env);
        stream.synchronize(None).map(drop)
    })
}
