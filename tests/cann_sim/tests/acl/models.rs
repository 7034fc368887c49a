//! Loading, describing and running models.

use std::ffi::{CStr, c_void};
use std::mem;
use std::ptr;

use ascendcl::acl::abi::*;

use crate::support::{
    Loaded, Session, WORKSPACE, device, download, floats, load, message, om, om_for, stream, upload,
};

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(aclrtGetMemInfo(1, &raw mut free, &raw mut total));
    free
}

/// Loads with a configuration; the code and the model's id.
fn load_with(om: &[u8], options: &[(i32, usize)]) -> (i32, u32) {
    let handle = acl!(aclmdlCreateConfigHandle());
    let memory = [(1, 4), (3, om.as_ptr().expose_provenance()), (4, om.len())];
    for (attribute, value) in memory.iter().chain(options) {
        ok!(aclmdlSetConfigOpt(handle, *attribute, (&raw const *value).cast(), 8));
    }
    let mut id = 0;
    let status = acl!(aclmdlLoadWithConfig(handle, &raw mut id));
    ok!(aclmdlDestroyConfigHandle(handle));
    (status, id)
}

/// The work size that the model says it needs.
fn work_size(om: &[u8]) -> usize {
    let (mut work, mut weights) = (0, 0);
    ok!(aclmdlQuerySizeFromMem(om.as_ptr().cast(), om.len(), &raw mut work, &raw mut weights));
    work
}

#[test]
fn a_load_takes_memory_for_the_io_unless_told_otherwise() {
    let session = Session::start(&[]);
    let om = om();
    let before = free_bytes();
    let taken = || before - free_bytes();
    assert!(work_size(&om) > WORKSPACE);

    let id = load(&om);
    assert_eq!(taken(), work_size(&om));
    ok!(aclmdlUnload(id));
    let (status, id) = load_with(&om, &[]);
    assert_eq!((status, taken()), (0, work_size(&om)));
    ok!(aclmdlUnload(id));
    let (status, id) = load_with(&om, &[(13, 1)]);
    assert_eq!((status, taken()), (0, WORKSPACE));
    ok!(aclmdlUnload(id));
    assert_eq!(taken(), 0);

    let workspace = device(WORKSPACE);
    let with_workspace = taken();
    let (status, id) = load_with(&om, &[(7, workspace.addr()), (8, WORKSPACE), (13, 1)]);
    assert_eq!((status, taken()), (0, with_workspace));
    ok!(aclmdlUnload(id));
    let mut id = 0;
    let bytes = om.as_ptr().cast();
    let null = ptr::null_mut();
    let status =
        acl!(aclmdlLoadFromMemWithMem(bytes, om.len(), &raw mut id, workspace, WORKSPACE, null, 0));
    assert_eq!((status, taken()), (0, with_workspace));
    ok!(aclmdlUnload(id));
    for (address, size, code) in [
        (workspace.addr(), WORKSPACE - 64, 145_000),
        (workspace.addr(), WORKSPACE + 1, 145_007),
        (om.as_ptr().addr(), WORKSPACE, 145_007),
    ] {
        assert_eq!(load_with(&om, &[(7, address), (8, size)]).0, code, "{size}");
    }
    ok!(aclrtFree(workspace));
    session.end_clean();
}

#[test]
fn a_load_that_does_not_fit_is_refused_and_takes_nothing() {
    let session = Session::start(&[("CANN_SIM_HBM_BYTES", "1048576")]);
    let om = om();
    let memory = device((1 << 20) - work_size(&om));
    let before = free_bytes();
    let mut id = 0;
    assert_eq!(acl!(aclmdlLoadFromMem(om.as_ptr().cast(), om.len(), &raw mut id)), 245_000);
    assert_eq!(free_bytes(), before);
    ok!(aclrtFree(memory));
    session.end_clean();
}

