//! Limits of kernels that only their documents state, and shapes that do not fit.

use ascendcl::ge::proto::Value;

use super::air::{Air, Bf16, Float, Float16, Int32, Int64, OLD, desc, int, ints, text};
use super::models::{DECODE, PACKED, PREFILL, Step, attention, mlp};

const STRICT: &str = "E19998";
const INFER: &str = "EZ9999";

fn retype(air: &mut Air, op: &str, dtype: super::air::Dtype, shape: &[i64]) {
    let op = air.op(op);
    op.input_desc[0] = desc(dtype, shape);
    op.output_desc[0] = desc(dtype, shape);
}

#[test]
fn attention_block_sizes() {
    attention(Step { block_size: 24, ..DECODE }).refused(STRICT, "block_size 24");
    attention(Step { block_size: 1024, ..DECODE }).refused(STRICT, "block_size 1024");
    attention(Step { block_size: 64, ..PREFILL }).refused(STRICT, "block_size 64");
    attention(Step { block_size: 256, ..PACKED }).refused(STRICT, "block_size 256");
    attention(Step { block_size: 512, ..PACKED }).prepare().unwrap();
    attention(DECODE).broken(STRICT, "block_size is not 16", |air| {
        set(air, "block_size", int(32));
    });
}

fn set(air: &mut Air, name: &str, value: Value) {
    let attr = ascendcl::ge::proto::AttrDef::of(value);
    air.op("fia").attr.insert(name.to_owned(), attr);
}

#[test]
fn attention_heads() {
    attention(Step { d: 72, ..DECODE }).refused(STRICT, "D is 72");
    attention(Step { kv_heads: 3, ..DECODE }).refused(STRICT, "no multiple of");
    attention(Step { heads: 512, kv_heads: 512, d: 128, ..DECODE }).refused(STRICT, "65535");
    attention(DECODE).broken(INFER, "not of layout", |air| set(air, "num_heads", int(6)));
    attention(DECODE).broken(INFER, "Invalid input layout: SBH", |air| {
        set(air, "input_layout", text("SBH"));
    });
}

#[test]
fn packed_attention() {
    attention(Step { d: 64, ..PACKED }).refused(STRICT, "bf16 with D = 128");
    attention(Step { dtype: Float16, ..PACKED }).refused(STRICT, "bf16 with D = 128");
    let error = attention(PACKED).on(&OLD).unwrap_err();
    assert!(error.to_string().contains("needs CANN 9.0"), "{error}");
    attention(PACKED).broken(STRICT, "needs actual_seq_lengths", |air| {
        let op = air.op("fia");
        op.input.remove(4);
        op.input_desc.remove(4);
        let names =
            ["query", "key0", "value0", "atten_mask", "actual_seq_lengths_kv", "block_table"];
        super::air::set_names(op, "input", &names);
    });
}

#[test]
fn attention_masks() {
    attention(PREFILL).broken(STRICT, "expected [2048,2048]", |air| {
        retype(air, "mask", super::air::Bool, &[32, 32]);
    });
    attention(PREFILL).broken(STRICT, "with sparse_mode 0", |air| {
        set(air, "sparse_mode", int(0));
    });
    attention(DECODE).broken(STRICT, "sparse_mode 3", |air| set(air, "sparse_mode", int(3)));
    // A mask of bytes does not go with bf16.
    attention(PREFILL).broken(STRICT, "no kernel of the 910B", |air| {
        retype(air, "mask", ascendcl::ge::graph::DataType::Uint8, &[2048, 2048]);
    });
    let mut half = attention(Step { dtype: Float16, ..PREFILL });
    retype(&mut half, "mask", ascendcl::ge::graph::DataType::Uint8, &[2048, 2048]);
    half.prepare().unwrap();
}

#[test]
fn attention_lengths_and_tables() {
    attention(DECODE).broken(STRICT, "expected int64[4]", |air| {
        retype(air, "kv_len", Int64, &[3]);
    });
    attention(DECODE).broken(STRICT, "actual_seq_lengths_kv is int32", |air| {
        retype(air, "kv_len", Int32, &[4]);
    });
    attention(DECODE).broken(STRICT, "expected int32 with 4 rows", |air| {
        retype(air, "table", Int32, &[16]);
    });
    attention(DECODE).broken(STRICT, "needs actual_seq_lengths_kv", |air| {
        let op = air.op("fia");
        op.input.remove(3);
        op.input_desc.remove(3);
        super::air::set_names(op, "input", &["query", "key0", "value0", "block_table"]);
    });
    attention(DECODE).broken(STRICT, "without block_table", |air| {
        let op = air.op("fia");
        op.input.pop();
        op.input_desc.pop();
        let names = ["query", "key0", "value0", "actual_seq_lengths_kv"];
        super::air::set_names(op, "input", &names);
    });
}

#[test]
fn scatter_shapes() {
    attention(DECODE).broken(INFER, "updates", |air| retype(air, "k", Bf16, &[3, 128]));
    attention(DECODE).broken(INFER, "deeper", |air| retype(air, "slots", Int32, &[4, 4]));
}

