//! Damaged artifacts are refused, or they run: whatever bytes `load` accepts, running them with the
//! graph's own weights, states and inputs never panics and never asks for absurd memory.

use cairn::backend::cpu::{CpuBackend, KernelSet};
use cairn::backend::{Backend, BackendError, Executable, Files, Memory, Step};
use cairn::ir::{passes, verify};
use serde_json::{Value, json};

use super::case::{Case, CaseStep, Tolerance, states_of, weights_of};
use super::cases::attention::Attention;
use super::cases::{elementwise, gather, linear, rope, views};
use super::data::Numbers;
use super::random::data;
use super::random_graph::{Kind, random_graph};

/// The one file of an artifact.
const FILE: &str = "plan.json";

/// An artifact and everything that it runs with.
struct Target {
    backend: CpuBackend,
    memory: Box<dyn Memory>,
    case: Case,
    /// The file's content.
    artifact: Vec<u8>,
}

fn load(backend: &CpuBackend, bytes: &[u8]) -> Result<Box<dyn Executable>, BackendError> {
    backend.load(&Files::new([(FILE, bytes)]))
}

impl Target {
    fn new(case: Case, kernels: KernelSet) -> Self {
        let backend = CpuBackend::new(Some(1), kernels).unwrap();
        let graph = passes::optimise(&verify(case.graph.clone()).unwrap()).unwrap();
        let mut files = backend.compile(&graph).unwrap().files;
        assert_eq!((files.len(), files[0].name.as_str()), (1, FILE));
        let artifact = files.swap_remove(0).bytes;
        let states = states_of(&graph, &case.steps[0].symbols);
        let memory = backend.place(weights_of(&graph, &case.tensors), &states).unwrap();
        Self { backend, memory, case, artifact }
    }

    /// Loads and runs damaged bytes; says whether they were accepted.
    fn run(&mut self, artifact: &[u8]) -> bool {
        let mut executable = match load(&self.backend, artifact) {
            Ok(executable) => executable,
            Err(BackendError::BadArtifact { .. }) => return false,
            Err(error) => panic!("{error:?}"),
        };
        let step = &self.case.steps[0];
        let inputs: Vec<&[i32]> = step.inputs.iter().map(Vec::as_slice).collect();
        let step = Step { symbols: &step.symbols, inputs: &inputs };
        // An error is as good as a result that means nothing.
        let _ = executable.run(self.memory.as_mut(), &step, &mut Vec::new());
        true
    }

    fn document(&self) -> Value {
        serde_json::from_slice(&self.artifact).unwrap()
    }

    fn run_document(&mut self, document: &Value) -> bool {
        self.run(&serde_json::to_vec(document).unwrap())
    }
}

/// Artifacts that have every kernel among them, each small.
fn targets() -> Vec<Target> {
    let attention = Attention {
        sequences: vec![(2, 4), (1, 1)],
        window: Some(2),
        head_dim: 4,
        ..Attention::default()
    };
    let of = |cases: Vec<Case>, name: &str| {
        cases.into_iter().find(|case| case.name.starts_with(name)).expect("a case of that name")
    };
    let mut targets: Vec<Target> = [
        attention.case(),
        of(linear::all(), "linear of f32 by q4_1"),
        of(linear::all(), "linear of a slice"),
        of(gather::all(), "gather by ids outside: f32 rows"),
        of(elementwise::all(), "silu_mul"),
        of(elementwise::all(), "silu of f32"),
        of(elementwise::all(), "rms_norm of f32 by f32 [tokens, 3"),
        of(elementwise::all(), "add_rms_norm"),
        of(elementwise::all(), "add, a row"),
        of(views::all(), "slice, reshape"),
        of(views::all(), "reshape of rows"),
        of(views::all(), "reshape of a weight"),
        of(views::all(), "cast to bf16"),
        of(rope::all(), "rope Halves"),
    ]
    .into_iter()
    .enumerate()
    .map(|(idx, case)| {
        let kernels = if idx % 2 == 0 { KernelSet::Fast } else { KernelSet::Reference };
        Target::new(case, kernels)
    })
    .collect();
    targets.extend((1..4).map(random_target));
    for target in &mut targets {
        let artifact = target.artifact.clone();
        assert!(target.run(&artifact), "{}", target.case.name);
    }
    targets
}

fn random_target(seed: u64) -> Target {
    let mut numbers = Numbers::new(seed);
    let choices: Vec<u32> = (0..40).map(|_| numbers.next() as u32).collect();
    let graph = random_graph(Kind::Runnable, &choices);
    let data = data(&graph);
    let step =
        CaseStep { symbols: data.symbols, inputs: data.inputs, expected: vec![], num_padding: 0 };
    let case = Case {
        name: format!("random graph {seed}"),
        graph,
        tensors: data.tensors,
        steps: vec![step],
        tolerance: Tolerance::Exact,
    };
    Target::new(case, KernelSet::Fast)
}

fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            for (idx, item) in items.iter().enumerate() {
                pointers(item, &format!("{at}/{idx}"), found);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                pointers(field, &format!("{at}/{key}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Where every value of a document is, as JSON pointers, the document itself first.
pub(crate) fn all_pointers(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    pointers(document, "", &mut found);
    found
}

#[test]
fn every_number_of_a_plan_may_be_any_other() {
    let mut accepted = 0;
    for mut target in targets() {
        let document = target.document();
        for pointer in all_pointers(&document) {
            let Some(number) = document.pointer(&pointer).and_then(Value::as_u64) else { continue };
            let near = [number + 1, number.saturating_sub(1), number * 2];
            let small = [0, 1, 2, 3, 5, 16];
            let large = [1 << 20, 1 << 31, 1 << 40, 1 << 62, 1 << 63, u64::MAX];
            for other in near.into_iter().chain(small).chain(large) {
                let mut damaged = document.clone();
                *damaged.pointer_mut(&pointer).unwrap() = json!(other);
                accepted += u32::from(target.run_document(&damaged));
            }
            for other in [json!(-1), json!(0.5), json!(1e300), json!(null), json!("1")] {
                let mut damaged = document.clone();
                *damaged.pointer_mut(&pointer).unwrap() = other;
                accepted += u32::from(target.run_document(&damaged));
            }
        }
    }
    // Bounds of symbols, for example, may change without harm: the rest of the test is not idle.
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn every_value_of_a_plan_may_be_missing_doubled_or_another_one_of_it() {
    let mut numbers = Numbers::new(3);
    let mut accepted = 0;
    for mut target in targets() {
        let document = target.document();
        let pointers = all_pointers(&document);
        for pointer in &pointers[1..] {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let mut without = document.clone();
            let mut doubled = document.clone();
            match (without.pointer_mut(parent).unwrap(), doubled.pointer_mut(parent).unwrap()) {
                (Value::Array(items), Value::Array(twice)) => {
                    let idx: usize = key.parse().unwrap();
                    let item = items.remove(idx);
                    twice.insert(idx, item);
                }
                (parent, _) => drop(parent.as_object_mut().unwrap().remove(key)),
            }
            accepted += u32::from(target.run_document(&without));
            accepted += u32::from(target.run_document(&doubled));
            for _ in 0..8 {
                let other = &pointers[1 + numbers.below(pointers.len() - 1)];
                let mut damaged = document.clone();
                *damaged.pointer_mut(pointer).unwrap() = document.pointer(other).unwrap().clone();
                accepted += u32::from(target.run_document(&damaged));
            }
        }
    }
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn bytes_may_be_cut_changed_or_random() {
    let mut numbers = Numbers::new(4);
    for mut target in targets() {
        let artifact = target.artifact.clone();
        for len in (0..artifact.len()).step_by(7) {
            assert!(!target.run(&artifact[..len]), "a cut at {len} was accepted");
        }
        for _ in 0..500 {
            let mut damaged = artifact.clone();
            for _ in 0..=numbers.below(3) {
                let at = numbers.below(damaged.len());
                let digit = b'0' + numbers.below(10) as u8;
                damaged[at] = if numbers.below(2) == 0 { digit } else { numbers.next() as u8 };
            }
            target.run(&damaged);
        }
    }
    let backend = CpuBackend::new(Some(1), KernelSet::Fast).unwrap();
    for _ in 0..500 {
        let len = numbers.below(200);
        let bytes: Vec<u8> = (0..len).map(|_| numbers.next() as u8).collect();
        assert!(matches!(load(&backend, &bytes), Err(BackendError::BadArtifact { .. })));
    }
}

#[test]
fn a_slot_wider_than_what_is_written_to_it_is_refused() {
    for mut target in targets() {
        let document = target.document();
        for slot in 0..document["plan"]["slots"].as_array().unwrap().len() {
            for more in [1, 1 << 20, 1 << 50] {
                let mut damaged = document.clone();
                let columns = &mut damaged["plan"]["slots"][slot]["columns"];
                *columns = json!(columns.as_u64().unwrap() + more);
                assert!(!target.run_document(&damaged), "{}", target.case.name);
            }
        }
    }
}

#[test]
fn symbols_without_a_value_are_refused() {
    for mut target in targets() {
        let document = target.document();
        for symbol in 0..target.case.steps[0].symbols.len() {
            for bounds in [json!([0, 64]), json!([0, 0]), json!([65, 64])] {
                let mut damaged = document.clone();
                damaged["plan"]["symbols"][symbol] = bounds;
                assert!(!target.run_document(&damaged), "{}", target.case.name);
            }
        }
    }
}

#[test]
fn rows_that_lie_on_each_other_are_refused() {
    // Without this rule, twelve numbers would be enough for any number of rows.
    let mut targets = targets();
    let target =
        targets.iter_mut().find(|target| target.case.name.starts_with("reshape of a weight"));
    let target = target.expect("a target of that name");
    let text = String::from_utf8(target.artifact.clone()).unwrap();
    let many = text.replace(r#""fixed":4"#, r#""fixed":1048576"#);
    assert_ne!(many, text);
    for stride in 0..3 {
        let damaged = many.replacen(r#""stride":3"#, &format!(r#""stride":{stride}"#), 1);
        assert_ne!(damaged, many);
        assert!(!target.run(damaged.as_bytes()));
    }
}

#[test]
fn another_format_or_version_is_named() {
    let target = targets().swap_remove(0);
    for (field, value) in [("format", json!("cairn-npu-plan")), ("version", json!(1))] {
        let mut document = target.document();
        document[field] = value.clone();
        let bytes = serde_json::to_vec(&document).unwrap();
        let error = load(&target.backend, &bytes).err().expect("another format is refused");
        let text = error.to_string();
        let got = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert!(
            text.contains("expected cairn-cpu-plan version 2") && text.contains(&got),
            "{text}"
        );
    }
}
