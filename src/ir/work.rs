//! How much a graph reads and computes, as far as that depends on the graph alone.

use super::{Dim, Graph, Op, ValueId};

/// What running a graph takes at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of the weights of all products, as they are stored: read once in a step.
    pub product_bytes: u64,
    /// Elements of them.
    pub product_elements: u64,
    /// Multiplications and additions for each token, without what only rows of the output need.
    pub operations_per_token: u64,
    /// The same for each row of the output.
    pub operations_per_output: u64,
    /// The same for each position that a token attends to.
    pub operations_per_position: u64,
}

impl Work {
    /// Of a graph.
    pub fn of(graph: &Graph) -> Self {
        let mut work = Self::default();
        let rows = |id: ValueId| graph.ty(id).shape.dims().first().copied();
        let output_rows = graph.outputs().first().and_then(|&id| rows(id));
        let fixed = |id: ValueId, axis: usize| match graph.ty(id).shape.dims().get(axis) {
            Some(Dim::Fixed(size)) => *size,
            Some(Dim::Symbolic(_)) | None => 0,
        };
        for node in graph.nodes() {
            match (&node.op, node.inputs.as_slice()) {
                (Op::Linear, &[x, w]) => {
                    let elements = fixed(w, 0) * fixed(w, 1);
                    let shape = graph.ty(w).shape.as_fixed().unwrap_or_default();
                    let bytes = graph.ty(w).dtype.tensor_bytes(&shape).unwrap_or(0);
                    work.product_elements += elements;
                    work.product_bytes += bytes as u64;
                    if rows(x) == output_rows {
                        work.operations_per_output += 2 * elements;
                    } else {
                        work.operations_per_token += 2 * elements;
                    }
                }
                (Op::PagedAttention { .. }, &[q, ..]) => {
                    // Scores, and the sum of values that they weigh.
                    work.operations_per_position += 4 * fixed(q, 1) * fixed(q, 2);
                }
                _ => {}
            }
        }
        work
    }

    /// Operations of a prompt of so many tokens, of which one row of output is wanted.
    pub fn prompt_operations(&self, tokens: u64) -> u64 {
        let positions = tokens * (tokens + 1) / 2;
        self.operations_per_token * tokens
            + self.operations_per_position * positions
            + self.operations_per_output
    }
}
