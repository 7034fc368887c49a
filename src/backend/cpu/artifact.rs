//! The plan on disk: one JSON document, so that a person can read it.
//!
//! `{"format": "cairn-cpu-plan", "version": 1, "plan": {...}}`. Reading checks every index and
//! every size that running relies on: a plan that was read runs without a panic or it is refused.
//! Every slot is as wide as the widest result in it, and results are as wide as their operands, so
//! a plan cannot ask for more memory than its inputs, weights and states account for.
//!
//! Writing checks the same, so that a graph whose plan would be refused is refused when compiled.

use serde::{Deserialize, Serialize};

use super::NAME;
use super::plan::{Attention, Bound, Call, Plan, Size, Source, Step, View};
use crate::backend::BackendError;

/// The one file of an artifact.
pub(super) const FILE: &str = "plan.json";
const FORMAT: &str = "cairn-cpu-plan";
const VERSION: u32 = 2;

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
    check(plan).map_err(|what| BackendError::Unsupported { backend: NAME, what })?;
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
    if let Some((min, max)) = plan.symbols.iter().find(|(min, max)| *min == 0 || min > max) {
        return Err(format!("a symbol of {min} to {max}"));
    }
    let bounds = [&plan.inputs, &plan.weights, &plan.states];
    for size in bounds.into_iter().flatten().flat_map(|bound| &bound.shape) {
        check_size(plan, *size)?;
    }
    for slot in &plan.slots {
        check_size(plan, slot.rows)?;
    }
    // By slot: columns that the steps so far wrote.
    let mut written = vec![0; plan.slots.len()];
    for (idx, step) in plan.steps.iter().enumerate() {
        check_step(plan, &written, step).map_err(|what| format!("step {idx}: {what}"))?;
        for target in &step.targets {
            written[target.slot] = target.columns.max(written[target.slot]);
        }
    }
    for step in &plan.steps {
        if let Call::KvWrite { state, kind, .. } = step.call
            && plan.cache_kind(state) != Some(kind)
        {
            return Err(format!("state {state} is not written as it is read"));
        }
    }
    if let Some(slot) =
        plan.slots.iter().zip(&written).position(|(s, &columns)| s.columns != columns)
    {
        return Err(format!("slot {slot} is not as wide as what is written to it"));
    }
    check_view(plan, &written, &plan.output).map_err(|what| format!("output: {what}"))
}

fn check_size(plan: &Plan, size: Size) -> Result<(), String> {
    match size {
        Size::Symbol(idx) if idx >= plan.symbols.len() => {
            Err(format!("symbol {idx} does not exist"))
        }
        Size::Symbol(_) | Size::Fixed(_) => Ok(()),
    }
}

/// A view must lie within what was written to its source, for every value of the symbols: its rows
/// are the source's rows, or it is as large as a source of fixed size.
fn check_view(plan: &Plan, written: &[usize], view: &View) -> Result<(), String> {
    check_size(plan, view.rows)?;
    let outside = || format!("a view lies outside its source: {view:?}");
    let end = view.offset.checked_add(view.columns).ok_or_else(outside)?;
    if view.columns == 0 || view.stride < view.columns {
        return Err(outside());
    }
    let last_row = |rows: usize| {
        rows.saturating_sub(1).checked_mul(view.stride).and_then(|at| at.checked_add(end))
    };
    let size = match (view.source, view.rows) {
        (Source::Slot(idx), rows) => {
            let (Some(slot), Some(&columns)) = (plan.slots.get(idx), written.get(idx)) else {
                return Err(outside());
            };
            if slot.rows == rows {
                // Each row of the view is within a row of so many columns.
                return if end <= view.stride && view.stride <= columns {
                    Ok(())
                } else {
                    Err(outside())
                };
            }
            match slot.rows {
                Size::Fixed(rows) => rows.checked_mul(columns),
                // A symbol is at least 1.
                Size::Symbol(_) => Some(columns),
            }
        }
        (Source::Weight(idx), _) => match plan.weights.get(idx).map(|w| w.shape.as_slice()) {
            Some([Size::Fixed(size)]) => Some(*size),
            Some([]) => Some(1),
            Some(_) | None => None,
        },
        (Source::Constant(idx), _) => plan.constants.get(idx).map(Vec::len),
    };
    let end = match view.rows {
        Size::Fixed(rows) => last_row(rows),
        Size::Symbol(_) => None,
    };
    match (end, size) {
        (Some(end), Some(size)) if end <= size => Ok(()),
        _ => Err(outside()),
    }
}

/// Checks a step after others that wrote so many columns of each slot.
pub(super) fn check_step(plan: &Plan, written: &[usize], step: &Step) -> Result<(), String> {
    for view in step.call.views() {
        check_view(plan, written, view)?;
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
        Call::Linear { x, weight, .. } => {
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
        Call::KvWrite { x, state, slots, .. } => {
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
        && attention.window != Some(0)
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
            if *block > 0 && *heads > 0 && *dim > 0 && heads.checked_mul(*dim).is_some() =>
        {
            Some((*block, *heads, *dim))
        }
        _ => None,
    }
}
