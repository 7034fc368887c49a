//! Operators that move elements, and those that find them.

use ascendcl::ge::graph::{Attr, DataType};

use crate::support::{Value, complaint, f32s, i32s, i64s, run_op};

use DataType::{Float, Float16, Int32, Int64};

fn count(shape: &[usize]) -> Value {
    let values: Vec<i64> = (0..shape.iter().product::<usize>() as i64).collect();
    i32s(shape, &values)
}

fn list(values: &[i64]) -> Attr {
    Attr::ListInt(values.to_vec())
}

#[test]
fn gather_takes_slices_along_an_axis() {
    let run = |indices: Value, axis, shape: &[usize]| {
        let inputs = [("x", count(&[3, 4])), ("indices", indices), ("axis", i64s(&[], &[axis]))];
        run_op("GatherV2", &inputs, &[], &[(Int32, shape)]).unwrap()[0].numbers()
    };
    let rows = run(i32s(&[2], &[2, 0]), 0, &[2, 4]);
    assert_eq!(rows, [8.0, 9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 3.0]);
    let columns = run(i64s(&[1, 2], &[3, 3]), -1, &[3, 1, 2]);
    assert_eq!(columns, [3.0, 3.0, 7.0, 7.0, 11.0, 11.0]);
}

#[test]
fn gathering_outside_the_table_is_an_exception() {
    for (index, counts_from_end, fails) in
        [(3, false, true), (-1, false, true), (-1, true, false), (-4, true, true)]
    {
        let inputs =
            [("x", count(&[3, 2])), ("indices", i32s(&[1], &[index])), ("axis", i32s(&[1], &[0]))];
        let attrs = [("negative_index_support", Attr::Bool(counts_from_end))];
        let got = run_op("GatherV2", &inputs, &attrs, &[(Int32, &[1, 2])]);
        assert_eq!(got.is_err(), fails, "{index} {counts_from_end}");
        match got {
            Err(error) => assert_eq!(
                error.to_string(),
                format!("n3_GatherV2 (GatherV2): index {index} out of range: axis 0 has 3")
            ),
            Ok(rows) => assert_eq!(rows[0].numbers(), [4.0, 5.0]),
        }
    }
}

#[test]
fn splits_and_concatenations_undo_each_other() {
    for (axis, parts) in [(0_i64, [[1_usize, 6], [1, 6]]), (-1, [[2, 4], [2, 2]])] {
        let x = count(&[2, 6]);
        let along = usize::from(axis != 0);
        let sizes = parts.map(|shape| shape[along] as i64);
        let outputs: [(DataType, &[usize]); 2] = [(Int32, &parts[0]), (Int32, &parts[1])];
        let attrs = [
            ("size_splits", list(&sizes)),
            ("split_dim", Attr::Int(axis)),
            ("num_split", Attr::Int(2)),
        ];
        let split = run_op("SplitVD", &[("x", x.clone())], &attrs, &outputs).unwrap();
        let inputs = [
            ("x", x.clone()),
            ("size_splits", i64s(&[2], &[sizes[0], -1])),
            ("split_dim", i32s(&[], &[axis])),
        ];
        assert_eq!(run_op("SplitV", &inputs, &attrs[2..], &outputs).unwrap(), split);

        let [first, second] = split.try_into().unwrap();
        let inputs = [("x0", first), ("x1", second), ("concat_dim", i32s(&[], &[axis]))];
        let attrs = [("concat_dim", Attr::Int(axis)), ("N", Attr::Int(2))];
        let joined = run_op("ConcatD", &inputs[..2], &attrs, &[(Int32, &[2, 6])]).unwrap();
        assert_eq!(joined[0], x);
        let joined = run_op("ConcatV2", &inputs, &attrs[1..], &[(Int32, &[2, 6])]).unwrap();
        assert_eq!(joined, [x]);
    }
}

#[test]
fn sizes_that_do_not_make_up_the_axis_are_an_exception() {
    for sizes in [[3, 2], [7, -1], [i64::MAX, i64::MAX]] {
        let attrs = [("size_splits", list(&sizes)), ("split_dim", Attr::Int(1))];
        let outputs: [(DataType, &[usize]); 2] = [(Int32, &[2, 3]), (Int32, &[2, 3])];
        let what = complaint("SplitVD", &[("x", count(&[2, 6]))], &attrs, &outputs);
        assert!(what.contains("size_splits"), "{what}");
    }
}

#[test]
fn transpose_permutes_axes() {
    let inputs = [("x", count(&[2, 3, 2])), ("perm", i64s(&[3], &[2, 0, 1]))];
    let y = run_op("Transpose", &inputs, &[], &[(Int32, &[2, 2, 3])]).unwrap();
    let expected = [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11].map(f64::from);
    assert_eq!(y[0].numbers(), expected);
    let inputs = [("x", count(&[2, 3])), ("perm", i64s(&[2], &[1, 1]))];
    assert!(complaint("Transpose", &inputs, &[], &[(Int32, &[3, 3])]).contains("permutation"));
}

