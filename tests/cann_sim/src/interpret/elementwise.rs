//! Operators on single elements: arithmetic with numpy's broadcasting, activations, `Cast`.

use crate::ge::graph::DataType;

use super::call::{Call, around, axis, checked_product};
use super::values::{Buffer, Fault, Tensor, fault, is_float};

/// Two shapes broadcast to one.
#[derive(Debug)]
pub(super) struct Broadcast {
    shape: Vec<usize>,
    /// How far an element of each operand is from the next along every axis of `shape`.
    strides: [Vec<usize>; 2],
}

impl Broadcast {
    pub(super) fn new(a: &[usize], b: &[usize]) -> Result<Self, Fault> {
        let rank = a.len().max(b.len());
        let padded = |shape: &[usize]| [vec![1; rank - shape.len()], shape.to_vec()].concat();
        let padded = [padded(a), padded(b)];
        let mut shape = Vec::with_capacity(rank);
        for (&a_size, &b_size) in padded[0].iter().zip(&padded[1]) {
            match (a_size, b_size) {
                (a, b) if a == b => shape.push(a),
                (1, other) | (other, 1) => shape.push(other),
                _ => return fault(format!("shapes {a:?} and {b:?} do not broadcast")),
            }
        }
        if checked_product(&shape).is_none() {
            return fault(format!("shapes {a:?} and {b:?} broadcast to too many elements"));
        }
        let strides = padded.map(|sizes| {
            let mut strides = vec![0; rank];
            let mut step = 1;
            for (stride, size) in strides.iter_mut().zip(&sizes).rev() {
                *stride = if *size == 1 { 0 } else { step };
                step *= size;
            }
            strides
        });
        Ok(Self { shape, strides })
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Positions in both operands of every element of the result, in order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let [a_strides, b_strides] = &self.strides;
        let mut at = vec![0; self.shape.len()];
        let (mut a, mut b) = (0, 0);
        (0..self.shape.iter().product()).map(move |_| {
            let pair = (a, b);
            for axis in (0..at.len()).rev() {
                at[axis] += 1;
                a += a_strides[axis];
                b += b_strides[axis];
                if at[axis] < self.shape[axis] {
                    break;
                }
                a -= a_strides[axis] * at[axis];
                b -= b_strides[axis] * at[axis];
                at[axis] = 0;
            }
            pair
        })
    }
}

/// Two operands, in f32 or, where there is an `integers`, in integers.
fn binary(
    call: &Call<'_>,
    floats: fn(f32, f32) -> f32,
    integers: Option<fn(i64, i64) -> i64>,
) -> Result<Vec<Buffer>, Fault> {
    let (x1, x2) = (call.tensor("x1")?, call.tensor("x2")?);
    let dtype = call.output(0)?.dtype;
    let pairs = Broadcast::new(x1.shape(), x2.shape())?;
    if is_float(dtype) {
        let y = combine(&pairs, [x1, x2], &x1.f32s(), &x2.f32s(), floats);
        return Ok(vec![Buffer::from_f32s(dtype, &y)?]);
    }
    let Some(integers) = integers else {
        return fault(format!("no kernel for {dtype:?}"));
    };
    let y = combine(&pairs, [x1, x2], &x1.i64s()?, &x2.i64s()?, integers);
    Ok(vec![Buffer::from_i64s(dtype, &y)?])
}

fn combine<T: Copy>(
    pairs: &Broadcast,
    [x1, x2]: [Tensor<'_>; 2],
    a: &[T],
    b: &[T],
    f: fn(T, T) -> T,
) -> Vec<T> {
    if x1.shape() == x2.shape() {
        return a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect();
    }
    pairs.pairs().map(|(i, j)| f(a[i], b[j])).collect()
}

pub(super) fn add(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    binary(call, |a, b| a + b, Some(i64::wrapping_add))
}

pub(super) fn sub(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    binary(call, |a, b| a - b, Some(i64::wrapping_sub))
}

pub(super) fn mul(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    binary(call, |a, b| a * b, Some(i64::wrapping_mul))
}

pub(super) fn real_div(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    binary(call, |a, b| a / b, None)
}

fn unary(call: &Call<'_>, f: impl Fn(f32) -> f32) -> Result<Vec<Buffer>, Fault> {
    let y: Vec<f32> = call.tensor("x")?.f32s().iter().map(|&x| f(x)).collect();
    Ok(vec![Buffer::from_f32s(call.output(0)?.dtype, &y)?])
}

pub(super) fn sigmoid(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    unary(call, |x| 1.0 / (1.0 + (-x).exp()))
}

/// `x sigmoid(scale x)`.
fn swished(x: f32, scale: f32) -> f32 {
    x / (1.0 + (-scale * x).exp())
}

pub(super) fn swish(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let scale = call.float_or("scale", 1.0)?;
    unary(call, |x| swished(x, scale))
}

/// `base^(scale x + shift)`; a base of -1 is Euler's number.
pub(super) fn exp(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let [base, scale, shift] =
        [call.float_or("base", -1.0)?, call.float_or("scale", 1.0)?, call.float_or("shift", 0.0)?];
    let is_euler = base.to_bits() == (-1.0_f32).to_bits();
    if !is_euler && base <= 0.0 {
        return fault(format!("expected a base above 0, or -1, got {base}"));
    }
    let log_base = if is_euler { 1.0 } else { base.ln() };
    unary(call, |x| ((x * scale + shift) * log_base).exp())
}

/// The first half along an axis, through swish, times the second.
pub(super) fn swi_glu(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let x = call.tensor("x")?;
    let along = axis(call.int_or("dim", -1)?, x.shape().len())?;
    let [_, size, after] = around(x.shape(), along);
    if size % 2 != 0 {
        return fault(format!("expected an even size of axis {along}, got {:?}", x.shape()));
    }
    let half = size / 2 * after;
    let mut y = Vec::with_capacity(x.num_elements() / 2);
    for pair in x.f32s().chunks_exact((half * 2).max(1)) {
        let (gate, up) = pair.split_at(half);
        y.extend(gate.iter().zip(up).map(|(&gate, &up)| swished(gate, 1.0) * up));
    }
    Ok(vec![Buffer::from_f32s(call.output(0)?.dtype, &y)?])
}

/// To another element type: floats round to nearest even, and lose their fraction as integers.
pub(super) fn cast(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let x = call.tensor("x")?;
    let dtype = call.output(0)?.dtype;
    let y = match dtype {
        _ if dtype == x.dtype() => Buffer::copied(x.bytes()),
        _ if is_float(dtype) => Buffer::from_f32s(dtype, &x.f32s())?,
        DataType::Bool => {
            let is_set: Vec<i64> = x.f32s().iter().map(|&x| i64::from(x != 0.0)).collect();
            Buffer::from_i64s(dtype, &is_set)?
        }
        _ => Buffer::from_i64s(dtype, &x.integers())?,
    };
    Ok(vec![y])
}
