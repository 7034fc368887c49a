//! Ranges of parameters, and the random numbers.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;

const BEAM: BeamParams = BeamParams { width: 2, length_penalty: 1.0, early_stopping: false };

type Change = fn(&mut SamplingParams);

/// Which field is to blame after a change of the defaults, for a vocabulary of 10.
fn blamed(change: Change) -> Option<&'static str> {
    let mut params = SamplingParams::default();
    change(&mut params);
    params.validate_for(10).err().map(|error| error.param)
}

#[test]
fn names_the_field_that_is_out_of_range() {
    let bad: [(&str, &[Change]); 20] = [
        ("n", &[|p| p.n = 0, |p| p.n = 129]),
        ("best_of", &[|p| (p.n, p.best_of) = (3, Some(2)), |p| p.best_of = Some(129)]),
        ("max_tokens", &[|p| p.max_tokens = Some(0)]),
        ("min_tokens", &[|p| (p.max_tokens, p.min_tokens) = (Some(3), 4)]),
        (
            "temperature",
            &[
                |p| p.temperature = f32::NAN,
                |p| p.temperature = -0.1,
                |p| p.temperature = f32::INFINITY,
            ],
        ),
        ("top_p", &[|p| p.top_p = 0.0, |p| p.top_p = f32::NAN, |p| p.top_p = 1.1]),
        ("min_p", &[|p| p.min_p = 1.5, |p| p.min_p = f32::NAN]),
        ("top_k", &[|p| p.top_k = Some(0)]),
        ("presence_penalty", &[|p| p.presence_penalty = 2.1, |p| p.presence_penalty = f32::NAN]),
        ("frequency_penalty", &[|p| p.frequency_penalty = -2.1]),
        (
            "repetition_penalty",
            &[
                |p| p.repetition_penalty = 0.0,
                |p| p.repetition_penalty = f32::INFINITY,
                |p| p.repetition_penalty = f32::NAN,
            ],
        ),
        ("logprobs", &[|p| p.logprobs = Some(21)]),
        ("prompt_logprobs", &[|p| p.prompt_logprobs = Some(21)]),
        (
            "logit_bias",
            &[
                |p| p.logit_bias = vec![(1, f32::NAN)],
                |p| p.logit_bias = vec![(10, 1.0)],
                |p| p.logit_bias = vec![(1, 1.0); MAX_LOGIT_BIASES + 1],
            ],
        ),
        (
            "bad_words",
            &[
                |p| p.bad_words = vec![vec![]],
                |p| p.bad_words = vec![vec![1, 10]],
                |p| p.bad_words = vec![vec![1]; MAX_BAD_WORDS + 1],
                |p| p.bad_words = vec![vec![1; MAX_BAD_WORD_TOKENS + 1]],
            ],
        ),
        (
            "allowed_token_ids",
            &[
                |p| p.allowed_token_ids = Some(vec![]),
                |p| p.allowed_token_ids = Some(vec![10]),
                |p| p.allowed_token_ids = Some(vec![1; 11]),
            ],
        ),
        (
            "stop",
            &[
                |p| p.stop = vec![String::new()],
                |p| p.stop = vec!["x".into(); MAX_STOP_STRINGS + 1],
                |p| p.stop = vec!["x".repeat(MAX_STOP_STRING_BYTES + 1)],
            ],
        ),
        ("stop_token_ids", &[|p| p.stop_token_ids = vec![10]]),
        (
            "beam_width",
            &[
                |p| p.beam = Some(BeamParams { width: 0, ..BEAM }),
                |p| p.beam = Some(BeamParams { width: 129, ..BEAM }),
            ],
        ),
        ("length_penalty", &[|p| p.beam = Some(BeamParams { length_penalty: f32::NAN, ..BEAM })]),
    ];
    for (field, changes) in bad {
        for (idx, change) in changes.iter().enumerate() {
            assert_eq!(blamed(*change), Some(field), "{field}, change {idx}");
        }
    }
    assert_eq!(blamed(|p| (p.n, p.beam) = (3, Some(BEAM))), Some("n"));
    assert_eq!(blamed(|p| (p.best_of, p.beam) = (Some(3), Some(BEAM))), Some("best_of"));
}

#[test]
fn what_is_in_range_is_accepted() {
    let good: [Change; 9] = [
        |_| (),
        |p| (p.n, p.best_of) = (128, Some(128)),
        |p| (p.max_tokens, p.min_tokens) = (Some(3), 3),
        |p| p.min_tokens = 1000,
        |p| (p.presence_penalty, p.frequency_penalty) = (-2.0, 2.0),
        |p| p.repetition_penalty = 7.5,
        |p| p.logit_bias = vec![(9, 1e30), (9, -1e30)],
        |p| (p.n, p.best_of, p.beam) = (2, Some(2), Some(BEAM)),
        |p| p.allowed_token_ids = Some((0..10).collect()),
    ];
    for (idx, change) in good.iter().enumerate() {
        assert_eq!(blamed(*change), None, "change {idx}");
    }
}

#[test]
fn messages_say_what_was_expected_and_got() {
    let params = SamplingParams { min_tokens: 9, max_tokens: Some(4), ..Default::default() };
    let error = params.validate().unwrap_err();
    assert_eq!(error.to_string(), "invalid min_tokens: expected at most max_tokens, 4, got 9");
    let params = SamplingParams { frequency_penalty: 3.0, ..Default::default() };
    let error = params.validate().unwrap_err();
    assert_eq!(error.to_string(), "invalid frequency_penalty: expected -2 to 2, got 3");
    let params = SamplingParams { stop_token_ids: vec![12], ..Default::default() };
    let error = params.validate_for(10).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid stop_token_ids: expected token ids below 10, the vocabulary's size, got 12"
    );
}

#[test]
fn a_request_says_how_many_sequences_it_is() {
    let of = |n, best_of, beam| SamplingParams { n, best_of, beam, ..Default::default() };
    assert_eq!(of(1, None, None).num_sequences(), 1);
    assert_eq!(of(3, None, None).num_sequences(), 3);
    assert_eq!(of(3, Some(5), None).num_sequences(), 5);
    assert_eq!(of(1, None, Some(BEAM)).num_sequences(), 2);
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

#[test]
fn first_draws_of_different_seeds_follow_the_distribution() {
    let seeds: [fn(u64) -> u64; 2] = [|seed| seed, |choice_idx| choice_seed(7, choice_idx)];
    for seed_of in seeds {
        let mut counts = [0.0_f64; 16];
        for seed in 0..16_000 {
            counts[(uniform(seed_of(seed), 0) * 16.0) as usize] += 1.0;
        }
        let chi_square: f64 = counts.iter().map(|count| (count - 1000.0).powi(2) / 1000.0).sum();
        // 15 degrees of freedom: above 37.7 in one of a thousand runs.
        assert!(chi_square < 37.7, "chi square is {chi_square}");
    }
}

#[test]
fn the_first_choice_keeps_the_seed_and_the_others_have_their_own() {
    assert_eq!(choice_seed(7, 0), 7);
    let mut seeds: Vec<u64> = (0..100)
        .flat_map(|seed| (0..100).map(move |choice_idx| choice_seed(seed, choice_idx)))
        .collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 10_000);
}
