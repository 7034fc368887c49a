//! A compiled model on the device.
//!
//! ```text
//! om (host memory) --aclmdlLoadWithConfig--> id --aclmdlGetDesc--> names, types, shapes, sizes
//!                        |
//!   type 4 with our workspace or weight memory, else type 3 with CANN's own
//!   always ACL_MDL_WORKSPACE_MEM_OPTIMIZE = 1: the workspace is without the inputs and outputs, which
//!   with weights as inputs would be a second copy of the whole model
//! ```
//!
//! A workspace may serve many models, since one stream at a time executes models
//! ([`Queue::execute`](crate::Queue::execute)).
//!
//! What this module deliberately does not do: it does not look into the model file, which is code: who
//! passes it in has to trust it.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::current::Current;
use crate::device::Device;
use crate::error::AclError;
use crate::loader::Acl;
use crate::memory::DeviceBuffer;
use crate::result::Handle;
use crate::result::model::{self, Side};
use crate::sys;

/// What to load, and into which memory.
#[derive(Clone, Debug)]
pub struct LoadOptions<'a> {
    /// The offline model, as `atc` wrote it.
    pub om: &'a [u8],
    /// Memory to work in, which other models may share; CANN's own if not given.
    pub workspace: Option<Arc<DeviceBuffer>>,
    /// Memory for the constants; CANN's own if not given.
    pub weight: Option<Arc<DeviceBuffer>>,
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// The type of its elements, an `aclDataType`.
    pub dtype: i32,
    /// Their order, an `aclFormat`.
    pub format: i32,
    /// Its dimensions.
    pub dims: Vec<i64>,
    /// Its length in bytes.
    pub bytes: usize,
}

/// A model on a device.
#[derive(Debug)]
pub struct Model {
    device: Arc<Device>,
    id: u32,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    /// Kept as long as the model: workspace and weights.
    _memory: [Option<Arc<DeviceBuffer>>; 2],
}

impl Model {
    /// Loads a model (`aclmdlLoadWithConfig`, `acl_mdl.h`); the bytes are not needed afterwards.
    ///
    /// # Errors
    /// When CANN does not take it, there is not enough memory, the memory given is of another device,
    /// or the device was given up.
    pub fn load(current: &Current<'_>, options: LoadOptions<'_>) -> Result<Self, AclError> {
        const FUNCTION: &str = "Model::load";
        let LoadOptions { om, workspace, weight } = options;
        let device = Arc::clone(current.device());
        device.usable(FUNCTION)?;
        for memory in [&workspace, &weight].into_iter().flatten() {
            current.check(memory.device(), FUNCTION)?;
        }
        if om.is_empty() {
            return Err(AclError::refused(FUNCTION, "a model of 0 bytes"));
        }
        let id = load(current.acl(), om, workspace.as_deref(), weight.as_deref())?;
        let (inputs, outputs) = (Vec::new(), Vec::new());
        // From here on dropping it unloads it.
        let mut model = Self { device, id, inputs, outputs, _memory: [workspace, weight] };
        (model.inputs, model.outputs) = describe(current.acl(), id)?;
        Ok(model)
    }

    /// Its inputs, in the order of a dataset.
    pub fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    /// Its outputs, in the order of a dataset.
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// The place of an input in a dataset.
    pub fn input_index(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|input| input.name == name)
    }

    /// The device that it is on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Model {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        let (acl, id) = (self.device.runtime().acl(), self.id);
        // SAFETY: loaded in the device's context; a run that executes it borrows it until it has
        // ended, or the device was given up and this is not called.
        self.device.release(|| unsafe { model::unload(acl, id) });
    }
}

/// How much memory a model wants, workspace and weights, in bytes (`aclmdlQuerySizeFromMem`,
/// `acl_mdl.h`). The workspace is with its inputs and outputs: more than [`Model::load`] needs.
///
/// # Errors
/// When CANN does not take the model, or the device was given up.
pub fn workspace_sizes(current: &Current<'_>, om: &[u8]) -> Result<(usize, usize), AclError> {
    const FUNCTION: &str = "workspace_sizes";
    current.device().usable(FUNCTION)?;
    if om.is_empty() {
        return Err(AclError::refused(FUNCTION, "a model of 0 bytes"));
    }
    model::sizes(current.acl(), om)
}

