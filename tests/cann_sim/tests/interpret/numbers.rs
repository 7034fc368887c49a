//! Operators that compute.

use ascendcl::ge::graph::{Attr, DataType};

use crate::support::{
    FLOATS, Value, assert_close, complaint, f32s, i32s, i64s, noise, rounding, run_op,
};

use DataType::{Bf16, Bool, Float, Float16, Int32, Int64, Uint8};

/// `[m, n]` from `[m, k]` and `[k, n]`.
fn product(x: &[f64], w: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    (0..m * n).map(|at| (0..k).map(|i| x[at / n * k + i] * w[i * n + at % n]).sum()).collect()
}

fn transposed(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..rows * columns).map(|at| values[at % rows * columns + at / rows]).collect()
}

#[test]
fn matrix_products_agree_with_f64_in_every_type_and_layout() {
    for dtype in FLOATS {
        for [m, n, k] in [[1, 1, 1], [1, 7, 19], [3, 10, 8], [5, 33, 40], [2, 4, 0]] {
            for turns in 0..4 {
                let [turn1, turn2] = [turns & 1 == 1, turns & 2 == 2];
                let x1 = noise(1, dtype, &if turn1 { [k, m] } else { [m, k] });
                let x2 = noise(2, dtype, &if turn2 { [n, k] } else { [k, n] });
                let bias = noise(3, dtype, &[n]);
                let plain1 = x1.numbers();
                let plain1 = if turn1 { transposed(&plain1, k, m) } else { plain1 };
                let plain2 = x2.numbers();
                let plain2 = if turn2 { transposed(&plain2, n, k) } else { plain2 };
                let mut expected = product(&plain1, &plain2, [m, n, k]);
                for (at, y) in expected.iter_mut().enumerate() {
                    *y += bias.numbers()[at % n];
                }
                let attrs =
                    [("transpose_x1", Attr::Bool(turn1)), ("transpose_x2", Attr::Bool(turn2))];
                let inputs = [("x1", x1), ("x2", x2), ("bias", bias)];
                let y = run_op("MatMulV2", &inputs, &attrs, &[(dtype, &[m, n])]).unwrap();
                assert_close(&y[0], &expected, rounding(dtype));
            }
        }
    }
}

#[test]
fn a_large_product_on_several_threads_gives_each_row_what_it_gives_alone() {
    let (x, w) = (noise(1, Float16, &[5, 300]), noise(2, Float16, &[1003, 300]));
    let attrs = [("transpose_x2", Attr::Bool(true))];
    let inputs = [("x1", x.clone()), ("x2", w.clone())];
    let all = run_op("MatMulV2", &inputs, &attrs, &[(Float, &[5, 1003])]).unwrap();
    for row in 0..5 {
        let bytes = x.bytes[row * 600..(row + 1) * 600].to_vec();
        let mut one = Value::zeros(Float16, &[1, 300]);
        one.bytes = bytes;
        let inputs = [("x1", one), ("x2", w.clone())];
        let alone = run_op("MatMulV2", &inputs, &attrs, &[(Float, &[1, 1003])]).unwrap();
        assert_eq!(alone[0].bytes, all[0].bytes[row * 4012..(row + 1) * 4012]);
    }
}

#[test]
fn batches_of_matrix_products_broadcast() {
    let (x1, x2) = (noise(1, Float, &[2, 1, 3, 4]), noise(2, Float, &[5, 6, 4]));
    let mut expected = Vec::new();
    for batch in 0..10 {
        let x = &x1.numbers()[batch / 5 * 12..][..12];
        let w = transposed(&x2.numbers()[batch % 5 * 24..][..24], 6, 4);
        expected.extend(product(x, &w, [3, 6, 4]));
    }
    let attrs = [("adj_x2", Attr::Bool(true))];
    let inputs = [("x1", x1), ("x2", x2)];
    let y = run_op("BatchMatMulV2", &inputs, &attrs, &[(Float, &[2, 5, 3, 6])]).unwrap();
    assert_close(&y[0], &expected, rounding(Float));
}

