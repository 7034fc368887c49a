//! A weight as the products want it: see [`format`](super::format) for the layout.

use std::io;
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

use super::format::PANEL;
use super::pack::pack_panel;
use super::quants::BLOCK;
use crate::DType;
use crate::operands::{Arithmetic, WeightRows};
use crate::pool::Pool;

/// Bytes of a cache line, which every panel begins with.
const LINE: usize = 64;
/// Panels of a task take about so many bytes.
const TASK_BYTES: usize = 256 << 10;

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
    const ALL: [Self; 10] = [
        Self::Bf16Words,
        Self::I8Words,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8,
        Self::Q8W,
        Self::Q4,
        Self::Q4M,
        Self::Q4W,
    ];

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
    pub(super) const fn header_bytes(self) -> usize {
        if matches!(self, Self::I8Words) { 2 * PANEL * 4 } else { 0 }
    }

    /// Bytes of a block of a panel.
    pub(super) const fn block_bytes(self) -> usize {
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
    /// Of all weights that were packed together.
    memory: Arc<Mmap>,
    /// Where this one begins there.
    start: usize,
}

impl Packed {
    /// Packs weights, side by side in memory that is asked for in large pages: a step reads all of it,
    /// and looks up each page. Rows and columns beyond a weight are zeros.
    pub(super) fn all(
        pool: &Pool,
        weights: &[WeightRows<'_>],
        arithmetic: Arithmetic,
    ) -> io::Result<Vec<Self>> {
        let mut len = 0;
        // For each task its weight, and the panels that it packs.
        let (mut tasks, mut bounds) = (Vec::new(), vec![0]);
        let mut shapes = Vec::with_capacity(weights.len());
        for (idx, weight) in weights.iter().enumerate() {
            let format = FormatKind::of(arithmetic, weight.dtype);
            let blocks = weight.columns.div_ceil(BLOCK);
            let panel_bytes = format.header_bytes() + blocks * format.block_bytes();
            shapes.push((format, panel_bytes, len));
            let num_panels = weight.rows.div_ceil(PANEL);
            let step = (TASK_BYTES / panel_bytes.max(1)).max(1);
            for first in (0..num_panels).step_by(step) {
                let last = num_panels.min(first + step);
                tasks.push((idx, first..last));
                bounds.push(len + last * panel_bytes);
            }
            len += num_panels * panel_bytes;
        }
        let mut memory = MmapMut::map_anon(len.max(1))?;
        #[cfg(target_os = "linux")]
        // Only a wish: there are systems without large pages.
        let _ = memory.advise(memmap2::Advice::HugePage);
        pool.for_parts(&mut memory[..len], &bounds, |task, bytes| {
            let (idx, panels) = &tasks[task];
            let (format, panel_bytes, _) = shapes[*idx];
            for (panel, bytes) in panels.clone().zip(bytes.chunks_exact_mut(panel_bytes.max(1))) {
                pack_panel(format, weights[*idx], panel * PANEL, bytes);
            }
        });
        let memory = Arc::new(memory.make_read_only()?);
        let packed =
            weights.iter().zip(shapes).map(|(weight, (format, panel_bytes, start))| Self {
                format,
                rows: weight.rows,
                columns: weight.columns,
                panel_bytes,
                memory: Arc::clone(&memory),
                start,
            });
        Ok(packed.collect())
    }

    /// Bytes that it takes.
    pub fn num_bytes(&self) -> usize {
        self.num_panels() * self.panel_bytes
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
        let header = &self.whole_panel(idx)[..self.format.header_bytes()];
        let (words, _) = header.as_chunks::<{ PANEL * 4 }>();
        let [scales, starts] = words else { return None };
        Some((bytemuck::cast_ref(scales), bytemuck::cast_ref(starts)))
    }

    fn whole_panel(&self, idx: usize) -> &[u8] {
        &self.memory[self.start + idx * self.panel_bytes..][..self.panel_bytes]
    }
}

const _: () = {
    // Panels follow each other, and headers are read as numbers.
    let mut idx = 0;
    while idx < FormatKind::ALL.len() {
        let format = FormatKind::ALL[idx];
        assert!(format.block_bytes().is_multiple_of(LINE));
        assert!(format.header_bytes().is_multiple_of(LINE));
        idx += 1;
    }
};
