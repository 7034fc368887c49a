//! What a loaded graph costs: memory, time of the host, and whether weights are copied.
//!
//! Memory is what the device has free before and after: only a device that nobody else uses gives an
//! answer that can be relied on.

use std::time::{Duration, Instant};

use super::super::artifact::CompiledGraph;
use super::super::om;
use super::lab::finished;
use super::numbers::{Matrix, Random};
use super::{Answer, Lab, No};
use crate::backend::{Executable as _, Step};
use crate::ir::{Builder, DType, Graph, Op, Shape, TypeError};

/// Side of the matrices of the graph that is only loaded: 512 MiB each.
const LARGE: usize = 16384;
/// What a load may take for code, streams and tables: a quarter of the inputs.
const MAX_PART: u64 = 4;
/// Vectors that are added up.
const MANY: usize = 398;
const WIDTH: usize = 64;
const STARTS: usize = 50;
/// Side of the matrix whose use is timed: 32 MiB.
const MATRIX: usize = 4096;
const RUNS: usize = 5;

pub(super) fn takes_no_memory_for_inputs(lab: &Lab<'_>) -> Answer {
    lab.session()?;
    let graph = finished(matrices(LARGE, 2))?;
    let inputs = (2 * LARGE * LARGE * 2) as u64;
    let artifact = lab.compile(&graph)?;
    let before = lab.free_memory()?;
    let first = lab.load_artifact("large", &artifact.files())?;
    let between = lab.free_memory()?;
    // The workspace is there by now: what this one takes is its own.
    let second = lab.load_artifact("large", &artifact.files())?;
    let after = lab.free_memory()?;
    drop((first, second));
    let [with_workspace, own] = [before.saturating_sub(between), between.saturating_sub(after)];
    let text = format!(
        "a graph with inputs of {inputs} bytes took {own} bytes, the first one {with_workspace} \
         with the workspace"
    );
    if own < inputs / MAX_PART { Ok(text) } else { Err(No::Fails(text)) }
}

pub(super) fn starts_with_many_inputs(lab: &Lab<'_>) -> Answer {
    lab.session()?;
    let graph = finished(many_inputs())?;
    let mut executable = lab.load(&graph)?;
    let mut tensors = vec![Matrix::new(1, WIDTH, |_, _| 1.0).tensor("x")];
    tensors.extend((0..MANY).map(|idx| {
        let mut tensor = Matrix::new(1, WIDTH, |_, _| (idx % 2) as f32).tensor(&vector(idx));
        tensor.shape = vec![WIDTH];
        tensor
    }));
    let mut memory = lab.place(&graph, &tensors)?;
    let (mut output, mut starts, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    // The first one makes datasets and buffers.
    for _ in 0..=STARTS {
        let started = Instant::now();
        let step = Step { symbols: &[], inputs: &[&[0]] };
        executable.run(&mut memory, &step, &mut output)?;
        steps.push(started.elapsed());
        starts.push(executable.start_time());
    }
    let expected = 1.0 + (MANY / 2) as f32;
    if let Some(got) = output.iter().find(|got| (**got - expected).abs() > f32::EPSILON) {
        return Err(No::Fails(format!("the sum of its inputs is {got}, expected {expected}")));
    }
    let [start, step] = [&mut starts, &mut steps].map(|times| micros(median(&mut times[1..])));
    Ok(format!(
        "{start} us of the host for `aclmdlExecuteAsync` with {} inputs, {step} us for the whole \
         step (medians of {STARTS})",
        MANY + 2
    ))
}

pub(super) fn uses_weights_as_they_lie(lab: &Lab<'_>) -> Answer {
    lab.session()?;
    let graph = finished(matrices(MATRIX, 1))?;
    let weights = (MATRIX * MATRIX * 2) as u64;
    let artifact = lab.compile(&graph)?;
    let info = om::check(CompiledGraph::read(&artifact.files())?.om);
    let info = info.map_err(|error| No::Fails(error.to_string()))?;
    let workspace = info.workspace_size();
    if let Some(bytes) = workspace.filter(|&bytes| bytes >= weights) {
        return Err(No::Fails(format!(
            "the graph works in {bytes} bytes, enough for a copy of its weights, {weights}"
        )));
    }
    let mut executable = lab.load_artifact("matrix", &artifact.files())?;
    let mut random = Random(7);
    let matrix = Matrix::new(MATRIX, MATRIX, |_, _| random.next());
    let x = Matrix::new(1, MATRIX, |_, column| if column % 512 == 3 { 1.0 } else { 0.0 });
    let mut memory = lab.place(&graph, &[x.tensor("x"), matrix.tensor("w0")])?;
    let before = lab.free_memory()?;
    let (mut output, mut times) = (Vec::new(), Vec::new());
    for _ in 0..=RUNS {
        let started = Instant::now();
        let step = Step { symbols: &[], inputs: &[&[0]] };
        executable.run(&mut memory, &step, &mut output)?;
        times.push(started.elapsed());
    }
    let taken = before.saturating_sub(lab.free_memory()?);
    if taken >= weights {
        return Err(No::Fails(format!("steps took {taken} bytes, the weights have {weights}")));
    }
    for (row, got) in output.iter().enumerate() {
        let expected: f64 = (0..MATRIX / 512).map(|part| matrix.at(row, part * 512 + 3)).sum();
        if (f64::from(*got) - expected).abs() > 0.05 {
            return Err(No::Fails(format!("row {row} gave {got}, expected {expected:.4}")));
        }
    }
    let time = median(&mut times[1..]);
    let rate = weights as f64 / time.as_secs_f64() / 1e9;
    Ok(format!(
        "a matrix of {weights} bytes in a workspace of {}; {} us a step, {rate:.1} GB/s",
        workspace.map_or_else(|| "a size that is not known".to_owned(), |n| format!("{n} bytes")),
        micros(time)
    ))
}

/// `x` through that many square matrices.
fn matrices(side: usize, count: usize) -> Result<Graph, TypeError> {
    let dtype = DType::BF16;
    let mut graph = Builder::new("matrices");
    let mut x = start(&mut graph, side)?;
    for idx in 0..count {
        let matrix = graph.weight(&format!("w{idx}"), dtype, Shape::fixed(&[side, side]));
        x = graph.op("y", Op::Linear, &[x, matrix])?;
    }
    let y = graph.op("y", Op::Cast { dtype: DType::F32 }, &[x])?;
    Ok(graph.finish(&[y]))
}

fn many_inputs() -> Result<Graph, TypeError> {
    let mut graph = Builder::new("many inputs");
    let mut sum = start(&mut graph, WIDTH)?;
    for idx in 0..MANY {
        let vector = graph.weight(&vector(idx), DType::BF16, Shape::fixed(&[WIDTH]));
        sum = graph.op("sum", Op::Add, &[sum, vector])?;
    }
    let y = graph.op("y", Op::Cast { dtype: DType::F32 }, &[sum])?;
    Ok(graph.finish(&[y]))
}

/// One row of a table with one row.
fn start(graph: &mut Builder, width: usize) -> Result<crate::ir::ValueId, TypeError> {
    let dtype = DType::BF16;
    let ids = graph.input("ids", DType::I32, Shape::fixed(&[1]));
    let table = graph.weight("x", dtype, Shape::fixed(&[1, width]));
    graph.op("x", Op::Gather { dtype }, &[table, ids])
}

fn vector(idx: usize) -> String {
    format!("v{idx}")
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn micros(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e6)
}
