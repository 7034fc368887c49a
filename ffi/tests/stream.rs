//! What streams do: in order, waited for in every case, and never used again once it is unknown what
//! the device still does. The library does all work at the wait only.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod stub;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use cairn_ffi::{
    AclError, AclStatus, Current, Dataset, DeviceBuffer, DeviceSlice, Event, LoadOptions, Model,
    Origin, PinnedBuffer, StatusClass, Stream,
};

use stub::{Stub, count};

const TIMEOUT: Duration = Duration::from_millis(1500);
const WAIT: &str = "aclrtSynchronizeStreamWithTimeout";

/// A model that adds 1 to four numbers, and everything to run it.
struct Setup {
    stream: Stream,
    model: Model,
    inputs: Dataset,
    outputs: Dataset,
    host_in: PinnedBuffer,
    host_out: PinnedBuffer,
}

impl Setup {
    fn new(current: &Current<'_>) -> Self {
        let dataset = || {
            let buffer = Arc::new(DeviceBuffer::new(current, 16).unwrap());
            Dataset::new(current, vec![DeviceSlice::whole(buffer)]).unwrap()
        };
        let options = LoadOptions { om: b"OM", workspace: None, weight: None };
        Self {
            stream: Stream::new(current).unwrap(),
            model: Model::load(current, options).unwrap(),
            inputs: dataset(),
            outputs: dataset(),
            host_in: PinnedBuffer::new(current, 32).unwrap(),
            host_out: PinnedBuffer::new(current, 20).unwrap(),
        }
    }

    /// Uploads, executes, downloads.
    fn step(&mut self, current: &Current<'_>) -> Result<(), AclError> {
        let Self { stream, model, inputs, outputs, host_in, host_out } = self;
        stream.run(current, TIMEOUT, |queue| {
            queue.upload(host_in, 16..32, &inputs.tensors()[0])?;
            queue.execute(model, inputs, outputs)?;
            queue.download(&outputs.tensors()[0], host_out, 4..20)
        })
    }
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn a_step_uploads_executes_downloads_and_waits() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let mut setup = Setup::new(&current);
    let made = stub.calls();
    for call in ["aclrtCreateStreamWithConfig 1 priority 0 flags 3", "aclrtSetStreamFailureMode 1"]
    {
        assert!(made.contains(&call.to_owned()), "{made:#?}");
    }
    let input: Vec<u8> = [1.0_f32, 2.0, 3.0, -1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    setup.host_in.as_mut_slice().unwrap()[16..].copy_from_slice(&input);
    setup.step(&current).unwrap();
    assert_eq!(numbers(setup.host_out.as_slice().unwrap()), [0.0, 2.0, 3.0, 4.0, 0.0]);
    assert_eq!(
        stub.calls(),
        [
            "aclrtMemcpyAsync 1",
            "aclmdlExecuteAsync 1",
            "aclrtMemcpyAsync 1",
            "aclrtSynchronizeStreamWithTimeout 1 1500"
        ]
    );
}

#[test]
fn work_is_waited_for_when_its_caller_fails_or_panics() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let mut setup = Setup::new(&current);
    stub.calls();
    stub.fail("aclmdlExecuteAsync", 1, 145_003);
    let error = setup.step(&current).unwrap_err();
    assert_eq!((error.function, error.class()), ("aclmdlExecuteAsync", StatusClass::DropEntry));
    assert_eq!(stub.names(), ["aclrtMemcpyAsync", "aclmdlExecuteAsync", WAIT]);

