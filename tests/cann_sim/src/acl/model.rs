//! Offline models: their inputs and outputs, and loading them.
//!
//! Memory that a load takes, besides the weights that are inside the model:
//!
//! | Workspace given | `ACL_MDL_WORKSPACE_MEM_OPTIMIZE` | Takes |
//! | --- | --- | --- |
//! | yes, at least `memory_size - zero_copy_memory_size` | any | nothing |
//! | no | 1 | `memory_size - zero_copy_memory_size` |
//! | no | 0 | `memory_size`: a second copy of every input and output, never used |
//! | any, with `CANN_SIM_IGNORE_MEM_OPTIMIZE=1` | any | `memory_size` |

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::config::Config;
use super::context::Context;
use super::error::{Fail, code};
use super::execute::Bound;
use super::memory::{ALIGNMENT, Span};
use super::state::State;
use super::version::Version;
use crate::ge::graph::{Desc, GeGraph};
use crate::om;

/// An input or output, as `aclmdlDesc` tells of it.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: CString,
    pub(super) dims: Vec<i64>,
    /// `aclDataType`.
    pub(super) dtype: i32,
    /// `aclFormat`.
    pub(super) format: i32,
    pub(super) num_bytes: usize,
    /// A `RefData`, which a run changes in place.
    pub(super) is_updated: bool,
}

/// A model, understood.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) graph: GeGraph,
    pub(super) inputs: Vec<Tensor>,
    pub(super) outputs: Vec<Tensor>,
    pub(super) memory_size: u64,
    zero_copy_size: u64,
    pub(super) weight_size: u64,
}

impl Program {
    /// Reads a model as the loader does, for a device and runtime.
    ///
    /// # Errors
    /// Those of [`om::read`], and a model of another chip or of a newer CANN.
    pub(super) fn open(bytes: &[u8], config: &Config) -> Result<Self, Fail> {
        let om = om::read(bytes).map_err(|error| Fail::new(error.code, error.message))?;
        if om.soc != config.soc {
            let text = format!("the model is for {}, the device is {}", om.soc, config.soc);
            return Err(Fail::new(code::GE_LOAD_MODEL, text));
        }
        let (runtime, version) = &config.cann;
        if Version::parse(&om.cann).is_none_or(|compiled| compiled > *version) {
            let text = format!("the model was made by CANN {}, this is {runtime}", om.cann);
            return Err(Fail::new(code::GE_LOAD_MODEL, text));
        }
        if om.is_dynamic {
            let text = "the model is dynamic, and only static ones are simulated";
            return Err(Fail::new(code::GE_LOAD_MODEL, text));
        }
        Self::new(om)
    }

    fn new(om: om::Om) -> Result<Self, Fail> {
        let broken = || Fail::new(code::GE_LOAD_MODEL, "the graph points outside of itself");
        let graph = om.graph;
        let inputs = graph.inputs.iter().map(|node| {
            let node = graph.nodes.get(*node).ok_or_else(broken)?;
            let desc = node.outputs.first().ok_or_else(broken)?;
            Tensor::new(node.name.clone(), desc, node.op == "RefData")
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let outputs = graph.outputs.iter().map(|edge| {
            let node = graph.nodes.get(edge.node).ok_or_else(broken)?;
            let desc = node.outputs.get(edge.output).ok_or_else(broken)?;
            let port = node.output_names.get(edge.output).ok_or_else(broken)?;
            Tensor::new(format!("{}:{}:{port}", node.name, edge.output), desc, false)
        });
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            graph,
            inputs,
            outputs,
            memory_size: om.memory_size,
            zero_copy_size: om.zero_copy_memory_size,
            weight_size: om.weight_size,
        })
    }

    fn size_without_io(&self) -> u64 {
        self.memory_size.saturating_sub(self.zero_copy_size)
    }
}

impl Tensor {
    fn new(name: String, desc: &Desc, is_updated: bool) -> Result<Self, Fail> {
        let refusal = || Fail::new(code::GE_SHAPE_INVALID, format!("`{name}` is too large"));
        let dims = desc.shape.iter().map(|size| i64::try_from(*size).map_err(|_| refusal()));
        let dims = dims.collect::<Result<Vec<_>, _>>()?;
        let num_bytes = desc
            .shape
            .iter()
            .try_fold(desc.dtype.size(), |bytes, size| bytes.checked_mul(*size))
            .ok_or_else(refusal)?;
        let text = CString::new(name)
            .map_err(|_| Fail::new(code::GE_LOAD_MODEL, "a name has a zero byte"))?;
        let (dtype, format) = (desc.dtype.acl(), FORMAT_ND);
        Ok(Self { name: text, dims, dtype, format, num_bytes, is_updated })
    }
}

