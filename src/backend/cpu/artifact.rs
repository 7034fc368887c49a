//! The plan on disk: one JSON document, so that a person can read it.
//!
//! `{"format": "cairn-cpu-plan", "version": 1, "plan": {...}}`. Reading checks every index and
//! every size that running relies on: a plan that was read runs without a panic or it is refused.

use serde::{Deserialize, Serialize};

use super::NAME;
use super::plan::{Attention, Bound, Call, Plan, Size, Source, Step, View};
use crate::backend::BackendError;

const FORMAT: &str = "cairn-cpu-plan";
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    format: &'a str,
    version: u32,
    plan: &'a Plan,
}

#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}

#[derive(Deserialize)]
struct Read {
    plan: Plan,
}

/// The bytes of a plan: equal plans give equal bytes.
pub(super) fn to_bytes(plan: &Plan) -> Result<Vec<u8>, BackendError> {
    serde_json::to_vec(&Written { format: FORMAT, version: VERSION, plan })
        .map_err(|error| BackendError::Execution(format!("writing the plan: {error}")))
}

/// The plan of some bytes.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<Plan, BackendError> {
    let header: Header = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    if header.format != FORMAT || header.version != VERSION {
        let (format, version) = (header.format, header.version);
        return Err(bad(format!(
            "expected {FORMAT} version {VERSION}, got {format} version {version}"
        )));
    }
    let read: Read = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    check(&read.plan).map_err(bad)?;
    Ok(read.plan)
}

fn bad(what: String) -> BackendError {
    BackendError::BadArtifact { backend: NAME, what }
}

fn check(plan: &Plan) -> Result<(), String> {
    let bounds = [&plan.inputs, &plan.weights, &plan.states];
    for size in bounds.into_iter().flatten().flat_map(|bound| &bound.shape) {
        check_size(plan, *size)?;
    }
    for slot in &plan.slots {
        check_size(plan, slot.rows)?;
    }
    for (idx, step) in plan.steps.iter().enumerate() {
        check_step(plan, step).map_err(|what| format!("step {idx}: {what}"))?;
    }
    check_view(plan, &plan.output).map_err(|what| format!("output: {what}"))
}

fn check_size(plan: &Plan, size: Size) -> Result<(), String> {
    match size {
        Size::Symbol(idx) if idx >= plan.symbols.len() => {
            Err(format!("symbol {idx} does not exist"))
        }
        Size::Symbol(_) | Size::Fixed(_) => Ok(()),
    }
}

/// A view must lie within its source for every value of the symbols: its rows are the source's
/// rows, or it is as large as a source of fixed size.
fn check_view(plan: &Plan, view: &View) -> Result<(), String> {
    check_size(plan, view.rows)?;
    let outside = || format!("a view lies outside its source: {view:?}");
    let end = view.offset.checked_add(view.columns).ok_or_else(outside)?;
    if view.columns == 0 {
        return Err(outside());
    }
    let last_row = |rows: usize| {
        rows.saturating_sub(1).checked_mul(view.stride).and_then(|at| at.checked_add(end))
    };
    let fits = match (view.source, view.rows) {
        (Source::Slot(idx), rows) => match (plan.slots.get(idx), rows) {
            // Same rows: each row of the view is within a row of that many columns.
            (Some(slot), rows) if slot.rows == rows => {
                view.stride <= slot.columns && end <= view.stride
            }
            (Some(slot), Size::Fixed(rows)) => match slot.rows {
                Size::Fixed(slot_rows) => {
                    let size = slot_rows.checked_mul(slot.columns);
                    matches!((last_row(rows), size), (Some(need), Some(have)) if need <= have)
                }
                Size::Symbol(_) => last_row(rows).is_some_and(|need| need <= slot.columns),
            },
            (None, _) | (Some(_), Size::Symbol(_)) => false,
        },
        (Source::Weight(idx), Size::Fixed(1)) => {
            matches!(plan.weights.get(idx).map(|bound| bound.shape.as_slice()),
                Some([Size::Fixed(size)]) if end <= *size)
        }
        (Source::Constant(idx), Size::Fixed(rows)) => match plan.constants.get(idx) {
            Some(values) => last_row(rows).is_some_and(|need| need <= values.len()),
            None => false,
        },
        (Source::Weight(_) | Source::Constant(_), _) => false,
    };
    if fits { Ok(()) } else { Err(outside()) }
}