    let Setup { stream, model, inputs, outputs, .. } = &mut setup;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        stream.run(&current, TIMEOUT, |queue| -> Result<(), AclError> {
            queue.execute(model, inputs, outputs)?;
            panic!("in the middle");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(stub.names(), ["aclmdlExecuteAsync", WAIT]);
    // And the right to execute was given back.
    setup.step(&current).unwrap();
    assert!(!device.is_poisoned());
}

#[test]
fn after_a_time_out_nothing_touches_the_device_again() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let mut setup = Setup::new(&current);
    stub.fail(WAIT, 1, 507_046);
    let error = setup.step(&current).unwrap_err();
    assert_eq!((error.status, error.class()), (AclStatus(507_046), StatusClass::Restart));
    assert_eq!(error.origin, Origin::Cann);
    assert!(device.is_poisoned());
    stub.calls();

    // Everything that may still be written to, and every call on the device, is refused.
    let refused = |result: Result<(), AclError>| {
        let error = result.unwrap_err();
        assert_eq!((error.origin, error.class()), (Origin::Poisoned, StatusClass::Restart));
        assert!(error.to_string().contains("device 0 was given up after"), "{error}");
    };
    refused(setup.host_out.as_slice().map(drop));
    refused(setup.host_in.as_mut_slice().map(drop));
    refused(setup.step(&current));
    refused(device.enter().map(drop));
    refused(current.memory_info().map(drop));
    refused(current.synchronize(TIMEOUT));
    refused(Stream::new(&current).map(drop));
    refused(Event::new(&current).map(drop));
    refused(DeviceBuffer::new(&current, 1).map(drop));
    refused(PinnedBuffer::new(&current, 1).map(drop));
    refused(Dataset::new(&current, Vec::new()).map(drop));
    refused(setup.inputs.tensors()[0].buffer().upload(&current, 0, &[1]));

    // And nothing is freed.
    let runtime = Arc::clone(device.runtime());
    drop((current, setup));
    drop(device);
    assert_eq!(stub.calls(), [""; 0]);
    assert_eq!(runtime.leaked(), 9, "stream, model, 2 datasets, 2 + 2 buffers, the device");
    drop(runtime);
    assert_eq!(stub.calls(), [""; 0], "not even finalised");
}

#[test]
fn a_failure_of_the_device_gives_it_up_and_wins_over_that_of_the_caller() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let mut setup = Setup::new(&current);
    stub.fail("aclmdlExecuteAsync", 1, 145_003);
    stub.fail(WAIT, 1, 507_054);
    let error = setup.step(&current).unwrap_err();
    assert_eq!((error.function, error.class()), (WAIT, StatusClass::DeviceLost));
    assert_eq!(device.enter().unwrap_err().class(), StatusClass::DeviceLost);
    assert_eq!(device.failure(), Some(&error));
}

#[test]
fn an_ordinary_failure_of_the_wait_is_waited_for_again_before_anything_is_freed() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let mut setup = Setup::new(&current);
    stub.calls();
    stub.fail(WAIT, 1, 207_003);
    let error = setup.step(&current).unwrap_err();
    assert_eq!((error.status, error.class()), (AclStatus(207_003), StatusClass::Misuse));
    assert_eq!(count(&stub.names(), WAIT), 2);
    assert!(!device.is_poisoned());
    setup.step(&current).unwrap();

    stub.fail(WAIT, 1, 207_003);
    stub.fail(WAIT, 2, 207_003);
    let error = setup.step(&current).unwrap_err();
    assert_eq!((error.origin, error.class()), (Origin::Poisoned, StatusClass::Restart));
    assert!(device.is_poisoned());
}

#[test]
fn a_copy_that_fails_with_the_device_gives_it_up() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let buffer = DeviceBuffer::new(&current, 16).unwrap();
    stub.fail("aclrtMemcpy", 1, 107_000);
    buffer.upload(&current, 0, &[1]).unwrap_err();
    assert!(!device.is_poisoned(), "that was a wrong call");
    stub.fail("aclrtSynchronizeDeviceWithTimeout", 1, 507_014);
    current.synchronize(TIMEOUT).unwrap_err();
    assert!(device.is_poisoned());
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_enqueued() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let Setup { mut stream, model, inputs, outputs, host_in, mut host_out } = Setup::new(&current);
    let mut other = Stream::new(&current).unwrap();
    let small = DeviceSlice::new(Arc::clone(inputs.tensors()[0].buffer()), 0, 12).unwrap();
    let small = Dataset::new(&current, vec![small]).unwrap();
    let none = Dataset::new(&current, Vec::new()).unwrap();
    let tensor = &inputs.tensors()[0];
    stub.calls();
    stream
        .run(&current, TIMEOUT, |queue| {
            for (error, message) in [
                (queue.upload(&host_in, 0..17, tensor), "17 bytes, 16 on the device"),
                (queue.upload(&host_in, 30..40, tensor), "10 bytes at 30 of 32"),
                #[expect(clippy::reversed_empty_ranges, reason = "that is the test")]
                (queue.upload(&host_in, 5..4, tensor), "range 5..4"),
                (queue.download(tensor, &mut host_out, 8..24), "16 bytes at 8 of 20"),
                (
                    queue.execute(&model, &small, &outputs),
                    "input `input_0` has 16 bytes, the dataset 12",
                ),
                (queue.execute(&model, &inputs, &none), "the dataset has 0 outputs, the model 1"),
            ] {
                let error = error.unwrap_err();
                assert_eq!(error.origin, Origin::Refused);
                assert!(error.to_string().contains(message), "{error}");
            }
            queue.upload(&host_in, 7..7, tensor)?;
            // One stream at a time executes.
            queue.execute(&model, &inputs, &outputs)?;
            let second =
                other.run(&current, TIMEOUT, |queue| queue.execute(&model, &inputs, &outputs));
            assert!(second.unwrap_err().to_string().contains("another stream is executing models"));
            queue.execute(&model, &inputs, &outputs)
        })
        .unwrap();
    assert_eq!(stub.names(), ["aclmdlExecuteAsync", WAIT, "aclmdlExecuteAsync", WAIT]);
    other.run(&current, TIMEOUT, |queue| queue.execute(&model, &inputs, &outputs)).unwrap();
}

