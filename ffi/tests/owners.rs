//! Who is freed when, where and how often: runtime, device, contexts, memory, models and datasets,
//! against a library that writes every call down.

mod stub;

use std::mem;
use std::sync::Arc;
use std::thread;

use cairn_ffi::{
    AclError, AclStatus, Dataset, Device, DeviceBuffer, DeviceSlice, Event, LoadOptions,
    MemoryInfo, Model, Origin, PinnedBuffer, Runtime, StatusClass, Stream, workspace_sizes,
};

use stub::{Stub, count, position};

fn om(bytes: &[u8]) -> LoadOptions<'_> {
    LoadOptions { om: bytes, workspace: None, weight: None }
}

#[test]
fn acl_is_initialised_once_and_finalised_by_the_last() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let first = stub.runtime();
    let second = stub.runtime();
    assert_eq!(stub.calls(), ["aclInit - null"]);
    assert_eq!(first.device_count(), Ok(2));
    assert_eq!(first.soc_name().as_deref(), Some("Ascend910B3"));
    assert_eq!(first.cann_version(), None);
    drop(first);
    assert!(!stub.names().contains(&"aclFinalize".to_owned()));
    drop(second);
    assert_eq!(stub.names(), ["aclFinalize"]);
    drop(stub.runtime());
    assert_eq!(stub.names(), ["aclInit", "aclFinalize"]);
}

#[test]
fn what_somebody_else_has_initialised_is_theirs_to_finalise() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    stub.fail("aclInit", 1, 100_002);
    drop(stub.runtime());
    assert_eq!(stub.names(), ["aclInit"]);
    stub.fail("aclInit", 1, 500_000);
    let error = Runtime::init(stub.acl()).unwrap_err();
    assert_eq!((error.function, error.status), ("aclInit", AclStatus(500_000)));
    assert_eq!(error.message, "aclInit was told to fail");
}

#[test]
fn the_words_of_cann_are_those_about_the_failing_call() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    stub.fail("aclrtMalloc", 1, 207_001);
    let error = DeviceBuffer::new(&current, 64).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`aclrtMalloc` failed: ACL_ERROR_RT_MEMORY_ALLOCATION (207001): a resource ran out: free \
         some, then try again; CANN says: aclrtMalloc was told to fail"
    );
    // The configuration is given back after the failure: that call does not replace the words.
    stub.fail("aclmdlLoadWithConfig", 1, 545_001);
    stub.calls();
    let error = Model::load(&current, om(b"model")).unwrap_err();
    assert_eq!(stub.names().last().unwrap(), "aclmdlDestroyConfigHandle");
    assert_eq!(error.message, "aclmdlLoadWithConfig was told to fail");
    assert_eq!((error.class(), error.origin), (StatusClass::DropEntry, Origin::Cann));
    // What returns a handle instead of a status.
    stub.fail("aclmdlCreateDataset", 1, 1);
    let error = Dataset::new(&current, Vec::new()).unwrap_err();
    assert_eq!(
        (error.status, &*error.message),
        (AclStatus(200_000), "aclmdlCreateDataset was told to fail")
    );
    assert!(!device.is_poisoned());
}

#[test]
fn everything_goes_in_the_right_order_whatever_is_dropped_first() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let runtime = Arc::clone(device.runtime());
    let current = device.enter().unwrap();
    let workspace = Arc::new(DeviceBuffer::new(&current, 1000).unwrap());
    let options = LoadOptions { workspace: Some(Arc::clone(&workspace)), ..om(b"model") };
    let model = Model::load(&current, options).unwrap();
    let tensor = DeviceSlice::new(workspace, 0, 16).unwrap();
    let dataset = Dataset::new(&current, vec![tensor.clone(), tensor.clone()]).unwrap();
    let stream = Stream::new(&current).unwrap();
    let event = Event::new(&current).unwrap();
    let pinned = PinnedBuffer::new(&current, 100).unwrap();
    drop(current);
    stub.calls();
    drop(runtime);
    drop(device);
    drop((tensor, dataset, model, stream, event, pinned));
    let names = stub.names();
    let order = [
        "aclmdlDestroyDataset",
        "aclmdlUnload",
        "aclrtFree",
        "aclrtDestroyStream",
        "aclrtDestroyEvent",
        "aclrtFreeHost",
        "aclrtDestroyContext",
        "aclrtResetDevice",
        "aclFinalize",
    ];
    let positions: Vec<_> = order.iter().map(|name| position(&names, name)).collect();
    assert!(positions.is_sorted(), "{names:#?}");
    assert_eq!(count(&names, "aclDestroyDataBuffer"), 2);
    assert_eq!(names.last().unwrap(), "aclFinalize");
}

