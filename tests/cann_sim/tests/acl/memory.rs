//! Device memory, pinned memory, copies.

use std::ffi::c_void;
use std::ptr;

use ascendcl::acl::abi::*;

use crate::support::{Session, device, download, pinned, stream, upload};

/// Whether reading one byte there ends a process with a segmentation fault.
fn reading_faults(pointer: *const u8) -> bool {
    // SAFETY: the child only reads one byte and exits; both are allowed after a fork.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: no handler of the parent, such as a sanitizer's, is to catch the fault.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        // SAFETY: this is meant to fault. If it does not, the byte is there.
        let byte = unsafe { pointer.read_volatile() };
        // SAFETY: ends the process without running anything else of it.
        unsafe { libc::_exit(i32::from(byte) & 1) };
    }
    let mut status = 0;
    // SAFETY: `child` is our child, and `status` our variable.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV
}

#[test]
fn the_host_faults_on_device_memory_and_on_handles_but_not_on_pinned_memory() {
    let session = Session::start(&[]);
    let (memory, host, queue) = (device(64), pinned(&[1; 64]), stream());
    assert!(reading_faults(memory.cast()));
    assert!(reading_faults(queue.cast()));
    assert!(!reading_faults(host.cast()));
    ok!(aclrtFree(memory));
    assert!(reading_faults(memory.cast()));
    ok!(aclrtFreeHost(host));
    ok!(aclrtDestroyStream(queue));
    session.end_clean();
}

#[test]
fn memory_is_limited_and_counted() {
    let session = Session::start(&[("CANN_SIM_HBM_BYTES", "1048576")]);
    let info = || {
        let (mut free, mut total) = (0, 0);
        ok!(aclrtGetMemInfo(1, &raw mut free, &raw mut total));
        (free, total)
    };
    assert_eq!(info(), (1 << 20, 1 << 20));
    let memory = device(600_000);
    assert!(info().0 <= (1 << 20) - 600_032);
    let mut more = ptr::null_mut();
    assert_eq!(acl!(aclrtMalloc(&raw mut more, 600_000, 0)), 207_018);
    assert_eq!(acl!(aclrtMalloc(&raw mut more, 2 << 20, 0)), 207_001);
    assert_eq!(acl!(aclrtMalloc(&raw mut more, usize::MAX, 0)), 207_001);
    assert_eq!(acl!(aclrtMalloc(&raw mut more, 0, 0)), 100_000);
    assert_eq!(acl!(aclrtMalloc(&raw mut more, 1, 99)), 107_018);
    ok!(aclrtFree(memory));
    assert_eq!(acl!(aclrtFree(memory)), 207_002);
    assert_eq!(info().0, 1 << 20);
    session.end_clean();
}

#[test]
fn large_memory_that_is_not_touched_costs_nothing() {
    let session = Session::start(&[("CANN_SIM_HBM_BYTES", "68719476736")]);
    let memory = device(60 << 30);
    let end = memory.wrapping_byte_add((60 << 30) - 4);
    ok!(aclrtMemset(end, 4, 7, 4));
    assert_eq!(download(end, 4), [7; 4]);
    ok!(aclrtFree(memory));
    session.end_clean();
}

#[test]
fn copies_check_their_bounds_and_sides() {
    let session = Session::start(&[]);
    let memory = upload(&[1, 2, 3, 4]);
    let mut host = [0_u8; 8];
    let here: *mut c_void = host.as_mut_ptr().cast();
    assert_eq!(acl!(aclrtMemcpy(here, 8, memory, 4, 1)), 107_000);
    assert_eq!(acl!(aclrtMemcpy(here, 3, memory, 4, 2)), 107_000);
    assert_eq!(acl!(aclrtMemcpy(here, 8, memory, 5, 2)), 107_000);
    assert_eq!(acl!(aclrtMemcpy(here, 8, memory, 0, 2)), 107_000);
    assert_eq!(acl!(aclrtMemcpy(here, 8, memory.wrapping_byte_add(1), 4, 2)), 107_000);
    assert_eq!(acl!(aclrtMemcpy(memory, 8, here, 4, 1)), 107_000);
    assert_eq!(acl!(aclrtMemcpy(memory, 4, here, 4, 3)), 107_000);
    assert_eq!(acl!(aclrtMemcpy(ptr::null_mut(), 4, memory, 4, 2)), 100_000);
    assert_eq!(acl!(aclrtMemset(memory, 5, 0, 4)), 107_000);
    assert_eq!(host, [0; 8]);
    let host = pinned(&[9; 4]);
    assert_eq!(acl!(aclrtMemcpy(host, 5, memory, 4, 2)), 107_000);
    ok!(aclrtMemcpy(memory.wrapping_byte_add(1), 3, memory, 3, 3));
    assert_eq!(download(memory, 4), [1, 1, 2, 3]);
    ok!(aclrtFreeHost(host));
    assert_eq!(acl!(aclrtFreeHost(host)), 207_002);
    ok!(aclrtFree(memory));
    session.end_clean();
}

