//! Rotary position embedding: `RotaryMul`, `RotaryPositionEmbedding`, `ApplyRotaryPosEmb`.
//!
//! All compute `y = x cos + turned(x) sin` over the last axis, of size `d`; cos and sin are as wide
//! as `x` and broadcast along the other axes.
//!
//! | Pairs | `turned(x)` | Where |
//! | --- | --- | --- |
//! | halves | `-x[d/2..], x[..d/2]` | `RotaryMul`, mode 0, `half` |
//! | neighbours | `-x[1], x[0], -x[3], x[2], ..` | mode 1, `interleave` |

use super::call::Call;
use super::elementwise::Broadcast;
use super::values::{Buffer, Fault, Tensor, fault};

#[derive(Clone, Copy)]
enum Pairs {
    Halves,
    Neighbours,
}

/// `RotaryMul`: `r1` is cos, `r2` is sin.
pub(super) fn rotary_mul(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let [x, cos, sin] = [call.tensor("x")?, call.tensor("r1")?, call.tensor("r2")?];
    Ok(vec![rotated(x, cos, sin, Pairs::Halves)?])
}

/// `RotaryPositionEmbedding` in its modes 0 and 1.
pub(super) fn rotary_position_embedding(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let pairs = match call.int_or("mode", 0)? {
        0 => Pairs::Halves,
        1 => Pairs::Neighbours,
        other => return fault(format!("expected mode 0 or 1, got {other}")),
    };
    let [x, cos, sin] = [call.tensor("x")?, call.tensor("cos")?, call.tensor("sin")?];
    Ok(vec![rotated(x, cos, sin, pairs)?])
}

/// `ApplyRotaryPosEmb`: new contents of `query` and `key`. The layout (1 is BSND, 4 is TND) says
/// which axes cos and sin broadcast along, and that their shape says as well.
pub(super) fn apply_rotary_pos_emb(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let layout = call.int_or("layout", 1)?;
    let num_axes = match layout {
        1 => 4,
        4 => 3,
        other => return fault(format!("expected layout 1 or 4, got {other}")),
    };
    let pairs = match call.str_or("rotary_mode", "half")? {
        "half" => Pairs::Halves,
        "interleave" => Pairs::Neighbours,
        other => return fault(format!("expected rotary_mode half or interleave, got {other}")),
    };
    let [cos, sin] = [call.tensor("cos")?, call.tensor("sin")?];
    let rotate = |name| {
        let x = call.tensor(name)?;
        if x.shape().len() != num_axes {
            return fault(format!(
                "expected {num_axes} axes of `{name}` in layout {layout}, got {:?}",
                x.shape()
            ));
        }
        rotated(x, cos, sin, pairs)
    };
    Ok(vec![rotate("query")?, rotate("key")?])
}

fn rotated(x: Tensor<'_>, cos: Tensor<'_>, sin: Tensor<'_>, pairs: Pairs) -> Result<Buffer, Fault> {
    let disagree = || {
        fault(format!(
            "x {:?}, cos {:?} and sin {:?} disagree",
            x.shape(),
            cos.shape(),
            sin.shape()
        ))
    };
    let (Some((&width, x_rows)), Some((&cos_width, cos_rows))) =
        (x.shape().split_last(), cos.shape().split_last())
    else {
        return disagree();
    };
    let rows = Broadcast::new(x_rows, cos_rows)?;
    if cos.shape() != sin.shape() || width != cos_width || rows.shape() != x_rows {
        return disagree();
    }
    if width % 2 != 0 {
        return fault(format!("expected an even head size, got {width}"));
    }
    let [values, cos, sin] = [x.f32s(), cos.f32s(), sin.f32s()];
    let mut y = Vec::with_capacity(values.len());
    for (x_row, row) in rows.pairs() {
        let x = &values[x_row * width..(x_row + 1) * width];
        let [cos, sin] = [&cos, &sin].map(|all| &all[row * width..(row + 1) * width]);
        y.extend((0..width).map(|i| x[i] * cos[i] + turned(x, i, pairs) * sin[i]));
    }
    Buffer::from_f32s(x.dtype(), &y)
}

fn turned(x: &[f32], i: usize, pairs: Pairs) -> f32 {
    let half = x.len() / 2;
    match pairs {
        Pairs::Halves if i < half => -x[i + half],
        Pairs::Halves => x[i - half],
        Pairs::Neighbours if i.is_multiple_of(2) => -x[i + 1],
        Pairs::Neighbours => x[i - 1],
    }
}
