//! Streams, events, failures of tasks.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ascendcl::acl::abi::*;

use crate::support::{Session, device, download, event, message, pinned, stream};

fn set(memory: *mut c_void, byte: i32, queue: *mut c_void) -> i32 {
    acl!(aclrtMemsetAsync(memory, 4, byte, 4, queue))
}

#[test]
fn order_is_kept_within_a_stream_but_not_between_streams() {
    let session = Session::start(&[("CANN_SIM_DELAY_US", "200"), ("CANN_SIM_SEED", "7")]);
    let (a, b, memory) = (stream(), stream(), device(4));
    let mut last = BTreeSet::new();
    for _ in 0..40 {
        for byte in [1, 2] {
            assert_eq!(set(memory, byte, a), 0);
        }
        for byte in [3, 4] {
            assert_eq!(set(memory, byte, b), 0);
        }
        ok!(aclrtSynchronizeDevice());
        last.insert(download(memory, 1)[0]);
    }
    assert_eq!(last, BTreeSet::from([2, 4]));
    for queue in [a, b] {
        ok!(aclrtDestroyStream(queue));
    }
    ok!(aclrtFree(memory));
    session.end_clean();
}

#[test]
fn events_order_streams_and_tell_the_time() {
    let session = Session::start(&[("CANN_SIM_DELAY_US", "500")]);
    let (a, b, memory) = (stream(), stream(), device(4));
    let (start, end) = (event(9), event(9));
    let host = pinned(&[0; 4]);
    for round in 1..20 {
        ok!(aclrtRecordEvent(start, a));
        assert_eq!(set(memory, round, a), 0);
        ok!(aclrtRecordEvent(end, a));
        ok!(aclrtStreamWaitEvent(b, end));
        ok!(aclrtMemcpyAsync(host, 4, memory, 4, 2, b));
        ok!(aclrtSynchronizeStreamWithTimeout(b, 10_000));
        // SAFETY: pinned memory, and the stream that writes it was waited for.
        assert_eq!(i32::from(unsafe { host.cast::<u8>().read() }), round);
        let (mut millis, mut status) = (-1.0, 0);
        ok!(aclrtEventElapsedTime(&raw mut millis, start, end));
        assert!(millis >= 0.0);
        ok!(aclrtQueryEventStatus(end, &raw mut status));
        assert_eq!(status, 1);
        assert_eq!(acl!(aclrtEventElapsedTime(&raw mut millis, end, start)), 107_007);
    }
    for mark in [start, end] {
        ok!(aclrtDestroyEvent(mark));
    }
    for queue in [a, b] {
        ok!(aclrtDestroyStream(queue));
    }
    ok!(aclrtFree(memory));
    ok!(aclrtFreeHost(host));
    session.end_clean();
}

#[test]
fn events_that_were_not_recorded_or_made_for_it_are_refused() {
    let session = Session::start(&[]);
    let (queue, timed, plain) = (stream(), event(8), event(1));
    let mut status = 7;
    ok!(aclrtQueryEventStatus(plain, &raw mut status));
    assert_eq!(status, 0);
    assert_eq!(acl!(aclrtStreamWaitEvent(queue, plain)), 107_000);
    assert_eq!(acl!(aclrtSynchronizeEvent(plain)), 107_000);
    ok!(aclrtRecordEvent(timed, queue));
    ok!(aclrtRecordEvent(plain, queue));
    assert_eq!(acl!(aclrtStreamWaitEvent(queue, timed)), 107_000);
    ok!(aclrtSynchronizeEventWithTimeout(plain, 10_000));
    let mut millis = 0.0;
    assert_eq!(acl!(aclrtEventElapsedTime(&raw mut millis, timed, plain)), 107_006);
    ok!(aclrtResetEvent(plain, queue));
    ok!(aclrtSynchronizeStream(queue));
    ok!(aclrtQueryEventStatus(plain, &raw mut status));
    assert_eq!(status, 0);
    let mut none = ptr::null_mut();
    assert_eq!(acl!(aclrtCreateEventWithFlag(&raw mut none, 4)), 107_000);
    for mark in [timed, plain] {
        ok!(aclrtDestroyEvent(mark));
    }
    ok!(aclrtDestroyStream(queue));
    session.end_clean();
}

