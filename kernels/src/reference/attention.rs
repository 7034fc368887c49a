//! `softmax(q k^T * scale) v` for each query and head, over the positions that the query sees.

use crate::operands::AttentionArgs;

pub(super) fn attention(args: AttentionArgs<'_>, target: &mut [f32]) {
    let head_dim = args.cache.head_dim;
    let num_heads = args.q.columns / head_dim;
    let group = num_heads / args.cache.num_heads;
    for (t, row) in target.chunks_exact_mut(args.q.columns).enumerate() {
        let query = args.queries[t];
        for (head, out) in row.chunks_exact_mut(head_dim).enumerate() {
            let q = &args.q.row(t)[head * head_dim..(head + 1) * head_dim];
            let slot = |position| args.slot(&query, position);
            let scores: Vec<f64> = (query.start..query.end)
                .map(|position| {
                    let k = |d| args.k[args.cache.key_at(slot(position), head / group, d)];
                    let products =
                        q.iter().enumerate().map(|(d, &q)| f64::from(q) * f64::from(k(d)));
                    let dot: f64 = products.sum();
                    dot * f64::from(args.scale)
                })
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut result = vec![0.0_f64; head_dim];
            for (position, weight) in (query.start..query.end).zip(&weights) {
                let start = args.cache.value_at(slot(position), head / group);
                let v = &args.v[start..start + head_dim];
                for (result, &v) in result.iter_mut().zip(v) {
                    *result += weight / sum * f64::from(v);
                }
            }
            for (out, result) in out.iter_mut().zip(result) {
                *out = result as f32;
            }
        }
    }
}
