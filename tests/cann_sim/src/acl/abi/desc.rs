//! Descriptions of models' inputs and outputs.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::Arc;

use super::pointer::{Out, text};
use super::system::c_chars;
use crate::acl::call::{Env, Needs, status, value};
use crate::acl::error::{Fail, code};
use crate::acl::handle::{from_pointer, to_pointer};
use crate::acl::model::{Program, Tensor};

/// `aclmdlIODims`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AclmdlIoDims {
    /// Of the tensor, cut to 127 bytes.
    pub name: [c_char; 128],
    /// How many of `dims` are used.
    pub dim_count: usize,
    /// Sizes, outermost first.
    pub dims: [i64; 128],
}

/// `aclmdlCreateDesc`; null when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlCreateDesc() -> *mut c_void {
    value("aclmdlCreateDesc", Needs::Init, ptr::null_mut(), |mut env| {
        Ok(to_pointer(env.state.descs.insert(None)))
    })
}

/// `aclmdlDestroyDesc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlDestroyDesc(desc: *mut c_void) -> i32 {
    status("aclmdlDestroyDesc", Needs::Init, |mut env| {
        env.state.descs.remove(from_pointer(desc)).map(drop)
    })
}

/// `aclmdlGetDesc`: of a model of this thread's context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetDesc(desc: *mut c_void, model_id: u32) -> i32 {
    status("aclmdlGetDesc", Needs::Context, |mut env| {
        let context = env.context()?;
        let program = Arc::clone(&env.state.model(model_id, &context)?.program);
        *env.state.descs.get_mut(from_pointer(desc))? = Some(program);
        Ok(())
    })
}

/// Inputs or outputs.
type Tensors = fn(&Program) -> &[Tensor];

const INPUTS: Tensors = |program| &program.inputs;
const OUTPUTS: Tensors = |program| &program.outputs;

fn program(env: &Env, desc: *const c_void) -> Result<Arc<Program>, Fail> {
    let program = env.state.descs.get(from_pointer(desc))?.clone();
    let refusal = || Fail::new(code::INVALID_PARAM, "the description is still of no model");
    program.ok_or_else(refusal)
}

/// What `field` says of one input or output; `otherwise` when there is none.
fn about<T>(
    name: &'static str,
    desc: *const c_void,
    (tensors, index): (Tensors, usize),
    otherwise: T,
    field: impl FnOnce(&Tensor) -> T,
) -> T {
    value(name, Needs::Init, otherwise, |env| {
        let program = program(&env, desc)?;
        tensor(&program, (tensors, index)).map(field)
    })
}

fn tensor(program: &Program, (tensors, index): (Tensors, usize)) -> Result<&Tensor, Fail> {
    let tensors = tensors(program);
    tensors.get(index).ok_or_else(|| {
        let text = format!("index {index} is out of range: there are {}", tensors.len());
        Fail::new(code::INVALID_PARAM, text)
    })
}

fn count(name: &'static str, desc: *const c_void, tensors: Tensors) -> usize {
    value(name, Needs::Init, 0, |env| Ok(tensors(&*program(&env, desc)?).len()))
}

/// `aclmdlGetNumInputs`; 0 when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetNumInputs(desc: *mut c_void) -> usize {
    count("aclmdlGetNumInputs", desc, INPUTS)
}

/// `aclmdlGetNumOutputs`; 0 when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetNumOutputs(desc: *mut c_void) -> usize {
    count("aclmdlGetNumOutputs", desc, OUTPUTS)
}

/// `aclmdlGetInputSizeByIndex`: bytes, without padding; 0 when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetInputSizeByIndex(desc: *mut c_void, index: usize) -> usize {
    about("aclmdlGetInputSizeByIndex", desc, (INPUTS, index), 0, |tensor| tensor.num_bytes)
}

/// `aclmdlGetOutputSizeByIndex`: bytes, without padding; 0 when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetOutputSizeByIndex(desc: *mut c_void, index: usize) -> usize {
    about("aclmdlGetOutputSizeByIndex", desc, (OUTPUTS, index), 0, |tensor| tensor.num_bytes)
}

/// `aclmdlGetInputNameByIndex`: lives as long as the description; null when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetInputNameByIndex(
    desc: *const c_void,
    index: usize,
) -> *const c_char {
    about("aclmdlGetInputNameByIndex", desc, (INPUTS, index), ptr::null(), |tensor| {
        tensor.name.as_ptr()
    })
}

