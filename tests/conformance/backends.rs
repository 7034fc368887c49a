//! The backends that run every case, and what each may refuse.
//!
//! A case is never skipped: a backend computes what the definition says, or refuses it with a reason
//! that its list knows.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use cairn::backend::cpu::{CpuBackend, KernelSet};
use cairn::backend::null::NullBackend;
use cairn::backend::{Backend, BackendError};
use cairn::ir::{Graph, Verified, passes, verify};

use super::case::{Case, Loaded, bucket};
use super::cases;

/// A backend in one configuration.
pub(crate) struct Configuration {
    pub(crate) name: &'static str,
    pub(crate) backend: Arc<dyn Backend>,
    /// Every size is pinned before compiling, as for devices without dynamic shapes.
    pub(crate) is_static: bool,
    /// The passes run before compiling.
    pub(crate) is_optimised: bool,
    /// Results are zeros of the right size instead of the expected numbers.
    pub(crate) computes_nothing: bool,
    /// Rows of padding may hold anything.
    pub(crate) leaves_padding: bool,
    /// Where steps do not build on each other, how many of a case's are run; each costs a compile.
    pub(crate) max_steps: usize,
    /// Cases that are run, by the beginning of their name.
    pub(crate) only: &'static str,
    /// Cases that are refused, by the beginning of their name, and what the error says.
    pub(crate) refused: &'static [(&'static str, &'static str)],
}

/// What the CPU backend refuses: it computes in f32.
const REFUSED_BY_CPU: &[(&str, &str)] = &[
    ("paged_attention over f16", "f16 states"),
    ("paged_attention over bf16", "bf16 states"),
    ("paged_attention of a packed batch over bf16", "bf16 states"),
    ("kv_write, read out by paged_attention over f16", "f16 states"),
    ("kv_write, read out by paged_attention over bf16", "bf16 states"),
];

pub(crate) fn cpu(kernels: KernelSet, threads: usize) -> Box<dyn Backend> {
    Box::new(CpuBackend::new(Some(threads), kernels).unwrap())
}

/// All of them.
pub(crate) fn configurations() -> Vec<Configuration> {
    let cpu = |name, kernels, threads, is_static, is_optimised| Configuration {
        name,
        backend: Arc::from(cpu(kernels, threads)),
        is_static,
        is_optimised,
        computes_nothing: false,
        leaves_padding: false,
        max_steps: usize::MAX,
        only: "",
        refused: REFUSED_BY_CPU,
    };
    let null = |name, is_static: bool| Configuration {
        name,
        backend: Arc::new(NullBackend { dynamic_shapes: !is_static }),
        is_static,
        is_optimised: is_static,
        computes_nothing: true,
        leaves_padding: false,
        max_steps: usize::MAX,
        only: "",
        refused: &[],
    };
    #[cfg_attr(not(feature = "ascend"), expect(unused_mut, reason = "devices are added to it"))]
    let mut configurations = vec![
        cpu("cpu, reference kernels", KernelSet::Reference, 1, false, false),
        cpu("cpu, reference kernels, static", KernelSet::Reference, 1, true, true),
        cpu("cpu, 1 thread", KernelSet::Fast, 1, false, false),
        cpu("cpu, 2 threads", KernelSet::Fast, 2, false, true),
        cpu("cpu, 2 threads, static", KernelSet::Fast, 2, true, false),
        null("null", false),
        null("null, static", true),
    ];
    #[cfg(feature = "ascend")]
    configurations.extend(super::ascend::configurations());
    configurations
}

impl Configuration {
    fn prepare(&self, graph: &Graph, symbols: &[u64]) -> Verified<Graph> {
        let graph =
            if self.is_static { bucket(graph, symbols) } else { verify(graph.clone()).unwrap() };
        if self.is_optimised { passes::optimise(&graph).unwrap() } else { graph }
    }

