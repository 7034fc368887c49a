//! The shapes that operators make of their inputs.
//!
//! GE computes them too, and would put its own in place of a wrong one: what the engine allocates
//! for the outputs then differs from what the device writes.
//!
//! | Operator | Shape |
//! | --- | --- |
//! | one tensor in, one out | the same |
//! | two in, one out | broadcast |
//! | `RmsNorm`, `AddRmsNorm` | the same; `rstd` is 1 along the axes of `gamma` |
//! | `MatMulV2`, `MatMulV3` | `[m, k] [k, n] -> [m, n]`, each transposed by its switch |
//! | `GatherV2` | rows of axis 0: `[v, ..] [..t] -> [..t, ..]` |
//! | `ScatterNdUpdate` | `[a, b, ..] [..t, 2] [..t, ..] -> [a, b, ..]` |
//!
//! What this module deliberately does not do: it has no rule for quantised operators, which graphs
//! do not use yet.

use super::graph::{Graph, Node, dims};
use super::violation::{Rule, Violation};

/// Batches and heads of `RotaryMul` end before this.
const MAX_ROTARY_SIZE: i64 = 1000;
/// How often it repeats an element of its tables ends before this.
const MAX_ROTARY_BROADCAST: i64 = 1024;
/// Head sizes of `RotaryPositionEmbedding` end before this.
const MAX_ROTARY_HEAD_SIZE: i64 = 896;

type Shapes = Vec<Vec<i64>>;

/// Holds the outputs of every node to what it makes of its inputs.
pub(super) fn check(graph: &Graph<'_>) -> Result<(), Violation> {
    for node in &graph.nodes {
        let inputs: Vec<&[i64]> = node.op.input_desc.iter().map(dims).collect();
        let outputs: Vec<&[i64]> = node.op.output_desc.iter().map(dims).collect();
        let broken = |detail| Violation::of(node.op, Rule::Shape, detail);
        let Some(expected) = outputs_of(graph, node, &inputs).map_err(broken)? else { continue };
        if expected != outputs {
            return Err(broken(format!("expected outputs {expected:?}, got {outputs:?}")));
        }
        let rotary = match node.op.r#type.as_str() {
            "RotaryMul" => rotary_mul(&inputs),
            "RotaryPositionEmbedding" => rotary_position_embedding(&inputs),
            _ => Ok(()),
        };
        rotary.map_err(|detail| Violation::of(node.op, Rule::Rotary, detail))?;
    }
    Ok(())
}

/// `None` for operators without a rule.
fn outputs_of(
    graph: &Graph<'_>,
    node: &Node<'_>,
    inputs: &[&[i64]],
) -> Result<Option<Shapes>, String> {
    let constant = |input: &str| {
        let ints = graph.constant_ints(node, input);
        ints.ok_or_else(|| format!("`{input}`: expected a constant of whole numbers"))
    };
    let shapes = match (node.op.r#type.as_str(), inputs) {
        (
            "Swish" | "Sigmoid" | "Cast" | "SoftmaxV2" | "TensorMove" | "Identity"
            | "HcomAllReduce",
            [x],
        ) => vec![x.to_vec()],
        ("Add" | "Sub" | "Mul" | "RealDiv", [a, b]) => vec![broadcast(a, b)?],
        ("RotaryMul" | "RotaryPositionEmbedding", [x, cos, sin]) => {
            same("its tables", cos, sin)?;
            vec![x.to_vec()]
        }
        ("ApplyRotaryPosEmb", [query, key, ..]) => vec![query.to_vec(), key.to_vec()],
        ("RmsNorm", [x, gamma]) => vec![x.to_vec(), rstd(x, gamma)?],
        ("AddRmsNorm", [a, b, gamma]) => {
            same("its sum", a, b)?;
            vec![a.to_vec(), rstd(a, gamma)?, a.to_vec()]
        }
        ("SwiGlu", [x]) => vec![halved(x, node.int("dim").unwrap_or(-1))?],
        ("MatMulV2" | "MatMulV3", [x1, x2, ..]) => {
            vec![product(x1, x2, node.flag("transpose_x1"), node.flag("transpose_x2"))?]
        }
        ("SplitVD", [x]) => split(x, node)?,
        ("ConcatD", xs) => vec![concat(xs, node)?],
        ("Reshape", [x, _]) => vec![reshaped(x, &constant("shape")?)?],
        ("Transpose", [x, _]) => vec![transposed(x, &constant("perm")?)?],
        ("GatherV2", [x, indices, _]) => {
            let plain = node.int("batch_dims").unwrap_or(0) == 0 && constant("axis")? == [0];
            let rows = x.get(1..).filter(|_| plain);
            let rows = rows.ok_or("expected a table, and rows of it: axis 0, no batch")?;
            vec![[indices, rows].concat()]
        }
        ("ScatterNdUpdate", [var, indices, updates]) => {
            same("updates", updates, &scattered(var, indices)?)?;
            vec![var.to_vec()]
        }
        ("ArgMaxV2", [x, _]) => {
            let mut y = x.to_vec();
            y.remove(axis(x, only(&constant("dimension")?)?)?);
            vec![y]
        }
        ("TopKV2", [x, _]) => {
            let k = only(&constant("k")?)?;
            vec![top(x, k, node)?; 2]
        }
        _ => return Ok(None),
    };
    Ok(Some(shapes))
}

