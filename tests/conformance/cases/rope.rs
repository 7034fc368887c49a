//! Rope: both styles, several heads, tables by position.

use cairn::ir::{DType, Op, RopeStyle};

use super::{NUM_ROWS, over_tokens, row};
use crate::case::{Case, Tolerance};
use crate::data::{NARROW_TYPES, Numbers, rounded};
use crate::oracle;

fn rope(dtype: DType, style: RopeStyle, heads: usize, head_dim: usize) -> Case {
    let half = head_dim / 2;
    let x = Numbers::new(1).floats_in(dtype, NUM_ROWS * heads * head_dim);
    let angles: Vec<f32> =
        Numbers::new(2).floats(NUM_ROWS * half).iter().map(|a| 9.0 * a).collect();
    let cos = rounded(dtype, angles.iter().map(|angle| angle.cos()).collect());
    let sin = rounded(dtype, angles.iter().map(|angle| angle.sin()).collect());
    let pair = move |idx| match style {
        RopeStyle::Halves => (idx, idx + half),
        RopeStyle::Interleaved => (2 * idx, 2 * idx + 1),
    };
    over_tokens(
        format!("rope {style:?} of {dtype} [tokens, {heads}, {head_dim}]"),
        if dtype == DType::F32 { Tolerance::Rounding } else { Tolerance::Narrow(dtype, 1) },
        |case, ids| {
            let x = case.activation_in(dtype, "x", &x, heads * head_dim, ids);
            let x = case.reshape(x, &[heads, head_dim]);
            let cos = case.activation_in(dtype, "cos", &cos, half, ids);
            let sin = case.activation_in(dtype, "sin", &sin, half, ids);
            case.op(Op::Rope { style }, &[x, cos, sin])
        },
        |id| {
            let (cos, sin) = (row(&cos, half, id), row(&sin, half, id));
            let x = row(&x, heads * head_dim, id);
            x.chunks(head_dim).flat_map(|x| oracle::rope(x, &cos, &sin, pair)).collect()
        },
    )
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for style in [RopeStyle::Halves, RopeStyle::Interleaved] {
        for (heads, head_dim) in [(1, 2), (3, 6), (2, 16), (4, 20), (1, 64), (6, 80)] {
            cases.push(rope(DType::F32, style, heads, head_dim));
        }
        for dtype in NARROW_TYPES {
            cases.extend([(3, 6), (2, 20), (3, 64)].map(|(h, d)| rope(dtype, style, h, d)));
        }
    }
    cases
}