#[test]
fn operands_of_a_product_that_disagree_are_an_exception() {
    let inputs = [("x1", noise(1, Float, &[2, 3])), ("x2", noise(2, Float, &[4, 5]))];
    let what = complaint("MatMulV2", &inputs, &[], &[(Float, &[2, 5])]);
    assert!(what.contains("disagree"), "{what}");
}

#[test]
fn rms_norm_agrees_with_f64() {
    for dtype in FLOATS {
        let (x, gamma) = (noise(1, dtype, &[3, 2, 37]), noise(2, dtype, &[37]));
        let (mut y, mut rstds) = (Vec::new(), Vec::new());
        for row in x.numbers().chunks(37) {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / 37.0;
            let rstd = 1.0 / (mean + 1e-5).sqrt();
            y.extend(row.iter().zip(gamma.numbers()).map(|(x, gamma)| x * rstd * gamma));
            rstds.push(rstd);
        }
        let attrs = [("epsilon", Attr::Float(1e-5))];
        let outputs: [(DataType, &[usize]); 2] = [(dtype, &[3, 2, 37]), (Float, &[3, 2, 1])];
        let got = run_op("RmsNorm", &[("x", x), ("gamma", gamma)], &attrs, &outputs).unwrap();
        assert_close(&got[0], &y, rounding(dtype));
        assert_close(&got[1], &rstds, rounding(Float));
    }
}

#[test]
fn add_rms_norm_is_the_norm_of_the_rounded_sum() {
    for dtype in FLOATS {
        let [x1, x2] = [1, 2].map(|seed| noise(seed, dtype, &[4, 24]));
        let gamma = noise(3, dtype, &[24]);
        let y: &[usize] = &[4, 24];
        let outputs: [(DataType, &[usize]); 3] = [(dtype, y), (Float, &[4, 1]), (dtype, y)];
        let inputs = [("x1", x1.clone()), ("x2", x2.clone()), ("gamma", gamma.clone())];
        let got = run_op("AddRmsNorm", &inputs, &[], &outputs).unwrap();
        let sum = run_op("Add", &inputs[..2], &[], &outputs[2..]).unwrap();
        assert_eq!(got[2], sum[0]);
        let inputs = [("x", sum[0].clone()), ("gamma", gamma)];
        let norm = run_op("RmsNorm", &inputs, &[], &outputs[..2]).unwrap();
        assert_eq!(got[..2], norm);
    }
}

#[test]
fn rotary_mul_turns_halves() {
    for dtype in FLOATS {
        let x = noise(1, dtype, &[1, 3, 2, 8]);
        let [cos, sin] = [2, 3].map(|seed| noise(seed, dtype, &[1, 3, 1, 8]));
        let (xs, coss, sins) = (x.numbers(), cos.numbers(), sin.numbers());
        let expected: Vec<f64> = (0..48)
            .map(|at| {
                let (row, i) = (at / 8, at % 8);
                let angle = row / 2 * 8 + i;
                let turned = if i < 4 { -xs[at + 4] } else { xs[at - 4] };
                xs[at] * coss[angle] + turned * sins[angle]
            })
            .collect();
        let inputs = [("x", x.clone()), ("r1", cos.clone()), ("r2", sin.clone())];
        let y = run_op("RotaryMul", &inputs, &[], &[(dtype, &[1, 3, 2, 8])]).unwrap();
        assert_close(&y[0], &expected, rounding(dtype));
        let inputs = [("x", x), ("cos", cos), ("sin", sin)];
        let attrs = [("mode", Attr::Int(0))];
        let same = run_op("RotaryPositionEmbedding", &inputs, &attrs, &[(dtype, &[1, 3, 2, 8])]);
        assert_eq!(same.unwrap(), y);
    }
}

