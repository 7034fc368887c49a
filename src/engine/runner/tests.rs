//! Steps on a device that writes down what it is given.

use std::any::Any;
use std::sync::{Arc, Mutex};

use super::*;
use crate::backend::{BackendError, Batching, Capabilities, DeviceFate, Output, Rows};
use crate::engine::death::Fate;
use crate::engine::kv_cache::BlockId;
use crate::engine::scheduler_output::ScheduledSequence;
use crate::engine::slots::Key;
use crate::model::io::{GraphInput, symbols};

#[derive(Debug, Default)]
struct NoMemory;

impl Memory for NoMemory {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }
}

/// What was run: symbol values and inputs of every launch, and what was wanted.
#[derive(Debug, Default)]
struct Log {
    launches: Vec<(Vec<u64>, Vec<Vec<i32>>, Wanted)>,
    /// What the launch of that index ends with.
    failures: Vec<(usize, BackendError)>,
}

type Seen = Arc<Mutex<Log>>;

/// Writes down what it is given; row `i` of its logits is `[i, i, i, i]`, or `[i]` when short.
/// Where the largest is enough it gives one, of column 2 or what it is told.
struct Recorder {
    seen: Seen,
    row_len: usize,
    top: Option<i32>,
}

impl Executable for Recorder {
    fn run(
        &mut self,
        _: &mut dyn Memory,
        step: &Step<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let num_logits = step.symbols[symbols::NUM_LOGITS.0 as usize];
        output.clear();
        for row in 0..num_logits {
            output.extend(std::iter::repeat_n(row as f32, self.row_len));
        }
        Ok(())
    }

    fn run_wanted(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        wanted: Wanted,
        output: &mut Output,
    ) -> Result<(), BackendError> {
        let mut log = self.seen.lock().unwrap();
        let inputs = step.inputs.iter().map(|input| input.to_vec()).collect();
        log.launches.push((step.symbols.to_vec(), inputs, wanted));
        let idx = log.launches.len() - 1;
        if let Some(place) = log.failures.iter().position(|(launch, _)| *launch == idx) {
            return Err(log.failures.remove(place).1);
        }
        if let (Wanted::Argmax, Some(top)) = (wanted, self.top) {
            output.rows = Rows::Argmax;
            output.values =
                step.inputs[GraphInput::LogitRows as usize].iter().map(|&row| row as f32).collect();
            output.indices = vec![top; output.values.len()];
            return Ok(());
        }
        drop(log);
        output.rows = Rows::Logits;
        self.run(memory, step, &mut output.logits)
    }
}

const STATIC: Capabilities = Capabilities { dynamic_shapes: false, ..Capabilities::ANY };
const SEPARATE: Capabilities = Capabilities { batching: Batching::Separate, ..STATIC };

fn options() -> EngineOptions {
    EngineOptions {
        max_model_len: 12,
        max_num_seqs: 3,
        max_num_batched_tokens: 8,
        block_size: 4,
        num_blocks: 9,
        max_num_queued_reqs: 0,
        ..EngineOptions::default()
    }
}

fn runner_with(
    capabilities: &Capabilities,
    row_len: usize,
    top: Option<i32>,
    keep: fn(&Bucket) -> bool,
) -> (Result<Runner, EngineError>, Seen) {
    let seen = Seen::default();
    let buckets = buckets::plan(capabilities, &options()).into_iter().filter(keep);
    let executables = buckets.map(|bucket| {
        let executable = Recorder { seen: Arc::clone(&seen), row_len, top };
        (bucket, Box::new(executable) as Box<dyn Executable>)
    });
    let columns = Columns { tokens: 3, all: 4 };
    (Runner::new(executables.collect(), Box::new(NoMemory), columns, 0, &options()), seen)
}

fn runner(capabilities: &Capabilities, row_len: usize) -> (Runner, Seen) {
    let (runner, seen) = runner_with(capabilities, row_len, None, |_| true);
    (runner.unwrap(), seen)
}

/// Symbol values and inputs of the launch that ran last.
fn last(seen: &Seen) -> (Vec<u64>, Vec<Vec<i32>>) {
    let seen = seen.lock().unwrap();
    let (symbols, inputs, _) = seen.launches.last().unwrap();
    (symbols.clone(), inputs.clone())
}

