//! What a decoder layer becomes.

use super::layer::{DECODE, LAYER, Layer, MIXED, PREFILL, decoder_layer, lowered, optimised};
use super::{dims, kinds, node, over_x, refusal, targets};
use crate::backend::Batching;
use crate::backend::ascend::artifact::{InputSpec, Role, StepLayout};
use crate::backend::ascend::dtype::GeDType;
use crate::backend::ascend::lower::{Lowered, batching, text};
use crate::backend::ascend::proto::AttrValue;
use crate::ir::{DType, RopeStyle};

#[test]
fn a_decoder_layer_in_decode_becomes_this() {
    insta::assert_snapshot!(text(&lowered(LAYER, DECODE, &targets()[1])));
}

#[test]
fn a_decoder_layer_in_prefill_becomes_this() {
    insta::assert_snapshot!(text(&lowered(LAYER, PREFILL, &targets()[1])));
}

#[test]
fn a_decoder_layer_with_packed_sequences_becomes_this() {
    let layer = Layer { head_size: 128, ..LAYER };
    insta::assert_snapshot!(text(&lowered(layer, MIXED, &targets()[0])));
}

#[test]
fn inputs_have_roles_by_their_use_and_lie_before_weights_and_states() {
    let spec = |name: &str, dtype, shape: &[u64], role| InputSpec {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        role,
    };
    let slots = |input| Role::Slots { input, block_size: 128, dump_block: 16 };
    let tables = |input| Role::BlockTables { input, block_size: 128, dump_block: 16 };
    let (i32s, i64s) = (GeDType::I32, GeDType::I64);

    let decode = lowered(LAYER, DECODE, &targets()[1]).io;
    assert_eq!(decode.layout, StepLayout::Decode);
    let expected = [
        spec("input_0", i32s, &[8], Role::Ids { input: 0, num_rows: 100 }),
        spec("input_1", i32s, &[8], Role::Ids { input: 1, num_rows: 64 }),
        spec("input_2", i32s, &[8, 2], slots(2)),
        spec("input_3", i32s, &[8, 4], tables(3)),
        spec("input_5", i64s, &[8], Role::KvLengths { input: 5 }),
        spec("input_6", i32s, &[8], Role::Ids { input: 6, num_rows: 8 }),
        spec("weight_0", GeDType::BF16, &[100, 32], Role::Weight { index: 0 }),
    ];
    assert_eq!(decode.inputs[..7], expected);
    let roles = decode.inputs.iter().map(|input| input.role);
    let states: Vec<_> = roles.skip_while(|role| !matches!(role, Role::State { .. })).collect();
    assert_eq!(states, [Role::State { index: 0 }, Role::State { index: 1 }]);
    let state = decode.inputs.last().unwrap();
    assert_eq!((state.name.as_str(), state.shape.as_slice()), ("state_1", &[17, 128, 128][..]));

    let prefill = lowered(LAYER, PREFILL, &targets()[1]).io;
    assert_eq!(prefill.layout, StepLayout::Prefill);
    let expected = [
        spec("input_2", i32s, &[256, 2], slots(2)),
        spec("input_3", i32s, &[1, 4], tables(3)),
        spec("input_4", i64s, &[1], Role::QueryLengths { input: 4 }),
        spec("input_5", i64s, &[1], Role::KvLengths { input: 5 }),
        spec("input_6", i32s, &[1], Role::Ids { input: 6, num_rows: 256 }),
        spec("causal_mask", GeDType::Bool, &[2048, 2048], Role::CausalMask),
    ];
    assert_eq!(prefill.inputs[2..8], expected);

    let packed = Layer { head_size: 128, ..LAYER };
    let mixed = lowered(packed, MIXED, &targets()[0]).io;
    assert_eq!(mixed.layout, StepLayout::Packed);
    let expected = [
        spec("input_2", i32s, &[256, 2], slots(2)),
        // 256 tokens of padding are two blocks.
        spec("input_3", i32s, &[9, 2], tables(3)),
        spec("input_4", i64s, &[9], Role::QueryLengths { input: 4 }),
        spec("input_5", i64s, &[9], Role::KvLengths { input: 5 }),
    ];
    assert_eq!(mixed.inputs[2..6], expected);
    for sizes in [DECODE, PREFILL] {
        assert_eq!(lowered(packed, sizes, &targets()[0]).io.layout, StepLayout::Packed);
    }
}

