//! What changes logits, and what is told about them.

use proptest::prelude::*;

use super::*;

fn greedy() -> SamplingParams {
    params(0.0)
}

/// The greedy token after an output.
fn next(logits: &[f32], params: &SamplingParams, output: &[u32]) -> Result<u32, SampleError> {
    let history = History { output, stop_token_ids: &[3], ..History::default() };
    let sampled = Sampler::default().sample(Row::Logits(logits), params, history, || 0.5);
    sampled.map(|sampled| sampled.token_id)
}

#[test]
fn forbidding_every_token_is_an_error_that_says_so() {
    let nothing = SamplingParams {
        allowed_token_ids: Some(vec![1, 2]),
        bad_words: vec![vec![1], vec![2]],
        ..greedy()
    };
    let error = next(&[1.0; 4], &nothing, &[]).unwrap_err();
    assert_eq!(error, SampleError::NothingAllowed { vocab_size: 4 });
    assert_eq!(
        error.to_string(),
        "no token is allowed next: allowed_token_ids, bad_words, min_tokens and the grammar together forbid \
         all 4 tokens; allow more of them"
    );
    for temperature in [0.0, 1.0] {
        let params = SamplingParams { temperature, ..nothing.clone() };
        assert!(next(&[1.0; 4], &params, &[]).is_err());
    }
}