    /// What the error of a case says that is refused.
    fn refusal_of(&self, case: &Case) -> Option<&'static str> {
        let is_of_case = |(name, _): &&(&str, &str)| case.name.starts_with(name);
        self.refused.iter().find(is_of_case).map(|(_, says)| *says)
    }

    /// Runs a case, or sees that it is refused.
    fn check(&self, case: &Case) -> Result<(), String> {
        match (self.run(case), self.refusal_of(case)) {
            (result, None) => result.map_err(|failure| failure.to_string()),
            (Ok(()), Some(says)) => Err(format!("it runs, but should be refused: {says}")),
            (Err(Failure::Refused(error)), Some(says)) if error.contains(says) => Ok(()),
            (Err(failure), Some(says)) => Err(format!("expected a refusal: {says}, got {failure}")),
        }
    }

    fn run(&self, case: &Case) -> Result<(), Failure> {
        let backend = self.backend.as_ref();
        let steps = self.steps(case);
        let first = &case.steps[steps[0]].symbols;
        let graph = self.prepare(&case.graph, first);
        let mut loaded = Loaded::new(backend, &graph, &case.tensors, first)?;
        for (idx, step) in steps.into_iter().map(|idx| (idx, &case.steps[idx])) {
            if self.is_static && step.symbols != *first {
                let graph = self.prepare(&case.graph, &step.symbols);
                loaded.switch(backend, &graph)?;
            }
            let output = loaded.run(&step.symbols, &step.inputs)?;
            self.compare(case, idx, &output).map_err(Failure::Wrong)?;
        }
        Ok(())
    }

    /// The steps of a case that are run: other ones for each case.
    fn steps(&self, case: &Case) -> Vec<usize> {
        let count = case.steps.len();
        if count <= self.max_steps || case.graph.states().next().is_some() {
            return (0..count).collect();
        }
        let offset = case.name.bytes().map(usize::from).sum::<usize>();
        (0..self.max_steps).map(|idx| (offset + idx * count / self.max_steps) % count).collect()
    }

    fn compare(&self, case: &Case, step: usize, output: &[f32]) -> Result<(), String> {
        let expected = &case.steps[step].expected;
        if output.len() != expected.len() {
            return Err(format!(
                "step {step}: {} numbers, expected {}",
                output.len(),
                expected.len()
            ));
        }
        let is_right = |got: f32, expected: f64| {
            if self.computes_nothing { got == 0.0 } else { case.tolerance.accepts(got, expected) }
        };
        let num_left = if self.leaves_padding { case.steps[step].num_padding } else { 0 };
        let num_checked = expected.len() - num_left;
        let mut pairs = output.iter().zip(expected).take(num_checked);
        match pairs.position(|(&got, &want)| !is_right(got, want)) {
            Some(at) => Err(format!(
                "step {step} with sizes {:?}: number {at} is {}, expected {} ({:?})",
                case.steps[step].symbols, output[at], expected[at], case.tolerance
            )),
            None => Ok(()),
        }
    }
}

/// Why a case was not run.
enum Failure {
    /// The backend says that it cannot.
    Refused(String),
    /// It can, and did something else.
    Wrong(String),
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Unsupported { .. } | BackendError::BadInput(_) => {
                Self::Refused(error.to_string())
            }
            _ => Self::Wrong(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(what) | Self::Wrong(what) => f.write_str(what),
        }
    }
}

/// Runs some cases on every backend and lists everything that is wrong.
fn all_backends_pass(cases: &[Case]) {
    assert!(!cases.is_empty());
    let mut failures = Vec::new();
    for configuration in configurations() {
        for case in cases.iter().filter(|case| case.name.starts_with(configuration.only)) {
            if let Err(error) = configuration.check(case) {
                failures.push(format!("{} on {}: {error}", case.name, configuration.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn linear_of_every_type_and_size() {
    all_backends_pass(&cases::linear::all());
}

#[test]
fn gather_of_every_type() {
    all_backends_pass(&cases::gather::all());
}

#[test]
fn elementwise_functions_and_norms() {
    all_backends_pass(&cases::elementwise::all());
}

#[test]
fn views_and_casts() {
    all_backends_pass(&cases::views::all());
}

#[test]
fn rope_of_both_styles() {
    all_backends_pass(&cases::rope::all());
}

#[test]
fn attention_over_the_paged_cache() {
    all_backends_pass(&cases::attention::all());
}

const OPS: [&str; 18] = [
    "input",
    "weight",
    "state",
    "constant",
    "gather",
    "linear",
    "add",
    "mul",
    "silu",
    "silu_mul",
    "rms_norm",
    "add_rms_norm",
    "slice",
    "reshape",
    "cast",
    "rope",
    "kv_write",
    "paged_attention",
];

#[test]
fn every_backend_runs_a_case_of_every_op() {
    let all = cases::all();
    for configuration in configurations() {
        if !configuration.only.is_empty() {
            continue;
        }
        let is_run = |case: &&Case| configuration.refusal_of(case).is_none();
        // A case is of the op that it is named after: one that only feeds another is not looked at.
        let run: HashSet<&str> = all.iter().filter(is_run).map(of_op).collect();
        let used: HashSet<&str> = all
            .iter()
            .filter(is_run)
            .flat_map(|case| case.graph.nodes())
            .map(|node| node.op.name())
            .collect();
        for op in OPS {
            assert!(used.contains(op), "no case that {} runs has {op}", configuration.name);
            let is_source = ["input", "weight", "state"].contains(&op);
            assert!(is_source || run.contains(op), "{} runs no case of {op}", configuration.name);
        }
    }
}

/// The op that a case is of.
fn of_op(case: &Case) -> &str {
    let op = case.name.split(|c: char| c != '_' && !c.is_ascii_lowercase()).next();
    op.expect("invariant: there is always a first piece")
}

#[test]
fn every_refusal_is_of_some_case() {
    let all = cases::all();
    for configuration in configurations() {
        for (name, says) in configuration.refused {
            assert!(!says.is_empty());
            assert!(all.iter().any(|case| case.name.starts_with(name)), "no case is {name}");
        }
    }
}