/// `ACL_FORMAT_ND`, the only one of graphs without storage formats.
const FORMAT_ND: i32 = 2;

/// A loaded model.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) program: Arc<Program>,
    pub(super) context: Arc<Context>,
    /// A workspace that the program under test gave.
    pub(super) workspace: Option<Span>,
    /// Bytes of the device that the load took.
    charged: u64,
    pub(super) in_flight: Arc<AtomicUsize>,
    /// The last datasets and what they were bound to.
    pub(super) bound: Option<(u64, u64, Arc<Bound>)>,
}

/// What a load is given besides the model.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    /// Address and size; address 0 is none.
    pub(super) workspace: (usize, usize),
    /// Address and size; address 0 is none.
    pub(super) weights: (usize, usize),
    /// No second copy of inputs and outputs.
    pub(super) reuses_io: bool,
}

/// Loads a model in a context; its id.
///
/// # Errors
/// Those of [`Program::open`], and memory that is missing, too small or not the device's.
pub(super) fn load(
    state: &mut State,
    context: &Arc<Context>,
    bytes: &[u8],
    given: Given,
) -> Result<u32, Fail> {
    let program = Program::open(bytes, &state.config)?;
    let device = context.device;
    let without_io = program.size_without_io();
    let workspace = given_memory(state, device, "workspace", given.workspace, without_io)?;
    let weights = given_memory(state, device, "weight memory", given.weights, program.weight_size)?;
    let mut charged = 0;
    if state.config.ignores_mem_optimize {
        charged = program.memory_size;
    } else if workspace.is_none() {
        charged = if given.reuses_io { without_io } else { program.memory_size };
    }
    if weights.is_none() {
        charged = charged.saturating_add(program.weight_size);
    }
    state
        .memory
        .charge(device, charged)
        .map_err(|fail| Fail::new(code::GE_MEMORY_ALLOCATION, fail.message))?;
    Ok(state.add_model(Model {
        program: Arc::new(program),
        context: Arc::clone(context),
        workspace,
        charged,
        in_flight: Arc::default(),
        bound: None,
    }))
}

/// Unloads a model.
///
/// # Errors
/// When it is still to run, or belongs to another context.
pub(super) fn unload(state: &mut State, context: &Arc<Context>, id: u32) -> Result<(), Fail> {
    let model = state.model(id, context)?;
    if model.in_flight.load(Ordering::Acquire) > 0 {
        let text = format!("model {id} is unloaded while it is to run");
        state.violate(&text);
        return Err(Fail::new(code::GE_UNLOAD_MODEL, text));
    }
    if let Some(model) = state.models.remove(&id) {
        state.memory.discharge(context.device, model.charged);
    }
    Ok(())
}

fn given_memory(
    state: &State,
    device: u32,
    what: &str,
    (address, size): (usize, usize),
    needed: u64,
) -> Result<Option<Span>, Fail> {
    if address == 0 {
        return Ok(None);
    }
    let span = state.memory.device_span(device, address, size).map_err(|fail| {
        Fail::new(code::GE_MODEL_ADDR_INVALID, format!("{what}: {}", fail.message))
    })?;
    if !address.is_multiple_of(ALIGNMENT) {
        let text = format!("{what}: {address:#x} is not {ALIGNMENT}-byte aligned");
        return Err(Fail::new(code::GE_MODEL_ADDR_INVALID, text));
    }
    if (size as u64) < needed {
        let text = format!("{what}: {size} bytes given, {needed} needed");
        return Err(Fail::new(code::GE_PARAM_INVALID, text));
    }
    Ok(Some(span))
}

/// An `aclmdlConfigHandle`.
#[derive(Clone, Debug, Default)]
pub(super) struct LoadConfig {
    pub(super) load_type: Option<usize>,
    pub(super) path: Option<String>,
    pub(super) model: (usize, usize),
    pub(super) given: Given,
}
