//! The rules of a graph, and the proof that one keeps them.
//!
//! 1. Every id is in range; every value is defined by exactly one node, before its first use.
//! 2. Symbols have bounds with `1 <= min <= max`.
//! 3. The type of every result is the one that `infer` gives.
//! 4. Sources have no operands and one result. An input is `i32` or floating point; a state is
//!    floating point; a quantised weight has whole blocks in each row; the parts of a weight add
//!    up to its first axis.
//! 5. A constant is f32, finite and as large as its shape says.
//! 6. A cache (a state, or the result of `kv_write`) is used as a cache operand only, is written at
//!    most once, and is not used after it was written.
//! 7. At least one value is returned, and no cache is.
//!
//! What this promises: a backend given a `Verified<Graph>` may index by these rules without
//! checking them again; it compiles the graph or returns an error, and never panics.

use std::ops::Deref;

use super::DType;
use super::graph::{Graph, Node, ValueId};
use super::infer::{TypeError, infer};
use super::op::Op;
use super::shape::{Dim, Shape};

/// Proof that [`verify`] accepted the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Verified<T> {
    /// The graph, without the proof.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// The first rule that a graph breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({place})")]
pub struct VerifyError {
    /// What, expected, got.
    pub message: String,
    /// The node or value, with its name.
    pub place: String,
}

/// Checks every rule of this module.
///
/// # Errors
/// The first rule that is broken.
pub fn verify(graph: Graph) -> Result<Verified<Graph>, VerifyError> {
    symbols(&graph)?;
    let mut defined = vec![false; graph.values.len()];
    for node in &graph.nodes {
        structure(&graph, node, &mut defined)?;
        types(&graph, node)?;
    }
    if let Some(idx) = defined.iter().position(|defined| !defined) {
        return Err(at_value(&graph, ValueId(idx as u32), "the value is not defined by any node"));
    }
    returns(&graph)?;
    caches(&graph)?;
    Ok(Verified(graph))
}

fn fail(message: impl Into<String>, place: impl Into<String>) -> VerifyError {
    VerifyError { message: message.into(), place: place.into() }
}

fn at_value(graph: &Graph, id: ValueId, message: impl Into<String>) -> VerifyError {
    let name = graph.values.get(id.0 as usize).map_or("", |value| value.name.as_str());
    fail(message, format!("value %{}, {name}", id.0))
}

fn at_node(graph: &Graph, node: &Node, message: impl Into<String>) -> VerifyError {
    match node.outputs.first() {
        Some(&id) => at_value(graph, id, message),
        None => fail(message, node.op.name()),
    }
}

fn symbols(graph: &Graph) -> Result<(), VerifyError> {
    for (idx, symbol) in graph.symbols.iter().enumerate() {
        if symbol.min == 0 || symbol.min > symbol.max {
            let message = format!(
                "a symbol's bounds must be 1 <= min <= max, got {} to {}",
                symbol.min, symbol.max
            );
            return Err(fail(message, format!("symbol s{idx}, {}", symbol.name)));
        }
    }
    Ok(())
}

fn shape(graph: &Graph, shape: &Shape) -> Result<(), String> {
    for dim in shape.dims() {
        match *dim {
            Dim::Fixed(0) => return Err(format!("an axis has size 0 in {shape}")),
            Dim::Symbolic(id) if graph.symbols.get(id.0 as usize).is_none() => {
                return Err(format!("unknown symbol {id} in {shape}"));
            }
            Dim::Fixed(_) | Dim::Symbolic(_) => {}
        }
    }
    Ok(())
}

/// Rule 1, and the shapes of rule 2.
fn structure(graph: &Graph, node: &Node, defined: &mut [bool]) -> Result<(), VerifyError> {
    for id in &node.inputs {
        match defined.get(id.0 as usize) {
            Some(true) => {}
            Some(false) => {
                return Err(at_node(
                    graph,
                    node,
                    format!("operand %{} is used before it is defined", id.0),
                ));
            }
            None => return Err(at_node(graph, node, format!("operand %{} does not exist", id.0))),
        }
    }
    if node.outputs.is_empty() {
        return Err(at_node(graph, node, "the node defines no value"));
    }
    for &id in &node.outputs {
        match defined.get_mut(id.0 as usize) {
            Some(slot @ false) => *slot = true,
            Some(true) => return Err(at_value(graph, id, "the value is defined twice")),
            None => return Err(at_node(graph, node, format!("result %{} does not exist", id.0))),
        }
        shape(graph, &graph.ty(id).shape).map_err(|message| at_value(graph, id, message))?;
    }
    Ok(())
}

/// Rules 3, 4 and 5.
fn types(graph: &Graph, node: &Node) -> Result<(), VerifyError> {
    if node.op.is_source() {
        return source(graph, node).map_err(|message| at_node(graph, node, message));
    }
    let operands: Vec<_> = node.inputs.iter().map(|&id| graph.ty(id)).collect();
    let expected = infer(&node.op, &operands)
        .map_err(|error: TypeError| at_node(graph, node, error.to_string()))?;
    if expected.len() != node.outputs.len() {
        let message = format!(
            "{} gives {} results, the node defines {}",
            node.op.name(),
            expected.len(),
            node.outputs.len()
        );
        return Err(at_node(graph, node, message));
    }
    for (&id, expected) in node.outputs.iter().zip(&expected) {
        let got = graph.ty(id);
        if got != expected {
            let message = format!(
                "{} gives {}{}, the value says {}{}",
                node.op.name(),
                expected.dtype,
                expected.shape,
                got.dtype,
                got.shape
            );
            return Err(at_value(graph, id, message));
        }
    }
    Ok(())
}