fn check_step(plan: &Plan, step: &Step) -> Result<(), String> {
    for view in step.call.views() {
        check_view(plan, view)?;
    }
    for target in &step.targets {
        let slot = plan.slots.get(target.slot).ok_or("a target's slot does not exist")?;
        if slot.rows != target.rows || target.columns > slot.columns || target.columns == 0 {
            return Err("a target does not fit its slot".to_owned());
        }
        let reads_it = |view: &&View| view.source == Source::Slot(target.slot);
        if step.call.views().iter().any(reads_it) {
            return Err("a step writes a slot that it reads".to_owned());
        }
    }
    let mut slots: Vec<usize> = step.targets.iter().map(|target| target.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    if slots.len() != step.targets.len() {
        return Err("two targets share a slot".to_owned());
    }
    check_operands(plan, step)
}

fn check_operands(plan: &Plan, step: &Step) -> Result<(), String> {
    let targets = match step.call {
        Call::KvWrite { .. } => 0,
        Call::AddRmsNorm { .. } => 2,
        _ => 1,
    };
    if step.targets.len() != targets {
        return Err(format!("{} targets, expected {targets}", step.targets.len()));
    }
    // Most kernels give one row per row of their first operand, as wide as it is.
    let same = |view: &View| {
        step.targets.iter().all(|target| (target.rows, target.columns) == (view.rows, view.columns))
    };
    let ok = match &step.call {
        Call::Gather { table, ids } => {
            let target = step.targets[0];
            let table = matrix(&plan.weights, *table).ok_or("the table is not a matrix")?;
            table.1 == target.columns && vector(&plan.inputs, *ids) == Some(target.rows)
        }
        Call::GatherRows { x, ids } => {
            let target = step.targets[0];
            x.columns == target.columns && vector(&plan.inputs, *ids) == Some(target.rows)
        }
        Call::Linear { x, weight } => {
            let target = step.targets[0];
            let weight = matrix(&plan.weights, *weight).ok_or("the weight is not a matrix")?;
            weight == (Size::Fixed(target.columns), x.columns) && target.rows == x.rows
        }
        Call::Binary { a, b, .. } => {
            same(a)
                && b.columns <= a.columns
                && a.columns.is_multiple_of(b.columns)
                && (b.rows == a.rows || b.rows == Size::Fixed(1))
        }
        Call::Silu { x } | Call::Round { x, .. } | Call::Copy { x } => same(x),
        Call::RmsNorm { x, weight, .. } => same(x) && is_norm(x, weight),
        Call::AddRmsNorm { x, residual, weight, .. } => {
            let alike = (residual.rows, residual.columns) == (x.rows, x.columns);
            same(x) && alike && is_norm(x, weight)
        }
        Call::Rope { x, cos, sin, head_dim, .. } => {
            let is_table = |t: &View| t.rows == x.rows && t.columns == head_dim / 2;
            let is_even = *head_dim > 0 && head_dim.is_multiple_of(2);
            same(x)
                && is_even
                && x.columns.is_multiple_of(*head_dim)
                && is_table(cos)
                && is_table(sin)
        }
        Call::KvWrite { x, state, slots } => {
            let cache = cache(&plan.states, *state).ok_or("the state is not a cache")?;
            x.columns == cache.1 * cache.2 && vector(&plan.inputs, *slots) == Some(x.rows)
        }
        Call::Attention(attention) => same(&attention.q) && is_attention(plan, attention),
    };
    if ok { Ok(()) } else { Err("operands do not fit each other".to_owned()) }
}

fn is_norm(x: &View, weight: &View) -> bool {
    weight.rows == Size::Fixed(1) && x.columns.is_multiple_of(weight.columns)
}

fn is_attention(plan: &Plan, attention: &Attention) -> bool {
    let (Some(k), Some(v)) =
        (cache(&plan.states, attention.k_state), cache(&plan.states, attention.v_state))
    else {
        return false;
    };
    let tables = plan.inputs.get(attention.block_tables).map(|bound| bound.shape.as_slice());
    let Some([sequences, _]) = tables else { return false };
    let per_sequence = Some(*sequences);
    k == v
        && k.2 == attention.head_dim
        && attention.q.columns.is_multiple_of(k.1 * k.2)
        && vector(&plan.inputs, attention.query_ends) == per_sequence
        && vector(&plan.inputs, attention.seq_lens) == per_sequence
}

/// The size of a bound vector.
fn vector(bounds: &[Bound], idx: usize) -> Option<Size> {
    match bounds.get(idx)?.shape.as_slice() {
        [size] => Some(*size),
        _ => None,
    }
}

/// Rows and columns of a bound matrix.
fn matrix(bounds: &[Bound], idx: usize) -> Option<(Size, usize)> {
    match bounds.get(idx)?.shape.as_slice() {
        [rows, Size::Fixed(columns)] => Some((*rows, *columns)),
        _ => None,
    }
}

/// Positions per block, heads and head size of a cache.
fn cache(bounds: &[Bound], idx: usize) -> Option<(usize, usize, usize)> {
    match bounds.get(idx)?.shape.as_slice() {
        [_, Size::Fixed(block), Size::Fixed(heads), Size::Fixed(dim)]
            if *block > 0 && *heads > 0 && *dim > 0 =>
        {
            Some((*block, *heads, *dim))
        }
        _ => None,
    }
}