/// The logits of a row that must have all of them.
fn logits<'a>(results: &StepResults<'a>, place: usize) -> &'a [f32] {
    match results.row(place, 0).unwrap() {
        Row::Logits(logits) => logits,
        Row::Top { .. } => panic!("only the largest"),
    }
}

fn push(
    plan: &mut SchedulerOutput,
    idx: u32,
    tokens: std::ops::Range<usize>,
    is_sampled: bool,
    blocks: &[BlockId],
) {
    let mut share = ScheduledSequence::new(Key::test(idx), tokens);
    (share.is_sampled, share.num_logits) = (is_sampled, usize::from(is_sampled));
    plan.push(share, blocks);
}

fn run<'r>(
    runner: &'r mut Runner,
    plan: &SchedulerOutput,
    view_of: impl Fn(SeqKey) -> SequenceView<'static>,
) -> Result<StepResults<'r>, Death> {
    runner.bind(plan, view_of);
    let mut num_calls = 0;
    let results = runner.run(&mut || num_calls += 1);
    assert!(num_calls == 1 || results.is_err(), "called {num_calls} times");
    results
}

/// Sequence 0 decodes its sixth token; sequence 1 computes its tokens 2..5 of more.
fn plan() -> SchedulerOutput {
    let mut plan = SchedulerOutput::default();
    push(&mut plan, 0, 5..6, true, &[BlockId(7), BlockId(2)]);
    push(&mut plan, 1, 2..5, false, &[BlockId(0), BlockId(5), BlockId(8)]);
    plan
}

fn view_of(key: SeqKey) -> SequenceView<'static> {
    let token_ids: &[u32] = match key.idx() {
        0 => &[10, 11, 12, 13, 14, 15],
        _ => &[20, 21, 22, 23, 24, 25, 26, 27, 28],
    };
    SequenceView { token_ids, wanted: Wanted::Argmax, is_embedded: false }
}

#[test]
fn lays_out_a_step_without_padding() {
    let (mut runner, seen) = runner(&Capabilities::ANY, 4);
    let plan = plan();
    let results = run(&mut runner, &plan, view_of).unwrap();
    assert_eq!((results.num_launches, results.num_padded_tokens), (1, 0));
    assert_eq!(logits(&results, 0), &[0.0_f32; 3][..]);
    let (symbols, inputs) = last(&seen);
    assert_eq!(symbols, [4, 2, 3, 1, 9, 12]);
    let input = |input: GraphInput| inputs[input as usize].as_slice();
    assert_eq!(input(GraphInput::TokenIds), [15, 22, 23, 24]);
    assert_eq!(input(GraphInput::Positions), [5, 2, 3, 4]);
    assert_eq!(input(GraphInput::SlotMapping), [2 * 4 + 1, 2, 3, 5 * 4]);
    assert_eq!(input(GraphInput::BlockTables), [7, 2, 0, 0, 5, 8]);
    assert_eq!(input(GraphInput::QueryEnds), [1, 4]);
    assert_eq!(input(GraphInput::SeqLens), [6, 5]);
    assert_eq!(input(GraphInput::LogitRows), [0]);
}

#[test]
fn pads_a_step_to_its_bucket() {
    let (mut runner, seen) = runner(&STATIC, 3);
    let mut plan = plan();
    push(&mut plan, 1, 0..1, true, &[BlockId(1)]);
    let results = run(&mut runner, &plan, view_of).unwrap();
    assert_eq!((logits(&results, 2), results.num_padded_tokens), (&[1.0_f32; 3][..], 3));
    let (symbols, inputs) = last(&seen);
    assert_eq!(symbols, [8, 3, 3, 3, 9, 12]);
    let input = |input: GraphInput| inputs[input as usize].as_slice();
    assert_eq!(input(GraphInput::TokenIds), [15, 22, 23, 24, 20, 0, 0, 0]);
    assert_eq!(input(GraphInput::SlotMapping)[4..], [4, -1, -1, -1]);
    assert_eq!(input(GraphInput::BlockTables), [7, 2, 0, 0, 5, 8, 1, 0, 0]);
    assert_eq!(input(GraphInput::LogitRows), [0, 4, 0]);
}

