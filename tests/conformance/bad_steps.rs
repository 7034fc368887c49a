//! Steps, weights and states that do not fit the graph are errors, and leave the executable usable.

use std::sync::Arc;

use cairn::backend::cpu::KernelSet;
use cairn::backend::null::NullBackend;
use cairn::backend::{Backend, BackendError, StateSpec, Step, Weight};
use cairn::ir::{DType, Graph, Verified, verify};
use cairn::weights::{Bytes, Tensor};

use super::backends::cpu;
use super::case::{CaseStep, Loaded, Tolerance, bucket, states_of, weights_of};
use super::cases::attention::Attention;
use super::data::tensor;

const SETS: [KernelSet; 2] = [KernelSet::Reference, KernelSet::Fast];

/// The inputs of [`Attention`]'s graph.
const SLOTS: usize = 1;
const TABLES: usize = 3;
const ENDS: usize = 4;
const LENS: usize = 5;

/// A backend, and a batch that it runs: sequences of 5, 1, 0, 3 and 1 queries, the first over two
/// blocks at least, and 2 tokens of padding.
struct Subject {
    backend: Arc<dyn Backend>,
    batch: Attention,
    /// Sizes are pinned when compiling, and what nothing uses is forgotten: sizes of a step, and what
    /// there is too much of, are not looked at.
    is_static: bool,
}

impl Subject {
    fn graph(&self) -> Verified<Graph> {
        let case = self.batch.case();
        if self.is_static {
            return bucket(&case.graph, &case.steps[0].symbols);
        }
        verify(case.graph).unwrap()
    }
}

fn subjects() -> Vec<Subject> {
    let cpu = |kernels| Subject {
        backend: Arc::from(cpu(kernels, 2)),
        batch: Attention::default(),
        is_static: false,
    };
    #[cfg_attr(not(feature = "ascend"), expect(unused_mut, reason = "devices are added to it"))]
    let mut subjects = Vec::from(SETS.map(cpu));
    #[cfg(feature = "ascend")]
    subjects.push(Subject {
        backend: Arc::clone(super::ascend::backend()),
        batch: Attention::packed((4, 2)),
        is_static: true,
    });
    subjects
}

fn is_bad_input<T>(result: &Result<T, BackendError>) -> bool {
    matches!(result, Err(BackendError::BadInput(message)) if !message.is_empty())
}

/// What a change is called, and what it does to a good step of a batch.
type Change<'a> = (&'a str, &'a dyn Fn(&Attention, &mut CaseStep));

