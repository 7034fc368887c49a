//! `y[t, n] = x[t, :] . w[n, :]`.
//!
//! Each dot product is summed in one fixed order, column after column in one accumulator. Tiles,
//! panels and threads only choose which dot products are computed together, never their order, so a
//! row's result does not depend on the others.
//!
//! ```text
//! few tokens    threads split the panels; weights are decoded in registers
//! more tokens   threads split the panels; a panel is decoded where it has to be, stays in the
//!               second-level cache, and all tokens are taken against it, in tiles
//! ```
//!
//! No closure touches a vector here: what is not inlined loses its instructions.

#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use super::format::{BF16, F16, Format, PANEL, Q4, Q4M, Q4W, Q8, Q8W, for_each_column};
use super::packed::{FormatKind, Packed};
use super::quants::BLOCK;
use super::simd::{Detected, Kernel, Simd};
use super::tile::{MAX_HEIGHT, RowWords, add_products, load_row, store_row, tile_height};
use super::words::{Bf16Products, F32Products, I8Products, Products, Words};
use crate::operands::{Arithmetic, Matrix};
use crate::pool::{Columns, Pool};

/// Words of each row of a panel that all tokens are taken against before the next ones: 192 KiB, which
/// the second-level cache keeps.
const BUFFER_WORDS: usize = 1536;
/// Panels of a task: `x` is read once per buffer of each, from the second-level cache.
const MAX_TASK_PANELS: usize = 8;

/// Kept from call to call.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    words: Vec<u32>,
    scales: Vec<f32>,
}

/// `target = x w^T`.
pub(super) fn linear(
    isa: Detected,
    pool: &Pool,
    scratch: &Mutex<Scratch>,
    x: Matrix<'_>,
    weight: &Packed,
    target: &mut [f32],
) {
    if x.rows == 0 || weight.rows == 0 {
        return;
    }
    let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
    let Scratch { words, scales } = &mut *scratch;
    let (tokens, num_panels) = (x.rows, weight.num_panels());
    let few = few_tokens(isa, weight.format, tokens);
    let tile = few.unwrap_or_else(|| tile_height(isa, tokens));
    let x = Words::new(isa, pool, weight, x, tile, words, scales);
    let tasks = pool.num_threads() * 4;
    if few.is_some() {
        // Two by two: see `FewTokens`.
        let panels = num_panels.div_ceil(tasks).next_multiple_of(2);
        pool.for_columns(target, weight.rows, panels * PANEL, |task, target| {
            isa.dispatch(FewTokens { x, weight, first_panel: task * panels, target });
        });
        return;
    }
    let panels = num_panels.div_ceil(tasks).clamp(1, MAX_TASK_PANELS);
    pool.for_columns(target, weight.rows, panels * PANEL, |task, target| {
        many_tokens(isa, x, weight, task * panels, target);
    });
}

/// The places for so many tokens, when they are so few that their sums leave registers for decoding.
fn few_tokens(isa: Detected, format: FormatKind, tokens: usize) -> Option<usize> {
    let most = match format {
        FormatKind::F32 | FormatKind::Bf16Words | FormatKind::I8Words => 1,
        _ if isa.is_wide() => 8,
        _ => 2,
    };
    (tokens <= most).then(|| tokens.next_power_of_two())
}

/// A few tokens against the panels of some columns of the target.
struct FewTokens<'a> {
    x: Words<'a>,
    weight: &'a Packed,
    first_panel: usize,
    target: Columns<'a>,
}

impl Kernel for FewTokens<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.weight.format {
            FormatKind::F32 => self.words::<S, F32Products>(s),
            FormatKind::F16 => self.by_number::<S, F16>(s),
            FormatKind::BF16 => self.by_number::<S, BF16>(s),
            FormatKind::Q8 => self.by_number::<S, Q8>(s),
            FormatKind::Q8W => self.by_number::<S, Q8W>(s),
            FormatKind::Q4 => self.by_number::<S, Q4>(s),
            FormatKind::Q4M => self.by_number::<S, Q4M>(s),
            FormatKind::Q4W => self.by_number::<S, Q4W>(s),
            FormatKind::Bf16Words => self.words::<S, Bf16Products>(s),
            FormatKind::I8Words => self.words::<S, I8Products>(s),
        }
    }
}