#[test]
fn dropped_elsewhere_a_buffer_is_freed_in_its_context_and_the_one_there_is_current_again() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let runtime = stub.runtime();
    let [first, second] = [0, 1].map(|id| Device::open(Arc::clone(&runtime), id).unwrap());
    let current = first.enter().unwrap();
    let [buffer, another] = [64, 64].map(|bytes| DeviceBuffer::new(&current, bytes).unwrap());
    stub.calls();
    // A thread where nothing is current.
    thread::scope(|scope| scope.spawn(|| drop(buffer)).join().unwrap());
    let calls = stub.calls();
    assert_eq!(
        calls,
        ["aclrtGetCurrentContext -", "aclrtSetCurrentContext -", "aclrtFree 1"],
        "and the stub says when the context is wrong"
    );
    // A thread where another device is entered.
    thread::scope(|scope| {
        let dropped = scope.spawn(|| {
            let there = second.enter().unwrap();
            drop(another);
            DeviceBuffer::new(&there, 64).map(drop)
        });
        dropped.join().unwrap().unwrap();
    });
    let calls = stub.calls();
    assert!(calls.contains(&"aclrtFree 1".to_owned()), "{calls:#?}");
    assert!(calls.contains(&"aclrtMalloc 2 96 policy 0".to_owned()), "{calls:#?}");
}

#[test]
fn a_second_device_is_not_entered_while_a_first_one_is() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let first = stub.device();
    let current = first.enter().unwrap();
    // Opening changes the current context for a moment.
    let second = Device::open(Arc::clone(first.runtime()), 1).unwrap();
    DeviceBuffer::new(&current, 64).unwrap();
    let calls = stub.calls();
    assert!(calls.contains(&"aclrtMalloc 1 96 policy 0".to_owned()), "{calls:#?}");

    let error = second.enter().unwrap_err();
    assert_eq!((error.origin, error.class()), (Origin::Refused, StatusClass::Misuse));
    assert!(error.to_string().contains("device 1, while device 0 is entered on this thread"));
    let again = first.enter().unwrap();
    drop(current);
    assert!(second.enter().is_err(), "the first is still entered, once");
    drop(again);
    let current = second.enter().unwrap();
    assert_eq!(current.memory_info(), Ok(MemoryInfo { free: 1000, total: 4000 }));
    // What is of one device is not used with the context of another.
    drop(current);
    let buffer = DeviceBuffer::new(&first.enter().unwrap(), 64).unwrap();
    let error = buffer.upload(&second.enter().unwrap(), 0, &[1]).unwrap_err();
    assert!(error.to_string().contains("it is of device 0"), "{error}");
    assert_eq!(error.origin, Origin::Refused);
    // A device that goes leaves what is current as it is.
    let current = first.enter().unwrap();
    drop(second);
    DeviceBuffer::new(&current, 64).unwrap();
}

#[test]
fn a_current_that_was_forgotten_neither_keeps_its_device_nor_names_a_context_that_is_gone() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let runtime = stub.runtime();
    let [first, second] = [0, 1].map(|id| Device::open(Arc::clone(&runtime), id).unwrap());
    mem::forget(first.enter().unwrap());
    assert!(second.enter().is_err());
    drop(first);
    let current = second.enter().unwrap();
    DeviceBuffer::new(&current, 64).unwrap();
    drop(current);
    drop((second, runtime));
    assert_eq!(stub.names().last().unwrap(), "aclFinalize");
}

#[test]
fn a_device_that_does_not_start_is_given_back() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let runtime = stub.runtime();
    stub.fail("aclrtCreateContext", 1, 507_899);
    stub.calls();
    let error = Device::open(Arc::clone(&runtime), 0).unwrap_err();
    assert_eq!(error.message, "aclrtCreateContext was told to fail");
    let names = stub.names();
    assert!(position(&names, "aclrtSetDevice") < position(&names, "aclrtResetDevice"));
    let error = Device::open(Arc::clone(&runtime), 7).unwrap_err();
    assert_eq!((error.function, error.status), ("aclrtSetDevice", AclStatus(107_001)));
    assert_eq!(count(&stub.names(), "aclrtResetDevice"), 0);
    let error = Device::open(runtime, u32::MAX).unwrap_err();
    assert_eq!(error.origin, Origin::Refused);
}

