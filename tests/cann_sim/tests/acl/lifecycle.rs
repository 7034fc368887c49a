//! Initialisation, contexts, versions, error texts, the summary.

use std::ffi::{CStr, c_void};
use std::{mem, ptr, thread};

use ascendcl::acl::abi::*;

use crate::support::{Session, device, event, in_child, load, message, om, pinned, stream};

#[test]
fn nothing_works_before_init_and_init_works_once() {
    let _session = Session::prepare(&[]);
    assert_eq!(acl!(aclrtSetDevice(0)), 100_001);
    assert!(acl!(aclmdlCreateDataset()).is_null());
    assert!(acl!(aclrtGetSocName()).is_null());
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    ok!(aclrtGetVersion(&raw mut major, &raw mut minor, &raw mut patch));
    assert_eq!(major, 1);
    ok!(aclInit(ptr::null()));
    assert_eq!(acl!(aclInit(ptr::null())), 100_002);
    ok!(aclFinalize());
    assert_eq!(acl!(aclFinalize()), 100_037);
    assert_eq!(acl!(aclrtSetDevice(0)), 100_001);
    ok!(aclInit(c"".as_ptr()));
    ok!(aclFinalize());
    assert_eq!(acl!(aclInit(c"/nowhere/acl.json".as_ptr())), 100_003);
}

#[test]
fn variables_that_make_no_sense_are_told_by_init() {
    for (name, value) in [
        ("CANN_SIM_CANN", "nine"),
        ("CANN_SIM_HBM_BYTES", "8G"),
        ("CANN_SIM_DEVICES", "0"),
        ("CANN_SIM_DELAY_US", "9999999"),
        ("CANN_SIM_EXECUTE", "maybe"),
        ("CANN_SIM_FAIL", "aclrtMaloc:1=207001"),
    ] {
        let _session = Session::prepare(&[(name, value)]);
        assert_eq!(acl!(aclInit(ptr::null())), 100_000, "{name}");
        assert!(message().unwrap().contains(name), "{name}");
    }
}

#[test]
fn the_current_context_is_the_threads_own() {
    let session = Session::start(&[]);
    let mut context = ptr::null_mut();
    ok!(aclrtGetCurrentContext(&raw mut context));
    let address = context as usize;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut memory = ptr::null_mut();
            assert_eq!(acl!(aclrtMalloc(&raw mut memory, 8, 0)), 107_002);
            ok!(aclrtSetCurrentContext(ptr::without_provenance_mut(address)));
            ok!(aclrtMalloc(&raw mut memory, 8, 0));
            ok!(aclrtFree(memory));
        });
    });
    session.end_clean();
}

#[test]
fn handles_are_only_good_for_their_kind_and_context_and_while_they_live() {
    let session = Session::start(&[]);
    let (first, mark) = (stream(), event(1));
    let mut default = ptr::null_mut();
    ok!(aclrtGetCurrentContext(&raw mut default));
    let mut other = ptr::null_mut();
    ok!(aclrtCreateContext(&raw mut other, 0));
    assert_eq!(acl!(aclrtSynchronizeStream(first)), 107_003);
    assert_eq!(acl!(aclrtRecordEvent(mark, ptr::null_mut())), 107_000);
    ok!(aclrtDestroyContext(other));
    assert_eq!(acl!(aclrtSynchronizeStream(first)), 107_002);
    assert_eq!(acl!(aclrtSetCurrentContext(other)), 107_017);
    assert_eq!(acl!(aclrtDestroyContext(default)), 107_000);
    ok!(aclrtSetCurrentContext(default));
    assert_eq!(acl!(aclrtSynchronizeStream(mark)), 107_017);
    ok!(aclrtDestroyStream(first));
    assert_eq!(acl!(aclrtDestroyStream(first)), 107_017);
    assert_eq!(acl!(aclrtDestroyStream(ptr::null_mut())), 107_000);
    let local = 5_u64;
    assert_eq!(acl!(aclrtDestroyEvent((&raw const local).cast_mut().cast())), 107_017);
    ok!(aclrtDestroyEvent(mark));
    session.end_clean();
}

#[test]
fn devices_are_counted_and_checked() {
    let session = Session::start(&[("CANN_SIM_DEVICES", "2")]);
    let mut count = 0;
    ok!(aclrtGetDeviceCount(&raw mut count));
    assert_eq!(count, 2);
    assert_eq!(acl!(aclrtSetDevice(2)), 107_001);
    assert_eq!(acl!(aclrtSetDevice(-1)), 107_001);
    let memory = device(64);
    ok!(aclrtSetDevice(1));
    let mut current = 0;
    ok!(aclrtGetDevice(&raw mut current));
    assert_eq!(current, 1);
    assert_eq!(acl!(aclrtFree(memory)), 107_000);
    ok!(aclrtResetDevice(1));
    assert_eq!(acl!(aclrtGetDevice(&raw mut current)), 107_002);
    assert_eq!(acl!(aclrtResetDevice(1)), 107_000);
    ok!(aclrtSetDevice(0));
    ok!(aclrtFree(memory));
    ok!(aclrtResetDevice(0));
    session.end_clean();
}

