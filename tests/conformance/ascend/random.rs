//! Random graphs: refused, or computed as the CPU's reference kernels do.

use std::cell::Cell;

use cairn::backend::cpu::KernelSet;
use cairn::backend::{Backend, BackendError};
use cairn::ir::{DType, Graph, Verified, passes, text};

use super::backend;
use crate::backends::cpu;
use crate::case::{Loaded, bucket};
use crate::data::Numbers;
use crate::random::{Data, data};
use crate::random_graph::{Kind, random_graph};

/// How far numbers may be apart, as measured by the largest: some sums in f32 one after the other,
/// and some roundings to bf16. What cancels may differ by more than it is large.
const IN_F32: f32 = 2e-4;
const IN_BF16: f32 = 2e-2;

/// The graph of a seed.
fn graph(kind: Kind, seed: u64) -> Graph {
    let mut numbers = Numbers::new(seed);
    let len = numbers.below(160);
    let choices: Vec<u32> = (0..len).map(|_| numbers.next() as u32).collect();
    random_graph(kind, &choices)
}

/// The same with every weight in f32: a device takes no blocks, and no products of two types.
fn with_plain_weights(graph: &Graph) -> Graph {
    let plain = |line: &str| match line.split_once("\": ") {
        Some((name, ty)) if ty.contains(" = weight(") => {
            let (_, shape) = ty.split_once('[').unwrap();
            format!("{name}\": {}[{shape}", DType::F32)
        }
        _ => line.to_owned(),
    };
    let lines: Vec<String> = graph.to_string().lines().map(plain).collect();
    text::parse(&lines.join("\n")).unwrap()
}

/// A device runs rows of tables only that they have: ids inside of most tables, then of every one.
fn data_inside(graph: &Graph) -> [Data; 2] {
    [[4, 1, 0, 3, 2], [0; 5]].map(|ids| {
        let mut data = data(graph);
        data.inputs[0] = ids.to_vec();
        data
    })
}

/// Runs a graph with the first data that it takes; `None` where it is refused.
fn run(
    backend: &dyn Backend,
    graph: &Verified<Graph>,
    data: &[Data; 2],
) -> Option<(usize, Vec<f32>)> {
    let symbols = &data[0].symbols;
    let mut loaded = match Loaded::new(backend, graph, &data[0].tensors, symbols) {
        Ok(loaded) => loaded,
        Err(BackendError::Unsupported { what, .. }) if !what.is_empty() => return None,
        Err(error) => panic!("{error}\n{}", **graph),
    };
    for (idx, data) in data.iter().enumerate() {
        match loaded.run(symbols, &data.inputs) {
            Ok(output) => return Some((idx, output)),
            Err(BackendError::BadInput(what)) if what.contains("picks row") => {}
            Err(error) => panic!("{error}\n{}", **graph),
        }
    }
    panic!("row 0 is in every table\n{}", **graph);
}

/// Whether numbers are about the same, as measured by the largest.
fn is_close(got: &[f32], want: &[f32], tolerance: f32) -> bool {
    let size = want.iter().map(|want| want.abs()).fold(1.0, f32::max);
    let is_close = |(&got, &want): (&f32, &f32)| {
        let is_far_out = !want.is_finite() || !got.is_finite();
        is_far_out || (got - want).abs() <= tolerance * size
    };
    got.len() == want.len() && got.iter().zip(want).all(is_close)
}

fn most_graphs_run(kind: Kind, seeds: std::ops::Range<u64>, share: f64, tolerance: f32) {
    let reference = cpu(KernelSet::Reference, 1);
    let (num_graphs, num_compared) = (seeds.end - seeds.start, Cell::new(0));
    for seed in seeds {
        let graph = match kind {
            Kind::Runnable => with_plain_weights(&graph(kind, seed)),
            Kind::Anything => graph(kind, seed),
        };
        let data = data_inside(&graph);
        let pinned = bucket(&graph, &data[0].symbols);
        let optimised = passes::optimise(&pinned).unwrap();
        let Some((used, got)) = run(backend().as_ref(), &optimised, &data) else { continue };
        let on_reference = [data[used].clone(), data[used].clone()];
        let Some((_, want)) = run(reference.as_ref(), &pinned, &on_reference) else { continue };
        assert!(is_close(&got, &want, tolerance), "seed {seed}:\n{got:?}\n{want:?}\n{}", *pinned);
        num_compared.set(num_compared.get() + 1);
    }
    let compared = f64::from(num_compared.get()) / num_graphs as f64;
    assert!(compared >= share, "only {compared} of the graphs were compared");
}

#[test]
fn graphs_of_what_every_backend_should_run_give_the_same() {
    most_graphs_run(Kind::Runnable, 0..150, 0.5, IN_F32);
}

#[test]
fn any_graph_is_refused_or_gives_the_same() {
    most_graphs_run(Kind::Anything, 1000..1150, 0.02, IN_BF16);
}