#[test]
fn nothing_brings_a_forbidden_token_back() {
    let params = SamplingParams {
        bad_words: vec![vec![0]],
        logit_bias: vec![(0, 100.0)],
        repetition_penalty: 0.01,
        frequency_penalty: -2.0,
        temperature: 100.0,
        ..SamplingParams::default()
    };
    let logits = [50.0, 1.0, 2.0];
    let history = History { output: &[0, 0, 0], ..History::default() };
    let kept = Sampler::default().distribution(Row::Logits(&logits), &params, history).unwrap();
    assert_eq!(kept.iter().map(|(token_id, _)| *token_id).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_bad_word_is_forbidden_only_where_it_would_be_complete() {
    let params = SamplingParams { bad_words: vec![vec![5, 6, 1]], ..greedy() };
    let logits = [0.0, 9.0, 1.0];
    for (output, expected) in
        [(&[5, 6][..], 2), (&[6], 1), (&[], 1), (&[4, 5, 6], 2), (&[5, 6, 7], 1)]
    {
        assert_eq!(next(&logits, &params, output), Ok(expected), "{output:?}");
    }
}

#[test]
fn a_stop_token_waits_for_min_tokens() {
    let params = SamplingParams { min_tokens: 2, ..greedy() };
    let logits = [0.0, 1.0, 2.0, 3.0];
    assert_eq!(next(&logits, &params, &[]), Ok(2));
    assert_eq!(next(&logits, &params, &[0]), Ok(2));
    assert_eq!(next(&logits, &params, &[0, 0]), Ok(3));
}

#[test]
fn a_bias_is_bounded_and_adds_up() {
    let with = |logit_bias: &[(u32, f32)]| {
        let params = SamplingParams { logit_bias: logit_bias.to_vec(), ..greedy() };
        next(&[150.0, 0.0, 20.0], &params, &[]).unwrap()
    };
    assert_eq!(with(&[(1, 1e30)]), 0);
    assert_eq!(with(&[(1, 100.0), (1, 60.0)]), 1);
    // An id beyond the row is nobody's.
    assert_eq!(with(&[(3, 5.0)]), 0);
}

#[test]
fn extreme_penalties_leave_finite_logits() {
    for repetition_penalty in [f32::from_bits(1), f32::MAX] {
        for temperature in [0.0, 1.0] {
            let params =
                SamplingParams { temperature, repetition_penalty, ..SamplingParams::default() };
            for logits in [[1e30, -1e30, 5.0], [f32::MAX, f32::MIN, -1.0]] {
                assert!(next(&logits, &params, &[0, 1]).is_ok());
            }
        }
    }
}

#[test]
fn counts_of_another_output_are_not_used() {
    let params = SamplingParams { presence_penalty: 2.0, ..greedy() };
    let stale = TokenCounts::new(&[], &[1]);
    let history = History { output: &[0, 0], counts: Some(&stale), ..History::default() };
    let sampled = Sampler::default().sample(Row::Logits(&[3.0, 2.0]), &params, history, || 0.5);
    assert_eq!(sampled.unwrap().token_id, 1);
}

proptest! {
    #[test]
    fn counts_are_a_cache_of_the_tokens(
        prompt in prop::collection::vec(0_u32..12, 0..8),
        output in prop::collection::vec(0_u32..12, 0..12),
        repetition_penalty in prop_oneof![Just(1.0_f32), 0.1_f32..3.0],
        frequency_penalty in prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
        presence_penalty in prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
        logits in prop::collection::vec(-5.0_f32..5.0, 12),
    ) {
        let params = SamplingParams {
            presence_penalty, frequency_penalty, repetition_penalty, ..params(1.0)
        };
        let mut counts = TokenCounts::new(&prompt, &output[..output.len() / 2]);
        for &token_id in &output[output.len() / 2..] {
            counts.push(token_id);
        }
        let without = History { prompt: &prompt, output: &output, ..History::default() };
        let with = History { counts: Some(&counts), ..without };
        let mut sampler = Sampler::default();
        prop_assert_eq!(
            sampler.distribution(Row::Logits(&logits), &params, with),
            sampler.distribution(Row::Logits(&logits), &params, without)
        );
    }
}

#[test]
fn log_probabilities_are_those_of_the_untouched_row() {
    let logits = [0.0, 2.0, 1.0, 2.0];
    let params =
        SamplingParams { bad_words: vec![vec![1], vec![3]], logprobs: Some(3), ..params(0.1) };
    let mut sampler = Sampler::default();
    let sampled =
        sampler.sample(Row::Logits(&logits), &params, History::default(), || 0.5).unwrap();
    let told = sampled.logprob.unwrap();
    assert_eq!(told, sampler.logprobs_of(&logits, sampled.token_id, 3).unwrap());
    // Two are likelier; equals count, as they do in vLLM.
    assert_eq!((told.token_id, told.rank), (2, 3));
    assert_eq!(sampler.logprobs_of(&logits, 1, 0).unwrap().rank, 2);
    assert_eq!(told.top.iter().map(|(token_id, _)| *token_id).collect::<Vec<_>>(), [1, 3, 2]);
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    assert!((f64::from(told.logprob) - (1.0 - sum.ln())).abs() < 1e-6);
}

#[test]
fn log_probabilities_of_a_token_beyond_the_row_are_an_error() {
    let told = Sampler::default().logprobs_of(&[1.0, 2.0], 2, 1);
    assert_eq!(told, Err(SampleError::UnknownToken { token_id: 2, vocab_size: 2 }));
}

#[test]
fn the_best_of_several_texts_needs_log_probabilities() {
    let best = SamplingParams { best_of: Some(3), ..greedy() };
    let told = |params: &SamplingParams| {
        let history = History::default();
        let row = Row::Logits(&[1.0, 2.0]);
        Sampler::default().sample(row, params, history, || 0.5).unwrap().logprob
    };
    assert_eq!(told(&best).unwrap().top, []);
    assert_eq!(told(&SamplingParams { n: 3, ..best }), None);
}

proptest! {
    #[test]
    fn beam_candidates_are_the_likeliest_allowed_tokens(
        logits in prop::collection::vec((-9_i32..9).prop_map(|l| l as f32 * 0.5), 1..300),
        k in 1_usize..12,
        is_first_forbidden in any::<bool>(),
    ) {
        let bad_words = if is_first_forbidden { vec![vec![0]] } else { Vec::new() };
        let params = SamplingParams { bad_words, top_p: 0.1, ..params(0.5) };
        let mut allowed: Vec<(u32, f64)> =
            (0..).zip(logits.iter().map(|l| f64::from(*l))).collect();
        allowed.drain(..usize::from(is_first_forbidden));
        let sum: f64 = allowed.iter().map(|(_, logit)| logit.exp()).sum();
        allowed.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut sampler = Sampler::default();
        let got = sampler.beam_candidates(Row::Logits(&logits), &params, History::default(), k);
        if allowed.is_empty() {
            prop_assert!(got.is_err());
            return Ok(());
        }
        let got = got.unwrap();
        prop_assert_eq!(got.len(), k.min(allowed.len()));
        for (got, (token_id, logit)) in got.iter().zip(allowed) {
            prop_assert_eq!(got.0, token_id);
            prop_assert!((got.1 - (logit - sum.ln())).abs() < 1e-6);
        }
    }
}