#[test]
fn a_failed_task_is_told_at_the_next_synchronise_and_once() {
    let session = Session::start(&[("CANN_SIM_FAIL", "aclrtMemsetAsync:1=async:507011")]);
    let (queue, memory) = (stream(), device(4));
    assert_eq!(set(memory, 1, queue), 0);
    assert_eq!(set(memory, 2, queue), 0);
    assert_eq!(acl!(aclrtSynchronizeStream(queue)), 507_011);
    ok!(aclrtSynchronizeStream(queue));
    assert_eq!(download(memory, 1), [2]);
    ok!(aclrtDestroyStream(queue));
    ok!(aclrtFree(memory));
    session.end_clean();
}

#[test]
fn a_stream_that_stops_on_failure_runs_nothing_more() {
    let session = Session::start(&[("CANN_SIM_FAIL", "aclrtMemsetAsync:2=async:507011")]);
    let (queue, memory, mark) = (stream(), device(4), event(1));
    ok!(aclrtSetStreamFailureMode(queue, 1));
    assert_eq!(acl!(aclrtSetStreamFailureMode(queue, 2)), 107_000);
    for byte in 1..4 {
        assert_eq!(set(memory, byte, queue), 0);
    }
    ok!(aclrtRecordEvent(mark, queue));
    assert_eq!(acl!(aclrtSynchronizeEventWithTimeout(mark, 10_000)), 507_011);
    let mut status = 0;
    for _ in 0..2 {
        assert_eq!(acl!(aclrtSynchronizeStream(queue)), 507_011);
        assert_eq!(acl!(aclrtStreamQuery(queue, &raw mut status)), 507_011);
    }
    assert_eq!(download(memory, 1), [1]);
    ok!(aclrtDestroyStream(queue));
    ok!(aclrtDestroyEvent(mark));
    ok!(aclrtFree(memory));
    session.end_clean();
}

static TOLD: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

unsafe extern "C" fn tell(info: *mut c_void) {
    TOLD[0].store(acl!(aclrtGetErrorCodeFromExceptionInfo(info)), Ordering::SeqCst);
    TOLD[1].store(acl!(aclrtGetStreamIdFromExceptionInfo(info)), Ordering::SeqCst);
    TOLD[2].store(acl!(aclrtGetDeviceIdFromExceptionInfo(info)), Ordering::SeqCst);
}

#[test]
fn an_exception_is_told_by_callback_and_spoils_its_context() {
    let session = Session::start(&[("CANN_SIM_FAIL", "aclrtMemsetAsync:1=async:507015")]);
    ok!(aclrtSetExceptionInfoCallback(Some(tell)));
    let (queue, memory) = (stream(), device(4));
    assert_eq!(set(memory, 1, queue), 0);
    assert_eq!(set(memory, 2, queue), 0);
    let mut status = 0;
    ok!(aclrtQueryDeviceStatus(0, &raw mut status));
    assert_eq!(status, 0);
    assert_eq!(acl!(aclrtSynchronizeStreamWithTimeout(queue, 10_000)), 507_015);
    assert!(message().unwrap().contains("aclrtSynchronizeStreamWithTimeout"));
    assert_eq!(TOLD[0].load(Ordering::SeqCst), 507_015);
    assert_eq!((TOLD[1].load(Ordering::SeqCst), TOLD[2].load(Ordering::SeqCst)), (1, 0));
    assert_eq!(set(memory, 3, queue), 507_015);
    let mut more = ptr::null_mut();
    assert_eq!(acl!(aclrtMalloc(&raw mut more, 4, 0)), 507_015);
    ok!(aclrtQueryDeviceStatus(0, &raw mut status));
    assert_eq!(status, 1);
    assert_eq!(acl!(aclrtGetTaskIdFromExceptionInfo(ptr::null())), u32::MAX);
    ok!(aclrtDestroyStream(queue));
    ok!(aclrtFree(memory));
    session.end_clean();
}

