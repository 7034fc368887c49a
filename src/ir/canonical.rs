//! Bytes that mean what the graph means: equal for graphs that differ in names only, different for
//! graphs that compute something else. The cache key hashes them.
//!
//! ```text
//! "CGIR" | schema u16 | symbols | values | nodes | outputs        all integers little-endian
//! symbols  u32 count, then min u64, max u64 each
//! values   u32 count, then dtype u8, rank u32, dims each
//! dim      0 u8, size u64   |   1 u8, symbol u32
//! nodes    u32 count, then op code u8, attributes, operands, results (u32 count, u32 ids)
//! ```
//!
//! Every list has its length before it, so no two graphs can run into each other. Weights bind by
//! order, so their names are out; the rows of their parts are in, because binding depends on them.

use super::graph::{Graph, Node, ValueId};
use super::op::{Op, RopeStyle};
use super::shape::{Dim, Shape};

/// Raised whenever the bytes of an unchanged graph change, or their meaning does.
pub const CANONICAL_SCHEMA: u16 = 1;

/// The canonical bytes of a graph.
pub fn canonical_bytes(graph: &Graph) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(64 * graph.nodes.len()));
    w.0.extend_from_slice(b"CGIR");
    w.0.extend_from_slice(&CANONICAL_SCHEMA.to_le_bytes());
    w.len(graph.symbols.len());
    for symbol in &graph.symbols {
        w.u64(symbol.min);
        w.u64(symbol.max);
    }
    w.len(graph.values.len());
    for value in &graph.values {
        w.0.push(value.ty.dtype.code());
        w.shape(&value.ty.shape);
    }
    w.len(graph.nodes.len());
    for node in &graph.nodes {
        w.node(node);
    }
    w.ids(&graph.outputs);
    w.0
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn f32(&mut self, value: f32) {
        self.u32(value.to_bits());
    }

    fn len(&mut self, len: usize) {
        self.u32(len as u32);
    }

    fn ids(&mut self, ids: &[ValueId]) {
        self.len(ids.len());
        for id in ids {
            self.u32(id.0);
        }
    }

    fn dim(&mut self, dim: Dim) {
        match dim {
            Dim::Fixed(size) => {
                self.0.push(0);
                self.u64(size);
            }
            Dim::Symbolic(id) => {
                self.0.push(1);
                self.u32(id.0);
            }
        }
    }

    fn shape(&mut self, shape: &Shape) {
        self.len(shape.rank());
        for &dim in shape.dims() {
            self.dim(dim);
        }
    }

    fn node(&mut self, node: &Node) {
        self.0.push(code(&node.op));
        match &node.op {
            Op::Input
            | Op::State
            | Op::Linear
            | Op::Add
            | Op::Mul
            | Op::Silu
            | Op::SiluMul
            | Op::KvWrite => {}
            Op::Weight { parts } => {
                self.len(parts.len());
                for part in parts {
                    self.dim(part.rows);
                }
            }
            Op::Constant(constant) => {
                self.shape(&Shape::fixed(&constant.shape));
                self.len(constant.values.len());
                for &value in &constant.values {
                    self.f32(value);
                }
            }
            Op::Gather { dtype } | Op::Cast { dtype } => self.0.push(dtype.code()),
            Op::RmsNorm { eps } | Op::AddRmsNorm { eps } => self.f32(*eps),
            Op::Slice { start, len } => {
                self.u64(*start);
                self.u64(*len);
            }
            Op::Reshape { shape } => self.shape(shape),
            Op::Rope { style } => self.0.push(match style {
                RopeStyle::Halves => 0,
                RopeStyle::Interleaved => 1,
            }),
            Op::PagedAttention { scale, window } => {
                self.f32(*scale);
                self.0.push(u8::from(window.is_some()));
                self.u64(window.unwrap_or(0));
            }
        }
        self.ids(&node.inputs);
        self.ids(&node.outputs);
    }
}

/// A number per op that never changes meaning.
fn code(op: &Op) -> u8 {
    match op {
        Op::Input => 1,
        Op::Weight { .. } => 2,
        Op::State => 3,
        Op::Constant(_) => 4,
        Op::Gather { .. } => 5,
        Op::Linear => 6,
        Op::Add => 7,
        Op::Mul => 8,
        Op::Silu => 9,
        Op::SiluMul => 10,
        Op::RmsNorm { .. } => 11,
        Op::AddRmsNorm { .. } => 12,
        Op::Slice { .. } => 13,
        Op::Reshape { .. } => 14,
        Op::Cast { .. } => 15,
        Op::Rope { .. } => 16,
        Op::KvWrite => 17,
        Op::PagedAttention { .. } => 18,
    }
}