#[test]
fn optional_functions_that_are_missing_are_no_answer() {
    let Some(with) = Stub::new(&[], &[]) else { return };
    let device = with.device();
    assert_eq!(device.enter().unwrap().supports_tiling_sink(), Some(true));
    with.fail("aclrtGetDeviceCapability", 1, 207_000);
    assert_eq!(device.enter().unwrap().supports_tiling_sink(), None);
    let other = Device::open(with.runtime(), 1).unwrap();
    assert_eq!(other.enter().unwrap().supports_tiling_sink(), Some(false));

    let optional = [
        "aclsysGetVersionStr",
        "aclsysGetVersionNum",
        "aclrtGetDeviceInfo",
        "aclrtGetStreamAvailableNum",
        "aclrtQueryDeviceStatus",
        "aclrtDeviceTaskAbort",
        "aclrtDestroyStreamForce",
        "aclrtStreamAbort",
        "aclrtPeekAtLastError",
        "aclrtGetLastError",
        "aclrtSetExceptionInfoCallback",
        "aclrtGetTaskIdFromExceptionInfo",
        "aclrtGetStreamIdFromExceptionInfo",
        "aclrtGetErrorCodeFromExceptionInfo",
        "aclrtGetDeviceIdFromExceptionInfo",
        "aclsysGetCANNVersion",
    ];
    let without = Stub::new(
        &["NO_CAPABILITY", "EXTRA"],
        &[&optional[..], &["aclrtGetDeviceCapability"]].concat(),
    )
    .unwrap();
    let device = without.device();
    assert_eq!(device.runtime().cann_version(), None);
    assert_eq!(device.enter().unwrap().supports_tiling_sink(), None);
}

#[test]
fn bytes_go_to_the_device_and_back_within_bounds_only() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let buffer = Arc::new(DeviceBuffer::new(&current, 12).unwrap());
    stub.calls();
    buffer.fill_zero(&current).unwrap();
    buffer.upload(&current, 4, &[1, 2, 3]).unwrap();
    let mut out = [0xFF; 8];
    buffer.download(&current, 3, &mut out).unwrap();
    assert_eq!(out, [0, 1, 2, 3, 0, 0, 0, 0]);
    assert_eq!(stub.calls(), ["aclrtMemset 1", "aclrtMemcpy 1 3 kind 1", "aclrtMemcpy 1 8 kind 2"]);
    // The room for kernels at the end is not ours to write to; nothing is no call.
    assert!(buffer.upload(&current, 10, &[1, 2, 3]).is_err());
    assert!(buffer.download(&current, usize::MAX, &mut out).is_err());
    assert!(DeviceSlice::new(Arc::clone(&buffer), 8, 5).is_err());
    buffer.upload(&current, 12, &[]).unwrap();
    let empty = DeviceBuffer::new(&current, 0).unwrap();
    empty.fill_zero(&current).unwrap();
    assert!(DeviceBuffer::new(&current, usize::MAX - 40).is_err());
    assert!(PinnedBuffer::new(&current, usize::MAX).is_err());
    let pinned = PinnedBuffer::new(&current, 3).unwrap();
    assert_eq!(pinned.as_slice(), Ok(&[0_u8; 3][..]), "a new one is all zeros");
    assert_eq!(
        stub.calls(),
        ["aclrtMalloc 1 32 policy 0", "aclrtMallocHost 1"],
        "the rest is refused before it reaches ACL"
    );
}

