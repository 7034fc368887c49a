//! Which slices become pieces of which split, and which become nothing.
//!
//! GE has no cheap slice, but a split into pieces. All slices of a tensor that do not overlap are
//! pieces of one split; otherwise each has its own:
//!
//! ```text
//! x [.., 12]   slices 0..8, 8..10, 10..12   SplitVD 8 | 2 | 2
//!              slices 0..4, 6..8            SplitVD 4 | 2 | 2 | 4
//!              slices 0..8, 4..12           SplitVD 8 | 4, SplitVD 4 | 8
//! ```
//!
//! The two halves that `silu_mul` takes are none: `SwiGlu` takes them unsplit.

use std::collections::{BTreeMap, BTreeSet};

use super::super::ge_graph::TensorType;
use crate::ir::{Graph, Node, Op, ValueId};

/// Where slices come from.
#[derive(Debug)]
pub(super) struct Slices {
    /// By node of a `silu_mul`: what gate and up are the two halves of.
    halved: BTreeMap<usize, ValueId>,
    /// By sliced value, the slices `(start, len)` that are used as tensors, in order.
    of: BTreeMap<ValueId, BTreeSet<(u64, u64)>>,
    /// Slices that are used as tensors.
    is_used: Vec<bool>,
}

impl Slices {
    pub(super) fn of(graph: &Graph, types: &[TensorType], nodes: &[(usize, &Node)]) -> Self {
        let mut sliced = BTreeMap::new();
        let mut halved = BTreeMap::new();
        let mut is_used = vec![false; graph.values().len()];
        for &(idx, node) in nodes {
            if let Op::Slice { start, len } = node.op {
                sliced.insert(node.outputs[0], (node.inputs[0], start, len));
            }
            if let Op::SiluMul = node.op
                && let (Some(&(base, 0, half)), Some(&up)) =
                    (sliced.get(&node.inputs[0]), sliced.get(&node.inputs[1]))
                && up == (base, half, half)
                && types[base.0 as usize].shape.last().copied() == half.checked_mul(2)
            {
                halved.insert(idx, base);
            } else {
                node.inputs.iter().for_each(|id| is_used[id.0 as usize] = true);
            }
        }
        graph.outputs().iter().for_each(|id| is_used[id.0 as usize] = true);
        let mut of: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (id, (base, start, len)) in sliced {
            if is_used[id.0 as usize] {
                of.entry(base).or_default().insert((start, len));
            }
        }
        Self { halved, of, is_used }
    }

    /// What gate and up of that node are the two halves of.
    pub(super) fn halved(&self, node: usize) -> Option<ValueId> {
        self.halved.get(&node).copied()
    }

    /// Whether anything takes that value as a tensor of its own.
    pub(super) fn is_used(&self, id: ValueId) -> bool {
        self.is_used[id.0 as usize]
    }

    /// The pieces of the split of `base`, `width` wide, that slice `(start, len)` comes from, and
    /// which of them it is.
    pub(super) fn pieces(
        &self,
        base: ValueId,
        width: u64,
        (start, len): (u64, u64),
    ) -> (Vec<u64>, usize) {
        let all = self.of.get(&base).map(|slices| slices.iter().copied().collect::<Vec<_>>());
        let shared = all.and_then(|slices| split(&slices, width));
        let pieces = shared.or_else(|| split(&[(start, len)], width)).unwrap_or_default();
        let starts = pieces.iter().scan(0, |next, piece| {
            *next += piece;
            Some(*next - piece)
        });
        let piece = starts.take_while(|&piece| piece < start).count();
        (pieces, piece)
    }
}

/// Lengths of the pieces of which those slices are some, in order; `None` when slices overlap.
fn split(slices: &[(u64, u64)], width: u64) -> Option<Vec<u64>> {
    let mut pieces = Vec::new();
    let mut end = 0;
    for &(start, len) in slices {
        pieces.extend([start.checked_sub(end)?, len]);
        end = start.checked_add(len)?;
    }
    pieces.push(width.checked_sub(end)?);
    pieces.retain(|&piece| piece > 0);
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(slices: &[(u64, u64)], wanted: (u64, u64)) -> (Vec<u64>, usize) {
        let of = BTreeMap::from([(ValueId(0), slices.iter().copied().collect())]);
        let slices = Slices { halved: BTreeMap::new(), of, is_used: Vec::new() };
        slices.pieces(ValueId(0), 12, wanted)
    }

    #[test]
    fn slices_that_do_not_overlap_are_pieces_of_one_split() {
        let qkv = [(0, 8), (8, 2), (10, 2)];
        for (piece, &slice) in qkv.iter().enumerate() {
            assert_eq!(pieces(&qkv, slice), (vec![8, 2, 2], piece));
        }
        let with_gaps = [(6, 2), (0, 4)];
        assert_eq!(pieces(&with_gaps, (0, 4)), (vec![4, 2, 2, 4], 0));
        assert_eq!(pieces(&with_gaps, (6, 2)), (vec![4, 2, 2, 4], 2));
    }

    #[test]
    fn slices_that_overlap_have_a_split_each() {
        let slices = [(0, 8), (4, 8), (4, 4)];
        assert_eq!(pieces(&slices, (0, 8)), (vec![8, 4], 0));
        assert_eq!(pieces(&slices, (4, 8)), (vec![4, 8], 1));
        assert_eq!(pieces(&slices, (4, 4)), (vec![4, 4, 4], 1));
    }
}