#[test]
fn waits_end_with_the_code_of_what_was_waited_for() {
    let session = Session::start(&[("CANN_SIM_FAIL", "aclrtMemsetAsync:1=hang")]);
    let (queue, memory, mark) = (stream(), device(4), event(1));
    assert_eq!(set(memory, 1, queue), 0);
    ok!(aclrtRecordEvent(mark, queue));
    let start = Instant::now();
    assert_eq!(acl!(aclrtSynchronizeStreamWithTimeout(queue, 20)), 507_046);
    assert_eq!(acl!(aclrtSynchronizeEventWithTimeout(mark, 20)), 507_047);
    assert_eq!(acl!(aclrtSynchronizeDeviceWithTimeout(20)), 107_020);
    assert!(start.elapsed() >= Duration::from_millis(60));
    assert_eq!(acl!(aclrtSynchronizeStreamWithTimeout(queue, -2)), 107_000);
    let mut status = 0;
    ok!(aclrtStreamQuery(queue, &raw mut status));
    assert_eq!(status, 1);
    ok!(aclrtStreamAbort(queue));
    assert_eq!(acl!(aclrtSynchronizeEventWithTimeout(mark, 10_000)), 107_023);
    assert_eq!(acl!(aclrtSynchronizeStreamWithTimeout(queue, 10_000)), 107_023);
    assert_eq!(set(memory, 2, queue), 0);
    ok!(aclrtSynchronizeStreamWithTimeout(queue, 10_000));
    ok!(aclrtDestroyEvent(mark));
    ok!(aclrtDestroyStream(queue));
    ok!(aclrtFree(memory));
    session.end_clean();
}

#[test]
fn a_wait_times_out_on_order_and_the_device_can_be_aborted() {
    let fail = "aclrtSynchronizeStreamWithTimeout:1=hang,aclrtMemsetAsync:1=hang";
    let session = Session::start(&[("CANN_SIM_FAIL", fail)]);
    let (queue, memory) = (stream(), device(4));
    assert_eq!(acl!(aclrtSynchronizeStreamWithTimeout(queue, 10)), 507_046);
    ok!(aclrtSynchronizeStreamWithTimeout(queue, 10));
    assert_eq!(set(memory, 1, queue), 0);
    ok!(aclrtDeviceTaskAbort(0, 1000));
    assert_eq!(acl!(aclrtSynchronizeStreamWithTimeout(queue, 10_000)), 107_022);
    ok!(aclrtDestroyStreamForce(queue));
    ok!(aclrtFree(memory));
    session.end_clean();
}

#[test]
fn a_stream_destroyed_with_work_left_is_a_violation() {
    let session = Session::start(&[("CANN_SIM_FAIL", "aclrtMemsetAsync:1=hang")]);
    let (queue, memory) = (stream(), device(4));
    assert_eq!(set(memory, 1, queue), 0);
    ok!(aclrtDestroyStream(queue));
    ok!(aclrtFree(memory));
    let log = session.end();
    assert!(log.contains("violations: 1 a stream was destroyed with unfinished tasks"), "{log}");
}

#[test]
fn stream_null_is_the_contexts_own() {
    let session = Session::start(&[]);
    let memory = device(4);
    assert_eq!(set(memory, 3, ptr::null_mut()), 0);
    ok!(aclrtSynchronizeStream(ptr::null_mut()));
    assert_eq!(download(memory, 4), [3; 4]);
    ok!(aclrtFree(memory));
    session.end_clean();
}