fn same(what: &str, a: &[i64], b: &[i64]) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{what}: expected equal shapes, got {a:?} and {b:?}")) }
}

fn only(values: &[i64]) -> Result<i64, String> {
    match values {
        [value] => Ok(*value),
        _ => Err(format!("expected one number, got {values:?}")),
    }
}

/// The position of an axis that may be counted from the end.
fn axis(x: &[i64], axis: i64) -> Result<usize, String> {
    let rank = x.len() as i64;
    let from_start = if axis < 0 { axis.saturating_add(rank) } else { axis };
    let inside = (0..rank).contains(&from_start);
    inside
        .then_some(from_start as usize)
        .ok_or_else(|| format!("expected an axis of {x:?}, got {axis}"))
}

fn count(dims: &[i64]) -> Option<i64> {
    dims.iter().try_fold(1_i64, |count, &dim| count.checked_mul(dim))
}

fn broadcast(a: &[i64], b: &[i64]) -> Result<Vec<i64>, String> {
    let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
    let mut y = long.to_vec();
    for (dim, &other) in y.iter_mut().rev().zip(short.iter().rev()) {
        match (*dim, other) {
            (1, _) => *dim = other,
            (_, 1) => {}
            (dim, other) if dim == other => {}
            _ => return Err(format!("expected shapes that broadcast, got {a:?} and {b:?}")),
        }
    }
    Ok(y)
}

fn rstd(x: &[i64], gamma: &[i64]) -> Result<Vec<i64>, String> {
    match x.strip_suffix(gamma) {
        Some(rows) if !gamma.is_empty() => Ok([rows, &vec![1; gamma.len()]].concat()),
        _ => Err(format!("expected gamma to have the last axes of {x:?}, got {gamma:?}")),
    }
}

fn halved(x: &[i64], dim: i64) -> Result<Vec<i64>, String> {
    let mut y = x.to_vec();
    let half = &mut y[axis(x, dim)?];
    if *half % 2 != 0 {
        return Err(format!("expected two halves, got {half}"));
    }
    *half /= 2;
    Ok(y)
}

fn product(x1: &[i64], x2: &[i64], flip1: bool, flip2: bool) -> Result<Vec<i64>, String> {
    let (&[m, k1], &[k2, n]) = (x1, x2) else {
        return Err(format!("expected two matrices, got {x1:?} and {x2:?}"));
    };
    let (m, k1) = if flip1 { (k1, m) } else { (m, k1) };
    let (k2, n) = if flip2 { (n, k2) } else { (k2, n) };
    if k1 == k2 {
        return Ok(vec![m, n]);
    }
    Err(format!("expected as many columns as rows, got {k1} and {k2}, of {x1:?} and {x2:?}"))
}

fn split(x: &[i64], node: &Node<'_>) -> Result<Shapes, String> {
    let sizes = node.ints("size_splits").unwrap_or(&[]);
    let axis = axis(x, node.int("split_dim").unwrap_or(0))?;
    let sum = sizes.iter().try_fold(0_i64, |sum, &size| sum.checked_add(size).filter(|_| size > 0));
    let counted = node.int("num_split").and_then(|num| usize::try_from(num).ok());
    if sum != Some(x[axis]) || counted != Some(sizes.len()) {
        let expected = format!("expected `num_split` parts that sum up to {}", x[axis]);
        return Err(format!("{expected}, got {counted:?} and {sizes:?}"));
    }
    let part = |&size: &i64| {
        let mut y = x.to_vec();
        y[axis] = size;
        y
    };
    Ok(sizes.iter().map(part).collect())
}

