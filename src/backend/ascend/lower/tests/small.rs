//! What single ops become.

use super::layer::{DECODE, LAYER, lowered};
use super::{accepted, dims, kinds, kinds_over_x, node, nodes, over_x, shaped, targets};
use crate::backend::ascend::artifact::OutputRole;
use crate::backend::ascend::dtype::GeDType;
use crate::backend::ascend::lower::Lowered;
use crate::backend::ascend::proto::{AttrValue, OpDef};
use crate::ir::{Builder, Constant, DType, Graph, Op, Shape};

#[test]
fn outputs_are_the_result_and_the_largest_of_each_row() {
    let io = lowered(LAYER, DECODE, &targets()[1]).io;
    let outputs: Vec<_> =
        io.outputs.iter().map(|output| (output.role, output.dtype, output.shape.clone())).collect();
    let expected = [
        (OutputRole::Result, GeDType::F32, vec![8, 100]),
        (OutputRole::Argmax, GeDType::I32, vec![8]),
        (OutputRole::TopValues, GeDType::F32, vec![8, 64]),
        (OutputRole::TopIndices, GeDType::I32, vec![8, 64]),
    ];
    assert_eq!(outputs, expected);

    let vector = accepted(over_x(&[3, 5], |b, x| b.op("", shaped(&[15]), &[x])), &targets()[0]);
    assert_eq!(vector.io.outputs.len(), 1);
    let narrow = accepted(over_x(&[3, 5], |_, x| Ok(x)), &targets()[0]);
    assert_eq!(narrow.io.outputs[2].shape, [3, 5]);
    let k = nodes(&narrow).iter().find(|node| node.name == node_of_k(&narrow)).unwrap();
    let Some(AttrValue::T(k)) = &k.attr["value"].value else { panic!("no tensor") };
    assert_eq!(k.data, 5_i32.to_le_bytes());
}

fn node_of_k(lowered: &Lowered) -> &str {
    node(lowered, "TopKV2").input[1].strip_suffix(":0").unwrap()
}

#[test]
fn halves_become_one_operator_and_other_slices_a_split() {
    let slice = |b: &mut Builder, x, start, len| b.op("", Op::Slice { start, len }, &[x]);
    let halves = |b: &mut Builder, x| {
        let (gate, up) = (slice(b, x, 0, 4)?, slice(b, x, 4, 4)?);
        b.op("", Op::SiluMul, &[gate, up])
    };
    assert_eq!(kinds_over_x(&[3, 8], halves), ["SwiGlu"]);
    let swapped = |b: &mut Builder, x| {
        let (gate, up) = (slice(b, x, 4, 4)?, slice(b, x, 0, 4)?);
        b.op("", Op::SiluMul, &[gate, up])
    };
    assert_eq!(kinds_over_x(&[3, 8], swapped), ["SplitVD", "Swish", "Mul"]);
    let also_used = |b: &mut Builder, x| {
        let (gate, up) = (slice(b, x, 0, 4)?, slice(b, x, 4, 4)?);
        let y = b.op("", Op::SiluMul, &[gate, up])?;
        b.op("", Op::Add, &[y, up])
    };
    assert_eq!(kinds_over_x(&[3, 8], also_used), ["SplitVD", "SwiGlu", "Add"]);
    let whole = |b: &mut Builder, x| {
        let same = slice(b, x, 0, 8)?;
        b.op("", Op::Silu, &[same])
    };
    assert_eq!(kinds_over_x(&[3, 8], whole), ["Swish"]);
    let overlapping = |b: &mut Builder, x| {
        let (a, c) = (slice(b, x, 0, 4)?, slice(b, x, 2, 4)?);
        b.op("", Op::Add, &[a, c])
    };
    assert_eq!(kinds_over_x(&[3, 8], overlapping), ["SplitVD", "SplitVD", "Add"]);
}

