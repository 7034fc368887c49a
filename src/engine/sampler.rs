//! From a row of logits, or from its largest, to the next token.
//!
//! ```text
//! temperature 0:  the token with the largest logit, the lowest id among equals
//! otherwise:      logits / temperature -> min_p -> top_k -> top_p -> draw
//! ```
//!
//! The order of the filters is vLLM's (`v1/sample/sampler.py`). Among tokens of equal logit the
//! lower id is the likelier one, so `top_k` keeps exactly k tokens. Nothing below the k largest
//! logits then matters any more, `top_p` included: [`wanted`] says where that lets a device keep
//! the rest, and a row without the rest gives the same token to the last bit.
//!
//! | Step | Keeps |
//! | --- | --- |
//! | `min_p` | tokens at least `min_p` times as likely as the likeliest |
//! | `top_k` | the k likeliest of those |
//! | `top_p` | the fewest of those, likeliest first, whose share of their probability reaches `top_p` |
//!
//! The draw is an inverse cumulative distribution: one number in [0, 1) picks one token. That
//! number is given from outside; [`uniform`] makes it from a seed and the index of the token in
//! its request, so that it does not depend on what else is running or ran before.
//!
//! What this module deliberately does not do: it keeps no state from one token to the next.

use std::cmp::Ordering;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::backend::Wanted;

use super::sampling_params::SamplingParams;

/// Most candidates that are asked of a device; with more, it may as well hand out all logits.
const MAX_WANTED: usize = 64;
/// How many of the likeliest tokens are sorted at once; `top_p` sorts more only when they are
/// needed.
const FIRST_SORTED: usize = 256;

/// What is known of one row of logits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Row<'a> {
    /// All of them, by token id.
    Logits(&'a [f32]),
    /// The largest, in any order: those that [`wanted`] named, or more.
    Top {
        /// The logits.
        values: &'a [f32],
        /// Their token ids: as many, and none twice.
        indices: &'a [i32],
    },
}

impl Row<'_> {
    /// The first entry that is not a finite number.
    fn first_not_finite(self) -> Option<(u32, f32)> {
        match self {
            Self::Logits(logits) => {
                let token_id = logits.iter().position(|logit| !logit.is_finite())?;
                Some((token_id as u32, logits[token_id]))
            }
            Self::Top { values, indices } => {
                pairs(values, indices).find(|(_, logit)| !logit.is_finite())
            }
        }
    }

    /// The lowest id of the largest logit, and that logit.
    fn argmax(self) -> (u32, f32) {
        match self {
            Self::Logits(logits) => argmax(logits),
            Self::Top { values, indices } => {
                let likelier = |best: (u32, f32), next: (u32, f32)| {
                    let is_likelier = next.1 > best.1 || (next.1 >= best.1 && next.0 < best.0);
                    if is_likelier { next } else { best }
                };
                pairs(values, indices).fold((u32::MAX, f32::NEG_INFINITY), likelier)
            }
        }
    }
}

/// Token ids and logits of the largest.
fn pairs(values: &[f32], indices: &[i32]) -> impl Iterator<Item = (u32, f32)> {
    indices.iter().map(|&token_id| token_id as u32).zip(values.iter().copied())
}

/// How much of a row the sampler needs for those parameters.
pub(crate) fn wanted(params: &SamplingParams) -> Wanted {
    match params.top_k {
        _ if params.temperature <= 0.0 => Wanted::Argmax,
        Some(1) => Wanted::Argmax,
        Some(top_k) if top_k as usize <= MAX_WANTED => Wanted::TopK(top_k as usize),
        // Without `top_k`, `min_p` and `top_p` may keep any number of tokens.
        _ => Wanted::Logits,
    }
}

/// What serves two rows of one launch.
pub(crate) fn both(one: Wanted, other: Wanted) -> Wanted {
    match (one, other) {
        (Wanted::Argmax, more) | (more, Wanted::Argmax) => more,
        (Wanted::TopK(one), Wanted::TopK(other)) => Wanted::TopK(one.max(other)),
        (Wanted::Logits, _) | (_, Wanted::Logits) => Wanted::Logits,
    }
}

