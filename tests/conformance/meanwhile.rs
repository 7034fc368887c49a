//! What is done while the device works is done once, on the caller's thread, whatever becomes of the
//! step; and the step gives the same bits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use cairn::backend::cpu::KernelSet;
use cairn::backend::{Backend as _, BackendError, Output, Rows, Wanted};
use cairn::ir::DType;

use super::backends::{Configuration, configurations, cpu};
use super::case::{CaseStep, Loaded, bucket};
use super::cases::attention::Attention;

/// A batch on a backend, and its step.
fn load(configuration: &Configuration) -> (Loaded, CaseStep) {
    let batch = if configuration.leaves_padding {
        Attention::on_device(DType::F16, (4, 2), 64).decode(&[130, 17, 1, 260])
    } else {
        Attention::default()
    };
    let (case, step) = (batch.case(), batch.step(true));
    let graph = bucket(&case.graph, &step.symbols);
    let backend = configuration.backend.as_ref();
    (Loaded::new(backend, &graph, &case.tensors, &step.symbols).unwrap(), step)
}

/// The bits of what was asked for.
fn bits(output: &Output) -> (Rows, Vec<u32>, &[i32]) {
    let (values, indices) = match output.rows {
        Rows::Logits => (&output.logits, &[][..]),
        _ => (&output.values, &output.indices[..]),
    };
    (output.rows, values.iter().map(|value| value.to_bits()).collect(), indices)
}

/// Runs a step; says how often it called meanwhile.
fn run(
    loaded: &mut Loaded,
    step: &CaseStep,
    wanted: Wanted,
) -> (Result<Output, BackendError>, usize) {
    let (mut count, here) = (0, thread::current().id());
    let result = loaded.run_meanwhile(&step.symbols, &step.inputs, wanted, &mut || {
        assert_eq!(thread::current().id(), here);
        count += 1;
    });
    (result, count)
}

#[test]
fn a_step_gives_the_same_and_calls_once() {
    for configuration in configurations() {
        let (mut loaded, step) = load(&configuration);
        for wanted in [Wanted::Logits, Wanted::Argmax, Wanted::TopK(5)] {
            let expected = loaded.run_wanted(&step.symbols, &step.inputs, wanted).unwrap();
            let (output, count) = run(&mut loaded, &step, wanted);
            let name = configuration.name;
            assert_eq!(bits(&output.unwrap()), bits(&expected), "{wanted:?} on {name}");
            assert_eq!(count, 1, "{wanted:?} on {name}");
        }
    }
}

#[test]
fn a_step_that_is_refused_calls_once_too() {
    for configuration in configurations() {
        let (mut loaded, step) = load(&configuration);
        let bad = CaseStep { inputs: vec![], ..step.clone() };
        let (result, count) = run(&mut loaded, &bad, Wanted::Argmax);
        assert!(matches!(result, Err(BackendError::BadInput(_))), "{}", configuration.name);
        assert_eq!(count, 1, "{}", configuration.name);
        if configuration.computes_nothing {
            continue;
        }
        // A memory of another device: one of the CPU for the others, and of nothing for the CPU.
        let foreign = match configuration.backend.name() {
            "cpu" => cairn::backend::null::NullBackend { dynamic_shapes: true }.place(vec![], &[]),
            _ => cpu(KernelSet::Fast, 1).place(vec![], &[]),
        };
        let own = loaded.swap_memory(foreign.unwrap());
        let (result, count) = run(&mut loaded, &step, Wanted::Logits);
        assert!(matches!(result, Err(BackendError::BadInput(_))), "{}", configuration.name);
        assert_eq!(count, 1, "{}", configuration.name);
        loaded.swap_memory(own);
        run(&mut loaded, &step, Wanted::Logits).0.unwrap();
    }
}

#[test]
fn a_panic_meanwhile_comes_out_and_spoils_nothing() {
    for configuration in configurations() {
        let (mut loaded, step) = load(&configuration);
        let expected = run(&mut loaded, &step, Wanted::Logits).0.unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            loaded.run_meanwhile(&step.symbols, &step.inputs, Wanted::Logits, &mut || {
                std::panic::panic_any("meanwhile");
            })
        }));
        let payload = panicked.err().and_then(|payload| payload.downcast_ref::<&str>().copied());
        assert_eq!(payload, Some("meanwhile"), "{}", configuration.name);
        let again = run(&mut loaded, &step, Wanted::Logits).0.unwrap();
        assert_eq!(bits(&again), bits(&expected), "{}", configuration.name);
    }
}
