//! The nodes of rotary position embeddings.
//!
//! The IR has a cosine and a sine for each pair of elements, GE's operators one for each element:
//!
//! ```text
//! c0 c1   Halves       ConcatD on the columns            c0 c1 c0 c1
//!         Interleaved  ConcatD on an axis after them     c0 c0 c1 c1
//! ```
//!
//! | Style, head size | Operator |
//! | --- | --- |
//! | Halves, a multiple of 64 | `RotaryMul` |
//! | Halves, any other | `RotaryPositionEmbedding`, mode 0 |
//! | Interleaved | `RotaryPositionEmbedding`, mode 1 |
//!
//! What this module deliberately does not do: it makes no tables.

use super::super::ge_graph::{Attr, TensorType, Value};
use super::emit::{Emitter, View};
use super::unsupported_at;
use crate::backend::BackendError;
use crate::ir::{Node, RopeStyle, ValueId};

/// Head sizes end before this.
const MAX_HEAD_SIZE: u64 = 896;
/// Numbers of heads end before this.
const MAX_HEADS: u64 = 1000;

impl Emitter<'_> {
    pub(super) fn rope(&mut self, node: &Node, style: RopeStyle) -> Result<View, BackendError> {
        let shape = &self.plan.ty(node.inputs[0]).shape;
        let (heads, head_size) = (shape[1], shape[2]);
        if heads >= MAX_HEADS || head_size >= MAX_HEAD_SIZE {
            let what = format!(
                "rope of {heads} heads of {head_size}: fewer than {MAX_HEADS} of less than \
                 {MAX_HEAD_SIZE}"
            );
            return Err(unsupported_at(self.graph, node, what));
        }
        let x = self.value_as(node.inputs[0], vec![1, shape[0], heads, head_size]);
        let [cos, sin] = [1, 2].map(|idx| self.widened(node.inputs[idx], style));
        let is_halves = style == RopeStyle::Halves;
        let y = if is_halves && head_size.is_multiple_of(64) {
            let call = self.call("RotaryMul").input("x", &x).input("r1", &cos).input("r2", &sin);
            call.one("y", x.ty.clone())
        } else {
            let call = self.call("RotaryPositionEmbedding").input("x", &x);
            let call = call.input("cos", &cos).input("sin", &sin);
            call.attr("mode", Attr::Int(i64::from(!is_halves))).one("y", x.ty.clone())
        };
        Ok(self.seen_as_result(node, y))
    }

    /// `[t, d/2] -> [1, t, 1, d]`, once for each table and style.
    fn widened(&mut self, table: ValueId, style: RopeStyle) -> Value {
        let key = (table, style == RopeStyle::Interleaved);
        if let Some(value) = self.widened.get(&key) {
            return value.clone();
        }
        let TensorType { dtype, shape } = self.plan.ty(table);
        let (num_tokens, half) = (shape[0], shape[1]);
        let (parts, axis, joined) = match style {
            RopeStyle::Halves => (vec![num_tokens, half], 1, vec![num_tokens, 2 * half]),
            RopeStyle::Interleaved => (vec![num_tokens, half, 1], 2, vec![num_tokens, half, 2]),
        };
        let part = self.value_as(table, parts);
        let call = self.call("ConcatD").input("x0", &part).input("x1", &part);
        let call = call.attr("concat_dim", Attr::Int(axis)).attr("N", Attr::Int(2));
        let joined = call.one("y", TensorType::new(*dtype, joined));
        let wide = self.reshape(&joined, vec![1, num_tokens, 1, 2 * half]);
        self.widened.insert(key, wide.clone());
        wide
    }
}