/// `aclmdlGetOutputNameByIndex`: lives as long as the description; null when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetOutputNameByIndex(
    desc: *const c_void,
    index: usize,
) -> *const c_char {
    about("aclmdlGetOutputNameByIndex", desc, (OUTPUTS, index), ptr::null(), |tensor| {
        tensor.name.as_ptr()
    })
}

/// # Safety
/// As `text` and `Out::new` want it of `name` and `index`.
unsafe fn index_by_name(
    function: &'static str,
    desc: *const c_void,
    tensors: Tensors,
    name: *const c_char,
    index: *mut usize,
) -> i32 {
    status(function, Needs::Init, |env| {
        // SAFETY: the caller's string.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: the caller's place for a `size_t`.
        let out = unsafe { Out::new(index, "index") }?;
        let program = program(&env, desc)?;
        let found =
            tensors(&program).iter().position(|tensor| tensor.name.as_bytes() == name.as_bytes());
        out.set(found.ok_or_else(|| {
            Fail::new(code::INVALID_PARAM, format!("nothing is called `{name}`"))
        })?);
        Ok(())
    })
}

/// `aclmdlGetInputIndexByName`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetInputIndexByName(
    desc: *const c_void,
    name: *const c_char,
    index: *mut usize,
) -> i32 {
    // SAFETY: the pointers are the caller's, for what they are passed on for.
    unsafe { index_by_name("aclmdlGetInputIndexByName", desc, INPUTS, name, index) }
}

/// `aclmdlGetOutputIndexByName`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetOutputIndexByName(
    desc: *const c_void,
    name: *const c_char,
    index: *mut usize,
) -> i32 {
    // SAFETY: the pointers are the caller's, for what they are passed on for.
    unsafe { index_by_name("aclmdlGetOutputIndexByName", desc, OUTPUTS, name, index) }
}

/// # Safety
/// As `Out::new` wants it of `dims`.
unsafe fn dims(
    name: &'static str,
    desc: *const c_void,
    which: (Tensors, usize),
    dims: *mut AclmdlIoDims,
) -> i32 {
    status(name, Needs::Init, |env| {
        // SAFETY: the caller's place for the structure.
        let out = unsafe { Out::new(dims, "dims") }?;
        let program = program(&env, desc)?;
        let tensor = tensor(&program, which)?;
        let mut sizes = [0; 128];
        if tensor.dims.len() > sizes.len() {
            return Err(Fail::new(code::INVALID_PARAM, "more than 128 dimensions"));
        }
        for (to, from) in sizes.iter_mut().zip(&tensor.dims) {
            *to = *from;
        }
        out.set(AclmdlIoDims {
            name: c_chars(&tensor.name.to_string_lossy()),
            dim_count: tensor.dims.len(),
            dims: sizes,
        });
        Ok(())
    })
}

/// `aclmdlGetInputDims`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetInputDims(
    desc: *const c_void,
    index: usize,
    out: *mut AclmdlIoDims,
) -> i32 {
    // SAFETY: the pointer is the caller's, for what it is passed on for.
    unsafe { dims("aclmdlGetInputDims", desc, (INPUTS, index), out) }
}

/// `aclmdlGetOutputDims`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetOutputDims(
    desc: *const c_void,
    index: usize,
    out: *mut AclmdlIoDims,
) -> i32 {
    // SAFETY: the pointer is the caller's, for what it is passed on for.
    unsafe { dims("aclmdlGetOutputDims", desc, (OUTPUTS, index), out) }
}

/// `aclmdlGetInputDataType`; -1 when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetInputDataType(desc: *const c_void, index: usize) -> i32 {
    about("aclmdlGetInputDataType", desc, (INPUTS, index), -1, |tensor| tensor.dtype)
}

/// `aclmdlGetOutputDataType`; -1 when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetOutputDataType(desc: *const c_void, index: usize) -> i32 {
    about("aclmdlGetOutputDataType", desc, (OUTPUTS, index), -1, |tensor| tensor.dtype)
}

/// `aclmdlGetInputFormat`; -1 when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetInputFormat(desc: *const c_void, index: usize) -> i32 {
    about("aclmdlGetInputFormat", desc, (INPUTS, index), -1, |tensor| tensor.format)
}

/// `aclmdlGetOutputFormat`; -1 when it fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlGetOutputFormat(desc: *const c_void, index: usize) -> i32 {
    about("aclmdlGetOutputFormat", desc, (OUTPUTS, index), -1, |tensor| tensor.format)
}