impl FewTokens<'_> {
    #[inline(always)]
    fn by_number<S: Simd, F: Format>(self, s: S) {
        match self.x.tile {
            1 => self.panels::<S, F, 2, 1>(s),
            2 => self.panels::<S, F, 2, 2>(s),
            4 if S::IS_WIDE => self.panels::<S, F, 1, 4>(s),
            8 if S::IS_WIDE => self.panels::<S, F, 1, 8>(s),
            _ => {}
        }
    }

    /// Decodes in registers, `P` panels at once: as many sums as hide an instruction's latency.
    #[inline(always)]
    fn panels<S: Simd, F: Format, const P: usize, const M: usize>(mut self, s: S) {
        let mut sums = [[[0.0; PANEL]; M]; P];
        let width = self.target.width();
        for first in (0..width).step_by(P * PANEL) {
            let panel = self.first_panel + first / PANEL;
            let mut panels = [F::blocks(self.weight.panel(panel)); P];
            if P > 1 && first + PANEL < width {
                for (idx, place) in panels.iter_mut().enumerate() {
                    *place = F::blocks(self.weight.panel(panel + idx));
                }
                dots::<S, F, P, M>(s, self.x.tiles, panels, &mut sums);
            } else if let Some(sums) = sums.first_chunk_mut() {
                dots::<S, F, 1, M>(s, self.x.tiles, [panels[0]], sums);
            }
            for (p, sums) in sums.iter().enumerate() {
                let start = width.min(first + p * PANEL);
                let end = width.min(start + PANEL);
                for (token, sums) in sums.iter().enumerate().take(self.x.rows) {
                    self.target.row_mut(token)[start..end].copy_from_slice(&sums[..end - start]);
                }
            }
        }
    }

    /// Multiplies words as they are: one token.
    #[inline(always)]
    fn words<S: Simd, P: Products>(mut self, s: S) {
        let mut sums = [[0.0; PANEL]; 2];
        for (idx, target) in self.target.row_mut(0).chunks_mut(2 * PANEL).enumerate() {
            let first = self.first_panel + 2 * idx;
            let (one, _) = self.weight.panel(first).as_chunks();
            if target.len() > PANEL {
                let (other, _) = self.weight.panel(first + 1).as_chunks();
                let headers = [self.weight.header(first), self.weight.header(first + 1)];
                word_dots::<S, P, 2>(s, self.x, [one, other], headers, &mut sums);
            } else {
                let [sums, _] = &mut sums;
                let sums = std::array::from_mut(sums);
                word_dots::<S, P, 1>(s, self.x, [one], [self.weight.header(first)], sums);
            }
            target.copy_from_slice(&sums.as_flattened()[..target.len()]);
        }
    }
}

/// The dot products of `M` tokens, `[words][M]`, with all rows of `P` panels.
#[inline(always)]
fn dots<S: Simd, F: Format, const P: usize, const M: usize>(
    s: S,
    x: &[u32],
    mut panels: [&[F::Block]; P],
    result: &mut [[[f32; PANEL]; M]; P],
) {
    let (x, _) = x.as_chunks::<M>();
    let (x, _) = x.as_chunks::<BLOCK>();
    for panel in &mut panels {
        *panel = &panel[..x.len()];
    }
    let mut sums = [[[s.splat(0.0); 2]; M]; P];
    for (idx, x) in x.iter().enumerate() {
        let mut scales = [[F::scales(s, &panels[0][idx], 0); 2]; P];
        for p in 0..P {
            let block = &panels[p][idx];
            scales[p] = [F::scales(s, block, 0), F::scales(s, block, 1)];
        }
        let (chunks, _) = x.as_chunks::<8>();
        for (chunk, x) in chunks.iter().enumerate() {
            for_each_column!(J => {
                for p in 0..P {
                    for v in 0..2 {
                        let block = &panels[p][idx];
                        let w = F::weights::<S, J>(s, block, v, chunk, scales[p][v]);
                        for m in 0..M {
                            let x = s.splat(f32::from_bits(x[J][m]));
                            sums[p][m][v] = s.mul_add(w, x, sums[p][m][v]);
                        }
                    }
                }
            });
        }
    }
    for p in 0..P {
        for m in 0..M {
            store_row(s, sums[p][m], &mut result[p][m]);
        }
    }
}

