//! The backends that run every case, and what each may leave out.

use cairn::backend::cpu::{CpuBackend, KernelSet};
use cairn::backend::null::NullBackend;
use cairn::backend::{Backend, BackendError};
use cairn::ir::{Graph, Verified, passes, verify};

use super::case::{Case, Loaded, bucket};
use super::cases;

/// A backend in one configuration.
struct Configuration {
    name: &'static str,
    backend: Box<dyn Backend>,
    /// Every size is pinned before compiling, as for devices without dynamic shapes.
    is_static: bool,
    /// The passes run before compiling.
    is_optimised: bool,
    /// Results are zeros of the right size instead of the expected numbers.
    computes_nothing: bool,
    /// Cases left out, by the beginning of their name, and why.
    ignored: &'static [(&'static str, &'static str)],
}

pub(crate) fn cpu(kernels: KernelSet, threads: usize) -> Box<dyn Backend> {
    Box::new(CpuBackend::new(Some(threads), kernels).unwrap())
}

fn configurations() -> Vec<Configuration> {
    let cpu = |name, kernels, threads, is_static, is_optimised| Configuration {
        name,
        backend: cpu(kernels, threads),
        is_static,
        is_optimised,
        computes_nothing: false,
        ignored: &[],
    };
    let null = |name, is_static: bool| Configuration {
        name,
        backend: Box::new(NullBackend { dynamic_shapes: !is_static }),
        is_static,
        is_optimised: is_static,
        computes_nothing: true,
        ignored: &[],
    };
    vec![
        cpu("cpu, reference kernels", KernelSet::Reference, 1, false, false),
        cpu("cpu, reference kernels, static", KernelSet::Reference, 1, true, true),
        cpu("cpu, 1 thread", KernelSet::Fast, 1, false, false),
        cpu("cpu, 2 threads", KernelSet::Fast, 2, false, true),
        cpu("cpu, 2 threads, static", KernelSet::Fast, 2, true, false),
        null("null", false),
        null("null, static", true),
    ]
}

impl Configuration {
    fn prepare(&self, graph: &Graph, symbols: &[u64]) -> Verified<Graph> {
        let graph =
            if self.is_static { bucket(graph, symbols) } else { verify(graph.clone()).unwrap() };
        if self.is_optimised { passes::optimise(&graph).unwrap() } else { graph }
    }

    fn run(&self, case: &Case) -> Result<(), String> {
        let failed = |error: BackendError| error.to_string();
        let backend = self.backend.as_ref();
        let first = &case.steps[0].symbols;
        let graph = self.prepare(&case.graph, first);
        let mut loaded = Loaded::new(backend, &graph, &case.tensors, first).map_err(failed)?;
        for (idx, step) in case.steps.iter().enumerate() {
            if self.is_static && idx > 0 {
                let graph = self.prepare(&case.graph, &step.symbols);
                loaded.switch(backend, &graph).map_err(failed)?;
            }
            let output = loaded.run(&step.symbols, &step.inputs).map_err(failed)?;
            self.compare(case, idx, &output)?;
        }
        Ok(())
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
        let wrong = output.iter().zip(expected).position(|(&got, &want)| !is_right(got, want));
        match wrong {
            Some(at) => Err(format!(
                "step {step} with sizes {:?}: number {at} is {}, expected {} ({:?})",
                case.steps[step].symbols, output[at], expected[at], case.tolerance
            )),
            None => Ok(()),
        }
    }
}

/// Runs some cases on every backend and lists everything that is wrong.
fn all_backends_pass(cases: &[Case]) {
    assert!(!cases.is_empty());
    let mut failures = Vec::new();
    for configuration in configurations() {
        for case in cases {
            let is_ignored = |(name, _): &&(&str, &str)| case.name.starts_with(name);
            if let Some((_, reason)) = configuration.ignored.iter().find(is_ignored) {
                assert!(!reason.is_empty());
                continue;
            }
            if let Err(error) = configuration.run(case) {
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

#[test]
fn there_is_a_case_for_every_op() {
    let all = [
        cases::linear::all(),
        cases::gather::all(),
        cases::elementwise::all(),
        cases::views::all(),
        cases::rope::all(),
        cases::attention::all(),
    ];
    let used: Vec<&str> = all
        .iter()
        .flatten()
        .flat_map(|case| case.graph.nodes())
        .map(|node| node.op.name())
        .collect();
    for op in [
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
    ] {
        assert!(used.contains(&op), "no case has {op}");
    }
}