fn source(graph: &Graph, node: &Node) -> Result<(), String> {
    let (&[], &[id]) = (node.inputs.as_slice(), node.outputs.as_slice()) else {
        return Err(format!("{} takes no operands and gives one result", node.op.name()));
    };
    let ty = graph.ty(id);
    if let Op::Input = node.op
        && ty.dtype.is_quantised()
    {
        return Err(format!("an input cannot be quantised, got {}", ty.dtype));
    }
    if let Op::State = node.op
        && !ty.dtype.is_float()
    {
        return Err(format!("a state must be floating point, got {}", ty.dtype));
    }
    if let Op::Weight { parts } = &node.op {
        weight(graph, parts, id)?;
    }
    if let Op::Constant(constant) = &node.op {
        let shape = Shape::fixed(&constant.shape);
        let size = constant.shape.iter().try_fold(1_usize, |size, &dim| size.checked_mul(dim));
        if size != Some(constant.values.len()) || shape != ty.shape {
            return Err(format!("a constant of {} values for {}", constant.values.len(), ty.shape));
        }
        if ty.dtype != DType::F32 {
            return Err(format!("a constant must be f32, got {}", ty.dtype));
        }
        if !constant.values.iter().all(|value| value.is_finite()) {
            return Err("a constant must be finite".to_owned());
        }
    }
    Ok(())
}

fn weight(graph: &Graph, parts: &[super::WeightPart], id: ValueId) -> Result<(), String> {
    let ty = graph.ty(id);
    let has_whole_blocks = match ty.shape.last() {
        Some(Dim::Fixed(row)) => {
            usize::try_from(row).is_ok_and(|row| ty.dtype.row_bytes(row).is_some())
        }
        Some(Dim::Symbolic(_)) | None => !ty.dtype.is_quantised(),
    };
    if !has_whole_blocks {
        return Err(format!("the rows of {} are not whole blocks of {}", ty.shape, ty.dtype));
    }
    let first = ty.shape.0.first().copied().unwrap_or(Dim::Fixed(1));
    let covered = match parts {
        [] => false,
        [only] => only.rows == first,
        several => {
            let sum = several.iter().try_fold(0_u64, |sum, part| match part.rows {
                Dim::Fixed(rows) => sum.checked_add(rows),
                Dim::Symbolic(_) => None,
            });
            sum.map(Dim::Fixed) == Some(first)
        }
    };
    if covered { Ok(()) } else { Err(format!("the parts do not add up to {first} rows")) }
}

/// Rule 7, the part that needs no use counts.
fn returns(graph: &Graph) -> Result<(), VerifyError> {
    if graph.outputs.is_empty() {
        return Err(fail("the graph returns nothing", graph.name.clone()));
    }
    for id in &graph.outputs {
        if graph.values.get(id.0 as usize).is_none() {
            return Err(fail(
                format!("returned value %{} does not exist", id.0),
                graph.name.clone(),
            ));
        }
    }
    Ok(())
}

/// Rules 6 and 7 for caches.
fn caches(graph: &Graph) -> Result<(), VerifyError> {
    let mut is_cache = vec![false; graph.values.len()];
    let mut is_written = vec![false; graph.values.len()];
    for node in &graph.nodes {
        for (operand, &id) in node.inputs.iter().enumerate() {
            let idx = id.0 as usize;
            let wants_cache = match node.op {
                Op::KvWrite => operand == 1,
                Op::PagedAttention { .. } => operand == 1 || operand == 2,
                Op::Input
                | Op::Weight { .. }
                | Op::State
                | Op::Constant(_)
                | Op::Gather { .. }
                | Op::Linear
                | Op::Add
                | Op::Mul
                | Op::Silu
                | Op::SiluMul
                | Op::RmsNorm { .. }
                | Op::AddRmsNorm { .. }
                | Op::Slice { .. }
                | Op::Reshape { .. }
                | Op::Cast { .. }
                | Op::Rope { .. } => false,
            };
            if wants_cache != is_cache[idx] {
                let message = if wants_cache { "needs a cache" } else { "cannot use a cache" };
                return Err(at_node(
                    graph,
                    node,
                    format!("{} {message} as operand {operand}", node.op.name()),
                ));
            }
            if is_written[idx] {
                return Err(at_node(
                    graph,
                    node,
                    format!("cache %{} is used after it was written", id.0),
                ));
            }
        }
        if matches!(node.op, Op::KvWrite) {
            is_written[node.inputs[1].0 as usize] = true;
        }
        if matches!(node.op, Op::State | Op::KvWrite) {
            is_cache[node.outputs[0].0 as usize] = true;
        }
    }
    match graph.outputs.iter().find(|id| is_cache[id.0 as usize]) {
        Some(&id) => Err(at_value(graph, id, "a cache cannot be returned")),
        None => Ok(()),
    }
}