#[test]
fn models_for_other_chips_and_newer_toolkits_and_damaged_ones_are_refused() {
    let session = Session::start(&[("CANN_SIM_CANN", "8.5.0")]);
    let refused = |om: &[u8]| {
        let mut id = 0;
        acl!(aclmdlLoadFromMem(om.as_ptr().cast(), om.len(), &raw mut id))
    };
    assert_eq!(refused(&om_for("Ascend910B4", "8.5.0")), 545_001);
    assert!(message().unwrap().contains("Ascend910B4"));
    assert_eq!(refused(&om_for("Ascend910B3", "9.0.0")), 545_001);
    let om = om_for("Ascend910B3", "8.1.RC1");
    ok!(aclmdlUnload(load(&om)));
    assert_eq!(refused(&om[..om.len() - 1]), 145_006);
    let mut damaged = om.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert!((545_001..=545_005).contains(&refused(&damaged)));
    let on_device = upload(&om);
    let mut id = 0;
    assert_eq!(acl!(aclmdlLoadFromMem(on_device, om.len(), &raw mut id)), 145_007);
    ok!(aclrtFree(on_device));
    session.end_clean();
}

#[test]
fn options_of_a_load_are_checked() {
    let session = Session::start(&[]);
    let handle = acl!(aclmdlCreateConfigHandle());
    let value = 2_usize;
    let address: *const c_void = (&raw const value).cast();
    for (attribute, size) in [(13, 8), (13, 4), (1, 4), (12, 8), (99, 8), (-1, 8)] {
        assert_eq!(acl!(aclmdlSetConfigOpt(handle, attribute, address, size)), 100_000);
    }
    assert_eq!(acl!(aclmdlSetConfigOpt(handle, 1, ptr::null(), 8)), 100_000);
    let mut id = 0;
    assert_eq!(acl!(aclmdlLoadWithConfig(handle, &raw mut id)), 100_000);
    ok!(aclmdlDestroyConfigHandle(handle));
    session.end_clean();
}

#[test]
fn a_model_is_loaded_from_a_file_too() {
    let session = Session::start(&[]);
    let path = session.folder.path().join("small.om");
    std::fs::write(&path, om()).unwrap();
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let path = path.as_ptr();
    let handle = acl!(aclmdlCreateConfigHandle());
    let load_type = 1_usize;
    ok!(aclmdlSetConfigOpt(handle, 1, (&raw const load_type).cast(), 8));
    ok!(aclmdlSetConfigOpt(handle, 2, (&raw const path).cast(), 8));
    let mut id = 0;
    ok!(aclmdlLoadWithConfig(handle, &raw mut id));
    ok!(aclmdlUnload(id));
    ok!(aclmdlDestroyConfigHandle(handle));
    session.end_clean();
}

#[test]
fn descriptions_tell_names_types_and_sizes() {
    let session = Session::start(&[]);
    let id = load(&om());
    let desc = acl!(aclmdlCreateDesc());
    assert_eq!(acl!(aclmdlGetNumInputs(desc)), 0);
    assert_eq!(acl!(aclmdlGetDesc(desc, id + 1)), 145_003);
    ok!(aclmdlGetDesc(desc, id));
    assert_eq!((acl!(aclmdlGetNumInputs(desc)), acl!(aclmdlGetNumOutputs(desc))), (3, 1));
    let sizes: Vec<_> = (0..4).map(|idx| acl!(aclmdlGetInputSizeByIndex(desc, idx))).collect();
    assert_eq!(sizes, [8, 4, 32, 0]);
    let types: Vec<_> = (0..4).map(|idx| acl!(aclmdlGetInputDataType(desc, idx))).collect();
    assert_eq!(types, [0, 3, 0, -1]);
    assert_eq!(acl!(aclmdlGetOutputFormat(desc, 0)), 2);
    let name = acl!(aclmdlGetInputNameByIndex(desc, 2));
    // SAFETY: the name lives as long as the description.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"state");
    let name = acl!(aclmdlGetOutputNameByIndex(desc, 0));
    // SAFETY: as above.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"sum:0:y");
    let mut index = 9;
    ok!(aclmdlGetInputIndexByName(desc, c"index".as_ptr(), &raw mut index));
    assert_eq!(index, 1);
    assert_eq!(acl!(aclmdlGetInputIndexByName(desc, c"y".as_ptr(), &raw mut index)), 100_000);
    // SAFETY: any bytes are this structure.
    let mut dims: AclmdlIoDims = unsafe { mem::zeroed() };
    ok!(aclmdlGetInputDims(desc, 2, &raw mut dims));
    assert_eq!((dims.dim_count, &dims.dims[..3]), (2, [4, 2, 0].as_slice()));
    assert_eq!(mem::size_of::<AclmdlIoDims>(), 1160);
    ok!(aclmdlDestroyDesc(desc));
    ok!(aclmdlUnload(id));
    session.end_clean();
}