/// The dot products of one token with all rows of `N` panels, of words that are multiplied as they
/// are.
#[inline(always)]
fn word_dots<S: Simd, P: Products, const N: usize>(
    s: S,
    x: Words<'_>,
    mut panels: [&[RowWords]; N],
    headers: [Header<'_>; N],
    result: &mut [[f32; PANEL]; N],
) {
    for panel in &mut panels {
        *panel = &panel[..x.tiles.len()];
    }
    let mut sums = [[s.splat(0.0); 2]; N];
    for p in 0..N {
        if let Some((_, starts)) = headers[p] {
            sums[p] = load_row(s, bytemuck::cast_ref(starts));
        }
    }
    for (idx, x) in x.tiles.iter().enumerate() {
        for p in 0..N {
            let (halves, _) = panels[p][idx].as_chunks::<64>();
            sums[p][0] = P::add(s, &halves[0], *x, sums[p][0]);
            sums[p][1] = P::add(s, &halves[1], *x, sums[p][1]);
        }
    }
    for p in 0..N {
        if let Some((scales, _)) = headers[p] {
            sums[p] = scaled(s, sums[p], scales, x.scales[0]);
        }
        store_row(s, sums[p], &mut result[p]);
    }
}

/// See [`Packed::header`].
type Header<'a> = Option<(&'a [f32; PANEL], &'a [u32; PANEL])>;

/// Sums that are i32 as the numbers that they stand for.
#[inline(always)]
fn scaled<S: Simd>(s: S, sums: [S::V; 2], weight: &[f32; PANEL], x: f32) -> [S::V; 2] {
    let scales = load_row(s, weight);
    let x = s.splat(x);
    [
        s.mul(s.i32_to_f32(sums[0]), s.mul(scales[0], x)),
        s.mul(s.i32_to_f32(sums[1]), s.mul(scales[1], x)),
    ]
}

/// All tokens against the panels of some columns of the target.
fn many_tokens(
    isa: Detected,
    x: Words<'_>,
    weight: &Packed,
    first_panel: usize,
    mut target: Columns<'_>,
) {
    let mut buffer = BUFFER.take();
    let num_words = x.num_words();
    let buffer_words = match weight.arithmetic() {
        Arithmetic::F32 | Arithmetic::Bf16 => BUFFER_WORDS,
        // Sums are not numbers before the last word.
        Arithmetic::I8 => num_words.max(1),
    };
    for first in (0..num_words).step_by(buffer_words) {
        let count = buffer_words.min(num_words - first);
        for at in (0..target.width()).step_by(PANEL) {
            let idx = first_panel + at / PANEL;
            let panel = weight.panel(idx);
            let weights = match weight.format {
                FormatKind::Bf16Words | FormatKind::I8Words | FormatKind::F32 => {
                    &panel.as_chunks().0[first..first + count]
                }
                format => {
                    buffer.resize(buffer.len().max(count), [0; 4 * PANEL]);
                    let buffer = &mut buffer[..count];
                    isa.dispatch(Decode { format, panel, first_block: first / BLOCK, buffer });
                    &*buffer
                }
            };
            let header = weight.header(idx);
            let target = &mut target;
            let tiles = Tiles { x, weights, first, header, target, at };
            match weight.arithmetic() {
                Arithmetic::F32 => isa.dispatch(AllTiles::<F32Products>::of(tiles)),
                Arithmetic::Bf16 => isa.dispatch(AllTiles::<Bf16Products>::of(tiles)),
                Arithmetic::I8 => isa.dispatch(AllTiles::<I8Products>::of(tiles)),
            }
        }
    }
    BUFFER.set(buffer);
}

thread_local! {
    /// Decoded weights.
    static BUFFER: RefCell<Vec<RowWords>> = RefCell::default();
}

/// Decodes blocks of a panel into a buffer of f32, a row of it for each column.
struct Decode<'a> {
    format: FormatKind,
    panel: &'a [u8],
    first_block: usize,
    /// Whole blocks.
    buffer: &'a mut [RowWords],
}