#[test]
fn fresh_memory_is_not_zero() {
    let session = Session::start(&[]);
    let memory = device(4);
    assert_eq!(download(memory, 4), [0xff; 4]);
    ok!(aclrtFree(memory));
    session.end_clean();
}

#[test]
fn async_copies_want_pinned_memory_and_read_it_late() {
    let session = Session::start(&[("CANN_SIM_DELAY_US", "20000")]);
    let (memory, queue) = (device(4), stream());
    let pageable = [5_u8; 4];
    let from: *const c_void = pageable.as_ptr().cast();
    assert_eq!(acl!(aclrtMemcpyAsync(memory, 4, from, 4, 1, queue)), 107_016);
    let host = pinned(&[1; 4]);
    let other = pinned(&[1; 4]);
    assert_eq!(acl!(aclrtMemcpyAsync(other, 4, host, 4, 0, queue)), 107_000);
    for _ in 0..20 {
        ok!(aclrtMemsetAsync(memory, 4, 0, 4, queue));
    }
    ok!(aclrtMemcpyAsync(memory, 4, host, 4, 1, queue));
    // SAFETY: four bytes of pinned memory; that the stream has still to read them is the point.
    unsafe { host.cast::<[u8; 4]>().write([6; 4]) };
    ok!(aclrtSynchronizeStream(queue));
    assert_eq!(download(memory, 4), [6; 4]);
    for pointer in [host, other] {
        ok!(aclrtFreeHost(pointer));
    }
    ok!(aclrtFree(memory));
    ok!(aclrtDestroyStream(queue));
    session.end_clean();
}

#[test]
fn streams_copy_within_a_device_but_not_onto_the_source() {
    let session = Session::start(&[("CANN_SIM_DELAY_US", "2000")]);
    let (memory, queue) = (upload(&[1, 2, 3, 4, 5, 6]), stream());
    let at = |offset| memory.wrapping_byte_add(offset);
    ok!(aclrtMemcpyAsync(at(4), 2, memory, 2, 3, queue));
    ok!(aclrtMemcpyAsync(memory, 2, at(2), 2, 3, queue));
    assert_eq!(acl!(aclrtMemcpyAsync(at(5), 2, memory, 2, 3, queue)), 107_000);
    assert_eq!(acl!(aclrtMemcpyAsync(at(4), 2, memory, 2, 2, queue)), 107_000);
    ok!(aclrtSynchronizeStream(queue));
    assert_eq!(download(memory, 6), [3, 4, 3, 4, 1, 2]);
    ok!(aclrtMemcpyAsync(at(1), 2, memory, 2, 3, queue));
    ok!(aclrtSynchronizeStream(queue));
    ok!(aclrtFree(memory));
    ok!(aclrtDestroyStream(queue));
    let log = session.end();
    assert!(log.contains("violations: 1 a stream copies memory to where it lies"), "{log}");
}

#[test]
fn memory_that_is_freed_before_its_copy_is_noticed() {
    let session = Session::start(&[("CANN_SIM_DELAY_US", "20000")]);
    let (memory, queue, host) = (device(4), stream(), pinned(&[1; 4]));
    for _ in 0..20 {
        ok!(aclrtMemsetAsync(host, 4, 0, 4, queue));
    }
    ok!(aclrtMemcpyAsync(memory, 4, host, 4, 1, queue));
    ok!(aclrtFree(memory));
    assert_eq!(acl!(aclrtSynchronizeStream(queue)), 507_013);
    ok!(aclrtFreeHost(host));
    ok!(aclrtDestroyStream(queue));
    let log = session.end();
    assert!(log.contains("violations: 1 memory at 0x"), "{log}");
}
