//! The innermost loop: a few rows of activations against a few rows of words.

#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]

use super::format::PANEL;
use super::simd::{Detected, LANES, Simd};
use super::words::Products;

/// 32 words, one for each row of a panel.
pub(super) type RowWords = [u8; 4 * PANEL];

/// Heights of tiles, where there are registers for them.
const WIDE: [usize; 6] = [2, 4, 6, 8, 10, 12];
/// The same, elsewhere.
const NARROW: [usize; 2] = [2, 4];
/// The highest.
pub(super) const MAX_HEIGHT: usize = 12;

/// The height with which the fewest places of tiles stay empty, and then the highest.
pub(super) fn tile_height(isa: Detected, rows: usize) -> usize {
    let heights: &[usize] = if isa.is_wide() { &WIDE } else { &NARROW };
    let places = |height: &usize| rows.next_multiple_of(*height);
    // Of many rows, a few empty places are less than what low tiles lose.
    let candidates = heights.iter().rev().take(if rows > 100 { 1 } else { heights.len() });
    candidates.copied().min_by_key(places).unwrap_or(1)
}

/// `rows[m] += sum over k of x[k][m] * words[k]`, in the order of `k`; `x` is `[words][height]` and
/// `rows` as high.
#[inline(always)]
pub(super) fn add_products<S: Simd, P: Products>(
    s: S,
    x: &[u32],
    words: &[RowWords],
    rows: &mut [[f32; PANEL]],
) {
    macro_rules! heights {
        ($($height:literal)*) => {
            match rows.len() {
                $($height => {
                    if let Some(rows) = rows.as_mut_array() {
                        add::<S, P, $height>(s, x, words, rows);
                    }
                })*
                _ => {}
            }
        };
    }
    if S::IS_WIDE {
        heights!(2 4 6 8 10 12);
    } else {
        heights!(2 4);
    }
}

#[inline(always)]
fn add<S: Simd, P: Products, const M: usize>(
    s: S,
    x: &[u32],
    words: &[RowWords],
    rows: &mut [[f32; PANEL]; M],
) {
    let (x, _) = x.as_chunks::<M>();
    if S::IS_WIDE {
        let mut sums = [[s.splat(0.0); 2]; M];
        for m in 0..M {
            sums[m] = load_row(s, &rows[m]);
        }
        for (x, w) in x.iter().zip(words) {
            let (w, _) = w.as_chunks::<64>();
            for m in 0..M {
                sums[m][0] = P::add(s, &w[0], x[m], sums[m][0]);
                sums[m][1] = P::add(s, &w[1], x[m], sums[m][1]);
            }
        }
        for m in 0..M {
            store_row(s, sums[m], &mut rows[m]);
        }
    } else {
        // Half of the panel at a time: there are fewer registers.
        for v in 0..2 {
            let mut sums = [s.splat(0.0); M];
            for m in 0..M {
                sums[m] = s.load(&rows[m].as_chunks::<LANES>().0[v]);
            }
            for (x, w) in x.iter().zip(words) {
                let (w, _) = w.as_chunks::<64>();
                for m in 0..M {
                    sums[m] = P::add(s, &w[v], x[m], sums[m]);
                }
            }
            for m in 0..M {
                s.store(sums[m], &mut rows[m].as_chunks_mut::<LANES>().0[v]);
            }
        }
    }
}

#[inline(always)]
pub(super) fn load_row<S: Simd>(s: S, row: &[f32; PANEL]) -> [S::V; 2] {
    let (halves, _) = row.as_chunks::<LANES>();
    [s.load(&halves[0]), s.load(&halves[1])]
}

#[inline(always)]
pub(super) fn store_row<S: Simd>(s: S, vectors: [S::V; 2], row: &mut [f32; PANEL]) {
    let (halves, _) = row.as_chunks_mut::<LANES>();
    s.store(vectors[0], &mut halves[0]);
    s.store(vectors[1], &mut halves[1]);
}