#[test]
fn a_stream_copies_within_its_device_but_not_onto_the_source() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let mut stream = Stream::new(&current).unwrap();
    let buffer = Arc::new(DeviceBuffer::new(&current, 16).unwrap());
    buffer.upload(&current, 0, &(0..16).collect::<Vec<u8>>()).unwrap();
    let (whole, tail) = (
        DeviceSlice::whole(Arc::clone(&buffer)),
        DeviceSlice::new(Arc::clone(&buffer), 8, 8).unwrap(),
    );
    stub.calls();
    stream
        .run(&current, TIMEOUT, |queue| {
            for (error, message) in [
                (queue.copy(&whole, 0..9, &tail, 0), "9 bytes at 0 of 8"),
                (queue.copy(&tail, 7..9, &whole, 0), "2 bytes at 7 of 8"),
                (queue.copy(&whole, 0..4, &tail, usize::MAX), "of 8"),
                #[expect(clippy::reversed_empty_ranges, reason = "that is the test")]
                (queue.copy(&whole, 5..4, &tail, 0), "range 5..4"),
                (queue.copy(&whole, 6..10, &tail, 0), "6..10 overlaps"),
                (queue.copy(&tail, 1..3, &whole, 10), "1..3 overlaps"),
                (queue.copy(&whole, 3..5, &whole, 3), "3..5 overlaps"),
            ] {
                let error = error.unwrap_err();
                assert_eq!(error.origin, Origin::Refused);
                assert!(error.to_string().contains(message), "{error}");
            }
            queue.copy(&whole, 3..3, &tail, 8)?;
            queue.copy(&whole, 4..8, &tail, 0)?;
            queue.copy(&tail, 0..2, &whole, 0)
        })
        .unwrap();
    assert_eq!(stub.names(), ["aclrtMemcpyAsync", "aclrtMemcpyAsync", WAIT]);
    let mut bytes = [0; 16];
    buffer.download(&current, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [4, 5, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 12, 13, 14, 15]);
}

#[test]
fn events_order_streams_and_measure_time() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    let [mut first, mut second] = [0, 1].map(|_| Stream::new(&current).unwrap());
    let [start, end] = [0, 1].map(|_| Event::new(&current).unwrap());
    assert_eq!(count(&stub.names(), "aclrtCreateEventWithFlag"), 2);
    let error = second.run(&current, TIMEOUT, |queue| queue.wait(&start)).unwrap_err();
    assert!(error.to_string().contains("no stream has recorded the event"));
    assert!(start.elapsed(&current, &end).is_err());
    first
        .run(&current, TIMEOUT, |queue| {
            queue.record(&start)?;
            second.run(&current, TIMEOUT, |queue| {
                queue.wait(&start)?;
                queue.record(&end)
            })
        })
        .unwrap();
    assert_eq!(start.elapsed(&current, &end), Ok(Duration::from_micros(2500)));
    let backwards = start.elapsed(&current, &start).unwrap_err();
    assert!(backwards.to_string().contains("-1 ms is no time"), "{backwards}");
    let names = stub.names();
    let order = ["aclrtRecordEvent", "aclrtStreamWaitEvent"];
    let [recorded, waited] = order.map(|name| names.iter().position(|call| call == name).unwrap());
    assert!(recorded < waited);
}

#[test]
fn a_stream_whose_failure_mode_cannot_be_set_is_destroyed() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let device = stub.device();
    let current = device.enter().unwrap();
    stub.calls();
    stub.fail("aclrtSetStreamFailureMode", 1, 107_000);
    Stream::new(&current).unwrap_err();
    assert_eq!(stub.names().last().unwrap(), "aclrtDestroyStream");
}