#[test]
fn reshapes_are_written_only_where_an_operator_needs_one() {
    let unseen = |b: &mut Builder, x| {
        let y = b.op("", shaped(&[2, 12]), &[x])?;
        let y = b.op("", shaped(&[4, 6]), &[y])?;
        let y = b.op("", Op::Silu, &[y])?;
        b.op("", shaped(&[24]), &[y])
    };
    assert_eq!(kinds_over_x(&[4, 6], unseen), ["Swish", "Reshape"]);
    let of_rank_3 = |b: &mut Builder, x| {
        let w = b.weight("w", DType::F32, Shape::fixed(&[5, 4]));
        b.op("", Op::Linear, &[x, w])
    };
    assert_eq!(kinds_over_x(&[2, 3, 4], of_rank_3), ["Reshape", "MatMulV2", "Reshape"]);
}

#[test]
fn constants_and_broadcasting_stay_as_they_are() {
    let make = |b: &mut Builder, x| {
        let half = b.constant("half", Constant { shape: vec![], values: vec![0.5] });
        let y = b.op("", Op::Mul, &[x, half])?;
        b.op("", Op::Add, &[y, half])
    };
    let lowered = accepted(over_x(&[3, 5], make), &targets()[0]);
    assert_eq!(kinds(&lowered)[..2], ["Mul", "Add"]);
    let constant = node(&lowered, "Const");
    assert_eq!(node(&lowered, "Mul").input[1], format!("{}:0", constant.name));
    assert_eq!(dims(constant, 0), [0_i64; 0]);
}

/// Attention over a cache that it reads before it is written, with everything an input.
fn read_before_written() -> Graph {
    let mut b = Builder::new("read, then written");
    let dims = |dims: &[usize]| Shape::fixed(dims);
    let ids = b.input("ids", DType::I32, dims(&[8]));
    let table = b.weight("table", DType::BF16, dims(&[10, 128]));
    let x = b.op("x", Op::Gather { dtype: DType::BF16 }, &[table, ids]).unwrap();
    let x = b.op("x", shaped(&[8, 2, 64]), &[x]).unwrap();
    let cache = b.state("cache", DType::BF16, dims(&[4, 128, 2, 64]));
    let inputs = [("tables", &[8, 2][..]), ("ends", &[8]), ("lens", &[8]), ("slots", &[8])];
    let [tables, ends, lens, slots] =
        inputs.map(|(name, shape)| b.input(name, DType::I32, dims(shape)));
    let attention = Op::PagedAttention { scale: 0.125, window: Some(256) };
    let y = b.op("y", attention, &[x, cache, cache, tables, ends, lens]).unwrap();
    let _ = b.op("cache", Op::KvWrite, &[x, cache, slots]).unwrap();
    b.finish(&[y])
}

#[test]
fn a_cache_that_is_read_before_it_is_written_is_ordered() {
    let lowered = accepted(read_before_written(), &targets()[1]);
    let attention = node(&lowered, "FusedInferAttentionScore");
    let write = node(&lowered, "ScatterNdUpdate");
    let edge = |node: &OpDef| format!("{}:-1", node.name);
    // Once, although it is both key and value.
    assert_eq!(write.input[3..], [edge(attention)]);
    assert_eq!(nodes(&lowered).last().unwrap().input.last(), Some(&edge(write)));
}

#[test]
fn what_nothing_needs_is_not_there() {
    let make = |b: &mut Builder, x| {
        let unused = b.weight("unused", DType::F32, Shape::fixed(&[3, 5]));
        b.input("unused", DType::I32, Shape::fixed(&[3]));
        b.state("unused", DType::F32, Shape::fixed(&[3, 5, 1, 1]));
        b.op("", Op::Add, &[unused, unused])?;
        b.op("", Op::Silu, &[x])
    };
    let lowered = accepted(over_x(&[3, 5], make), &targets()[0]);
    assert_eq!(lowered.io.inputs.len(), 1);
    assert_eq!(kinds(&lowered), ["Swish", "ArgMaxV2", "TopKV2"]);
}
