//! Work of the device that fails when it runs, never ends, or belongs to a graph that the runtime
//! does not want to run.

use crate::place::{NUM_GRAPHS, Place, for_each_case};

/// How a failing step ends the program.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// The request fails, and everything is given back: the device did what it was told.
    Fails,
    /// The process has to be restarted, and everything was given back before.
    Restarts,
    /// The device is given up with all that is on it, with this exit code.
    GivesUp(i32),
}

#[test]
fn a_task_that_fails_on_the_device_is_told_with_the_code_of_the_task() {
    let (lost, restart) = (End::GivesUp(4), End::GivesUp(3));
    let codes = [
        // The stream stops at a failure: no wait says that all has ended.
        (107_002, "ACL_ERROR_RT_CONTEXT_NULL", restart),
        (207_001, "ACL_ERROR_RT_MEMORY_ALLOCATION", restart),
        (507_011, "ACL_ERROR_RT_MODEL_EXECUTE", restart),
        (507_014, "ACL_ERROR_RT_AICORE_TIMEOUT", restart),
        (507_015, "ACL_ERROR_RT_AICORE_EXCEPTION", restart),
        (507_010, "ACL_ERROR_RT_LOST_HEARTBEAT", lost),
        (507_054, "ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR", lost),
    ];
    let mut cases = Vec::new();
    for (function, nths) in [("aclmdlExecuteAsync", [1, 3]), ("aclrtMemcpyAsync", [1, 4])] {
        for nth in nths {
            cases
                .extend(codes.map(|(code, name, end)| {
                    (format!("{function}:{nth}=async:{code}"), name, end)
                }));
        }
    }
    run_all(&cases);
}

#[test]
fn a_wait_in_vain_is_repeated_and_one_that_fails_twice_gives_the_device_up() {
    const WAIT: &str = "aclrtSynchronizeStreamWithTimeout";
    let twice = |first, second| format!("{WAIT}:2={first},{WAIT}:3={second}");
    run_all(&[
        (format!("{WAIT}:2=107002"), "ACL_ERROR_RT_CONTEXT_NULL", End::Fails),
        (format!("{WAIT}:2=145020"), "ACL_ERROR_GE_FORMAT_INVALID", End::Restarts),
        (twice(107_002, 107_002), "ACL_ERROR_RT_CONTEXT_NULL", End::GivesUp(3)),
        (twice(207_001, 507_011), "ACL_ERROR_RT_MODEL_EXECUTE", End::GivesUp(3)),
        (twice(107_002, 507_054), "ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR", End::GivesUp(4)),
    ]);
}

#[test]
fn a_step_that_never_ends_is_given_up_after_the_time_that_it_may_take() {
    let hang = |function: &str, nth| {
        (format!("{function}:{nth}=hang"), "ACL_ERROR_RT_STREAM_SYNC_TIMEOUT", End::GivesUp(3))
    };
    run_all(&[
        hang("aclmdlExecuteAsync", 1),
        hang("aclmdlExecuteAsync", 4),
        hang("aclrtMemcpyAsync", 3),
        hang("aclrtSynchronizeStreamWithTimeout", 1),
        hang("aclrtSynchronizeStreamWithTimeout", 3),
    ]);
}

fn run_all(cases: &[(String, &str, End)]) {
    let make = || {
        let place = Place::warm();
        let right = place.right_answer();
        (place, right)
    };
    for_each_case(make, cases, |(place, right), (script, name, end)| {
        // Long for a step that does something, short for a test that waits for one that does not.
        let run = place.generate_with(&["--device-timeout", "3"], &[("CANN_SIM_FAIL", script)]);
        let code = match end {
            End::Fails => 1,
            End::Restarts => 3,
            End::GivesUp(code) => *code,
        };
        let leaks = run.leaks() != Some("0");
        let is_right = run.ended.code == code
            && run.is_prefix_of(right)
            && run.keeps_rules()
            && leaks == matches!(end, End::GivesUp(_))
            && run.error().contains(name);
        let next = place.generate(&[]);
        let is_over = next.ended.code == 0 && next.ended.stdout == *right;
        if is_right && is_over { Ok(()) } else { Err(format!("{script}: {run:?}\n{next:?}")) }
    });
}

#[test]
fn a_graph_that_the_runtime_does_not_run_is_forgotten_and_compiled_by_the_next_process() {
    // The first step is a prefill, those after it are decodes.
    for (nth, graph) in [(1, "prefill 64"), (3, "decode 1")] {
        let place = Place::warm();
        let right = place.right_answer();
        let run = place.generate_failing(&format!("aclmdlExecuteAsync:{nth}=145020"));
        assert_eq!(run.ended.code, 3, "{run:?}");
        run.assert_clean();
        assert!(run.is_prefix_of(&right), "{run:?}");
        let dropped = format!("dropped from the cache graph=\"{graph}\"");
        assert!(run.ended.stderr.contains(&dropped), "{run:?}");
        assert!(run.error().contains("hint: the graph is dropped from the cache"), "{run:?}");
        assert_eq!((place.entries().len(), place.num_quarantined()), (NUM_GRAPHS - 1, 1));

        let next = place.generate(&[]);
        assert_eq!((next.ended.code, &next.ended.stdout), (0, &right), "{next:?}");
        assert_eq!(next.ended.graphs(), [1, NUM_GRAPHS - 1]);
        assert_eq!(place.generate(&[]).ended.graphs(), [0, NUM_GRAPHS]);
    }
}