#[test]
fn versions_are_those_of_the_runtime_and_new_functions_are_not_in_old_ones() {
    let text = |chars: &[std::ffi::c_char]| -> String {
        chars.iter().take_while(|c| **c != 0).map(|c| char::from(c.to_ne_bytes()[0])).collect()
    };
    for (cann, number) in [("8.1.RC1", None), ("9.1.2", Some(90_102_000))] {
        let session = Session::start(&[("CANN_SIM_CANN", cann)]);
        // SAFETY: any bytes are this structure.
        let mut package: AclCannPackageVersion = unsafe { mem::zeroed() };
        ok!(aclsysGetCANNVersion(0, &raw mut package));
        assert_eq!(text(&package.version), cann);
        assert_eq!(text(&package.major_version), &cann[..1]);
        assert_eq!(text(&package.release_version), cann.rsplit('.').next().unwrap());
        let mut got = 0;
        let status = acl!(aclsysGetVersionNum(c"runtime".as_ptr().cast_mut(), &raw mut got));
        assert_eq!(status, if number.is_some() { 0 } else { 200_001 });
        assert_eq!(got, number.unwrap_or_default());
        session.end_clean();
    }
}

#[test]
fn the_chip_is_named() {
    let session = Session::start(&[("CANN_SIM_SOC", "Ascend910B1")]);
    let name = acl!(aclrtGetSocName());
    // SAFETY: the library's string lives for ever.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"Ascend910B1");
    session.end_clean();
}

#[test]
fn error_texts_are_the_threads_own_and_read_once() {
    let session = Session::start(&[]);
    assert!(session.plog().is_empty());
    assert_eq!(acl!(aclrtFree(ptr::null_mut())), 100_000);
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(message(), None));
    });
    let text = message().unwrap();
    assert!(text.starts_with("EE9999: aclrtFree failed: "), "{text}");
    assert_eq!(message(), None);
    assert_eq!(acl!(aclrtPeekAtLastError(0)), 100_000);
    assert_eq!(acl!(aclrtGetLastError(0)), 100_000);
    assert_eq!(acl!(aclrtGetLastError(0)), 0);
    assert!(session.plog().contains("[ERROR]") && session.plog().contains("[aclrtFree]"));
    session.end_clean();
}

#[test]
fn calls_fail_on_order_and_the_log_has_them_all() {
    let session = Session::start(&[("CANN_SIM_FAIL", "aclrtMalloc:2=207001")]);
    let memory = device(8);
    let mut other = ptr::null_mut();
    assert_eq!(acl!(aclrtMalloc(&raw mut other, 8, 0)), 207_001);
    assert!(other.is_null());
    assert!(message().unwrap().contains("aclrtMalloc"));
    ok!(aclrtMalloc(&raw mut other, 8, 0));
    ok!(aclrtFree(memory));
    ok!(aclrtFree(other));
    let log = session.end();
    for line in ["aclInit 0", "aclrtMalloc 207001 ordered", "aclrtFree 0", "leaks: 0"] {
        assert!(log.contains(line), "{log}");
    }
}

#[test]
fn the_summary_names_everything_that_was_forgotten() {
    let session = Session::start(&[]);
    device(100);
    device(10);
    pinned(&[1; 7]);
    stream();
    event(1);
    load(&om());
    assert!(!acl!(aclmdlCreateDesc()).is_null());
    assert!(!acl!(aclmdlCreateDataset()).is_null());
    assert!(!acl!(aclCreateDataBuffer(ptr::null_mut(), 0)).is_null());
    assert!(!acl!(aclmdlCreateConfigHandle()).is_null());
    let mut context = ptr::null_mut::<c_void>();
    ok!(aclrtCreateContext(&raw mut context, 0));
    let log = session.end();
    let expected = "leaks: 11 memory=2 (110 bytes) pinned=1 (7 bytes) streams=1 events=1 \
                    contexts=1 models=1 descs=1 datasets=1 buffers=1 configs=1\n";
    assert!(log.contains(expected), "{log}");
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_that_ends_without_finalize() {
    ok!(aclInit(ptr::null()));
    ok!(aclrtSetDevice(0));
    device(1 << 20);
}

#[test]
fn the_end_of_the_process_writes_the_summary_too() {
    let session = Session::prepare(&[]);
    let log = in_child("lifecycle::child_that_ends_without_finalize", session.folder.path());
    assert!(log.contains("leaks: 2 memory=1 (1048576 bytes) devices=1\nviolations: 0\n"), "{log}");
}