#[test]
fn padded_sequences_are_empty_and_a_step_without_samples_has_one_row() {
    let (mut runner, seen) = runner(&STATIC, 3);
    let mut plan = SchedulerOutput::default();
    push(&mut plan, 1, 0..4, false, &[BlockId(1)]);
    run(&mut runner, &plan, view_of).unwrap();
    let (symbols, inputs) = last(&seen);
    assert_eq!(symbols, [4, 3, 3, 3, 9, 12]);
    assert_eq!(inputs[GraphInput::QueryEnds as usize], [4, 4, 4]);
    assert_eq!(inputs[GraphInput::SeqLens as usize], [4, 0, 0]);
    assert_eq!(inputs[GraphInput::LogitRows as usize], [0, 0, 0]);
    drop(runner);
    let (mut runner, seen) = self::runner(&Capabilities::ANY, 3);
    run(&mut runner, &plan, view_of).unwrap();
    assert_eq!(last(&seen).0, [4, 1, 1, 1, 9, 12]);
}

/// Two decodes around a chunk and a whole prompt.
fn mixed() -> SchedulerOutput {
    let mut plan = plan();
    push(&mut plan, 2, 8..9, true, &[BlockId(1), BlockId(3), BlockId(6)]);
    push(&mut plan, 3, 0..2, true, &[BlockId(4)]);
    plan
}

#[test]
fn decodes_run_together_and_everyone_gets_the_row_that_is_theirs() {
    let (runner, seen) = runner_with(&SEPARATE, 3, Some(2), |_| true);
    let (mut runner, plan) = (runner.unwrap(), mixed());
    let wanted_of = |key: SeqKey| match key.idx() {
        3 => SequenceView { wanted: Wanted::Logits, ..view_of(key) },
        _ => view_of(key),
    };
    let results = run(&mut runner, &plan, wanted_of).unwrap();
    // The chunk of 3 and the prompt of 2 are padded to 8.
    assert_eq!((results.num_launches, results.num_padded_tokens), (3, 5 + 6));
    let top = |place| match results.row(place, 0).unwrap() {
        Row::Top { values, indices } => (values.to_vec(), indices.to_vec()),
        row @ Row::Logits(_) => panic!("{row:?}"),
    };
    assert_eq!((top(0), top(2)), ((vec![0.0], vec![2]), (vec![1.0], vec![2])));
    assert_eq!(logits(&results, 3), &[0.0_f32; 3][..]);
    let seen = seen.lock().unwrap();
    let input = |launch: usize, input: GraphInput| &seen.launches[launch].1[input as usize];
    let symbols: Vec<_> = seen.launches.iter().map(|launch| launch.0.as_slice()).collect();
    assert_eq!(symbols, [[2, 2, 3, 2, 9, 12], [8, 1, 3, 1, 9, 12], [8, 1, 3, 1, 9, 12]]);
    assert_eq!(*input(0, GraphInput::TokenIds), [15, 28]);
    assert_eq!(*input(0, GraphInput::LogitRows), [0, 1]);
    assert_eq!(*input(0, GraphInput::BlockTables), [7, 2, 0, 1, 3, 6]);
    assert_eq!(*input(1, GraphInput::SlotMapping), [2, 3, 20, -1, -1, -1, -1, -1]);
    assert_eq!(*input(1, GraphInput::QueryEnds), [3]);
    assert_eq!(*input(2, GraphInput::LogitRows), [1]);
    let wanted: Vec<_> = seen.launches.iter().map(|launch| launch.2).collect();
    assert_eq!(wanted, [Wanted::Argmax, Wanted::Argmax, Wanted::Logits]);
}

