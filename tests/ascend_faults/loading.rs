//! Graphs that the device refuses to load: compiled again, once.

use crate::place::{NUM_GRAPHS, Place, Run};

/// That call of the loader refuses.
fn refusal(nth: usize, code: i32) -> String {
    format!("aclmdlLoadWithConfig:{nth}={code}")
}

#[test]
fn a_graph_that_the_device_refuses_is_dropped_and_compiled_again() {
    let place = Place::warm();
    let right = place.right_answer();
    for (num_before, code) in [545_001, 145_006].into_iter().enumerate() {
        for nth in [1, NUM_GRAPHS] {
            let run = place.generate_failing(&refusal(nth, code));
            assert_eq!((run.ended.code, &run.ended.stdout), (0, &right), "{run:?}");
            assert_eq!(run.ended.graphs(), [1, NUM_GRAPHS - 1], "{run:?}");
            run.assert_clean();
            assert!(run.ended.stderr.contains("dropped from the cache"), "{run:?}");
            assert!(run.ended.stderr.contains(&code.to_string()), "{run:?}");
        }
        assert_eq!(place.num_quarantined(), 2 * (num_before + 1));
        assert_eq!(place.generate(&[]).ended.graphs(), [0, NUM_GRAPHS]);
    }
}

#[test]
fn a_graph_that_is_refused_twice_is_an_error_and_stays_out_of_the_cache() {
    let place = Place::warm();
    let right = place.right_answer();
    let run = place.generate_failing(&format!("{},{}", refusal(2, 545_001), refusal(3, 545_001)));
    assert_eq!((run.ended.code, run.ended.stdout.as_str()), (1, ""), "{run:?}");
    run.assert_clean();
    assert_refusal(&run);
    assert_eq!(place.entries().len(), NUM_GRAPHS - 1);

    let next = place.generate(&[]);
    assert_eq!((next.ended.code, &next.ended.stdout), (0, &right), "{next:?}");
    assert_eq!(next.ended.graphs(), [1, NUM_GRAPHS - 1]);
}

#[test]
fn a_graph_that_was_just_compiled_and_is_refused_is_an_error_at_once() {
    let place = Place::new();
    let run = place.generate_failing(&refusal(1, 145_006));
    assert_eq!((run.ended.code, run.ended.stdout.as_str()), (1, ""), "{run:?}");
    run.assert_clean();
    assert_refusal(&run);
    assert_eq!(place.toolkit.num_compiles(), NUM_GRAPHS);
    assert_eq!(place.generate(&[]).ended.graphs(), [1, NUM_GRAPHS - 1]);
}

fn assert_refusal(run: &Run) {
    for words in ["loading graph `", "`aclmdlLoadWithConfig` failed: "] {
        assert_eq!(run.error().matches(words).count(), 1, "{words}: {run:?}");
    }
    assert_eq!(run.times_told(), 1, "{run:?}");
}