#[test]
fn slices_lie_within_their_tensor() {
    let attrs = |offsets: &[i64], size: &[i64]| [("offsets", list(offsets)), ("size", list(size))];
    let x = [("x", count(&[3, 4]))];
    let y = run_op("SliceD", &x, &attrs(&[1, 2], &[-1, 2]), &[(Int32, &[2, 2])]).unwrap();
    assert_eq!(y[0].numbers(), [6.0, 7.0, 10.0, 11.0]);
    for (offsets, size) in [([0, 3], [1, 2]), ([-1, 0], [1, 1]), ([4, 0], [-1, 1])] {
        complaint("SliceD", &x, &attrs(&offsets, &size), &[(Int32, &[1, 2])]);
    }
}

#[test]
fn strided_slices_follow_their_masks() {
    let run = |bounds: [[i64; 2]; 3], masks: [i64; 3], shape: &[usize]| {
        let [begin, end, strides] = bounds.map(|values| i64s(&[2], &values));
        let inputs = [("x", count(&[3, 4])), ("begin", begin), ("end", end), ("strides", strides)];
        let names = ["begin_mask", "end_mask", "shrink_axis_mask"];
        let attrs: Vec<_> =
            names.iter().zip(masks).map(|(name, mask)| (*name, Attr::Int(mask))).collect();
        run_op("StridedSlice", &inputs, &attrs, &[(Int32, shape)]).unwrap()[0].numbers()
    };
    let y = run([[1, 0], [3, 4], [1, 3]], [0, 0, 0], &[2, 2]);
    assert_eq!(y, [4.0, 7.0, 8.0, 11.0]);
    let y = run([[0, -1], [9, -3], [2, -1]], [0, 0, 0], &[2, 2]);
    assert_eq!(y, [3.0, 2.0, 11.0, 10.0]);
    let y = run([[-1, 2], [0, 0], [1, 1]], [0, 2, 1], &[2]);
    assert_eq!(y, [10.0, 11.0]);
    let y = run([[5, 1], [5, 2], [-1, 1]], [1, 1, 0], &[3, 1]);
    assert_eq!(y, [9.0, 5.0, 1.0]);
    assert_eq!(run([[2, 0], [1, 4], [1, i64::MIN]], [0, 0, 0], &[0, 0]), [0.0; 0]);
}

#[test]
fn arg_max_is_the_first_of_the_largest() {
    let x = f32s(&[2, 4], &[1.0, 3.0, 3.0, -1.0, -5.0, -5.0, -5.0, -5.0]);
    let run = |dimension, dtype, shape: &[usize]| {
        let inputs = [("x", x.clone()), ("dimension", i32s(&[], &[dimension]))];
        run_op("ArgMaxV2", &inputs, &[], &[(dtype, shape)]).unwrap()
    };
    assert_eq!(run(-1, Int32, &[2]), [i32s(&[2], &[1, 0])]);
    assert_eq!(run(0, Int64, &[4]), [i64s(&[4], &[0, 0, 0, 0])]);
}

#[test]
fn top_k_is_sorted_and_takes_equals_last_first() {
    let x = Value::floats(Float16, &[2, 5], &[1.0, 4.0, 4.0, -2.0, 4.0, 0.0, -0.0, 9.0, 0.0, -1.0]);
    let run = |k, is_largest: bool, width: usize| {
        let inputs = [("x", x.clone()), ("k", i32s(&[], &[k]))];
        let attrs = [("largest", Attr::Bool(is_largest)), ("sorted", Attr::Bool(true))];
        let outputs: [(DataType, &[usize]); 2] = [(Float16, &[2, width]), (Int32, &[2, width])];
        let got = run_op("TopKV2", &inputs, &attrs, &outputs).unwrap();
        [got[0].numbers(), got[1].numbers()]
    };
    let [values, indices] = run(2, true, 2);
    assert_eq!(values, [4.0, 4.0, 9.0, 0.0]);
    assert_eq!(indices, [4.0, 2.0, 2.0, 3.0]);
    let [values, indices] = run(2, false, 2);
    assert_eq!(values, [-2.0, 1.0, -1.0, 0.0]);
    assert_eq!(indices, [3.0, 0.0, 4.0, 3.0]);
    let [values, _] = run(5, true, 5);
    assert_eq!(values[..5], [4.0, 4.0, 4.0, 1.0, -2.0]);
    let inputs = [("x", x.clone()), ("k", i32s(&[], &[6]))];
    let outputs: [(DataType, &[usize]); 2] = [(Float16, &[2, 6]), (Int32, &[2, 6])];
    assert!(complaint("TopKV2", &inputs, &[], &outputs).contains('k'));
}

#[test]
fn copies_keep_every_byte() {
    let x = Value::floats(Float, &[3], &[f32::NAN, -0.0, 1.5]);
    for op in ["Identity", "TensorMove"] {
        let y = run_op(op, &[("x", x.clone())], &[], &[(Float, &[3])]).unwrap();
        assert_eq!(y[0].bytes, x.bytes);
    }
}
