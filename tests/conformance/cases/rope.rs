//! Rope: both styles, several heads, tables by position.

use cairn::ir::{Op, RopeStyle};

use super::{NUM_ROWS, over_tokens, row};
use crate::case::{Case, Tolerance};
use crate::data::Numbers;
use crate::oracle;

fn rope(style: RopeStyle, heads: usize, head_dim: usize) -> Case {
    let half = head_dim / 2;
    let x = Numbers::new(1).floats(NUM_ROWS * heads * head_dim);
    let angles: Vec<f32> =
        Numbers::new(2).floats(NUM_ROWS * half).iter().map(|a| 9.0 * a).collect();
    let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
    let pair = move |idx| match style {
        RopeStyle::Halves => (idx, idx + half),
        RopeStyle::Interleaved => (2 * idx, 2 * idx + 1),
    };
    over_tokens(
        format!("rope {style:?} [tokens, {heads}, {head_dim}]"),
        Tolerance::Rounding,
        |case, ids| {
            let x = case.activation("x", &x, heads * head_dim, ids);
            let x = case.reshape(x, &[heads, head_dim]);
            let cos = case.activation("cos", &cos, half, ids);
            let sin = case.activation("sin", &sin, half, ids);
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
            cases.push(rope(style, heads, head_dim));
        }
    }
    cases
}