impl Kernel for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.format {
            FormatKind::F16 => self.blocks::<S, F16>(s),
            FormatKind::BF16 => self.blocks::<S, BF16>(s),
            FormatKind::Q8 => self.blocks::<S, Q8>(s),
            FormatKind::Q8W => self.blocks::<S, Q8W>(s),
            FormatKind::Q4 => self.blocks::<S, Q4>(s),
            FormatKind::Q4M => self.blocks::<S, Q4M>(s),
            FormatKind::Q4W => self.blocks::<S, Q4W>(s),
            // Multiplied as they are.
            FormatKind::F32 | FormatKind::Bf16Words | FormatKind::I8Words => {}
        }
    }
}

impl Decode<'_> {
    #[inline(always)]
    fn blocks<S: Simd, F: Format>(self, s: S) {
        let (buffers, _) = self.buffer.as_chunks_mut::<BLOCK>();
        let blocks = &F::blocks(self.panel)[self.first_block..];
        for (block, buffer) in blocks.iter().zip(buffers) {
            let scales = [F::scales(s, block, 0), F::scales(s, block, 1)];
            let (chunks, _) = buffer.as_chunks_mut::<8>();
            for (chunk, columns) in chunks.iter_mut().enumerate() {
                for_each_column!(J => {
                    let (halves, _) = columns[J].as_chunks_mut::<64>();
                    s.store_f32(F::weights::<S, J>(s, block, 0, chunk, scales[0]), &mut halves[0]);
                    s.store_f32(F::weights::<S, J>(s, block, 1, chunk, scales[1]), &mut halves[1]);
                });
            }
        }
    }
}

/// All tokens against some words of a panel.
struct Tiles<'a, 'b> {
    x: Words<'a>,
    weights: &'a [RowWords],
    /// The number of their first word.
    first: usize,
    header: Header<'a>,
    target: &'a mut Columns<'b>,
    /// The first of the panel's columns there.
    at: usize,
}

struct AllTiles<'a, 'b, P> {
    tiles: Tiles<'a, 'b>,
    products: std::marker::PhantomData<P>,
}

impl<'a, 'b, P> AllTiles<'a, 'b, P> {
    fn of(tiles: Tiles<'a, 'b>) -> Self {
        Self { tiles, products: std::marker::PhantomData }
    }
}

impl<P: Products> Kernel for AllTiles<'_, '_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tiles { x, weights, first, header, target, at } = self.tiles;
        let columns = at..target.width().min(at + PANEL);
        let mut sums = [[0.0; PANEL]; MAX_HEIGHT];
        for (idx, words) in x.tiles.chunks_exact(x.tile * x.num_words()).enumerate() {
            let first_row = idx * x.tile;
            let rows = x.tile.min(x.rows - first_row);
            let sums = &mut sums[..x.tile];
            match header {
                Some((_, starts)) => sums.fill(bytemuck::cast(*starts)),
                None => sums.fill([0.0; PANEL]),
            }
            if first > 0 {
                for (row, sums) in sums.iter_mut().enumerate().take(rows) {
                    let target = &target.row_mut(first_row + row)[columns.clone()];
                    sums[..target.len()].copy_from_slice(target);
                }
            }
            let words = &words[first * x.tile..(first + weights.len()) * x.tile];
            add_products::<S, P>(s, words, weights, sums);
            for (row, sums) in sums.iter_mut().enumerate().take(rows) {
                if let Some((scales, _)) = header {
                    let result = scaled(s, load_row(s, sums), scales, x.scales[first_row + row]);
                    store_row(s, result, sums);
                }
                let target = &mut target.row_mut(first_row + row)[columns.clone()];
                target.copy_from_slice(&sums[..target.len()]);
            }
        }
    }
}

const _: () = assert!(BUFFER_WORDS.is_multiple_of(BLOCK), "whole blocks are decoded");
