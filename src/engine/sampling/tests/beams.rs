//! Beam search where the references have nothing to say: ends, equals, and what a text carries.

use super::*;

const WIDE: BeamParams = BeamParams { width: 2, length_penalty: 1.0, early_stopping: false };
const STOP: u32 = 9;

#[test]
fn a_text_carries_its_tokens_and_their_log_probabilities() {
    let mut search = BeamSearch::new(WIDE, &[STOP], 3, 8);
    assert_eq!((search.num_live(), search.num_candidates()), (1, 4));
    search.offer(0, &[(1, -0.5), (2, -1.0), (3, -2.0)]);
    let steps = [BeamStep { parent: 0, token_id: 1 }, BeamStep { parent: 0, token_id: 2 }];
    assert_eq!(search.advance(), steps);
    search.offer(0, &[(4, -3.0), (STOP, -3.5)]);
    search.offer(1, &[(5, -0.25), (STOP, -0.5)]);
    let steps = [BeamStep { parent: 1, token_id: 5 }, BeamStep { parent: 0, token_id: 4 }];
    assert_eq!(search.advance(), steps);
    let found = search.finish(1);
    assert_eq!(
        found,
        [Hypothesis {
            token_ids: vec![2, STOP],
            logprobs: vec![-1.0, -0.5],
            cumulative_logprob: -1.5,
            // Three tokens of prompt and one of text.
            score: -1.5 / 4.0,
            is_stopped: true,
        }]
    );
}

#[test]
fn what_is_live_at_max_tokens_is_a_text() {
    let mut search = BeamSearch::new(WIDE, &[STOP], 1, 1);
    search.offer(0, &[(1, -0.5), (STOP, -1.0), (2, -1.5)]);
    assert_eq!(search.advance(), []);
    assert_eq!(search.num_live(), 0);
    let found = search.finish(9);
    let texts: Vec<(&[u32], bool)> =
        found.iter().map(|found| (&found.token_ids[..], found.is_stopped)).collect();
    // -0.5 / 2, then -1.5 / 2; the stopped one has -1 / 1.
    assert_eq!(texts, [(&[1][..], false), (&[2], false)]);
}

#[test]
fn early_stopping_ends_with_the_first_texts() {
    for (early_stopping, num_live) in [(true, 0), (false, 1)] {
        let params = BeamParams { width: 1, length_penalty: 1.0, early_stopping };
        let mut search = BeamSearch::new(params, &[STOP], 1, 100);
        search.offer(0, &[(1, -0.1), (STOP, -5.0)]);
        assert_eq!(search.advance().len(), num_live);
        assert_eq!(search.num_live(), num_live);
        assert_eq!(search.finish(1)[0].token_ids, [STOP]);
    }
}

#[test]
fn a_search_ends_when_nothing_better_can_come() {
    for (length_penalty, num_live) in [(0.0, 0), (-1.0, 0), (1.0, 1)] {
        let params = BeamParams { width: 1, length_penalty, early_stopping: false };
        let mut search = BeamSearch::new(params, &[STOP], 4, 1000);
        search.offer(0, &[(STOP, -0.5), (1, -0.9)]);
        // Divided by a length of 1004, what is left could still win.
        assert_eq!(search.advance().len(), num_live, "length penalty {length_penalty}");
    }
}

#[test]
fn among_equals_the_first_goes_on() {
    let mut search = BeamSearch::new(WIDE, &[], 1, 5);
    search.offer(0, &[(3, -1.0), (4, -1.0), (5, -1.0)]);
    assert_eq!(search.advance().iter().map(|step| step.token_id).collect::<Vec<_>>(), [3, 4]);
    search.offer(0, &[(7, -1.0), (8, -1.0)]);
    search.offer(1, &[(1, -1.0), (2, -1.0)]);
    let steps: Vec<(usize, u32)> =
        search.advance().iter().map(|step| (step.parent, step.token_id)).collect();
    assert_eq!(steps, [(0, 7), (0, 8)]);
}

#[test]
fn a_search_without_candidates_ends() {
    let mut search = BeamSearch::new(WIDE, &[STOP], 1, 5);
    search.offer(0, &[(STOP, 0.0)]);
    assert_eq!(search.advance(), []);
    assert_eq!(search.finish(2).len(), 1);
}
