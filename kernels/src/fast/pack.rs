//! Fills panels: see [`format`](super::format) for the layout.

use half::f16;

use super::format::PANEL;
use super::packed::FormatKind;
use super::quants::{Quants, quants};
use super::words::{I8_ZERO, bf16_bits, i8_scale};
use crate::operands::WeightRows;
use crate::{DType, dequantise};

/// Fills a panel, all zeros so far, with the rows from `first` on.
pub(super) fn pack_panel(
    format: FormatKind,
    weight: WeightRows<'_>,
    first: usize,
    panel: &mut [u8],
) {
    let (header, blocks) = panel.split_at_mut(format.header_bytes());
    let mut values = vec![0.0; weight.columns];
    for row in 0..PANEL.min(weight.rows - first) {
        let bytes = weight.row(first + row);
        let decode = |values: &mut [f32]| {
            dequantise(weight.dtype, bytes, values)
                .expect("invariant: a row has as many elements as the weight has columns");
        };
        match (format, weight.dtype) {
            (FormatKind::F32, DType::F32)
            | (FormatKind::BF16 | FormatKind::Bf16Words, DType::BF16) => {
                put_words(bytes, row, blocks);
            }
            (FormatKind::F32, _) => {
                decode(&mut values);
                put_words(bytemuck::cast_slice(&values), row, blocks);
            }
            (FormatKind::F16, _) => put_halves(bytes, row, blocks),
            (FormatKind::BF16 | FormatKind::Bf16Words, _) => {
                decode(&mut values);
                let halves: Vec<u16> = values.iter().map(|value| bf16_bits(*value)).collect();
                put_words(bytemuck::cast_slice(&halves), row, blocks);
            }
            (FormatKind::I8Words, _) => {
                decode(&mut values);
                let scale = i8_scale(&values);
                let quant = |value: &f32| (value / scale).round_ties_even() as i8;
                let bytes: Vec<i8> = values.iter().map(quant).collect();
                let sum: i32 = bytes.iter().map(|byte| i32::from(*byte)).sum();
                put_words(bytemuck::cast_slice(&bytes), row, blocks);
                put(header, row * 4, &scale.to_le_bytes());
                put(header, (PANEL + row) * 4, &(-I8_ZERO * sum).to_le_bytes());
            }
            (FormatKind::Q4, DType::Q4_0) => {
                for (source, block) in
                    bytes.as_chunks::<18>().0.iter().zip(blocks_of(format, blocks))
                {
                    put(block, row * 2, &source[..2]);
                    put_nibble_bytes(&source[2..], row, &mut block[64..]);
                }
            }
            (FormatKind::Q4M, DType::Q4_1) => {
                for (source, block) in
                    bytes.as_chunks::<20>().0.iter().zip(blocks_of(format, blocks))
                {
                    put(block, row * 2, &source[..2]);
                    put(block, 64 + row * 2, &source[2..4]);
                    put_nibble_bytes(&source[4..], row, &mut block[128..]);
                }
            }
            (FormatKind::Q8, DType::Q8_0) => {
                for (source, block) in
                    bytes.as_chunks::<34>().0.iter().zip(blocks_of(format, blocks))
                {
                    put(block, row * 2, &source[..2]);
                    for (column, q) in source[2..].iter().enumerate() {
                        block[64 + column * PANEL + row] = *q;
                    }
                }
            }
            _ => {
                for (idx, block) in blocks_of(format, blocks).enumerate() {
                    put_quants(format, &quants(weight.dtype, bytes, idx), row, block);
                }
            }
        }
    }
}

fn blocks_of(format: FormatKind, blocks: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    blocks.chunks_exact_mut(format.block_bytes())
}

/// Writes a row of words, of which the last may be shorter.
fn put_words(bytes: &[u8], row: usize, blocks: &mut [u8]) {
    let (words, rest) = bytes.as_chunks::<4>();
    let (places, _) = blocks.as_chunks_mut::<4>();
    for (idx, word) in words.iter().enumerate() {
        places[idx * PANEL + row] = *word;
    }
    if !rest.is_empty() {
        places[words.len() * PANEL + row][..rest.len()].copy_from_slice(rest);
    }
}

/// Writes a row of numbers of two bytes.
fn put_halves(bytes: &[u8], row: usize, blocks: &mut [u8]) {
    let (places, _) = blocks.as_chunks_mut::<2>();
    for (idx, half) in bytes.as_chunks::<2>().0.iter().enumerate() {
        places[idx * PANEL + row] = *half;
    }
}

/// Writes the words of 32 quants, whose first sixteen are the low halves of the bytes.
fn put_nibble_bytes(bytes: &[u8], row: usize, words: &mut [u8]) {
    let (words, _) = words.as_chunks_mut::<4>();
    let (eights, _) = bytes.as_chunks::<8>();
    for (idx, eight) in eights.iter().enumerate() {
        let eight = u64::from_le_bytes(*eight);
        words[idx * PANEL + row] = word_of_nibbles(eight).to_le_bytes();
        words[(idx + 2) * PANEL + row] = word_of_nibbles(eight >> 4).to_le_bytes();
    }
}

/// The low halves of eight bytes side by side.
fn word_of_nibbles(bytes: u64) -> u32 {
    let nibbles = bytes & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    (fours | fours >> 16) as u32
}

/// Writes the quants of a row into a block of signed bytes.
fn put_bytes(quants: &Quants, row: usize, bytes: &mut [u8]) {
    for (column, q) in quants.q.iter().enumerate() {
        bytes[column * PANEL + row] = q.cast_unsigned();
    }
}

/// Writes the quants of a row, 0 to 15, into a block of words.
fn put_nibbles(quants: &Quants, row: usize, words: &mut [u8]) {
    let (words, _) = words.as_chunks_mut::<4>();
    let (eights, _) = quants.q.as_chunks::<8>();
    for (idx, eight) in eights.iter().enumerate() {
        let eight = u64::from_le_bytes(eight.map(i8::cast_unsigned));
        words[idx * PANEL + row] = word_of_nibbles(eight).to_le_bytes();
    }
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