fn concat(xs: &[&[i64]], node: &Node<'_>) -> Result<Vec<i64>, String> {
    let counted = node.int("N").unwrap_or(1);
    if usize::try_from(counted) != Ok(xs.len()) {
        return Err(format!("expected `N` to be {}, got {counted}", xs.len()));
    }
    let mut y = xs.first().map(|x| x.to_vec()).unwrap_or_default();
    let axis = axis(&y, node.int("concat_dim").unwrap_or(0))?;
    for x in xs.iter().skip(1) {
        let added = x.get(axis).and_then(|&dim| dim.checked_add(y[axis]));
        let mut other = x.to_vec();
        if let (Some(added), Some(dim)) = (added, other.get_mut(axis)) {
            (*dim, y[axis]) = (added, added);
        }
        same("its parts, but for the axis", &other, &y)?;
    }
    Ok(y)
}

fn reshaped(x: &[i64], shape: &[i64]) -> Result<Vec<i64>, String> {
    let fits = shape.iter().all(|&dim| dim >= 0) && count(x).is_some() && count(x) == count(shape);
    fits.then(|| shape.to_vec())
        .ok_or_else(|| format!("expected as many elements as {x:?}, got {shape:?}"))
}

fn transposed(x: &[i64], perm: &[i64]) -> Result<Vec<i64>, String> {
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..x.len() as i64) {
        return Err(format!("expected an order of the axes of {x:?}, got {perm:?}"));
    }
    Ok(perm.iter().map(|&axis| x[axis as usize]).collect())
}

/// The shape of the updates.
fn scattered(var: &[i64], indices: &[i64]) -> Result<Vec<i64>, String> {
    let split = indices.split_last().and_then(|(&depth, rows)| {
        let rest = var.get(usize::try_from(depth).ok()?..)?;
        (depth > 0).then(|| [rows, rest].concat())
    });
    split.ok_or_else(|| format!("expected indices of {var:?}, got {indices:?}"))
}

fn top(x: &[i64], k: i64, node: &Node<'_>) -> Result<Vec<i64>, String> {
    let mut y = x.to_vec();
    let axis = axis(x, node.int("dim").unwrap_or(-1))?;
    if !(1..=x[axis]).contains(&k) {
        return Err(format!("expected k from 1 to {}, got {k}", x[axis]));
    }
    y[axis] = k;
    Ok(y)
}

/// What the kernel of `RotaryMul` can do, by the comment at its prototype.
fn rotary_mul(inputs: &[&[i64]]) -> Result<(), String> {
    let &[&[b, s, n, d], table @ &[_, _, _, table_d], ..] = inputs else {
        return Err(format!("expected four axes, got {inputs:?}"));
    };
    if d == 0 || d % 64 != 0 || d != table_d {
        return Err(format!("expected heads of a multiple of 64, and tables too, got {inputs:?}"));
    }
    let x = [b, s, n, d];
    if broadcast(&x, table)? != x {
        return Err(format!("expected tables that broadcast to {x:?}, got {table:?}"));
    }
    if b >= MAX_ROTARY_SIZE || n >= MAX_ROTARY_SIZE {
        return Err(format!("expected fewer than {MAX_ROTARY_SIZE} batches and heads, got {x:?}"));
    }
    let repeated: Vec<i64> =
        x.iter().zip(table).filter(|(dim, of)| dim != of).map(|(&dim, _)| dim).collect();
    let fits = count(&repeated).is_some_and(|count| count < MAX_ROTARY_BROADCAST);
    fits.then_some(()).ok_or_else(|| {
        format!("expected tables to be repeated less than {MAX_ROTARY_BROADCAST} times, for {x:?}")
    })
}

/// What the kernel of `RotaryPositionEmbedding` can do, by its documentation.
fn rotary_position_embedding(inputs: &[&[i64]]) -> Result<(), String> {
    match inputs {
        &[&[_, _, _, d], &[_, _, _, table_d], ..]
            if d > 0 && d % 2 == 0 && d < MAX_ROTARY_HEAD_SIZE && d == table_d =>
        {
            Ok(())
        }
        _ => Err(format!(
            "expected four axes, the last even and below {MAX_ROTARY_HEAD_SIZE}, got {inputs:?}"
        )),
    }
}
