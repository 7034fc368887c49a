//! What ops mean: their definitions in `ir::op`, in f64.

/// `x w^T` for one row.
pub(crate) fn linear(x: &[f64], w: &[Vec<f64>]) -> Vec<f64> {
    w.iter().map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum()).collect()
}

pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Over the whole row.
pub(crate) fn rms_norm(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(w).map(|(x, w)| x / (mean + eps).sqrt() * w).collect()
}

/// One head; `pair` gives the two elements of each pair.
pub(crate) fn rope(
    x: &[f64],
    cos: &[f64],
    sin: &[f64],
    pair: impl Fn(usize) -> (usize, usize),
) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    for (idx, (cos, sin)) in cos.iter().zip(sin).enumerate() {
        let (a, b) = pair(idx);
        y[a] = x[a] * cos - x[b] * sin;
        y[b] = x[b] * cos + x[a] * sin;
    }
    y
}

/// One query over the keys and values that it sees.
pub(crate) fn attention(q: &[f64], k: &[Vec<f64>], v: &[Vec<f64>], scale: f64) -> Vec<f64> {
    let scores: Vec<f64> =
        k.iter().map(|k| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * scale).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut y = vec![0.0; q.len()];
    for (weight, v) in weights.iter().zip(v) {
        for (y, v) in y.iter_mut().zip(v) {
            *y += weight / sum * v;
        }
    }
    y
}