#[test]
fn a_model_is_loaded_into_our_memory_or_its_own_and_always_without_its_inputs() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let buffer = |bytes| Some(Arc::new(DeviceBuffer::new(&current, bytes).unwrap()));
    let load = |workspace, weight| {
        stub.calls();
        let model = Model::load(&current, LoadOptions { om: b"OM", workspace, weight }).unwrap();
        let calls = stub.calls();
        let (created, destroyed) = ("aclmdlCreateConfigHandle 1", "aclmdlDestroyConfigHandle 1");
        assert!(
            calls.iter().any(|call| call == created) && calls.iter().any(|call| call == destroyed)
        );
        assert!(calls.iter().any(|call| call == "aclmdlDestroyDesc 1"));
        let loaded = calls.into_iter().find(|call| call.starts_with("aclmdlLoadWithConfig"));
        (model, loaded.unwrap())
    };
    let (model, call) = load(None, None);
    assert_eq!(call, "aclmdlLoadWithConfig 1 type 3 work 0 weight 0 optimize 1 om OM");
    let (_, call) = load(buffer(640), None);
    assert_eq!(call, "aclmdlLoadWithConfig 1 type 4 work 640 weight 0 optimize 1 om OM");
    let (_, call) = load(buffer(640), buffer(64));
    assert_eq!(call, "aclmdlLoadWithConfig 1 type 4 work 640 weight 64 optimize 1 om OM");

    let [input] = model.inputs() else { panic!("{model:?}") };
    assert_eq!((&*input.name, input.format, input.bytes), ("input_0", 2, 16));
    assert_eq!(input.dims, [2, 2]);
    assert_eq!(model.outputs()[0].name, "n1_Add:0");
    assert_eq!((model.input_index("input_0"), model.input_index("input_1")), (Some(0), None));
    assert_eq!(workspace_sizes(&current, b"OM"), Ok((200, 10)));
    assert_eq!(workspace_sizes(&current, b"").unwrap_err().origin, Origin::Refused);
}

#[test]
fn a_model_that_cannot_be_set_up_leaves_nothing_behind() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    stub.calls();
    for (function, number, is_loaded, is_described) in [
        ("aclmdlCreateConfigHandle", 1, false, false),
        ("aclmdlSetConfigOpt", 1, false, false),
        ("aclmdlSetConfigOpt", 4, false, false),
        ("aclmdlLoadWithConfig", 1, false, false),
        ("aclmdlCreateDesc", 1, true, false),
        ("aclmdlGetDesc", 1, true, true),
        ("aclmdlGetInputDims", 1, true, true),
        ("aclmdlGetOutputDims", 1, true, true),
        ("dimCount", 2, true, true),
    ] {
        stub.fail(function, number, 100_000);
        Model::load(&current, om(b"OM")).unwrap_err();
        let names = stub.names();
        let has_config = function != "aclmdlCreateConfigHandle";
        assert_eq!(
            count(&names, "aclmdlDestroyConfigHandle"),
            usize::from(has_config),
            "{function}"
        );
        assert_eq!(count(&names, "aclmdlUnload"), usize::from(is_loaded), "{function}");
        assert_eq!(count(&names, "aclmdlDestroyDesc"), usize::from(is_described), "{function}");
    }
    assert_eq!(Model::load(&current, om(b"")).unwrap_err().origin, Origin::Refused);
}

#[test]
fn a_dataset_that_cannot_be_filled_gives_back_what_it_has() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let buffer = Arc::new(DeviceBuffer::new(&current, 64).unwrap());
    let tensors = vec![DeviceSlice::whole(buffer); 3];
    stub.calls();
    for (function, number, destroyed) in [
        ("aclmdlCreateDataset", 1, 0),
        ("aclCreateDataBuffer", 1, 0),
        ("aclCreateDataBuffer", 3, 2),
        ("aclmdlAddDatasetBuffer", 3, 3),
    ] {
        stub.fail(function, number, 200_000);
        let error: AclError = Dataset::new(&current, tensors.clone()).unwrap_err();
        assert_eq!((error.function, error.class()), (function, StatusClass::Retry));
        let names = stub.names();
        let has_dataset = function != "aclmdlCreateDataset";
        assert_eq!(count(&names, "aclmdlDestroyDataset"), usize::from(has_dataset), "{function}");
        assert_eq!(count(&names, "aclDestroyDataBuffer"), destroyed, "{function}");
    }
    let dataset = Dataset::new(&current, tensors).unwrap();
    assert_eq!(dataset.tensors().len(), 3);
    drop(dataset);
    assert_eq!(count(&stub.names(), "aclDestroyDataBuffer"), 3);
}

#[test]
fn what_cann_does_not_take_back_is_counted_and_told_when_asked() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let buffer = DeviceBuffer::new(&device.enter().unwrap(), 64).unwrap();
    stub.fail("aclrtFree", 1, 507_899);
    drop(buffer);
    let runtime = device.runtime();
    assert_eq!(runtime.leaked(), 1);
    assert_eq!(runtime.release_error().unwrap().message, "aclrtFree was told to fail");
}