/// Runs changed steps, each of which must be refused; a good one must still run after it.
fn refused(changes: &[Change<'_>]) {
    for subject in subjects() {
        refused_by(&subject, changes);
    }
}

fn refused_by(subject: &Subject, changes: &[Change<'_>]) {
    let Subject { backend, batch, .. } = subject;
    let case = batch.case();
    let good = &case.steps[0];
    let graph = subject.graph();
    let mut loaded = Loaded::new(backend.as_ref(), &graph, &case.tensors, &good.symbols).unwrap();
    for (what, change) in changes {
        let mut bad = good.clone();
        change(batch, &mut bad);
        let result = loaded.run(&bad.symbols, &bad.inputs);
        assert!(is_bad_input(&result), "{what} on {}: {result:?}", backend.name());
        let output = loaded.run(&good.symbols, &good.inputs).unwrap();
        assert!(is_right(case.tolerance, good, &output), "{} after {what}", backend.name());
    }
}

/// Whether everything but padding is as expected.
fn is_right(tolerance: Tolerance, step: &CaseStep, output: &[f32]) -> bool {
    let num_checked = step.expected.len() - step.num_padding;
    let mut pairs = output.iter().zip(&step.expected).take(num_checked);
    pairs.all(|(&got, &want)| tolerance.accepts(got, want))
}

/// The same for backends that know every size and input of the graph.
fn dynamic_refuse(changes: &[Change<'_>]) {
    for subject in subjects().iter().filter(|subject| !subject.is_static) {
        refused_by(subject, changes);
    }
}

#[test]
fn inputs_of_the_wrong_number_or_length() {
    refused(&[
        ("no inputs", &|_, step| step.inputs.clear()),
        ("an input fewer", &|_, step| step.inputs.truncate(LENS)),
    ]);
    dynamic_refuse(&[("an input more", &|_, step| step.inputs.push(vec![0]))]);
    for idx in 0..=LENS {
        refused(&[
            ("an empty input", &|_, step| step.inputs[idx].clear()),
            ("an input that is too short", &|_, step| step.inputs[idx].truncate(1)),
            ("an input that is too long", &|_, step| step.inputs[idx].push(0)),
        ]);
    }
}

#[test]
fn sizes_out_of_bounds() {
    dynamic_refuse(&[
        ("no sizes", &|_, step| step.symbols.clear()),
        ("a size fewer", &|_, step| step.symbols.truncate(4)),
        ("a size more", &|_, step| step.symbols.push(1)),
    ]);
    for idx in 0..5 {
        for value in [0, (1 << 16) + 1, u64::MAX, 1 << 63] {
            dynamic_refuse(&[("a size", &|_, step| step.symbols[idx] = value)]);
        }
        dynamic_refuse(&[("a size that does not fit the inputs", &|_, step| {
            step.symbols[idx] += 1;
        })]);
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
        let mut executable = backend.load(&backend.compile(&graph).unwrap().files()).unwrap();
        for symbols in [[u64::MAX; 3], [1 << 32, 1 << 31, 2], [1 << 63, 2, 1]] {
            let step = Step { symbols: &symbols, inputs: &[&[]] };
            let result = executable.run(memory.as_mut(), &step, &mut Vec::new());
            assert!(is_bad_input(&result), "{symbols:?}: {result:?}");
        }
    }
}

#[test]
fn blocks_outside_the_pool() {
    let blocks: [fn(&CaseStep) -> i32; 4] =
        [|step| step.symbols[4] as i32, |_| -1, |_| i32::MAX, |_| i32::MIN];
    for block in blocks {
        refused(&[
            ("the first block", &|_, step| step.inputs[TABLES][0] = block(step)),
            // The first sequence uses two.
            ("a block after the first", &|_, step| step.inputs[TABLES][1] = block(step)),
        ]);
    }
}

#[test]
fn slots_outside_the_cache() {
    let after = |batch: &Attention, step: &CaseStep, more: i32| {
        step.symbols[4] as i32 * batch.block_size as i32 + more
    };
    refused(&[
        ("the first slot", &|batch, step| step.inputs[SLOTS][2] = after(batch, step, 0)),
        ("the second slot", &|batch, step| step.inputs[SLOTS][2] = after(batch, step, 1)),
        ("the last slot", &|_, step| step.inputs[SLOTS][2] = i32::MAX),
    ]);
}

#[test]
fn sequences_that_are_not_one_after_the_other() {
    refused(&[
        ("an end before the one before", &|_, step| step.inputs[ENDS][1] = 4),
        ("a negative end", &|_, step| step.inputs[ENDS][0] = -1),
        ("an end beyond the tokens", &|_, step| step.inputs[ENDS][4] = 13),
        ("an end far beyond", &|_, step| step.inputs[ENDS].fill(i32::MAX)),
        ("more queries than tokens", &|_, step| step.inputs[LENS][0] = 4),
        ("queries of an empty sequence", &|_, step| step.inputs[LENS][4] = 0),
        ("a negative length", &|_, step| step.inputs[LENS][2] = -1),
        ("the least length", &|_, step| step.inputs[LENS].fill(i32::MIN)),
        ("a length beyond the table", &|batch, step| {
            step.inputs[LENS][1] = (batch.width() * batch.block_size + 1) as i32;
        }),
        ("a length far beyond", &|_, step| step.inputs[LENS].fill(i32::MAX)),
    ]);
}

#[test]
fn what_is_not_used_is_not_checked() {
    for subject in subjects() {
        let Subject { backend, batch, .. } = &subject;
        let case = batch.case();
        let mut step = case.steps[0].clone();
        let width = batch.width();
        // The padded sequence has no blocks, and the first sequence only two.
        step.inputs[TABLES][2 * width..3 * width].fill(i32::MIN);
        step.inputs[TABLES][2..width].fill(i32::MAX);
        *step.inputs[SLOTS].last_mut().unwrap() = i32::MIN;
        let graph = subject.graph();
        let mut loaded =
            Loaded::new(backend.as_ref(), &graph, &case.tensors, &step.symbols).unwrap();
        let output = loaded.run(&step.symbols, &step.inputs).unwrap();
        assert!(is_right(case.tolerance, &step, &output), "{}", backend.name());
    }
}

/// What is wrong with weights and states, and what it does to good ones.
type MemoryChange<'a> = (&'a str, &'a dyn Fn(&mut Vec<Weight>, &mut Vec<StateSpec>));

/// Places changed weights and states and runs a good step; somewhere on the way each must be refused.
fn refused_memory(
    subject: &Subject,
    changes: &[MemoryChange<'_>],
    is_expected: impl Fn(&BackendError) -> bool,
) {
    let Subject { backend, batch, .. } = subject;
    let case = batch.case();
    let step = &case.steps[0];
    let graph = subject.graph();
    let artifact = backend.compile(&graph).unwrap();
    for (what, change) in changes {
        let mut weights = weights_of(&graph, &case.tensors);
        let mut states = states_of(&graph, &step.symbols);
        change(&mut weights, &mut states);
        let result = backend.place(weights, &states).and_then(|mut memory| {
            let inputs: Vec<&[i32]> = step.inputs.iter().map(Vec::as_slice).collect();
            let step = Step { symbols: &step.symbols, inputs: &inputs };
            let mut executable = backend.load(&artifact.files())?;
            executable.run(memory.as_mut(), &step, &mut Vec::new())
        });
        match result {
            Err(error) => assert!(is_expected(&error), "{what} on {}: {error:?}", backend.name()),
            Ok(()) => panic!("{what} was accepted by {}", backend.name()),
        }
    }
}

fn is_bad(error: &BackendError) -> bool {
    matches!(error, BackendError::BadInput(_))
}

#[test]
fn weights_that_are_not_the_graphs() {
    for subject in subjects() {
        let other = if subject.batch.rows == DType::F16 { DType::F32 } else { DType::F16 };
        let changes: [MemoryChange<'_>; 9] = [
            ("no weights", &|weights, _| weights.clear()),
            ("another order", &|weights, _| weights.rotate_left(1)),
            ("no parts", &|weights, _| weights[0].parts.clear()),
            ("a part twice", &|weights, _| {
                let part = weights[0].parts[0].clone();
                weights[0].parts.push(part);
            }),
            ("another type", &|weights, _| {
                weights[0].parts[0] = weights[0].parts[0].convert(other);
            }),
            ("parts of two types", &|weights, _| {
                let part = weights[0].parts[0].convert(other);
                weights[0].parts.push(part);
            }),
            ("another shape", &|weights, _| weights[0].parts[0].shape.reverse()),
            ("bytes that are too few", &|weights, _| {
                weights[0].parts[0].bytes = Bytes::copied_from(&[0; 12]);
            }),
            ("a vector for a matrix", &|weights, _| {
                let tensor = &weights[0].parts[0];
                let (values, len, dtype) = (tensor.to_f32_vec(), tensor.elements(), tensor.dtype);
                let flat = Tensor::from_f32("flat", vec![len], values).unwrap();
                weights[0].parts[0] = flat.convert(dtype);
            }),
        ];
        refused_memory(&subject, &changes, is_bad);
        if !subject.is_static {
            let more: MemoryChange<'_> =
                ("a weight more", &|weights, _| weights.push(weights[0].clone()));
            refused_memory(&subject, &[more], is_bad);
        }
    }
}

#[test]
fn states_that_are_not_the_graphs() {
    for subject in subjects() {
        refused_memory(&subject, &[("no states", &|_, states| states.clear())], is_bad);
        for axis in 0..4 {
            let larger: MemoryChange<'_> =
                ("a larger axis", &|_, states| states[1].shape[axis] += 1);
            refused_memory(&subject, &[larger], is_bad);
        }
        let fewer: MemoryChange<'_> = ("fewer axes", &|_, states| states[0].shape.truncate(3));
        refused_memory(&subject, &[fewer], is_bad);
        let halves: MemoryChange<'_> = ("halves", &|_, states| states[0].dtype = DType::F16);
        refused_memory(&subject, &[halves], |error| {
            is_bad(error) || matches!(error, BackendError::Unsupported { .. })
        });
        if !subject.is_static {
            let more: MemoryChange<'_> =
                ("a state more", &|_, states| states.push(states[0].clone()));
            refused_memory(&subject, &[more], is_bad);
        }
        for shape in [vec![usize::MAX; 4], vec![1 << 40, 1 << 20, 1, 1], vec![1 << 40, 1, 1, 1]] {
            let huge: MemoryChange<'_> =
                ("a state larger than memory", &|_, states| states[0].shape.clone_from(&shape));
            refused_memory(&subject, &[huge], |error| {
                matches!(error, BackendError::OutOfMemory { .. })
            });
        }
    }
}

#[test]
fn memory_of_another_backend() {
    for subject in subjects() {
        let case = subject.batch.case();
        let backend = &subject.backend;
        let mut executable =
            backend.load(&backend.compile(&subject.graph()).unwrap().files()).unwrap();
        let mut memory = NullBackend { dynamic_shapes: true }.place(vec![], &[]).unwrap();
        let step = &case.steps[0];
        let inputs: Vec<&[i32]> = step.inputs.iter().map(Vec::as_slice).collect();
        let step = Step { symbols: &step.symbols, inputs: &inputs };
        assert!(is_bad_input(&executable.run(memory.as_mut(), &step, &mut Vec::new())));
    }
}
