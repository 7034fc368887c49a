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
use super::super::ge_graph::{Attr, Call, TensorType};
use super::emit::{Emitter, View};
use super::layout::Attention;
use crate::ir::Node;

impl Emitter<'_> {
    pub(super) fn kv_write(&mut self, node: &Node) -> View {
        let (x, cache, slots) = (node.inputs[0], node.inputs[1], node.inputs[2]);
        let shape = &self.plan.ty(x).shape;
        let rows = vec![shape[0], shape[1] * shape[2]];
        let (cache_value, slots) = (self.base(cache), self.base(slots));
        let rows = self.value_as(x, rows);
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
        let (num_tokens, heads, head_size) = (sizes.num_tokens, sizes.heads, sizes.head_size);
        let layout = self.plan.layout;
        let (shape, input_layout) = match layout {
            StepLayout::Packed => (vec![num_tokens, heads, head_size], "TND"),
            StepLayout::Prefill => (vec![1, num_tokens, heads * head_size], "BSH"),
            StepLayout::Decode | StepLayout::Free => {
                (vec![num_tokens, 1, heads * head_size], "BSH")
            }
        };
        let ty = TensorType::new(sizes.cache_dtype, shape.clone());
        let query = self.value_as(node.inputs[0], shape);
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
        self.seen_as_result(node, out)
    }
}
