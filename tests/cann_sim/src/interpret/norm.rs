//! `RmsNorm`, `AddRmsNorm`, `SoftmaxV2`.

use super::call::{Call, around, axis};
use super::matmul::dot4;
use super::values::{Buffer, Fault, Tensor, fault};

/// `y = x rstd gamma` with `rstd = 1 / sqrt(mean(x^2) + epsilon)` over the axes of `gamma`, which
/// are the last ones of `x`.
pub(super) fn rms_norm(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let x = call.tensor("x")?;
    let (y, rstd) = normed(call, x.shape(), &x.f32s())?;
    Ok(vec![
        Buffer::from_f32s(call.output(0)?.dtype, &y)?,
        Buffer::from_f32s(call.output(1)?.dtype, &rstd)?,
    ])
}

/// `x = x1 + x2`, rounded, and its [`rms_norm`].
pub(super) fn add_rms_norm(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let (x1, x2) = (call.tensor("x1")?, call.tensor("x2")?);
    if x1.shape() != x2.shape() {
        return fault(format!("`x1` {:?} and `x2` {:?} disagree", x1.shape(), x2.shape()));
    }
    let sum: Vec<f32> = x1.f32s().iter().zip(&*x2.f32s()).map(|(a, b)| a + b).collect();
    let desc = call.output(2)?;
    let x = Buffer::from_f32s(desc.dtype, &sum)?;
    let (y, rstd) = normed(call, x1.shape(), &Tensor::new(desc, x.bytes())?.f32s())?;
    Ok(vec![
        Buffer::from_f32s(call.output(0)?.dtype, &y)?,
        Buffer::from_f32s(call.output(1)?.dtype, &rstd)?,
        x,
    ])
}

fn normed(call: &Call<'_>, shape: &[usize], x: &[f32]) -> Result<(Vec<f32>, Vec<f32>), Fault> {
    let gamma = call.tensor("gamma")?;
    if gamma.shape().is_empty() || !shape.ends_with(gamma.shape()) {
        return fault(format!("`gamma` {:?} is no end of `x` {shape:?}", gamma.shape()));
    }
    let epsilon = call.float_or("epsilon", 1e-6)?;
    let gamma = gamma.f32s();
    let (mut y, mut rstds) = (Vec::with_capacity(x.len()), Vec::new());
    for row in x.chunks_exact(gamma.len().max(1)) {
        let [squares, ..] = dot4(row, [row; 4]);
        let rstd = 1.0 / (squares / row.len() as f32 + epsilon).sqrt();
        y.extend(row.iter().zip(&*gamma).map(|(x, gamma)| x * rstd * gamma));
        rstds.push(rstd);
    }
    Ok((y, rstds))
}

/// Softmax over one axis.
pub(super) fn softmax(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let x = call.tensor("x")?;
    let &[along] = call.ints_or("axes", &[-1])? else {
        return fault("expected one axis in `axes`");
    };
    let [before, size, after] = around(x.shape(), axis(along, x.shape().len())?);
    let mut y = x.f32s().into_owned();
    for start in (0..before).flat_map(|i| (0..after).map(move |j| i * size * after + j)) {
        let at = |idx: usize| start + idx * after;
        let most = (0..size).map(|idx| y[at(idx)]).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for idx in 0..size {
            let power = (y[at(idx)] - most).exp();
            y[at(idx)] = power;
            sum += power;
        }
        (0..size).for_each(|idx| y[at(idx)] /= sum);
    }
    Ok(vec![Buffer::from_f32s(call.output(0)?.dtype, &y)?])
}
