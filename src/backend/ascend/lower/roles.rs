//! What the inputs of the IR graph become: that depends on what they are used for.
//!
//! ```text
//! ids of gather                     int32 [t]      as they are, if the table has the rows
//! slots of kv_write                 int32 [t, 2]   block and position
//! block_tables of paged_attention   int32 [s, m]   Packed: a row more, for the dummy sequence
//! query_ends                        int64 [s]      Packed: as above; Decode: nothing
//! seq_lens                          int64 [s]      Packed: as above
//! anything else                     as it is
//! ```
//!
//! An input that nothing uses becomes nothing; one with two different uses makes no graph.
//!
//! What this module deliberately does not do: it fills no input; `step` does.

use super::super::artifact::{InputSpec, Role, StepLayout};
use super::super::dtype::GeDType;
use super::super::ge_graph::TensorType;
use super::unsupported;
use crate::backend::BackendError;
use crate::ir::{Graph, Node, Op, ValueId};

/// What an operand is for.
#[derive(Clone, Copy, Debug)]
enum Use<'a> {
    Plain,
    Ids(&'a Node),
    Slots(&'a Node),
    BlockTables(&'a Node),
    QueryEnds,
    SeqLens,
}

/// What operand number `operand` of a node is for.
fn use_of(node: &Node, operand: usize) -> Use<'_> {
    let is_write = matches!(node.op, Op::KvWrite);
    let is_attention = matches!(node.op, Op::PagedAttention { .. });
    match operand {
        1 if matches!(node.op, Op::Gather { .. }) => Use::Ids(node),
        2 if is_write => Use::Slots(node),
        3 if is_attention => Use::BlockTables(node),
        4 if is_attention => Use::QueryEnds,
        5 if is_attention => Use::SeqLens,
        _ => Use::Plain,
    }
}

/// The inputs that the nodes use, in the order of the IR graph.
pub(super) fn inputs(
    graph: &Graph,
    types: &[TensorType],
    nodes: &[(usize, &Node)],
    layout: StepLayout,
) -> Result<Vec<(ValueId, InputSpec)>, BackendError> {
    let ids: Vec<ValueId> = graph.inputs().collect();
    let mut number_of = vec![None; graph.values().len()];
    for (number, id) in (0_u32..).zip(&ids) {
        number_of[id.0 as usize] = Some(number);
    }
    let mut specs: Vec<Option<InputSpec>> = vec![None; ids.len()];
    let operands = nodes.iter().flat_map(|(_, node)| {
        node.inputs.iter().enumerate().map(|(operand, &id)| (use_of(node, operand), id))
    });
    let returned = graph.outputs().iter().map(|&id| (Use::Plain, id));
    for (purpose, id) in operands.chain(returned) {
        let place = || format!("(value %{}, {})", id.0, graph.value(id).name);
        let Some(number) = number_of[id.0 as usize] else {
            if let Use::Plain | Use::Ids(_) = purpose {
                continue;
            }
            let what = "slots, block tables or lengths that are not inputs of the graph";
            return Err(unsupported(format!("{what} {}", place())));
        };
        if types[id.0 as usize].dtype != GeDType::I32 {
            let what = format!("{} inputs: a step brings integers", types[id.0 as usize].dtype);
            return Err(unsupported(format!("{what} {}", place())));
        }
        let spec = spec(types, layout, purpose, id, number);
        if let Role::Slots { dump_block, .. } | Role::BlockTables { dump_block, .. } = spec.role
            && i32::try_from(dump_block).is_err()
        {
            return Err(unsupported(format!("a cache of {dump_block} blocks {}", place())));
        }
        let slot = &mut specs[number as usize];
        let merged = match slot.take() {
            Some(known) => merged(known, spec),
            None => Some(spec),
        };
        if merged.is_none() {
            let what = "an input that is used in two ways, or with caches of different sizes";
            return Err(unsupported(format!("{what} {}", place())));
        }
        *slot = merged;
    }
    let is_taken = |spec: &InputSpec| {
        layout != StepLayout::Decode || !matches!(spec.role, Role::QueryLengths { .. })
    };
    let specs = specs.into_iter().map(|spec| spec.filter(is_taken));
    Ok(ids.into_iter().zip(specs).filter_map(|(id, spec)| Some((id, spec?))).collect())
}

/// What two uses make of an input, if they fit each other.
fn merged(known: InputSpec, other: InputSpec) -> Option<InputSpec> {
    let role = match (known.role, other.role) {
        (Role::Ids { input, num_rows }, Role::Ids { num_rows: others, .. }) => {
            Role::Ids { input, num_rows: num_rows.min(others) }
        }
        (role, other) => (role == other).then_some(role)?,
    };
    let merged = InputSpec { role, ..known };
    (merged == InputSpec { role, ..other }).then_some(merged)
}

/// What that use makes of input `number`.
fn spec(
    types: &[TensorType],
    layout: StepLayout,
    purpose: Use<'_>,
    id: ValueId,
    input: u32,
) -> InputSpec {
    let ty = &types[id.0 as usize];
    let operand = |node: &Node, operand: usize| &types[node.inputs[operand].0 as usize].shape;
    let is_packed = layout == StepLayout::Packed;
    let per_sequence = |shape: &[u64]| shape[0] + u64::from(is_packed);
    let (dtype, shape, role) = match purpose {
        Use::Plain => (ty.dtype, ty.shape.clone(), Role::Plain { input }),
        Use::Ids(node) => {
            (ty.dtype, ty.shape.clone(), Role::Ids { input, num_rows: operand(node, 0)[0] })
        }
        Use::Slots(node) => {
            let cache = operand(node, 1);
            let role = Role::Slots { input, block_size: cache[1], dump_block: cache[0] };
            (GeDType::I32, vec![ty.shape[0], 2], role)
        }
        Use::BlockTables(node) => {
            let (num_tokens, cache) = (operand(node, 0)[0], operand(node, 1));
            // Every token of a step may be padding, and then all are the dummy sequence's.
            let of_dummy = if is_packed { num_tokens.div_ceil(cache[1]) } else { 0 };
            let shape = vec![per_sequence(&ty.shape), ty.shape[1].max(of_dummy)];
            let role = Role::BlockTables { input, block_size: cache[1], dump_block: cache[0] };
            (GeDType::I32, shape, role)
        }
        Use::QueryEnds => {
            (GeDType::I64, vec![per_sequence(&ty.shape)], Role::QueryLengths { input })
        }
        Use::SeqLens => (GeDType::I64, vec![per_sequence(&ty.shape)], Role::KvLengths { input }),
    };
    InputSpec { name: format!("input_{input}"), dtype, shape, role }
}