#[test]
fn a_launch_whose_largest_columns_stand_for_no_token_runs_again_for_all() {
    let (runner, seen) = runner_with(&Capabilities::ANY, 3, Some(3), |_| true);
    let mut runner = runner.unwrap();
    let results = run(&mut runner, &plan(), view_of).unwrap();
    assert_eq!(logits(&results, 0), &[0.0_f32; 3][..]);
    let seen = seen.lock().unwrap();
    let [(_, inputs, first), (_, again, second)] = seen.launches.as_slice() else {
        panic!("{seen:?}");
    };
    assert_eq!((inputs, *first, *second), (again, Wanted::Argmax, Wanted::Logits));
}

#[test]
fn a_failed_launch_takes_its_own_requests_only_and_the_next_step_works() {
    let (mut runner, seen) = runner(&SEPARATE, 3);
    seen.lock().unwrap().failures.push((1, BackendError::Execution("a flaw".into())));
    let plan = mixed();
    let results = run(&mut runner, &plan, view_of).unwrap();
    let failure = |place| results.check(place).err().map(ToString::to_string);
    assert_eq!(failure(1), Some("the step failed: a flaw".to_owned()));
    assert_eq!([failure(0), failure(2), failure(3)], [None, None, None]);
    let results = run(&mut runner, &plan, view_of).unwrap();
    assert!((0..4).all(|place| results.check(place).is_ok()));
}

#[test]
fn a_device_that_is_gone_ends_the_step() {
    let device = |fate| BackendError::Device { what: "no answer".into(), fate };
    let stale = BackendError::StaleArtifact("compiled for another driver".into());
    let bucket = buckets::plan(&SEPARATE, &options()).pop().unwrap();
    assert_eq!(bucket.to_string(), "prefill 8");
    for (error, fate) in [
        (device(DeviceFate::Restart), Fate::Restart),
        (device(DeviceFate::Lost), Fate::Lost),
        (stale, Fate::StaleArtifact { bucket }),
    ] {
        let (mut runner, seen) = runner(&SEPARATE, 3);
        let what = error.to_string();
        seen.lock().unwrap().failures.push((1, error));
        let death = run(&mut runner, &mixed(), view_of).unwrap_err();
        assert_eq!(death, Death { what, fate });
        assert_eq!(seen.lock().unwrap().launches.len(), 2, "nothing runs after it");
    }
}

#[test]
fn too_few_logits_are_an_error() {
    let (mut runner, _) = runner(&Capabilities::ANY, 2);
    let plan = plan();
    let results = run(&mut runner, &plan, view_of).unwrap();
    assert_eq!(
        results.check(1).unwrap_err().to_string(),
        "the step failed: expected 1 rows of at least 3 logits, got 2 in all"
    );
}

#[test]
fn refuses_to_start_without_a_graph_for_the_largest_step() {
    let refusal = |capabilities, keep| {
        let (runner, _) = runner_with(capabilities, 3, None, keep);
        match runner.map(drop) {
            Err(EngineError::NoBucket { num_tokens, num_seqs, .. }) => (num_tokens, num_seqs),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refusal(&STATIC, |_| false), (8, 3));
    assert_eq!(refusal(&STATIC, |bucket| bucket.num_tokens < Some(8)), (8, 3));
    assert_eq!(refusal(&SEPARATE, |bucket| bucket.kind == StepKind::Decode), (8, 1));
    assert_eq!(refusal(&SEPARATE, |bucket| bucket.kind == StepKind::Prefill), (1, 1));
}

#[test]
fn more_decodes_than_the_largest_graph_holds_take_several_launches() {
    let not_for_three = |bucket: &Bucket| bucket.num_seqs != Some(3);
    let (runner, seen) = runner_with(&SEPARATE, 3, None, not_for_three);
    let mut plan = SchedulerOutput::default();
    for id in 0..3 {
        push(&mut plan, id, 5..6, true, &[BlockId(id), BlockId(3)]);
    }
    let mut runner = runner.unwrap();
    let results = run(&mut runner, &plan, view_of).unwrap();
    let values: Vec<_> = (0..3).map(|place| logits(&results, place)[0]).collect();
    assert_eq!(values, [0.0, 1.0, 0.0]);
    let sizes: Vec<_> = seen.lock().unwrap().launches.iter().map(|launch| launch.0[1]).collect();
    assert_eq!(sizes, [2, 1]);
}