#[test]
fn a_run_computes_and_changes_its_state_in_place() {
    let session = Session::start(&[]);
    let (queue, model) = (stream(), Loaded::new(load(&om())));
    for _ in 0..2 {
        assert_eq!(model.run(queue), 0);
    }
    ok!(aclrtSynchronizeStream(queue));
    assert_eq!(download(model.memory[3], 8), floats(&[3.0, -4.0]));
    let state = [0.0, 0.0, 0.0, 0.0, 1.5, -2.0, 0.0, 0.0];
    assert_eq!(download(model.memory[2], 32), floats(&state));
    ok!(aclrtMemset(model.memory[3], 8, 0, 8));
    ok!(aclmdlExecute(model.id, model.inputs, model.outputs));
    assert_eq!(download(model.memory[3], 8), floats(&[3.0, -4.0]));
    model.unload();
    ok!(aclrtDestroyStream(queue));
    session.end_clean();
}

#[test]
fn datasets_must_fit_the_model() {
    let session = Session::start(&[]);
    let (queue, model) = (stream(), Loaded::new(load(&om())));
    let [x, .., state, sum] = model.memory;
    let host = [0_u8; 64];
    let buffer = model.buffers[0];
    let aligned = device(256);
    let odd = aligned.wrapping_byte_add(4);
    for (address, size, code) in [
        (x, 7, 145_000),
        (aligned, 65, 145_000),
        (ptr::null_mut(), 8, 145_000),
        (host.as_ptr().cast_mut().cast(), 8, 145_000),
        (odd, 8, 345_104),
        (state, 8, 145_000),
        (sum, 8, 145_000),
        (aligned, 64, 0),
        (x, 8, 0),
    ] {
        ok!(aclUpdateDataBuffer(buffer, address, size));
        assert_eq!(model.run(queue), code, "{address:p} {size}");
    }
    ok!(aclrtSynchronizeStream(queue));
    ok!(aclmdlAddDatasetBuffer(model.inputs, buffer));
    assert_eq!(model.run(queue), 145_000);
    assert_eq!(acl!(aclmdlExecuteAsync(model.id, ptr::null(), model.outputs, queue)), 100_000);
    ok!(aclrtFree(aligned));
    model.unload();
    ok!(aclrtDestroyStream(queue));
    session.end_clean();
}

#[test]
fn memory_freed_after_it_was_bound_is_noticed() {
    let session = Session::start(&[]);
    let (queue, mut model) = (stream(), Loaded::new(load(&om())));
    assert_eq!(model.run(queue), 0);
    ok!(aclrtSynchronizeStream(queue));
    ok!(aclrtFree(model.memory[0]));
    assert_eq!(model.run(queue), 145_000);
    model.memory[0] = device(8);
    model.unload();
    ok!(aclrtDestroyStream(queue));
    session.end_clean();
}

#[test]
fn an_index_out_of_range_is_an_exception_at_the_next_synchronise() {
    let session = Session::start(&[]);
    let (queue, model) = (stream(), Loaded::new(load(&om())));
    let index = 4_i32;
    ok!(aclrtMemcpy(model.memory[1], 4, (&raw const index).cast(), 4, 1));
    assert_eq!(model.run(queue), 0);
    assert_eq!(acl!(aclrtSynchronizeStreamWithTimeout(queue, 10_000)), 507_015);
    let text = message().unwrap();
    assert!(text.contains("write (ScatterNdUpdate)"), "{text}");
    assert_eq!(model.run(queue), 507_015);
    model.unload();
    ok!(aclrtDestroyStream(queue));
    session.end_clean();
}

#[test]
fn models_belong_to_their_context() {
    let session = Session::start(&[]);
    let model = Loaded::new(load(&om()));
    let mut default = ptr::null_mut();
    ok!(aclrtGetCurrentContext(&raw mut default));
    let mut other = ptr::null_mut();
    ok!(aclrtCreateContext(&raw mut other, 0));
    let queue = stream();
    assert_eq!(model.run(queue), 107_004);
    assert_eq!(acl!(aclmdlUnload(model.id)), 107_004);
    ok!(aclrtDestroyStream(queue));
    ok!(aclrtDestroyContext(other));
    ok!(aclrtSetCurrentContext(default));
    model.unload();
    session.end_clean();
}

