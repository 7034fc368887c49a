//! A weight as the products want it: see [`format`](super::format) for the layout.

use half::{bf16, f16};

use super::format::{PANEL, put_bytes, put_nibbles};
use super::quants::{BLOCK, Quants, quants};
use crate::operands::{Arithmetic, WeightRows};
use crate::pool::Pool;
use crate::{DType, dequantise};

/// A cache line; packed weights begin at one.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Which of the packed formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FormatKind {
    /// For products of bf16.
    Bf16Words,
    /// For products of bytes.
    I8Words,
    F32,
    F16,
    BF16,
    Q8,
    Q8W,
    Q4,
    Q4M,
    Q4W,
}

impl FormatKind {
    fn of(arithmetic: Arithmetic, dtype: DType) -> Self {
        match arithmetic {
            Arithmetic::Bf16 => return Self::Bf16Words,
            Arithmetic::I8 => return Self::I8Words,
            Arithmetic::F32 => {}
        }
        match dtype {
            DType::F32 | DType::I32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            DType::Q8_0 | DType::Q5_0 => Self::Q8,
            DType::Q5_1 | DType::Q5K | DType::Q6K => Self::Q8W,
            DType::Q4_0 => Self::Q4,
            DType::Q4_1 => Self::Q4M,
            DType::Q4K => Self::Q4W,
        }
    }

    /// Bytes before the first block of a panel: f32 scales and i32 sums of its rows.
    fn header_bytes(self) -> usize {
        if self == Self::I8Words { 2 * PANEL * 4 } else { 0 }
    }

    /// Bytes of a block of a panel.
    fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4096,
            Self::F16 | Self::BF16 | Self::Bf16Words => 2048,
            Self::I8Words => 1024,
            Self::Q8 => 1088,
            Self::Q8W => 1536,
            Self::Q4 => 576,
            Self::Q4M => 640,
            Self::Q4W => 768,
        }
    }
}

/// A weight in panels.
#[derive(Clone, Debug)]
pub struct Packed {
    pub(super) format: FormatKind,
    pub(super) rows: usize,
    pub(super) columns: usize,
    panel_bytes: usize,
    lines: Vec<Line>,
}

impl Packed {
    /// Packs a weight. Rows and columns beyond it are zeros.
    pub(super) fn new(pool: &Pool, weight: WeightRows<'_>, arithmetic: Arithmetic) -> Self {
        let format = FormatKind::of(arithmetic, weight.dtype);
        let blocks = weight.columns.div_ceil(BLOCK);
        let panel_bytes = format.header_bytes() + blocks * format.block_bytes();
        let num_panels = weight.rows.div_ceil(PANEL);
        let mut packed = Self {
            format,
            rows: weight.rows,
            columns: weight.columns,
            panel_bytes,
            lines: vec![Line([0; 64]); num_panels * panel_bytes / 64],
        };
        pool.for_chunks(&mut packed.lines, (panel_bytes / 64).max(1), |idx, lines| {
            pack_panel(format, weight, idx * PANEL, bytemuck::cast_slice_mut(lines));
        });
        packed
    }

    /// Bytes that it takes.
    pub fn num_bytes(&self) -> usize {
        self.lines.len() * 64
    }

    /// What products round it and the other operand to.
    pub(super) fn arithmetic(&self) -> Arithmetic {
        match self.format {
            FormatKind::Bf16Words => Arithmetic::Bf16,
            FormatKind::I8Words => Arithmetic::I8,
            _ => Arithmetic::F32,
        }
    }

    /// Number of panels.
    pub(super) fn num_panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// A panel's blocks.
    pub(super) fn panel(&self, idx: usize) -> &[u8] {
        &self.whole_panel(idx)[self.format.header_bytes()..]
    }

    /// A panel's header: the rows' scales, and what their sums begin with.
    pub(super) fn header(&self, idx: usize) -> Option<(&[f32; PANEL], &[u32; PANEL])> {
        let (words, _) =
            self.whole_panel(idx)[..self.format.header_bytes()].as_chunks::<{ PANEL * 4 }>();
        let [scales, starts] = words else { return None };
        Some((bytemuck::cast_ref(scales), bytemuck::cast_ref(starts)))
    }

    fn whole_panel(&self, idx: usize) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.lines);
        &bytes[idx * self.panel_bytes..][..self.panel_bytes]
    }
}