#[test]
fn rotary_position_embedding_turns_neighbours_in_mode_1() {
    // Angles of 90 degrees for the first pair, 0 for the second.
    let x = f32s(&[1, 1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let cos = f32s(&[1, 1, 1, 4], &[0.0, 0.0, 1.0, 1.0]);
    let sin = f32s(&[1, 1, 1, 4], &[1.0, 1.0, 0.0, 0.0]);
    let inputs = [("x", x), ("cos", cos), ("sin", sin)];
    let outputs: [(DataType, &[usize]); 1] = [(Float, &[1, 1, 2, 4])];
    let mode = |mode| [("mode", Attr::Int(mode))];
    let y = run_op("RotaryPositionEmbedding", &inputs, &mode(1), &outputs).unwrap();
    assert_eq!(y[0].numbers(), [-2.0, 1.0, 3.0, 4.0, -6.0, 5.0, 7.0, 8.0]);
    let what = complaint("RotaryPositionEmbedding", &inputs, &mode(7), &outputs);
    assert!(what.contains("mode"), "{what}");
}

#[test]
fn apply_rotary_pos_emb_turns_query_and_key() {
    let (query, key) = (noise(1, Float, &[1, 3, 2, 4]), noise(2, Float, &[1, 3, 1, 4]));
    let [cos, sin] = [3, 4].map(|seed| noise(seed, Float, &[1, 3, 1, 4]));
    let alone = |x: &Value| {
        let inputs = [("x", x.clone()), ("r1", cos.clone()), ("r2", sin.clone())];
        run_op("RotaryMul", &inputs, &[], &[(Float, &x.desc.shape)]).unwrap().remove(0)
    };
    let expected = [alone(&query), alone(&key)];
    let inputs = [("query", query), ("key", key), ("cos", cos.clone()), ("sin", sin.clone())];
    let outputs: [(DataType, &[usize]); 2] = [(Float, &[1, 3, 2, 4]), (Float, &[1, 3, 1, 4])];
    let got = run_op("ApplyRotaryPosEmb", &inputs, &[("layout", Attr::Int(1))], &outputs);
    assert_eq!(got.unwrap(), expected);
}

#[test]
fn arithmetic_broadcasts_as_in_numpy() {
    let a = f32s(&[2, 1, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = f32s(&[2, 1], &[10.0, 20.0]);
    let run = |op, a: &Value, b: &Value| {
        let inputs = [("x1", a.clone()), ("x2", b.clone())];
        run_op(op, &inputs, &[], &[(Float, &[2, 2, 3])]).unwrap()[0].numbers()
    };
    let sum = [11.0, 12.0, 13.0, 21.0, 22.0, 23.0, 14.0, 15.0, 16.0, 24.0, 25.0, 26.0];
    assert_eq!(run("Add", &a, &b), sum);
    assert_eq!(run("Sub", &a, &b)[..4], [-9.0, -8.0, -7.0, -19.0]);
    assert_eq!(run("Mul", &b, &a)[3..7], [20.0, 40.0, 60.0, 40.0]);
    assert_eq!(run("RealDiv", &b, &a)[..2], [10.0, 5.0]);
    let inputs = [("x1", a), ("x2", f32s(&[2], &[0.0; 2]))];
    assert!(complaint("Add", &inputs, &[], &[(Float, &[2, 1, 3])]).contains("broadcast"));
}

#[test]
fn arithmetic_on_integers_is_exact() {
    let inputs = [("x1", i64s(&[2], &[1 << 53, -7])), ("x2", i64s(&[], &[1]))];
    let y = run_op("Add", &inputs, &[], &[(Int64, &[2])]).unwrap();
    assert_eq!(y[0], i64s(&[2], &[(1 << 53) + 1, -6]));
    assert!(complaint("RealDiv", &inputs, &[], &[(Int64, &[2])]).contains("no kernel"));
}

#[test]
fn results_are_rounded_to_nearest_even_once() {
    // Half of a step above 1 goes down to even, above 1 + step up to even.
    let step = 1.0 / 1024.0;
    let x = f32s(&[4], &[1.0 + step / 2.0, 1.0 + 1.5 * step, 65519.0, 65520.0]);
    let y = run_op("Cast", &[("x", x)], &[("dst_type", Attr::Int(1))], &[(Float16, &[4])]);
    assert_eq!(
        y.unwrap()[0].numbers(),
        [1.0, 1.0 + 2.0 * step, 65504.0, f32::INFINITY].map(f64::from)
    );
    let inputs = [
        ("x1", Value::floats(Bf16, &[2], &[256.0, 256.0])),
        ("x2", Value::floats(Bf16, &[2], &[1.0, 3.0])),
    ];
    let y = run_op("Add", &inputs, &[], &[(Bf16, &[2])]).unwrap();
    assert_eq!(y[0].numbers(), [256.0, 260.0]);
}

#[test]
fn casts_lose_fractions_and_keep_large_integers() {
    let cast = |x: Value, dtype| {
        let shape = x.desc.shape.clone();
        run_op("Cast", &[("x", x)], &[], &[(dtype, &shape)]).unwrap()[0].numbers()
    };
    assert_eq!(cast(f32s(&[3], &[1.9, -1.9, 0.5]), Int32), [1.0, -1.0, 0.0]);
    assert_eq!(cast(f32s(&[3], &[0.0, -0.25, 2.0]), Bool), [0.0, 1.0, 1.0]);
    assert_eq!(cast(i64s(&[1], &[(1 << 30) + 1]), Int32), [f64::from((1 << 30) + 1)]);
    assert_eq!(cast(i32s(&[2], &[-3, 7]), Float16), [-3.0, 7.0]);
    assert_eq!(cast(Value::floats(Bf16, &[1], &[3.0]), Uint8), [3.0]);
}

#[test]
fn activations_agree_with_f64() {
    let swish = |x: f64| x / (1.0 + (-x).exp());
    for dtype in FLOATS {
        let x = noise(5, dtype, &[2, 6]);
        let shape: &[(DataType, &[usize])] = &[(dtype, &[2, 6])];
        let run = |op, attrs: &[(&str, Attr)]| {
            run_op(op, &[("x", x.clone())], attrs, shape).unwrap().remove(0)
        };
        let each = |f: &dyn Fn(f64) -> f64| x.numbers().iter().map(|&x| f(x)).collect::<Vec<_>>();
        assert_close(&run("Swish", &[]), &each(&swish), rounding(dtype));
        assert_close(&run("Sigmoid", &[]), &each(&|x| 1.0 / (1.0 + (-x).exp())), rounding(dtype));
        assert_close(&run("Exp", &[]), &each(&f64::exp), rounding(dtype));
        let attrs = [("base", Attr::Float(2.0)), ("scale", Attr::Float(3.0))];
        assert_close(&run("Exp", &attrs), &each(&|x| (3.0 * x).exp2()), 2.0 * rounding(dtype));
        let attrs = [("scale", Attr::Float(2.0))];
        let expected = each(&|x| x / (1.0 + (-2.0 * x).exp()));
        assert_close(&run("Swish", &attrs), &expected, rounding(dtype));
    }
}

#[test]
fn swi_glu_gates_the_second_half_with_the_first() {
    let swish = |x: f64| x / (1.0 + (-x).exp());
    let x = noise(6, Float, &[2, 6]);
    let xs = x.numbers();
    let last: Vec<f64> =
        (0..6).map(|at| at / 3 * 6 + at % 3).map(|at| swish(xs[at]) * xs[at + 3]).collect();
    let inputs = [("x", x)];
    let y = run_op("SwiGlu", &inputs, &[("dim", Attr::Int(-1))], &[(Float, &[2, 3])]).unwrap();
    assert_close(&y[0], &last, rounding(Float));
    let first: Vec<f64> = (0..6).map(|at| swish(xs[at]) * xs[at + 6]).collect();
    let y = run_op("SwiGlu", &inputs, &[("dim", Attr::Int(0))], &[(Float, &[1, 6])]).unwrap();
    assert_close(&y[0], &first, rounding(Float));
}

#[test]
fn softmax_sums_to_one_along_its_axis() {
    let x = noise(7, Float, &[2, 3, 4]);
    let xs = x.numbers();
    let expected: Vec<f64> = (0..24)
        .map(|at| {
            let start = at / 12 * 12 + at % 4;
            let sum: f64 = (0..3).map(|i| xs[start + i * 4].exp()).sum();
            xs[at].exp() / sum
        })
        .collect();
    let attrs = [("axes", Attr::ListInt(vec![1]))];
    let y = run_op("SoftmaxV2", &[("x", x)], &attrs, &[(Float, &[2, 3, 4])]).unwrap();
    assert_close(&y[0], &expected, rounding(Float));
}