#[test]
fn products() {
    mlp().broken(INFER, "k-axis of a(64) and b(256)", |air| {
        let attr = ascendcl::ge::proto::AttrDef::of(Value::B(false));
        air.op("mm").attr.insert("transpose_x2".to_owned(), attr);
    });
    mlp().broken(STRICT, "a product of", |air| retype(air, "w", Float16, &[256, 64]));
    let with_bias = |dtype| {
        let mut air = mlp();
        air.data("bias", 3, dtype, &[256]);
        let op = air.op("mm");
        op.input.push("bias:0".to_owned());
        op.input_desc.push(super::air::desc(dtype, &[256]));
        super::air::set_names(op, "input", &["x1", "x2", "bias"]);
        air
    };
    with_bias(Bf16).refused(STRICT, "bias bf16[256]");
    with_bias(Float).prepare().unwrap();
    mlp().broken(INFER, "does not end the shape", |air| retype(air, "gamma", Bf16, &[32]));
}

/// A graph of one node over `x`.
fn one(op: &str, x: (super::air::Dtype, &[i64]), attrs: &[(&str, Value)], outputs: &[&str]) -> Air {
    let mut air = Air::default();
    air.data("x", 0, x.0, x.1);
    air.node("n", op, &[("x", "x:0")], outputs, attrs);
    air.outputs(&["n:0"]);
    air
}

#[test]
fn shapes_that_do_not_fit() {
    let x = (Float, &[4, 9][..]);
    one("SwiGlu", x, &[], &["y"]).refused(INFER, "is odd");
    let split = |sizes: &[i64], count| {
        [("size_splits", ints(sizes)), ("split_dim", int(1)), ("num_split", int(count))]
    };
    one("SplitVD", x, &split(&[4, 4], 2), &["y0", "y1"]).refused(INFER, "do not add up");
    one("SplitVD", x, &split(&[4, 5], 3), &["y0", "y1"]).refused(INFER, "num_split is 3");
    one("SplitVD", x, &split(&[i64::MAX, i64::MAX], 2), &["y0", "y1"]).refused(INFER, "add up");
    let slice = [("offsets", ints(&[0, 8])), ("size", ints(&[4, 2]))];
    one("SliceD", x, &slice, &["y"]).refused(INFER, "leave axis 1");
    one("SoftmaxV2", x, &[("axes", ints(&[2]))], &["y"]).refused(INFER, "out of range");
    one("Cast", x, &[("dst_type", int(99))], &["y"]).refused(INFER, "no type");
    one("Cast", (super::air::Bool, &[4][..]), &[("dst_type", int(6))], &["y"])
        .refused(STRICT, "no kernel of the 910B");
    for (values, words) in
        [(&[5, -1][..], "cannot take"), (&[-1, -1], "several"), (&[0, 36], "size of 0")]
    {
        let mut air = one("Exp", x, &[], &["y"]);
        air.constant("s", Int64, &[2], values);
        air.node("r", "Reshape", &[("x", "n:0"), ("shape", "s:0")], &["y"], &[]);
        "r:0".clone_into(&mut air.op("NetOutput").input[0]);
        let code = if words == "size of 0" { STRICT } else { INFER };
        air.refused(code, words);
    }
    let mut air = one("Exp", x, &[], &["y"]);
    air.data("z", 1, Float, &[3]);
    air.node("a", "Add", &[("x1", "n:0"), ("x2", "z:0")], &["y"], &[]);
    "a:0".clone_into(&mut air.op("NetOutput").input[0]);
    air.refused(INFER, "cannot be broadcast");
}

#[test]
fn rotations() {
    let rope = |op: &str, names: [&str; 3], x: &[i64], table: &[i64]| {
        let mut air = Air::default();
        air.data("x", 0, Bf16, x);
        air.data("t", 1, Bf16, table);
        let inputs = [(names[0], "x:0"), (names[1], "t:0"), (names[2], "t:0")];
        air.node("n", op, &inputs, &["y"], &[]);
        air.outputs(&["n:0"]);
        air
    };
    let mul = |x: &[i64], table: &[i64]| rope("RotaryMul", ["x", "r1", "r2"], x, table);
    mul(&[1, 2000, 4, 64], &[1, 2000, 1, 64]).prepare().unwrap();
    mul(&[1, 8, 4, 96], &[1, 8, 1, 96]).refused(STRICT, "no multiple of 64");
    mul(&[8, 4, 64], &[8, 1, 64]).refused(STRICT, "rank 4");
    mul(&[2000, 1, 4, 64], &[2000, 1, 1, 64]).refused(STRICT, "below 1000");
    mul(&[1, 8, 4, 64], &[1, 7, 1, 64]).refused(INFER, "cannot be broadcast");
    let names = ["x", "cos", "sin"];
    let position = |x: &[i64], t: &[i64]| rope("RotaryPositionEmbedding", names, x, t);
    position(&[1, 8, 4, 96], &[1, 8, 1, 96]).prepare().unwrap();
    position(&[1, 8, 4, 15], &[1, 8, 1, 15]).refused(STRICT, "must be even");
}
