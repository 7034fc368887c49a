//! Computes what is known at compile time and drops what changes nothing.

use super::rewrite::Rewrite;
use crate::ir::{Constant, DType, Graph, Node, Op, ValueId};

/// Most elements of a constant that folding may make.
const MAX_FOLDED_ELEMENTS: usize = 4096;

/// Folds arithmetic on constants; drops `x + 0`, `x * 1`, casts and reshapes to what a value
/// already is, and joins chains of reshapes.
pub(super) fn fold(graph: &Graph) -> Graph {
    // By old value: the constant that it is, of the graph or made by folding.
    let mut constants: Vec<Option<Constant>> = vec![None; graph.values().len()];
    // By old value: what it is a reshape of, through any number of them; itself if it is none.
    let mut bases: Vec<ValueId> = (0..graph.values().len() as u32).map(ValueId).collect();
    let mut rewrite = Rewrite::new(graph);
    for node in graph.nodes() {
        let output = node.outputs[0];
        if let Op::Constant(constant) = &node.op {
            constants[output.0 as usize] = Some(constant.clone());
        }
        if let Op::Reshape { .. } = node.op {
            bases[output.0 as usize] = bases[node.inputs[0].0 as usize];
        }
        if let Some(constant) = fold_node(graph, node, &constants) {
            let id = rewrite.builder.constant(&graph.value(output).name, constant.clone());
            rewrite.map(output, id);
            constants[output.0 as usize] = Some(constant);
        } else if let Some(same) = unchanged_operand(graph, node, &constants, &bases) {
            let new = rewrite.get(same);
            rewrite.map(output, new);
            let constant = constants[same.0 as usize].clone();
            constants[output.0 as usize] = constant;
            bases[output.0 as usize] = bases[same.0 as usize];
        } else if let Op::Reshape { .. } = node.op {
            rewrite.emit(node.op.clone(), &[bases[output.0 as usize]], &node.outputs);
        } else {
            rewrite.keep(node);
        }
    }
    rewrite.finish()
}

/// The value of a node whose operands are all constants.
fn fold_node(graph: &Graph, node: &Node, constants: &[Option<Constant>]) -> Option<Constant> {
    let operand = |idx: usize| constants[node.inputs[idx].0 as usize].as_ref();
    let combine: fn(f32, f32) -> f32 = match node.op {
        Op::Add => |a, b| a + b,
        Op::Mul => |a, b| a * b,
        Op::Silu => {
            let x = operand(0)?;
            let silu = |x: f64| (x / (1.0 + (-x).exp())) as f32;
            let values = x.values.iter().map(|&x| silu(x.into())).collect();
            return finite(Constant { shape: x.shape.clone(), values });
        }
        Op::Input
        | Op::Weight { .. }
        | Op::State
        | Op::Constant(_)
        | Op::Gather { .. }
        | Op::Linear
        | Op::SiluMul
        | Op::RmsNorm { .. }
        | Op::AddRmsNorm { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Cast { .. }
        | Op::Rope { .. }
        | Op::KvWrite
        | Op::PagedAttention { .. } => return None,
    };
    let (a, b) = (operand(0)?, operand(1)?);
    let shape = graph.ty(node.outputs[0]).shape.as_fixed()?;
    let elements = shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim))?;
    if elements > MAX_FOLDED_ELEMENTS {
        return None;
    }
    let values = (0..elements)
        .map(|idx| combine(broadcast_at(a, &shape, idx), broadcast_at(b, &shape, idx)))
        .collect();
    finite(Constant { shape, values })
}

/// A constant must be finite: what is not stays in the graph, as it was written.
fn finite(constant: Constant) -> Option<Constant> {
    constant.values.iter().all(|value| value.is_finite()).then_some(constant)
}

/// The element of a constant that broadcasting puts at flat index `idx` of `shape`.
fn broadcast_at(constant: &Constant, shape: &[usize], idx: usize) -> f32 {
    let (mut rest, mut offset, mut stride) = (idx, 0, 1);
    for (axis, &size) in shape.iter().enumerate().rev() {
        let position = rest % size;
        rest /= size;
        let missing = shape.len() - constant.shape.len();
        if axis >= missing && constant.shape[axis - missing] != 1 {
            offset += position * stride;
            stride *= constant.shape[axis - missing];
        }
    }
    constant.values[offset]
}

/// The value that a node returns as it is, if it does: an operand, or what that is a reshape of.
fn unchanged_operand(
    graph: &Graph,
    node: &Node,
    constants: &[Option<Constant>],
    bases: &[ValueId],
) -> Option<ValueId> {
    let all = |id: ValueId, wanted: f32| {
        constants[id.0 as usize].as_ref().is_some_and(|constant| {
            constant.values.iter().all(|&v| v.to_bits() == wanted.to_bits())
        })
    };
    let same_type = |id: ValueId| graph.ty(id) == graph.ty(node.outputs[0]);
    let neutral = |wanted: f32| {
        let (a, b) = (node.inputs[0], node.inputs[1]);
        if all(b, wanted) && same_type(a) {
            return Some(a);
        }
        (all(a, wanted) && same_type(b)).then_some(b)
    };
    match &node.op {
        // Negative zero is the true neutral element: -0.0 + 0.0 is 0.0.
        Op::Add => neutral(-0.0),
        Op::Mul => neutral(1.0),
        Op::Cast { dtype } => {
            let dtype: DType = *dtype;
            (graph.ty(node.inputs[0]).dtype == dtype).then_some(node.inputs[0])
        }
        Op::Reshape { .. } => {
            let input = node.inputs[0];
            [input, bases[input.0 as usize]].into_iter().find(|&id| same_type(id))
        }
        Op::Input
        | Op::Weight { .. }
        | Op::State
        | Op::Constant(_)
        | Op::Gather { .. }
        | Op::Linear
        | Op::Silu
        | Op::SiluMul
        | Op::RmsNorm { .. }
        | Op::AddRmsNorm { .. }
        | Op::Slice { .. }
        | Op::Rope { .. }
        | Op::KvWrite
        | Op::PagedAttention { .. } => None,
    }
}