fn load(
    acl: &Acl,
    om: &[u8],
    workspace: Option<&DeviceBuffer>,
    weight: Option<&DeviceBuffer>,
) -> Result<u32, AclError> {
    let config = Config::new(acl)?;
    let load_type = match (workspace, weight) {
        (None, None) => sys::ACL_MDL_LOAD_FROM_MEM,
        _ => sys::ACL_MDL_LOAD_FROM_MEM_WITH_MEM,
    };
    config.set_size(sys::ACL_MDL_LOAD_TYPE_SIZET, load_type as usize)?;
    config.set_memory(
        (sys::ACL_MDL_MEM_ADDR_PTR, om.as_ptr().cast()),
        (sys::ACL_MDL_MEM_SIZET, om.len()),
    )?;
    let options = [
        (workspace, sys::ACL_MDL_WORKSPACE_ADDR_PTR, sys::ACL_MDL_WORKSPACE_SIZET),
        (weight, sys::ACL_MDL_WEIGHT_ADDR_PTR, sys::ACL_MDL_WEIGHT_SIZET),
    ];
    for (memory, address, size) in options {
        if let Some(memory) = memory {
            let begin = memory.address(0).cast_const();
            config.set_memory((address, begin), (size, memory.len()))?;
        }
    }
    let optimize = sys::ACL_WORKSPACE_MEM_OPTIMIZE_INPUTOUTPUT as usize;
    config.set_size(sys::ACL_MDL_WORKSPACE_MEM_OPTIMIZE, optimize)?;
    config.load()
}

/// A load configuration, which is always given back.
#[derive(Debug)]
struct Config<'a> {
    acl: &'a Acl,
    handle: Handle,
}

impl<'a> Config<'a> {
    fn new(acl: &'a Acl) -> Result<Self, AclError> {
        Ok(Self { acl, handle: model::create_config(acl)? })
    }

    #[expect(unsafe_code, reason = "calls ACL")]
    fn set_size(&self, option: sys::aclmdlConfigAttr, value: usize) -> Result<(), AclError> {
        // SAFETY: called with options named `.._SIZET` and with the memory optimisation, which is a
        // `size_t` too.
        unsafe { model::set_config(self.acl, self.handle, option, value) }
    }

    /// Where memory begins and how long it is.
    #[expect(unsafe_code, reason = "calls ACL")]
    fn set_memory(
        &self,
        (option, address): (sys::aclmdlConfigAttr, *const std::ffi::c_void),
        (size_option, bytes): (sys::aclmdlConfigAttr, usize),
    ) -> Result<(), AclError> {
        // SAFETY: called with options named `.._PTR`; the model's bytes and the buffers are borrowed
        // by the function that loads.
        unsafe { model::set_config(self.acl, self.handle, option, address) }?;
        self.set_size(size_option, bytes)
    }

    #[expect(unsafe_code, reason = "calls ACL")]
    fn load(&self) -> Result<u32, AclError> {
        // SAFETY: the options have their types, and what they point to is still borrowed.
        unsafe { model::load(self.acl, self.handle) }
    }
}

impl Drop for Config<'_> {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        // SAFETY: ours, and not used afterwards.
        let destroyed = unsafe { model::destroy_config(self.acl, self.handle) };
        // A few bytes of host memory at most.
        drop(destroyed);
    }
}

/// A model's description, which is always given back.
#[derive(Debug)]
struct Description<'a> {
    acl: &'a Acl,
    handle: Handle,
}

/// The inputs and outputs of a loaded model.
#[expect(unsafe_code, reason = "calls ACL")]
fn describe(acl: &Acl, id: u32) -> Result<(Vec<TensorInfo>, Vec<TensorInfo>), AclError> {
    let description = Description { acl, handle: model::create_description(acl)? };
    // SAFETY: ours, and a loaded model.
    unsafe { model::describe(acl, description.handle, id) }?;
    Ok((description.tensors(Side::Inputs)?, description.tensors(Side::Outputs)?))
}

impl Description<'_> {
    /// Only of a description that has been filled.
    #[expect(unsafe_code, reason = "calls ACL")]
    fn tensors(&self, side: Side) -> Result<Vec<TensorInfo>, AclError> {
        // SAFETY: filled by the only caller.
        let count = unsafe { side.count(self.acl, self.handle) };
        (0..count).map(|idx| self.tensor(side, idx)).collect()
    }

    #[expect(unsafe_code, reason = "calls ACL")]
    fn tensor(&self, side: Side, idx: usize) -> Result<TensorInfo, AclError> {
        let (acl, handle) = (self.acl, self.handle);
        // SAFETY, of all: as in `tensors`.
        // SAFETY: as said.
        let dims = unsafe { side.dims(acl, handle, idx) }?;
        // SAFETY: as said.
        let name = unsafe { side.name(acl, handle, idx) }.unwrap_or_default();
        // SAFETY: as said.
        let dtype = unsafe { side.dtype(acl, handle, idx) };
        // SAFETY: as said.
        let format = unsafe { side.format(acl, handle, idx) };
        // SAFETY: as said.
        let bytes = unsafe { side.bytes(acl, handle, idx) };
        let Some(dims) = dims.dims.get(..dims.dimCount) else {
            let mut message = format!("{side:?} {idx} `{name}` has {} dimensions", dims.dimCount);
            let _ = write!(message, ", at most {} are possible", dims.dims.len());
            return Err(AclError::refused("Model::load", message));
        };
        Ok(TensorInfo { name, dtype, format, dims: dims.to_vec(), bytes })
    }
}

impl Drop for Description<'_> {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        // SAFETY: ours, and not used afterwards.
        let destroyed = unsafe { model::destroy_description(self.acl, self.handle) };
        // A little host memory at most.
        drop(destroyed);
    }
}