#[test]
fn a_model_that_runs_on_two_streams_at_once_is_a_violation() {
    let session = Session::start(&[("CANN_SIM_DELAY_US", "50000"), ("CANN_SIM_SEED", "3")]);
    let (a, b, model) = (stream(), stream(), Loaded::new(load(&om())));
    for _ in 0..8 {
        assert_eq!(model.run(a), 0);
        assert_eq!(model.run(b), 0);
    }
    let results = [acl!(aclrtSynchronizeStream(a)), acl!(aclrtSynchronizeStream(b))];
    assert!(results.contains(&145_000), "{results:?}");
    model.unload();
    for queue in [a, b] {
        ok!(aclrtDestroyStream(queue));
    }
    let log = session.end();
    assert!(log.contains("violation: model") && log.contains("at once"), "{log}");
}

#[test]
fn models_that_share_a_workspace_may_take_turns_but_not_run_at_once() {
    let session = Session::start(&[("CANN_SIM_DELAY_US", "20000")]);
    let (a, b, om) = (stream(), stream(), om());
    let workspace = device(WORKSPACE);
    let options = [(7, workspace.addr()), (8, WORKSPACE), (13, 1)];
    let loaded = || {
        let (status, id) = load_with(&om, &options);
        assert_eq!(status, 0, "{:?}", message());
        Loaded::new(id)
    };
    let (first, second) = (loaded(), loaded());
    for model in [&first, &second, &first] {
        assert_eq!(model.run(a), 0);
    }
    ok!(aclrtSynchronizeStream(a));
    for _ in 0..8 {
        assert_eq!(first.run(a), 0);
        assert_eq!(second.run(b), 0);
    }
    let results = [acl!(aclrtSynchronizeStream(a)), acl!(aclrtSynchronizeStream(b))];
    assert!(results.contains(&145_000), "{results:?}");
    first.unload();
    second.unload();
    ok!(aclrtFree(workspace));
    for queue in [a, b] {
        ok!(aclrtDestroyStream(queue));
    }
    assert!(session.end().contains("share a workspace"));
}

#[test]
fn a_model_is_not_unloaded_while_it_is_to_run() {
    let session = Session::start(&[("CANN_SIM_FAIL", "aclrtMemsetAsync:1=hang")]);
    let (queue, model) = (stream(), Loaded::new(load(&om())));
    ok!(aclrtMemsetAsync(model.memory[3], 8, 0, 8, queue));
    assert_eq!(model.run(queue), 0);
    assert_eq!(acl!(aclmdlUnload(model.id)), 545_009);
    ok!(aclrtStreamAbort(queue));
    assert_eq!(acl!(aclrtSynchronizeStream(queue)), 107_023);
    model.unload();
    ok!(aclrtDestroyStream(queue));
    assert!(session.end().contains("violations: 1 "));
}

#[test]
fn without_computing_outputs_are_zero_and_states_are_left_alone() {
    let session = Session::start(&[("CANN_SIM_EXECUTE", "noop"), ("CANN_SIM_DELAY_US", "0")]);
    let (queue, model) = (stream(), Loaded::new(load(&om())));
    assert_eq!(model.run(queue), 0);
    ok!(aclrtSynchronizeStream(queue));
    assert_eq!(download(model.memory[3], 8), [0; 8]);
    assert_eq!(download(model.memory[2], 32), [0; 32]);
    model.unload();
    ok!(aclrtDestroyStream(queue));
    session.end_clean();
}

#[test]
fn failures_of_runs_come_on_order() {
    let fail = "aclmdlExecuteAsync:1=145003,aclmdlExecuteAsync:2=async:507011,aclmdlExecute:1=hang";
    let session = Session::start(&[("CANN_SIM_FAIL", fail)]);
    let (queue, model) = (stream(), Loaded::new(load(&om())));
    assert_eq!(model.run(queue), 145_003);
    assert_eq!(model.run(queue), 0);
    assert_eq!(acl!(aclrtSynchronizeStream(queue)), 507_011);
    assert_eq!(acl!(aclmdlExecute(model.id, model.inputs, model.outputs)), 545_601);
    assert_eq!(model.run(queue), 0);
    ok!(aclrtSynchronizeStream(queue));
    model.unload();
    ok!(aclrtDestroyStream(queue));
    session.end_clean();
}