/// Fills a panel, all zeros so far, with the rows from `first` on.
fn pack_panel(format: FormatKind, weight: WeightRows<'_>, first: usize, panel: &mut [u8]) {
    let (header, blocks) = panel.split_at_mut(format.header_bytes());
    let mut values = vec![0.0; weight.columns];
    for row in 0..PANEL.min(weight.rows - first) {
        let bytes = weight.row(first + row);
        let plain = |size: usize| bytes.chunks_exact(size).enumerate();
        if matches!(format, FormatKind::F32 | FormatKind::Bf16Words | FormatKind::I8Words) {
            dequantise(weight.dtype, bytes, &mut values)
                .expect("invariant: a row has as many elements as the weight has columns");
        }
        match format {
            FormatKind::F32 => {
                for (column, value) in values.iter().enumerate() {
                    put(blocks, (column * PANEL + row) * 4, &value.to_le_bytes());
                }
            }
            FormatKind::F16 => {
                for (column, value) in plain(2) {
                    put(blocks, (column * PANEL + row) * 2, value);
                }
            }
            FormatKind::Bf16Words if weight.dtype != DType::BF16 => {
                for (column, value) in values.iter().enumerate() {
                    put(blocks, pair_place(column, row), &bf16::from_f32(*value).to_le_bytes());
                }
            }
            FormatKind::BF16 | FormatKind::Bf16Words => {
                for (column, value) in plain(2) {
                    put(blocks, pair_place(column, row), value);
                }
            }
            FormatKind::I8Words => {
                let scale = i8_scale(&values);
                let mut sum = 0;
                for (column, value) in values.iter().enumerate() {
                    let q = (value / scale).round_ties_even() as i8;
                    sum += i32::from(q);
                    put(blocks, (column / 4 * PANEL + row) * 4 + column % 4, &q.to_le_bytes());
                }
                put(header, row * 4, &scale.to_le_bytes());
                put(header, (PANEL + row) * 4, &(-I8_ZERO * sum).to_le_bytes());
            }
            FormatKind::Q8
            | FormatKind::Q8W
            | FormatKind::Q4
            | FormatKind::Q4M
            | FormatKind::Q4W => {
                for (idx, block) in blocks.chunks_exact_mut(format.block_bytes()).enumerate() {
                    put_quants(format, &quants(weight.dtype, bytes, idx), row, block);
                }
            }
        }
    }
}

/// Where a bf16 lies in blocks of pairs.
fn pair_place(column: usize, row: usize) -> usize {
    (column / 2 * PANEL + row) * 4 + column % 2 * 2
}

/// Activations as bytes are unsigned: this stands for zero.
pub(super) const I8_ZERO: i32 = 128;

/// What a row is divided by to become signed bytes: its largest number becomes 127.
#[expect(clippy::inline_always, reason = "callers have vector instructions for it")]
#[inline(always)]
pub(super) fn i8_scale(values: &[f32]) -> f32 {
    let mut largest = 0;
    for value in values {
        // Magnitudes are in the order of their bits; what is not a number is above all.
        largest = largest.max(value.to_bits() & (u32::MAX >> 1));
    }
    let largest = f32::from_bits(largest);
    if largest > 0.0 && largest.is_finite() { largest / 127.0 } else { 1.0 }
}

/// Writes a row's part of a block.
fn put_quants(format: FormatKind, quants: &Quants, row: usize, block: &mut [u8]) {
    let Quants { d, m, .. } = quants;
    let f16_bytes = |value: f32| f16::from_f32(value).to_le_bytes();
    match format {
        FormatKind::Q8 => {
            put(block, row * 2, &f16_bytes(d[0]));
            put_bytes(quants, row, &mut block[64..]);
        }
        FormatKind::Q8W => {
            for half in 0..2 {
                put(block, half * 256 + row * 4, &d[half].to_le_bytes());
                put(block, half * 256 + 128 + row * 4, &m[half].to_le_bytes());
            }
            put_bytes(quants, row, &mut block[512..]);
        }
        FormatKind::Q4 => {
            put(block, row * 2, &f16_bytes(d[0]));
            put_nibbles(quants, row, &mut block[64..]);
        }
        FormatKind::Q4M => {
            put(block, row * 2, &f16_bytes(d[0]));
            put(block, 64 + row * 2, &f16_bytes(m[0]));
            put_nibbles(quants, row, &mut block[128..]);
        }
        FormatKind::Q4W => {
            put(block, row * 4, &d[0].to_le_bytes());
            put(block, 128 + row * 4, &m[0].to_le_bytes());
            put_nibbles(quants, row, &mut block[256..]);
        }
        FormatKind::Bf16Words
        | FormatKind::I8Words
        | FormatKind::F32
        | FormatKind::F16
        | FormatKind::BF16 => {}
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
