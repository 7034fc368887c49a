//! Good graphs that other tests start from.

use ascendcl::ge::graph::DataType;
use ascendcl::ge::proto::Value;

use super::air::{Air, Bf16, Bool, Float, Int32, Int64, int, ints, text};

/// `y = x + c`.
pub(crate) fn add() -> Air {
    let mut air = Air::default();
    air.data("x", 0, Float, &[2, 3]);
    air.constant("c", Float, &[2, 3], &[1, 2, 3, 4, 5, 6]);
    air.node("add", "Add", &[("x1", "x:0"), ("x2", "c:0")], &["y"], &[]);
    air.outputs(&["add:0"]);
    air
}

/// Norm, product, split and activation.
pub(crate) fn mlp() -> Air {
    let mut air = Air::default();
    air.data("x", 0, Bf16, &[8, 64]);
    air.data("gamma", 1, Bf16, &[64]);
    air.data("w", 2, Bf16, &[256, 64]);
    air.node("norm", "RmsNorm", &[("x", "x:0"), ("gamma", "gamma:0")], &["y", "rstd"], &[]);
    let transposed = [("transpose_x2", Value::B(true))];
    air.node("mm", "MatMulV2", &[("x1", "norm:0"), ("x2", "w:0")], &["y"], &transposed);
    let split = [("size_splits", ints(&[128, 128])), ("split_dim", int(1)), ("num_split", int(2))];
    air.node("split", "SplitVD", &[("x", "mm:0")], &["y0", "y1"], &split);
    air.node("act", "SwiGlu", &[("x", "split:1")], &["y"], &[]);
    air.outputs(&["act:0", "split:0"]);
    air
}

/// Sizes of an attention step.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) layout: &'static str,
    pub(crate) dtype: DataType,
    /// Sequences.
    pub(crate) b: i64,
    /// Tokens of each; of all, if packed.
    pub(crate) s: i64,
    pub(crate) heads: i64,
    pub(crate) kv_heads: i64,
    pub(crate) d: i64,
    pub(crate) block_size: i64,
}

pub(crate) const PACKED: Step =
    Step { layout: "TND", dtype: Bf16, b: 3, s: 8, heads: 4, kv_heads: 2, d: 128, block_size: 128 };
pub(crate) const DECODE: Step = Step { layout: "BSH", b: 4, s: 1, d: 64, block_size: 16, ..PACKED };
pub(crate) const PREFILL: Step = Step { layout: "BSH", b: 1, s: 32, d: 64, ..PACKED };

/// Writes keys and values into a cache and attends over it.
pub(crate) fn attention(step: Step) -> Air {
    let Step { layout, dtype, b, s, heads, kv_heads, d, block_size } = step;
    let (is_packed, is_decode) = (layout == "TND", s == 1);
    let tokens = if is_packed { s } else { b * s };
    let row = kv_heads * d;
    let mut air = Air::default();
    let query = if is_packed { vec![s, heads, d] } else { vec![b, s, heads * d] };
    air.data("q", 0, dtype, &query);
    air.data("k", 1, dtype, &[tokens, row]);
    air.data("slots", 2, Int32, &[tokens, 2]);
    air.data("table", 3, Int32, &[b, 4]);
    air.data("kv_len", 4, Int64, &[b]);
    air.data("q_len", 5, Int64, &[b]);
    air.data("mask", 6, Bool, &[2048, 2048]);
    air.ref_data("k_cache", 7, dtype, &[9, block_size, row]);
    air.ref_data("v_cache", 8, dtype, &[9, block_size, row]);
    for cache in ["k", "v"] {
        let var = format!("{cache}_cache:0");
        let inputs = [("var", var.as_str()), ("indices", "slots:0"), ("updates", "k:0")];
        air.node(&format!("{cache}_upd"), "ScatterNdUpdate", &inputs, &["var"], &[]);
    }
    let mut inputs = vec![("query", "q:0"), ("key0", "k_upd:0"), ("value0", "v_upd:0")];
    if !is_decode {
        inputs.extend([("atten_mask", "mask:0"), ("actual_seq_lengths", "q_len:0")]);
    }
    inputs.extend([("actual_seq_lengths_kv", "kv_len:0"), ("block_table", "table:0")]);
    let attrs = [
        ("num_heads", int(heads)),
        ("num_key_value_heads", int(kv_heads)),
        ("scale", Value::F(0.125)),
        ("input_layout", text(layout)),
        ("sparse_mode", int(if is_decode { 0 } else { 3 })),
        ("block_size", int(block_size)),
    ];
    let outputs = ["attention_out", "softmax_lse"];
    air.node("fia", "FusedInferAttentionScore", &inputs, &outputs, &attrs);
    air.outputs(&["fia:0"]);
    air
}
