//! Steps, weights and states that do not fit the graph are errors, and leave the executable usable.

use cairn::backend::cpu::{CpuBackend, KernelSet};
use cairn::backend::null::NullBackend;
use cairn::backend::{Backend, BackendError, Step, Weight};
use cairn::ir::{DType, verify};
use cairn::weights::{Bytes, Tensor};

use super::backends::cpu;
use super::case::{Case, CaseStep, Loaded, Tolerance, states_of, weights_of};
use super::cases::attention::Attention;
use super::data::tensor;

const SETS: [KernelSet; 2] = [KernelSet::Reference, KernelSet::Fast];

/// The inputs of [`Attention`]'s graph.
const SLOTS: usize = 1;
const TABLES: usize = 3;
const ENDS: usize = 4;
const LENS: usize = 5;

fn batch() -> Attention {
    Attention::default()
}

fn is_bad_input<T>(result: &Result<T, BackendError>) -> bool {
    matches!(result, Err(BackendError::BadInput(message)) if !message.is_empty())
}

/// What a case is called, and what it does to a good step.
type Change<'a> = (&'a str, &'a dyn Fn(&mut CaseStep));

/// Runs changed steps, each of which must be refused; a good one must still run after it.
fn refused(changes: &[Change<'_>]) {
    let case = batch().case(Tolerance::Sum);
    for kernels in SETS {
        let graph = verify(case.graph.clone()).unwrap();
        let good = &case.steps[0];
        let backend = cpu(kernels, 2);
        let mut loaded =
            Loaded::new(backend.as_ref(), &graph, &case.tensors, &good.symbols).unwrap();
        for (what, change) in changes {
            let mut bad = good.clone();
            change(&mut bad);
            let result = loaded.run(&bad.symbols, &bad.inputs);
            assert!(is_bad_input(&result), "{what}: {result:?}");
            let output = loaded.run(&good.symbols, &good.inputs).unwrap();
            let is_right = |(&got, &want): (&f32, &f64)| case.tolerance.accepts(got, want);
            assert!(output.iter().zip(&good.expected).all(is_right), "after {what}");
        }
    }
}

#[test]
fn inputs_of_the_wrong_number_or_length() {
    refused(&[
        ("no inputs", &|step| step.inputs.clear()),
        ("an input fewer", &|step| step.inputs.truncate(LENS)),
        ("an input more", &|step| step.inputs.push(vec![0])),
    ]);
    for idx in 0..=LENS {
        refused(&[
            ("an empty input", &|step| step.inputs[idx].clear()),
            ("an input that is too short", &|step| step.inputs[idx].truncate(1)),
            ("an input that is too long", &|step| step.inputs[idx].push(0)),
        ]);
    }
}

#[test]
fn sizes_out_of_bounds() {
    refused(&[
        ("no sizes", &|step| step.symbols.clear()),
        ("a size fewer", &|step| step.symbols.truncate(4)),
        ("a size more", &|step| step.symbols.push(1)),
    ]);
    for idx in 0..5 {
        for value in [0, (1 << 16) + 1, u64::MAX, 1 << 63] {
            refused(&[("a size", &|step| step.symbols[idx] = value)]);
        }
        refused(&[("a size that does not fit the inputs", &|step| step.symbols[idx] += 1)]);
    }
}

#[test]
fn sizes_whose_product_overflows() {
    use cairn::ir::{Builder, Op, Shape};
    let mut b = Builder::new("huge");
    let dims = ["a", "b", "c"].map(|name| b.symbol(name, 1, u64::MAX).into());
    b.input("ids", DType::I32, Shape::new(dims));
    let w = b.weight("w", DType::F32, Shape::fixed(&[2]));
    let y = b.op("y", Op::Silu, &[w]).unwrap();
    let graph = verify(b.finish(&[y])).unwrap();
    for kernels in SETS {
        let backend = cpu(kernels, 1);
        let weight = Weight { parts: vec![tensor("w", DType::F32, &[2], 1)] };
        let mut memory = backend.place(vec![weight], &[]).unwrap();
        let mut executable = backend.load(&backend.compile(&graph).unwrap()).unwrap();
        for symbols in [[u64::MAX; 3], [1 << 32, 1 << 31, 2], [1 << 63, 2, 1]] {
            let step = Step { symbols: &symbols, inputs: &[&[]] };
            let result = executable.run(memory.as_mut(), &step, &mut Vec::new());
            assert!(is_bad_input(&result), "{symbols:?}: {result:?}");
        }
    }
}

#[test]
fn blocks_outside_the_pool() {
    let num_blocks = batch().step(true).symbols[4] as i32;
    for block in [num_blocks, -1, i32::MAX, i32::MIN] {
        refused(&[
            ("the first block", &|step| step.inputs[TABLES][0] = block),
            // The second block of the first sequence holds its tokens 3 and 4.
            ("a block after the first", &|step| step.inputs[TABLES][1] = block),
        ]);
    }
}

#[test]
fn slots_outside_the_cache() {
    let num_slots = batch().step(true).symbols[4] as i32 * batch().block_size as i32;
    for slot in [num_slots, num_slots + 1, i32::MAX] {
        refused(&[("a slot", &|step| step.inputs[SLOTS][2] = slot)]);
    }
}

#[test]
fn sequences_that_are_not_one_after_the_other() {
    refused(&[
        ("an end before the one before", &|step| step.inputs[ENDS][1] = 4),
        ("a negative end", &|step| step.inputs[ENDS][0] = -1),
        ("an end beyond the tokens", &|step| step.inputs[ENDS][4] = 13),
        ("an end far beyond", &|step| step.inputs[ENDS].fill(i32::MAX)),
        ("more queries than tokens", &|step| step.inputs[LENS][0] = 4),
        ("queries of an empty sequence", &|step| step.inputs[LENS][4] = 0),
        ("a negative length", &|step| step.inputs[LENS][2] = -1),
        ("the least length", &|step| step.inputs[LENS].fill(i32::MIN)),
        ("a length beyond the table", &|step| step.inputs[LENS][1] = 22),
        ("a length far beyond", &|step| step.inputs[LENS].fill(i32::MAX)),
    ]);
}

#[test]
fn what_is_not_used_is_not_checked() {
    let case = batch().case(Tolerance::Sum);
    let mut step = case.steps[0].clone();
    let width = batch().width();
    // The padded sequence has no blocks, and the first sequence only two.
    step.inputs[TABLES][2 * width..3 * width].fill(i32::MIN);
    step.inputs[TABLES][2..width].fill(i32::MAX);
    *step.inputs[SLOTS].last_mut().unwrap() = i32::MIN;
    for kernels in SETS {
        let graph = verify(case.graph.clone()).unwrap();
        let backend = cpu(kernels, 1);
        let mut loaded =
            Loaded::new(backend.as_ref(), &graph, &case.tensors, &step.symbols).unwrap();
        let output = loaded.run(&step.symbols, &step.inputs).unwrap();
        assert!(output.iter().zip(&step.expected).all(|(&a, &b)| case.tolerance.accepts(a, b)));
    }
}

/// Places changed weights and states and runs a good step; somewhere on the way it must be refused.
fn refused_memory(
    what: &str,
    change: impl Fn(&mut Vec<Weight>, &mut Vec<cairn::backend::StateSpec>),
    is_expected: impl Fn(&BackendError) -> bool,
) {
    let case: Case = batch().case(Tolerance::Sum);
    let step = &case.steps[0];
    for kernels in SETS {
        let backend = CpuBackend::new(Some(1), kernels).unwrap();
        let graph = verify(case.graph.clone()).unwrap();
        let mut weights = weights_of(&graph, &case.tensors);
        let mut states = states_of(&graph, &step.symbols);
        change(&mut weights, &mut states);
        let result = backend.place(weights, &states).and_then(|mut memory| {
            let inputs: Vec<&[i32]> = step.inputs.iter().map(Vec::as_slice).collect();
            let step = Step { symbols: &step.symbols, inputs: &inputs };
            let mut executable = backend.load(&backend.compile(&graph)?)?;
            executable.run(memory.as_mut(), &step, &mut Vec::new())
        });
        match result {
            Err(error) => assert!(is_expected(&error), "{what}: {error:?}"),
            Ok(()) => panic!("{what} was accepted"),
        }
    }
}

#[test]
fn weights_that_are_not_the_graphs() {
    let bad = |error: &BackendError| matches!(error, BackendError::BadInput(_));
    refused_memory("no weights", |weights, _| weights.clear(), bad);
    refused_memory("a weight more", |weights, _| weights.push(weights[0].clone()), bad);
    refused_memory("another order", |weights, _| weights.rotate_left(1), bad);
    refused_memory("no parts", |weights, _| weights[0].parts.clear(), bad);
    refused_memory(
        "a part twice",
        |weights, _| {
            let part = weights[0].parts[0].clone();
            weights[0].parts.push(part);
        },
        bad,
    );
    refused_memory(
        "another type",
        |weights, _| weights[0].parts[0] = weights[0].parts[0].convert(DType::F16),
        bad,
    );
    refused_memory(
        "parts of two types",
        |weights, _| {
            let part = weights[0].parts[0].convert(DType::F16);
            weights[0].parts.push(part);
        },
        bad,
    );
    refused_memory("another shape", |weights, _| weights[0].parts[0].shape.reverse(), bad);
    refused_memory(
        "bytes that are too few",
        |weights, _| weights[0].parts[0].bytes = Bytes::copied_from(&[0; 12]),
        bad,
    );
    refused_memory(
        "a vector for a matrix",
        |weights, _| {
            let tensor = &weights[0].parts[0];
            let (values, len) = (tensor.to_f32_vec(), tensor.elements());
            weights[0].parts[0] = Tensor::from_f32("flat", vec![len], values).unwrap();
        },
        bad,
    );
}

#[test]
fn states_that_are_not_the_graphs() {
    let bad = |error: &BackendError| matches!(error, BackendError::BadInput(_));
    refused_memory("no states", |_, states| states.clear(), bad);
    refused_memory("a state more", |_, states| states.push(states[0].clone()), bad);
    for axis in 0..4 {
        refused_memory("a larger axis", |_, states| states[1].shape[axis] += 1, bad);
    }
    refused_memory("fewer axes", |_, states| states[0].shape.truncate(3), bad);
    refused_memory(
        "a state of halves",
        |_, states| states[0].dtype = DType::F16,
        |error| matches!(error, BackendError::Unsupported { .. }),
    );
    for shape in [vec![usize::MAX], vec![usize::MAX, 2], vec![1 << 40, 1 << 20, 1, 1]] {
        refused_memory(
            "a state larger than memory",
            |_, states| states[0].shape.clone_from(&shape),
            |error| matches!(error, BackendError::OutOfMemory { .. }),
        );
    }
}

#[test]
fn memory_of_another_backend() {
    let case = batch().case(Tolerance::Sum);
    let backend = CpuBackend::new(Some(1), KernelSet::Fast).unwrap();
    let graph = verify(case.graph.clone()).unwrap();
    let mut executable = backend.load(&backend.compile(&graph).unwrap()).unwrap();
    let mut memory = NullBackend { dynamic_shapes: true }.place(vec![], &[]).unwrap();
    let step = &case.steps[0];
    let inputs: Vec<&[i32]> = step.inputs.iter().map(Vec::as_slice).collect();
    let step = Step { symbols: &step.symbols, inputs: &inputs };
    assert!(is_bad_input(&executable.run(memory.as_mut(), &step, &mut Vec::new())));
}