/// A row of logits with a value that is not a finite number.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the model produced logits that are not finite numbers: {logit} for token {token_id}")]
pub(crate) struct LogitsError {
    /// The first such token.
    pub(crate) token_id: u32,
    /// Its value.
    pub(crate) logit: f32,
}

/// The random number in [0, 1) for the token of that index in a request with that seed.
pub(crate) fn uniform(seed: u64, token_idx: u64) -> f64 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    // Two 32-bit words a number, counted from the start of the stream.
    rng.set_word_pos(2 * u128::from(token_idx));
    // The upper 53 bits: every multiple of 2^-53 below 1 is equally likely.
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A token that may still be drawn.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    token_id: u32,
    logit: f32,
    /// Probability times a constant: the likeliest token has 1.
    weight: f64,
}

impl Candidate {
    /// Likeliest first; a total order, since logits are finite and no two tokens have the same id.
    /// Zero and minus zero are equal, as they are for a device.
    fn likelier(&self, other: &Self) -> Ordering {
        let by_logit = other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal);
        by_logit.then(self.token_id.cmp(&other.token_id))
    }
}

/// Chooses tokens; keeps only its buffer.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// The next token, one of the row, which must not be empty. `random`, in [0, 1), is asked for
    /// only when something is drawn.
    ///
    /// # Errors
    /// [`LogitsError`] when a logit of the row is NaN or infinite.
    pub(crate) fn sample(
        &mut self,
        row: Row<'_>,
        params: &SamplingParams,
        random: impl FnOnce() -> f64,
    ) -> Result<u32, LogitsError> {
        if let Some((token_id, logit)) = row.first_not_finite() {
            return Err(LogitsError { token_id, logit });
        }
        let (argmax, max) = row.argmax();
        if params.temperature <= 0.0 {
            return Ok(argmax);
        }
        self.gather(row, max, params);
        if let Some(top_k) = params.top_k {
            self.keep_top_k(top_k as usize);
        }
        self.weigh(max, f64::from(params.temperature));
        if params.top_p < 1.0 {
            self.keep_top_p(f64::from(params.top_p));
        }
        Ok(draw(&self.candidates, random()).unwrap_or(argmax))
    }

    /// Candidates after `min_p`. As a bound on logits it needs no exponential:
    /// `exp((logit - max) / t) >= min_p` exactly when `logit >= max + t * ln(min_p)`.
    fn gather(&mut self, row: Row<'_>, max: f32, params: &SamplingParams) {
        let temperature = f64::from(params.temperature);
        let bound = f64::from(max) + temperature * f64::from(params.min_p).ln();
        let candidate = |(token_id, logit): (u32, f32)| {
            (f64::from(logit) >= bound).then_some(Candidate { token_id, logit, weight: 0.0 })
        };
        self.candidates.clear();
        match row {
            Row::Logits(logits) => {
                self.candidates.extend((0..).zip(logits.iter().copied()).filter_map(candidate));
            }
            Row::Top { values, indices } => {
                self.candidates.extend(pairs(values, indices).filter_map(candidate));
            }
        }
    }

    /// Leaves the likeliest, likeliest first: an order that all and the largest logits agree on.
    /// Few candidates come from a device in that order already, and a selection would undo it.
    fn keep_top_k(&mut self, top_k: usize) {
        if top_k < self.candidates.len() && self.candidates.len() > FIRST_SORTED {
            self.candidates.select_nth_unstable_by(top_k, Candidate::likelier);
            self.candidates.truncate(top_k);
        }
        self.candidates.sort_unstable_by(Candidate::likelier);
        self.candidates.truncate(top_k);
    }

    fn weigh(&mut self, max: f32, temperature: f64) {
        for candidate in &mut self.candidates {
            // In f64 neither the difference nor the quotient can overflow.
            let scaled = (f64::from(candidate.logit) - f64::from(max)) / temperature;
            candidate.weight = scaled.exp();
        }
    }

    /// Sorts no more than needed: most of the mass is in few tokens.
    fn keep_top_p(&mut self, top_p: f64) {
        let total: f64 = self.candidates.iter().map(|candidate| candidate.weight).sum();
        let mut sum = 0.0;
        let mut num_sorted = 0;
        let mut chunk = FIRST_SORTED;
        while num_sorted < self.candidates.len() {
            let rest = &mut self.candidates[num_sorted..];
            let chunk_len = chunk.min(rest.len());
            if chunk_len < rest.len() {
                rest.select_nth_unstable_by(chunk_len, Candidate::likelier);
            }
            let next = &mut rest[..chunk_len];
            next.sort_unstable_by(Candidate::likelier);
            for (idx, candidate) in next.iter().enumerate() {
                sum += candidate.weight;
                if sum >= top_p * total {
                    self.candidates.truncate(num_sorted + idx + 1);
                    return;
                }
            }
            num_sorted += chunk_len;
            chunk *= 8;
        }
    }
}

