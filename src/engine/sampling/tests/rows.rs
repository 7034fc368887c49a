//! Rows, whole or partial: which token, which error, and how much of a row is asked for.

use proptest::prelude::*;

use super::*;
use crate::backend::Wanted;

#[test]
fn greedy_takes_the_lowest_id_of_the_largest_logit() {
    assert_eq!(sample(&[0.5, 2.0, -1.0, 2.0], &params(0.0), 0.99), 1);
    assert_eq!(sample(&[-5.0, -5.0], &params(0.0), 0.99), 0);
    assert_eq!(sample(&[-0.0, 0.0], &params(0.0), 0.99), 0);
    assert_eq!(sample(&[f32::MIN; 3], &params(0.0), 0.99), 0);
    let mut long = vec![1.0; 1000];
    long[700] = 3.0;
    long[300] = 3.0;
    assert_eq!(sample(&long, &params(0.0), 0.99), 300);
}

#[test]
fn a_logit_that_is_no_finite_number_is_an_error_that_names_the_token() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for temperature in [0.0, 1.0] {
            let mut sampler = Sampler::default();
            let (logits, top) = ([1.0, bad], [bad, 1.0]);
            let mut long = [0.0; 100];
            long[77] = bad;
            for (row, expected) in [
                (Row::Logits(&logits), 1),
                (Row::Logits(&long), 77),
                (Row::Top { values: &top, indices: &[9, 4] }, 9),
            ] {
                let history = History::default();
                let error = sampler.sample(row, &params(temperature), history, || 0.5);
                assert!(matches!(
                    error,
                    Err(SampleError::NotFinite { token_id, .. }) if token_id == expected
                ));
            }
        }
    }
    let error = SampleError::NotFinite { token_id: 17, logit: f32::NAN };
    assert_eq!(
        error.to_string(),
        "the model produced logits that are not finite numbers: NaN for token 17"
    );
}

#[test]
fn a_row_without_logits_is_an_error() {
    for row in [Row::Logits(&[]), Row::Top { values: &[], indices: &[] }] {
        let sampled = Sampler::default().sample(row, &params(1.0), History::default(), || 0.5);
        assert_eq!(sampled, Err(SampleError::NothingAllowed { vocab_size: 0 }));
    }
}

#[test]
fn what_needs_the_whole_row_refuses_a_part_of_it() {
    let row = Row::Top { values: &[2.0, 1.0], indices: &[5, 3] };
    let changes: [fn(&mut SamplingParams); 5] = [
        |p| p.temperature = 1.0,
        |p| p.logprobs = Some(0),
        |p| p.logit_bias = vec![(5, 1.0)],
        |p| p.presence_penalty = 1.0,
        |p| p.allowed_token_ids = Some(vec![5]),
    ];
    for change in changes {
        let mut params = params(0.0);
        change(&mut params);
        assert_eq!(wanted(&params), Wanted::Logits);
        let sampled = Sampler::default().sample(row, &params, History::default(), || 0.5);
        assert_eq!(sampled, Err(SampleError::Partial { num_logits: 2 }));
    }
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
    let changes: [fn(&mut SamplingParams); 9] = [
        |p| p.logprobs = Some(0),
        |p| p.best_of = Some(2),
        |p| p.min_tokens = 1,
        |p| p.bad_words = vec![vec![1]],
        |p| p.frequency_penalty = 0.1,
        |p| p.repetition_penalty = 1.1,
        |p| p.logit_bias = vec![(1, 1.0)],
        |p| p.allowed_token_ids = Some(vec![1]),
        |p| p.beam = Some(BeamParams { width: 2, length_penalty: 1.0, early_stopping: false }),
    ];
    for change in changes {
        let mut params = params(0.0);
        change(&mut params);
        assert_eq!(wanted(&params), Wanted::Logits, "{params:?}");
    }
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
        logits in prop::collection::vec((-4_i32..5).prop_map(|l| -(l as f32 * 0.5)), 1..600),
        order in Just((0..600).collect::<Vec<usize>>()).prop_shuffle(),
        temperature in prop_oneof![Just(0.0_f32), Just(1e-3_f32), 0.1_f32..3.0],
        top_k_param in prop_oneof![Just(None), (1_u32..65).prop_map(Some)],
        top_p in prop_oneof![Just(1.0_f32), 0.01_f32..1.0],
        min_p in prop_oneof![Just(0.0_f32), Just(1.0_f32), 0.01_f32..1.0],
        num_more in 0_usize..20,
        random in 0.0_f64..1.0,
    ) {
        let params = SamplingParams { top_k: top_k_param, top_p, min_p, ..params(temperature) };
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
        let from_few = sampler.sample(row, &params, History::default(), || random);
        let from_all =
            sampler.sample(Row::Logits(&logits), &params, History::default(), || random);
        prop_assert_eq!(from_few, from_all);
    }
}
