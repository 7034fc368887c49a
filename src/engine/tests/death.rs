//! Launches that fail, and devices that are gone.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::backend::DeviceFate;

/// A request whose prompt is long enough to be a prefill.
fn long_prompt() -> Request {
    request(&[70; 9], greedy_params(20))
}

#[test]
fn a_failed_prefill_leaves_the_decodes_of_its_step_alone() {
    let (engine, control) = engine(&SEPARATE, &Script::Hash, &options());
    let gate = control.gate();
    let decodes: Vec<_> = (65..70)
        .map(|token| (token, engine.submit(request(&[token], greedy_params(20))).unwrap()))
        .collect();
    gate.send(()).unwrap();
    let bad = engine.submit(long_prompt()).unwrap();
    // Its prefill runs in the one bucket that there is for that.
    control.fails_for_tokens.store(32, Ordering::SeqCst);
    drop(gate);
    let error = read(bad).end.unwrap_err();
    assert_eq!(error.to_string(), "the step failed: the device is on fire");
    for (token, stream) in decodes {
        assert_eq!(read(stream).token_ids, greedy(&Script::Hash, &[token], 20));
    }
    assert!(is_empty(&engine) && engine.is_healthy());
    control.fails_for_tokens.store(0, Ordering::SeqCst);
    let again = read(engine.submit(long_prompt()).unwrap());
    assert_eq!(again.token_ids, greedy(&Script::Hash, &[70; 9], 20));
}

#[test]
fn a_device_that_is_gone_fails_everyone_and_the_engine_says_why() {
    for (fate, expected) in [(DeviceFate::Restart, Fate::Restart), (DeviceFate::Lost, Fate::Lost)] {
        let options = EngineOptions { max_num_seqs: 2, ..options() };
        let (engine, control) = engine(&SEPARATE, &Script::Hash, &options);
        assert_eq!(engine.death(), None);
        let gate = control.gate();
        let submit = || engine.submit(request(&[65], greedy_params(20)));
        // Two run, the others wait.
        let streams: Vec<_> = (0..6).map(|_| submit().unwrap()).collect();
        gate.send(()).unwrap();
        *control.dies.lock().unwrap() = Some(fate);
        drop(gate);
        let death = Death { what: "the device does not answer".into(), fate: expected };
        for stream in streams {
            assert_eq!(read(stream).end, Err(RequestError::Died(death.clone())));
            assert_eq!((engine.is_healthy(), engine.death()), (false, Some(death.clone())));
        }
        assert_eq!(submit().unwrap_err(), SubmitError::Stopped);
        assert!(is_empty(&engine));
        // What the device held goes with the thread.
        wait_until("the thread is gone", || Arc::strong_count(&control) == 1);
        engine.shutdown();
        assert_eq!(engine.death(), Some(death));
    }
}

/// Whether the engine has died, asked without an executor.
fn poll_died(engine: &EngineHandle) -> Poll<Death> {
    let died = std::pin::pin!(engine.died());
    died.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_death_can_be_waited_for_and_an_end_in_good_order_is_none() {
    let (dead, control) = engine(&DYNAMIC, &Script::Hash, &options());
    assert!(poll_died(&dead).is_pending());
    *control.dies.lock().unwrap() = Some(DeviceFate::Restart);
    let waits = {
        let dead = dead.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(dead.died())
        })
    };
    // Of one request, which is read: one that nobody reads may be forgotten before it runs, and after
    // one that has run there is nobody to take another.
    let stream = dead.submit(request(&[65], greedy_params(20))).unwrap();
    let death = waits.join().unwrap();
    assert_eq!(read(stream).end, Err(RequestError::Died(death.clone())));
    assert_eq!(poll_died(&dead), Poll::Ready(death));

    let (stopped, _) = engine(&DYNAMIC, &Script::Hash, &options());
    stopped.shutdown();
    assert_eq!((stopped.is_healthy(), stopped.death()), (false, None));
    assert!(poll_died(&stopped).is_pending());
}