/// The lowest id of the largest logit, and that logit.
fn argmax(logits: &[f32]) -> (u32, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (token_id, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (token_id as u32, logit);
        }
    }
    best
}

/// The candidate at `random` of the cumulative distribution. `None` only for no candidates.
fn draw(candidates: &[Candidate], random: f64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let mut left = random * total;
    for candidate in candidates {
        left -= candidate.weight;
        if left < 0.0 {
            return Some(candidate.token_id);
        }
    }
    // Rounding left a crumb: it belongs to the last token that has any probability.
    let last = candidates.iter().rev().find(|candidate| candidate.weight > 0.0);
    last.map(|candidate| candidate.token_id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn params(temperature: f32) -> SamplingParams {
        SamplingParams { temperature, ..SamplingParams::default() }
    }

    fn sample(logits: &[f32], params: &SamplingParams, random: f64) -> u32 {
        Sampler::default().sample(Row::Logits(logits), params, || random).unwrap()
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_the_largest_logit() {
        assert_eq!(sample(&[0.5, 2.0, -1.0, 2.0], &params(0.0), 0.99), 1);
        assert_eq!(sample(&[-5.0, -5.0], &params(0.0), 0.99), 0);
        assert_eq!(sample(&[f32::MIN; 3], &params(0.0), 0.99), 0);
    }

    #[test]
    fn a_logit_that_is_no_finite_number_is_an_error_that_names_the_token() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for temperature in [0.0, 1.0] {
                let mut sampler = Sampler::default();
                let (logits, top) = ([1.0, bad], [bad, 1.0]);
                for (row, token_id) in
                    [(Row::Logits(&logits), 1), (Row::Top { values: &top, indices: &[9, 4] }, 9)]
                {
                    let error = sampler.sample(row, &params(temperature), || 0.5).unwrap_err();
                    assert_eq!(error.token_id, token_id);
                }
            }
        }
        let error = LogitsError { token_id: 17, logit: f32::NAN };
        assert_eq!(
            error.to_string(),
            "the model produced logits that are not finite numbers: NaN for token 17"
        );
    }

    #[test]
    fn the_smallest_temperature_is_greedy_and_nothing_overflows() {
        let logits = [f32::MAX, f32::MIN, f32::MAX * 0.999];
        assert_eq!(sample(&logits, &params(f32::MIN_POSITIVE), 0.999_999), 0);
        assert_eq!(sample(&logits, &params(100.0), 0.0), 0);
    }

    #[test]
    fn top_k_of_one_is_greedy_even_among_equals() {
        let params = SamplingParams { top_k: Some(1), ..params(1.0) };
        assert_eq!(sample(&[1.0, 3.0, 3.0, 3.0], &params, 0.999), 1);
    }

    #[test]
    fn a_tiny_top_p_keeps_the_likeliest_token() {
        let params = SamplingParams { top_p: f32::MIN_POSITIVE, ..params(1.0) };
        assert_eq!(sample(&[1.0, 3.0, 2.0], &params, 0.999), 1);
    }

    #[test]
    fn the_random_number_depends_on_seed_and_index_alone() {
        assert_eq!(uniform(7, 3).to_bits(), uniform(7, 3).to_bits());
        let mut rng = ChaCha8Rng::from_seed({
            let mut key = [0; 32];
            key[0] = 7;
            key
        });
        for token_idx in 0..40 {
            let next = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            assert_eq!(uniform(7, token_idx).to_bits(), next.to_bits());
        }
        assert_ne!(uniform(7, 3).to_bits(), uniform(8, 3).to_bits());
        assert_ne!(uniform(0, 0).to_bits(), uniform(u64::MAX, 0).to_bits());
    }

    /// The definition, written out: probabilities by full sort, one filter after the other.
    fn expected_probabilities(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
        let scaled: Vec<f64> =
            logits.iter().map(|&l| f64::from(l) / f64::from(params.temperature)).collect();
        let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut weights: Vec<f64> = scaled.iter().map(|l| (l - max).exp()).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        for weight in &mut weights {
            if *weight < f64::from(params.min_p) {
                *weight = 0.0;
            }
        }
        for &token in order.iter().skip(params.top_k.map_or(usize::MAX, |k| k as usize)) {
            weights[token] = 0.0;
        }
        let total: f64 = weights.iter().sum();
        let mut before = 0.0;
        for &token in &order {
            if before >= f64::from(params.top_p) * total {
                weights[token] = 0.0;
            }
            before += weights[token];
        }
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    }

    /// The probabilities that the sampler really has: how much of [0, 1) gives each token.
    fn measured_probabilities(logits: &[f32], params: &SamplingParams, grid: u32) -> Vec<f64> {
        let mut sampler = Sampler::default();
        let mut counts = vec![0.0; logits.len()];
        for idx in 0..grid {
            let random = (f64::from(idx) + 0.5) / f64::from(grid);
            let token = sampler.sample(Row::Logits(logits), params, || random).unwrap();
            counts[token as usize] += 1.0 / f64::from(grid);
        }
        counts
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn filters_keep_what_the_definition_keeps(
            logits in prop::collection::vec((-20_i32..20).prop_map(|l| l as f32 * 0.37), 1..40),
            temperature in 0.2_f32..3.0,
            top_k in prop::option::of(1_u32..50),
            top_p in prop_oneof![Just(1.0_f32), 0.05_f32..1.0],
            min_p in prop_oneof![Just(0.0_f32), 0.01_f32..1.0],
        ) {
            let params =
                SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() };
            let expected = expected_probabilities(&logits, &params);
            let grid = 4000;
            let measured = measured_probabilities(&logits, &params, grid);
            for (token, (expected, measured)) in expected.iter().zip(&measured).enumerate() {
                prop_assert!(
                    (expected - measured).abs() <= 1.5 / f64::from(grid),
                    "token {}: expected {}, measured {}", token, expected, measured
                );
            }
        }
    }

    #[test]
    fn top_p_goes_on_when_the_first_sorted_tokens_do_not_suffice() {
        // 3000 almost equal tokens: 90 % of the mass is far beyond the first chunk.
        let logits: Vec<f32> = (0..3000_u16).map(|i| f32::from(i * 7 % 3000) * 1e-5).collect();
        let params = SamplingParams { top_p: 0.9, ..params(1.0) };
        let mut sampler = Sampler::default();
        sampler.sample(Row::Logits(&logits), &params, || 0.5).unwrap();
        let mut kept: Vec<u32> = sampler.candidates.iter().map(|c| c.token_id).collect();
        kept.sort_unstable();
        let expected = expected_probabilities(&logits, &params);
        let expected: Vec<u32> =
            (0..3000).filter(|&token| expected[token as usize] > 0.0).collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_device_is_asked_for_no_more_than_is_needed() {
        let with = |temperature, top_k| {
            wanted(&SamplingParams { top_k, top_p: 0.9, min_p: 0.1, ..params(temperature) })
        };
        assert_eq!(with(0.0, None), Wanted::Argmax);
        assert_eq!(with(0.0, Some(100_000)), Wanted::Argmax);
        assert_eq!(with(1.0, Some(1)), Wanted::Argmax);
        assert_eq!(with(1.0, Some(64)), Wanted::TopK(64));
        assert_eq!(with(1.0, Some(65)), Wanted::Logits);
        assert_eq!(with(1.0, None), Wanted::Logits);
        let (few, many) = (Wanted::TopK(3), Wanted::TopK(7));
        assert_eq!(both(few, many), many);
        assert_eq!([both(Wanted::Argmax, few), both(few, Wanted::Argmax)], [few; 2]);
        assert_eq!([both(Wanted::Logits, few), both(few, Wanted::Logits)], [Wanted::Logits; 2]);
        assert_eq!(both(Wanted::Argmax, Wanted::Argmax), Wanted::Argmax);
    }

    /// What a device gives: the k largest, the lower id among equals, and then in that order.
    fn top_k(logits: &[f32], k: usize, order: &[usize]) -> (Vec<f32>, Vec<i32>) {
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
        ids.truncate(k);
        ids.sort_by_key(|&id| order[id]);
        ids.into_iter().map(|id| (logits[id], id as i32)).unzip()
    }

    proptest! {
        #[test]
        fn the_largest_logits_give_the_token_that_all_of_them_give(
            // Few different values, and both zeros: ties everywhere, at the border of k too.
            logits in prop::collection::vec((-4_i32..5).prop_map(|l| -(l as f32 * 0.5)), 1..60),
            order in Just((0..60).collect::<Vec<usize>>()).prop_shuffle(),
            temperature in prop_oneof![Just(0.0_f32), Just(1e-3_f32), 0.1_f32..3.0],
            top_k_param in prop_oneof![Just(None), (1_u32..65).prop_map(Some)],
            top_p in prop_oneof![Just(1.0_f32), 0.01_f32..1.0],
            min_p in prop_oneof![Just(0.0_f32), Just(1.0_f32), 0.01_f32..1.0],
            num_more in 0_usize..20,
            random in 0.0_f64..1.0,
        ) {
            let params = SamplingParams {
                top_k: top_k_param, top_p, min_p, ..params(temperature)
            };
            let k = match wanted(&params) {
                Wanted::Logits => return Ok(()),
                Wanted::TopK(k) => k,
                Wanted::Argmax => 1,
            };
            let mut logits = logits;
            for logit in logits.iter_mut().step_by(2) {
                *logit += 0.0; // -0 + 0 is 0
            }
            let (values, indices) = top_k(&logits, k + num_more, &order);
            let row = Row::Top { values: &values, indices: &indices };
            let mut sampler = Sampler::default();
            let from_few = sampler.sample(row, &params, || random);
            let from_all = sampler.sample(Row::Logits(&logits), &params, || random);
            prop_assert_eq!(from_few, from_all);
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.1_f32, 1.3, -0.7, 2.0, 0.9, 1.1, -2.0, 0.0];
        let params = params(0.8);
        let expected = expected_probabilities(&logits, &params);
        let num_draws = 40_000_u32;
        let mut counts = [0.0_f64; 8];
        for token_idx in 0..num_draws {
            let random = uniform(1234, u64::from(token_idx));
            counts[sample(&logits, &params, random) as usize] += 1.0;
        }
        let chi_square: f64 = (counts.iter().zip(&expected))
            .map(|(count, p)| {
                (count - p * f64::from(num_draws)).powi(2) / (p * f64::from(num_draws))
            })
            .sum();
        // 7 degrees of freedom: above 24.3 in one of a thousand runs. The seed is fixed.
        assert!(chi_square < 24.3, "chi square is {chi_square}");
    }

    #[test]
    fn first_draws_of_different_seeds_follow_the_distribution() {
        let mut counts = [0.0_f64; 16];
        for seed in 0..16_000 {
            counts[(uniform(seed, 0) * 16.0) as usize] += 1.0;
        }
        let chi_square: f64 = counts.iter().map(|count| (count - 1000.0).powi(2) / 1000.0).sum();
        // 15 degrees of freedom: above 37.7 in one of a thousand runs.
        assert!(chi_square < 37.7, "chi square is {chi_square}");
    }
}
