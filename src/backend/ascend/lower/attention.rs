//! The nodes of the KV cache: writing to it, and attention over it.
//!
//! ```text
//! state_0 --var--> ScatterNdUpdate --var--> FusedInferAttentionScore.key0
//! slots, rows of k --^                        ^ query, lengths, block tables
//! ```
//!
//! The write's result is the state's memory. That it comes before the attention is in the data
//! flow; that it comes after an attention that reads the old cache is not, and an ordering edge
//! says it: GE orders nothing by memory.
//!
//! What this module deliberately does not do: it checks no size; `layout` did.

use super::super::artifact::StepLayout;
use super::super::dtype::GeDType;
use super::super::ge_graph::{Attr, Call, TensorType, Value};
use super::super::kv_layout;
use super::emit::{Emitter, View};
use super::layout::Attention;
use crate::ir::{Node, ValueId};

impl Emitter<'_> {
    pub(super) fn kv_write(&mut self, node: &Node) -> View {
        let (x, cache, slots) = (node.inputs[0], node.inputs[1], node.inputs[2]);
        let shape = &self.plan.ty(x).shape;
        let [num_tokens, heads, head_size] = [shape[0], shape[1], shape[2]];
        let (cache_value, slots) = (self.base(cache), self.base(slots));
        let row = heads * kv_layout::head_size(head_size);
        let rows = self.padded_heads(x, vec![num_tokens, row]);
        let rows = self.cast(&rows, cache_value.ty.dtype);
        let readers = self.readers.remove(&cache).unwrap_or_default();
        let call = self.call("ScatterNdUpdate").input("var", &cache_value);
        let call = call.input("indices", &slots).input("updates", &rows);
        let call = readers.iter().fold(call, Call::after);
        let call = call.attr("use_locking", Attr::Bool(false));
        let written = call.one("var", cache_value.ty.clone());
        if self.plan.num_uses[node.outputs[0].0 as usize] == 0 {
            self.unread.push(written.clone());
        }
        written.into()
    }

    pub(super) fn attention(&mut self, node: &Node) -> View {
        let sizes = Attention::of(self.graph, &self.plan.types, node)
            .expect("invariant: only called for attentions");
        let (num_tokens, heads) = (sizes.num_tokens, sizes.heads);
        let head_size = kv_layout::head_size(sizes.head_size);
        let layout = self.plan.layout;
        let (shape, input_layout) = match layout {
            StepLayout::Packed => (vec![num_tokens, heads, head_size], "TND"),
            StepLayout::Prefill => (vec![1, num_tokens, heads * head_size], "BSH"),
            StepLayout::Decode | StepLayout::Free => {
                (vec![num_tokens, 1, heads * head_size], "BSH")
            }
        };
        let ty = TensorType::new(sizes.cache_dtype, shape.clone());
        let query = self.padded_heads(node.inputs[0], shape);
        let query = self.cast(&query, sizes.cache_dtype);
        let [key, value, tables] = [1, 2, 3].map(|idx| self.base(node.inputs[idx]));
        let kv_lengths = self.base(node.inputs[5]);
        // Only where a sequence has several queries is there one that must not see another's key.
        let masked = self.causal_mask.clone().map(|mask| (mask, self.base(node.inputs[4])));

        let mut call = self.call("FusedInferAttentionScore");
        call = call.input("query", &query).input("key0", &key).input("value0", &value);
        if let Some((mask, query_lengths)) = &masked {
            call = call.input("atten_mask", mask).input("actual_seq_lengths", query_lengths);
        }
        call = call.input("actual_seq_lengths_kv", &kv_lengths).input("block_table", &tables);
        let ints = [
            ("num_heads", heads),
            ("num_key_value_heads", sizes.groups),
            ("block_size", sizes.block_size),
            // The mask is that of the last queries; the other modes take none.
            ("sparse_mode", if masked.is_some() { 3 } else { 0 }),
            // Sums in f32.
            ("inner_precise", 0),
        ];
        call = ints.iter().fold(call, |call, &(name, n)| call.attr(name, Attr::Int(n as i64)));
        call = call.attr("scale", Attr::Float(sizes.scale));
        call = call.attr("input_layout", Attr::Str(input_layout));
        call = call.output("attention_out", ty);
        let out = call.output("softmax_lse", TensorType::new(GeDType::F32, vec![0])).first();
        for &cache in &node.inputs[1..3] {
            self.readers.entry(cache).or_default().push(out.clone());
        }
        let out = self.cast(&out, self.plan.ty(node.outputs[0]).dtype);
        let out = self.cut_heads(&out, [num_tokens, heads, sizes.head_size]);
        self.seen_as_result(node, out)
    }

    /// Heads `[t, h, d]` filled up to the size that they have in the cache, under a shape of as many
    /// elements. Zeros add nothing to a score, and what they add to a result is cut off.
    fn padded_heads(&mut self, id: ValueId, shape: Vec<u64>) -> Value {
        let TensorType { dtype, shape: heads } = self.plan.ty(id).clone();
        let missing = kv_layout::head_size(heads[2]) - heads[2];
        if missing == 0 {
            return self.value_as(id, shape);
        }
        let zeros = TensorType::new(dtype, vec![heads[0], heads[1], missing]);
        let num_bytes = heads[0] * heads[1] * missing * dtype.size() as u64;
        let zeros = self.ge.constant(zeros, vec![0; num_bytes as usize]);
        let x = self.value_as(id, heads.clone());
        let call = self.call("ConcatD").input("x0", &x).input("x1", &zeros);
        let call = call.attr("concat_dim", Attr::Int(2)).attr("N", Attr::Int(2));
        let wide = TensorType::new(dtype, vec![heads[0], heads[1], heads[2] + missing]);
        let padded = call.one("y", wide);
        self.reshape(&padded, shape)
    }

    /// The first `d` elements of heads that were filled up: the opposite of the above.
    fn cut_heads(&mut self, x: &Value, [num_tokens, heads, d]: [u64; 3]) -> Value {
        let missing = kv_layout::head_size(d) - d;
        if missing == 0 {
            return x.clone();
        }
        let x = self.reshape(x, vec![num_tokens, heads, d + missing]);
        let part = |size| TensorType::new(x.ty.dtype, vec![num_tokens, heads, size]);
        let call = self.call("SplitVD").input("x", &x);
        let call = call.attr("size_splits", Attr::Ints(vec![d as i64, missing as i64]));
        let call = call.attr("split_dim", Attr::Int(2)).attr("num_split", Attr::Int(2));
        call.output("y0", part(d)).output("y1", part(missing)).first()
    }
}
