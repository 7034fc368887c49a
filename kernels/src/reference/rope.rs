//! Rotates pairs of each head by the angle of the token's position.

use crate::operands::RopeArgs;
use crate::operands::RopeStyle;

pub(super) fn rope(args: RopeArgs<'_>, target: &mut [f32]) {
    let half = args.head_dim / 2;
    for (t, row) in target.chunks_exact_mut(args.x.columns).enumerate() {
        let (cos, sin) = (args.cos.row(t), args.sin.row(t));
        let heads = args.x.row(t).chunks_exact(args.head_dim);
        for (x, y) in heads.zip(row.chunks_exact_mut(args.head_dim)) {
            for pair in 0..half {
                let (a, b) = match args.style {
                    RopeStyle::Halves => (pair, pair + half),
                    RopeStyle::Interleaved => (2 * pair, 2 * pair + 1),
                };
                y[a] = x[a] * cos[pair] - x[b] * sin[pair];
                y[b] = x[b] * cos[pair] + x[a] * sin[pair];
            }
        }
    }
}
