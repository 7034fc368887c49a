//! Every rule that a graph can break.

use super::layer::{DECODE, LAYER, Layer, MIXED, decoder_layer, lowered, optimised};
use super::{over_x, refusal, shaped, targets};
use crate::ir::{Builder, DType, Op, RopeStyle, Shape, TypeError, ValueId};

type Make = fn(&mut Builder, ValueId) -> Result<ValueId, TypeError>;

#[test]
fn layers_beyond_the_operators_are_refused_with_the_rule() {
    let [new, old] = targets();
    let packed = Layer { head_size: 128, ..LAYER };
    for (layer, sizes, target, rule) in [
        (LAYER, MIXED, old, "256 tokens of 8 sequences in one step"),
        (LAYER, MIXED, new, "256 tokens of 8 sequences in one step"),
        (Layer { cache: DType::F32, ..LAYER }, DECODE, old, "attention over a float cache"),
        (Layer { block_size: 16, ..LAYER }, DECODE, old, "attention over blocks of 16 tokens"),
        (Layer { block_size: 640, ..LAYER }, DECODE, old, "attention over blocks of 640 tokens"),
        (Layer { head_size: 528, ..LAYER }, DECODE, old, "attention heads of 528"),
        (Layer { head_size: 1024, ..LAYER }, DECODE, old, "attention heads of 1024"),
        (Layer { window: Some(511), ..LAYER }, DECODE, old, "a sliding window of 511 tokens"),
        (packed, [4096, 4096, 4, 16, 1], new, "attention of 4096 tokens of 4096 sequences"),
        (Layer { dtype: DType::F16, ..LAYER }, DECODE, old, "rms_norm of float16 by weights"),
    ] {
        let what = refusal(optimised(layer, sizes).into_inner(), &target);
        assert!(what.contains(rule) && what.contains("(value %"), "{what}");
    }
    // A window that no sequence outgrows changes nothing.
    lowered(Layer { window: Some(512), ..LAYER }, DECODE, &old);
    let open = decoder_layer(LAYER);
    let what = refusal(open, &new);
    assert!(what.contains("it needs static shapes"), "{what}");
}

#[test]
fn graphs_beyond_the_operators_are_refused_with_the_rule() {
    let two_types = |b: &mut Builder, x| {
        let w = b.weight("w", DType::BF16, Shape::fixed(&[5, 4]));
        b.op("linear", Op::Linear, &[x, w])
    };
    let quantised = |b: &mut Builder, x| {
        let w = b.weight("w", DType::Q8_0, Shape::fixed(&[5, 32]));
        b.op("linear", Op::Linear, &[x, w])
    };
    let scalar = |b: &mut Builder, x| {
        let y = b.op("", shaped(&[]), &[x])?;
        b.op("", Op::Silu, &[y])
    };
    let many_heads = |b: &mut Builder, x| {
        let table = b.weight("w", DType::F32, Shape::fixed(&[1, 8]));
        b.op("rotated", Op::Rope { style: RopeStyle::Halves }, &[x, table, table])
    };
    let cases: [(&[usize], Make, &str); 5] = [
        (&[3, 4], two_types, "linear of float by weights in bfloat16"),
        (&[3, 32], quantised, "block-quantised weights, here q8_0"),
        (&[1, 1], scalar, "a reshape to a scalar"),
        (&[1, 1000, 16], many_heads, "rope of 1000 heads of 16"),
        (&[1 << 30, 1 << 20], |b, x| b.op("", Op::Silu, &[x]), "a tensor of the size"),
    ];
    for (dims, make, rule) in cases {
        let what = refusal(over_x(dims, make), &targets()[0]);
        assert!(what.contains(rule), "{what}");
    }
    let mut b = Builder::new("two results");
    let x = b.weight("x", DType::F32, Shape::fixed(&[2]));
    let what = refusal(b.finish(&[x, x]), &targets()[0]);
    assert!(what.contains("a graph of 2 results"), "{what}");
}

/// What refuses a graph whose slots, tables, ends and lengths were changed, given ids that are
/// gathered and a weight.
fn refusal_of_uses(change: fn([ValueId; 4], ValueId, ValueId) -> [ValueId; 4]) -> String {
    let mut b = Builder::new("uses");
    let inputs = [("slots", &[8][..]), ("tables", &[8, 2]), ("ends", &[8]), ("lens", &[8])];
    let inputs = inputs.map(|(name, dims)| b.input(name, DType::I32, Shape::fixed(dims)));
    let ids = b.input("ids", DType::I32, Shape::fixed(&[8]));
    let weight = b.weight("weight", DType::I32, Shape::fixed(&[8]));
    let table = b.weight("table", DType::BF16, Shape::fixed(&[10, 128]));
    let x = b.op("x", Op::Gather { dtype: DType::BF16 }, &[table, ids]).unwrap();
    let x = b.op("x", shaped(&[8, 2, 64]), &[x]).unwrap();
    let [slots, tables, ends, lens] = change(inputs, ids, weight);
    let cache = b.state("cache", DType::BF16, Shape::fixed(&[4, 128, 2, 64]));
    let cache = b.op("cache", Op::KvWrite, &[x, cache, slots]).unwrap();
    let attention = Op::PagedAttention { scale: 0.125, window: None };
    let y = b.op("y", attention, &[x, cache, cache, tables, ends, lens]).unwrap();
    refusal(b.finish(&[y]), &targets()[1])
}

#[test]
fn inputs_with_two_uses_are_refused() {
    let two_ways = "an input that is used in two ways";
    for what in [
        refusal_of_uses(|[_, tables, ends, lens], ids, _| [ids, tables, ends, lens]),
        refusal_of_uses(|[slots, tables, _, lens], _, _| [slots, tables, lens, lens]),
        refusal_of_uses(|[_, tables, ends, lens], _, _| [lens, tables, ends, lens]),
    ] {
        assert!(what.contains(two_ways) && what.contains("(value %"), "{what}");
    }
    let what = refusal_of_uses(|[_, tables, ends, lens], _, weight| [weight, tables, ends, lens]);
    assert!(what.contains("lengths that are not inputs"), "{what}");
}
