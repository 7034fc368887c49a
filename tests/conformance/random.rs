//! Random graphs: every one compiles or is refused, what compiles runs, and the passes change no
//! number.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;

use cairn::backend::cpu::KernelSet;
use cairn::backend::{Backend, BackendError};
use cairn::ir::{Graph, passes, verify};
use cairn::weights::Tensor;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::backends::cpu;
use super::case::{Loaded, bucket};
use super::data::{Numbers, tensor};
use super::random_graph::{Kind, random_graph};

/// A graph that a failing property prints as text.
#[derive(Clone)]
struct Shown(Graph);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{}", self.0)
    }
}

fn graphs(kind: Kind) -> impl Strategy<Value = Shown> {
    proptest::collection::vec(any::<u32>(), 0..160)
        .prop_map(move |choices| Shown(random_graph(kind, &choices)))
}

/// What random graphs run with.
#[derive(Clone)]
pub(crate) struct Data {
    pub(crate) symbols: Vec<u64>,
    pub(crate) inputs: Vec<Vec<i32>>,
    pub(crate) tensors: HashMap<String, Vec<Tensor>>,
}

/// Sizes, inputs by their role, and weights for a random graph.
pub(crate) fn data(graph: &Graph) -> Data {
    let size = |name: &str| match name {
        "tokens" => 5,
        "seqs" => 3,
        "width" => 2,
        _ => 7,
    };
    let symbols: Vec<u64> = graph.symbols().iter().map(|symbol| size(&symbol.name)).collect();
    // The second sequence and the last token are padding; some ids are outside their table.
    let role = |name: &str| match name {
        "ids" => vec![4, -1, 0, 7, 2],
        "slots" => vec![3, 6, -1, 0, -7],
        "block_tables" => vec![6, 0, i32::MAX, -1, 3, 2],
        "query_ends" => vec![2, 2, 4],
        "seq_lens" => vec![2, 0, 2],
        other => panic!("an input named {other}"),
    };
    let input = |id| {
        // No backend of these tests takes floats: they need no data.
        let takes_floats = graph.ty(id).dtype.is_float();
        if takes_floats { Vec::new() } else { role(&graph.value(id).name) }
    };
    let inputs = graph.inputs().map(input).collect();
    let mut seeds = Numbers::new(9);
    let tensors = graph.weights().map(|(id, parts)| {
        let ty = graph.ty(id);
        let shape = ty.shape.resolve(&symbols).unwrap();
        let tensor = tensor(&parts[0].name, ty.dtype, &shape, seeds.next());
        (parts[0].name.clone(), vec![tensor])
    });
    Data { tensors: tensors.collect(), symbols, inputs }
}

/// Runs a graph; `None` where the backend refuses it.
fn run(backend: &dyn Backend, graph: &Graph, data: &Data) -> Option<Vec<f32>> {
    let graph = verify(graph.clone()).unwrap();
    match Loaded::new(backend, &graph, &data.tensors, &data.symbols) {
        Ok(mut loaded) => Some(loaded.run(&data.symbols, &data.inputs).unwrap()),
        Err(BackendError::Unsupported { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Checks a property of random graphs; `check` says whether the graph counted, and at least that
/// share must.
fn most_graphs(kind: Kind, cases: u32, share: f64, check: impl Fn(&Graph) -> bool) {
    let config = ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() };
    let counted = Cell::new(0_u32);
    TestRunner::new(config)
        .run(&graphs(kind), |Shown(graph)| {
            counted.set(counted.get() + u32::from(check(&graph)));
            Ok(())
        })
        .unwrap();
    let counted = f64::from(counted.get()) / f64::from(cases);
    assert!(counted >= share, "only {counted} of the graphs could be run");
}

/// How many activation functions a graph has.
fn num_activations(graph: &Graph) -> usize {
    graph.nodes().iter().filter(|node| node.op.name().starts_with("silu")).count()
}

fn same(a: f32, b: f32) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

#[test]
fn the_passes_change_no_number() {
    let backends =
        [KernelSet::Reference, KernelSet::Fast].map(|kernels| (kernels, cpu(kernels, 2)));
    most_graphs(Kind::Runnable, 300, 0.8, |graph| {
        let data = data(graph);
        let optimised = passes::optimise(&verify(graph.clone()).unwrap()).unwrap();
        let folds_silu = num_activations(graph) != num_activations(&optimised);
        let mut has_run = true;
        for (kernels, backend) in &backends {
            // Folding rounds an exponential as the reference does, not as the fast kernels do.
            if folds_silu && *kernels == KernelSet::Fast {
                continue;
            }
            let before = run(backend.as_ref(), graph, &data);
            let after = run(backend.as_ref(), &optimised, &data);
            has_run &= before.is_some();
            if let (Some(before), Some(after)) = (before, after) {
                assert_eq!(before.len(), after.len());
                let equal = before.iter().zip(&after).all(|(&a, &b)| same(a, b));
                assert!(equal, "{before:?}\n{after:?}\n{}", *optimised);
            }
        }
        has_run
    });
}

#[test]
fn a_bucket_gives_the_numbers_of_the_dynamic_graph() {
    let backend = cpu(KernelSet::Fast, 2);
    most_graphs(Kind::Runnable, 100, 0.8, |graph| {
        let data = data(graph);
        let Some(expected) = run(backend.as_ref(), graph, &data) else { return false };
        let pinned = bucket(graph, &data.symbols);
        let got = run(backend.as_ref(), &pinned, &data).expect("a bucket is no harder");
        assert!(expected.iter().zip(&got).all(|(&a, &b)| same(a, b)), "{expected:?}\n{got:?}");
        true
    });
}

#[test]
fn any_graph_is_refused_or_runs() {
    let backends = [cpu(KernelSet::Reference, 1), cpu(KernelSet::Fast, 2)];
    for kind in [Kind::Anything, Kind::Runnable] {
        most_graphs(kind, 300, 0.1, |graph| {
            let data = data(graph);
            let mut has_run = false;
            for graph in [graph.clone(), bucket(graph, &data.symbols).into_inner()] {
                for backend in &backends {
                    let Some(output) = run(backend.as_ref(), &graph, &data) else { continue };
                    let shape = &graph.ty(graph.outputs()[0]).shape;
                    let size: usize = shape.resolve(&data.symbols).unwrap().iter().product();
                    assert_eq!(output.len(), size);
                    has_run = true;
                }
            }
            has_run
        });
    }
}