#[test]
fn names_of_values_change_no_byte() {
    let target = &targets()[1];
    let renamed = Layer { prefix: "other.", ..LAYER };
    let [a, b] = [LAYER, renamed].map(|layer| lowered(layer, DECODE, target));
    assert_eq!(a.air(), b.air());
    assert_eq!(a.io, b.io);
    let larger = lowered(LAYER, [16, 16, 4, 16, 8], target);
    assert_ne!(a.air(), larger.air());
}

#[test]
fn only_graphs_whose_attention_packs_run_ragged() {
    let [new, old] = targets();
    let of = |layer, target| batching(&decoder_layer(layer), target);
    let packed = Layer { head_size: 128, ..LAYER };
    assert_eq!(of(packed, &new), Batching::Ragged);
    assert_eq!(of(packed, &old), Batching::Separate);
    assert_eq!(of(LAYER, &new), Batching::Separate);
    assert_eq!(of(Layer { cache: DType::F16, ..packed }, &new), Batching::Separate);
    assert_eq!(of(Layer { block_size: 256, ..packed }, &new), Batching::Separate);
    let graph = over_x(&[3, 5], |_, x| Ok(x));
    assert_eq!(batching(&graph, &old), Batching::Ragged);
}

#[test]
fn the_query_takes_the_type_of_the_cache_and_its_result_is_cast_back() {
    let layer = Layer { dtype: DType::F16, norms: DType::F16, ..LAYER };
    let lowered = lowered(layer, DECODE, &targets()[1]);
    let fia = node(&lowered, "FusedInferAttentionScore");
    assert_eq!(fia.input_desc[0].dtype, GeDType::BF16.proto());
    // k, v, q, the result, the logits.
    let casts = kinds(&lowered).iter().filter(|&&op| op == "Cast").count();
    assert_eq!(casts, 5);
}

#[test]
fn rope_takes_the_operator_that_knows_its_style_and_size() {
    let of = |layer| lowered(layer, DECODE, &targets()[1]);
    let mode = |lowered: &Lowered| {
        node(lowered, "RotaryPositionEmbedding").attr["mode"].value.clone().unwrap()
    };
    assert!(kinds(&of(LAYER)).contains(&"RotaryMul"));
    assert_eq!(mode(&of(Layer { head_size: 80, ..LAYER })), AttrValue::I(0));
    let interleaved = of(Layer { style: RopeStyle::Interleaved, ..LAYER });
    assert_eq!(mode(&interleaved), AttrValue::I(1));
    let concat = node(&interleaved, "ConcatD");
    assert_eq!(dims(concat, 0), [8, 32, 2]);
    assert_eq!(concat.attr["concat_dim"].value, Some(AttrValue::I(2)));
    // One for the cosines and one for the sines.
    for lowered in [of(LAYER), interleaved] {
        assert_eq!(kinds(&lowered).iter().filter(|&&op| op == "ConcatD").count(), 2);
    }
}

#[test]
fn norms_take_weights_of_their_own_type_or_f32() {
    let of = |norms| lowered(Layer { norms, ..LAYER }, DECODE, &targets()[1]);
    let count =
        |lowered: &Lowered, name: &str| kinds(lowered).iter().filter(|&&op| op == name).count();
    let same = of(DType::BF16);
    assert_eq!((count(&same, "AddRmsNorm"), count(&same, "Add")), (2, 0));
    let wider = of(DType::F32);
    assert_eq!((count(&wider, "AddRmsNorm"), count(&wider, "Add")), (0, 2));
    assert_eq!(dims(node(&same, "AddRmsNorm"), 1), [8, 1]);
    let what = refusal(
        optimised(Layer { norms: DType::F16, ..LAYER }, DECODE).into_inner(),
        &targets()[1],
    );
    assert!(what.contains("rms_norm of bfloat16 by weights in float16"), "{what}");
}
