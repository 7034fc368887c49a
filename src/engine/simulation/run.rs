//! The engine's loop in virtual time.
//!
//! ```text
//! now                                        now + max(device, host)
//!  | who has arrived is added, the plan completed     |
//!  | launch ---- device: what the model says -------->| results, ends
//!  |        `--- the next step is planned             | who arrived meanwhile is added, ..
//! ```
//!
//! As in the real loop, a step is planned while the one before it runs, so what the host needs for
//! it shows only where it needs longer than the device.
//!
//! What this module deliberately does not do: it decides nothing; the scheduler does.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Executable, Wanted};

use super::super::EngineOptions;
use super::super::buckets::Bucket;
use super::super::kv_cache::{KvCache, KvCacheOptions};
use super::super::launch_result::Columns;
use super::super::rank::RankFacts;
use super::super::request::RequestId;
use super::super::runner::{Runner, SequenceView};
use super::super::scheduler::{Limits, NewSequence, Progress, Scheduler, Tokens};
use super::super::scheduler_output::{ScheduledSequence, SchedulerOutput};
use super::super::sequence::SeqKey;
use super::super::slots::Slots;
use super::device::DeviceModel;
use super::graph::{Meter, SimulatedGraph, SimulatedMemory};
use super::report::Report;
use super::tally::{End, RequestFacts, StepFacts, Tally};
use super::workload::{Arrival, Workload};
use super::{SimulationError, check, nanos};

/// What serves the requests.
#[derive(Clone, Debug)]
pub struct Server {
    /// How fast it is.
    pub model: DeviceModel,
    /// The engine's limits. The queue is not bounded, and nothing is speculated.
    pub options: EngineOptions,
    /// The graphs that there are.
    pub buckets: Vec<Bucket>,
    /// What a step costs the host; hidden as far as the device takes longer.
    pub host_seconds: f64,
}

/// Serves a workload to its end.
///
/// # Errors
/// When a number is out of range, when an engine with these options would not start, and when the
/// scheduler turns out to have a defect.
pub fn run(server: &Server, workload: &Workload) -> Result<Report, SimulationError> {
    workload.check()?;
    let mut run = Run::new(server, workload)?;
    while run.next_step()? {}
    run.end()
}

/// A request that has arrived and is not finished.
#[derive(Debug)]
struct Live {
    /// Its place among the arrivals, and its id.
    idx: usize,
    token_ids: Vec<u32>,
    started: Option<u64>,
    first_token: Option<u64>,
    last_token: u64,
}

#[derive(Debug, Default)]
struct LiveRequests(Slots<Live>);

impl Tokens for LiveRequests {
    fn of(&self, key: SeqKey) -> &[u32] {
        &self.0[key.cast()].token_ids
    }
}

/// A run on its way.
#[derive(Debug)]
struct Run {
    now: u64,
    host_nanos: u64,
    options: EngineOptions,
    vocab_size: usize,
    arrivals: Vec<Arrival>,
    /// How many of them have come.
    num_arrived: usize,
    live: LiveRequests,
    scheduler: Scheduler,
    runner: Runner,
    meter: Meter,
    /// The step that is being planned, and the one that runs.
    plan: SchedulerOutput,
    step: SchedulerOutput,
    tally: Tally,
}

impl Run {
    fn new(server: &Server, workload: &Workload) -> Result<Self, SimulationError> {
        let Server { model, options, buckets, host_seconds } = server;
        model.check()?;
        check("seconds of the host", *host_seconds, "a number from 0 to 1", |seconds| {
            (0.0..=1.0).contains(&seconds)
        })?;
        let options = EngineOptions { speculation: None, ..options.clone() };
        options.validate()?;
        let meter = Meter::new(buckets);
        let runner = runner(model, &options, buckets, &meter)?;
        let kv_cache = KvCache::new(KvCacheOptions {
            // Checked with the options: blocks are counted in 31 bits.
            num_blocks: options.num_blocks as u32,
            block_size: options.block_size,
            is_prefix_cache_on: options.is_prefix_cache_on,
            hash_seed: 0,
        });
        let limits = Limits::new(&options, runner.max_logits_per_seq());
        Ok(Self {
            now: 0,
            host_nanos: nanos(*host_seconds),
            vocab_size: model.shape.vocab_size,
            arrivals: workload.arrivals(options.max_model_len),
            num_arrived: 0,
            live: LiveRequests::default(),
            scheduler: Scheduler::new(limits, runner.token_buckets(), kv_cache),
            options,
            runner,
            meter,
            plan: SchedulerOutput::default(),
            step: SchedulerOutput::default(),
            tally: Tally::default(),
        })
    }

    /// Runs one step, or waits for somebody to arrive; `false` when all is done.
    fn next_step(&mut self) -> Result<bool, SimulationError> {
        self.take_arrivals();
        self.scheduler.schedule(&mut self.plan, &self.live);
        self.scheduler.pack(&mut self.plan);
        if !self.plan.is_empty() {
            self.run_step();
            return Ok(true);
        }
        if !self.live.0.is_empty() {
            return Err(SimulationError::Stuck(self.live.0.len()));
        }
        match self.arrivals.get(self.num_arrived) {
            Some(next) => self.now = next.at,
            None => return Ok(false),
        }
        Ok(true)
    }

    fn take_arrivals(&mut self) {
        while let Some(&arrival) = self.arrivals.get(self.num_arrived)
            && arrival.at <= self.now
        {
            self.tally.note_late_arrival(self.now - arrival.at);
            self.add(self.num_arrived, arrival);
            self.num_arrived += 1;
        }
    }

    fn add(&mut self, idx: usize, arrival: Arrival) {
        let num_tokens = arrival.num_prompt_tokens;
        let max_len = num_tokens + arrival.num_output_tokens;
        let facts = RankFacts {
            arrival: Duration::from_nanos(arrival.at),
            priority: 0,
            deadline: None,
            num_tokens: max_len,
        };
        let new = NewSequence {
            rank: self.options.policy.rank(RequestId(idx as u64), &facts),
            num_tokens,
            max_len,
            is_predictable: true,
            num_prompt_logits: 0,
            cache_salt: None,
        };
        let mut token_ids = Vec::with_capacity(max_len);
        token_ids.extend((0..num_tokens).map(|place| arrival.token(idx, place, self.vocab_size)));
        let live =
            Live { idx, token_ids, started: None, first_token: None, last_token: arrival.at };
        self.scheduler.add(self.live.0.insert(live).cast(), new);
    }

    fn run_step(&mut self) {
        std::mem::swap(&mut self.step, &mut self.plan);
        self.plan.clear();
        let Self { scheduler, runner, live, plan, step, .. } = self;
        scheduler.launch(step);
        let num_unfinished = live.0.len();
        runner.bind(step, |key| SequenceView {
            token_ids: live.of(key),
            wanted: Wanted::Argmax,
            is_embedded: false,
        });
        let results = runner
            .run(&mut || scheduler.schedule(plan, live))
            .expect("invariant: a simulated device does not fail");
        let busy = self.meter.take_nanos();
        let facts = StepFacts {
            nanos: busy.max(self.host_nanos),
            busy,
            num_launches: results.num_launches,
            num_seqs: step.scheduled.len(),
            num_tokens: step.total_num_scheduled_tokens,
            num_padded_tokens: results.num_padded_tokens,
            num_preempted: step.num_preempted,
            num_unfinished,
            num_running: scheduler.num_running(),
            num_kv_used: scheduler.kv_cache().num_used(),
        };
        self.tally.note_step(facts);
        let started = self.now;
        self.now += facts.nanos;
        for place in 0..self.step.scheduled.len() {
            let share = self.step.scheduled[place].clone();
            self.complete(&share, started);
        }
    }

    fn complete(&mut self, share: &ScheduledSequence, started: u64) {
        let live = self.live.0.get_mut(share.key.cast());
        let live = live.expect("invariant: nobody leaves while a step runs");
        let arrival = self.arrivals[live.idx];
        live.started.get_or_insert(started);
        let mut num_appended = 0;
        if share.is_sampled {
            num_appended = 1;
            live.token_ids.push(arrival.token(live.idx, live.token_ids.len(), self.vocab_size));
            if live.first_token.is_some() {
                self.tally.note_next_token(self.now - live.last_token);
            }
            live.first_token.get_or_insert(self.now);
            live.last_token = self.now;
        }
        let progress = Progress { num_appended, num_rejected: 0 };
        self.scheduler.complete(share.key, &live.token_ids, progress);
        if live.token_ids.len() == arrival.num_prompt_tokens + arrival.num_output_tokens {
            self.finish(share.key, &arrival);
        }
    }

    fn finish(&mut self, key: SeqKey, arrival: &Arrival) {
        let Some(live) = self.live.0.remove(key.cast()) else { return };
        self.scheduler.remove(key, &live.token_ids, &mut self.plan);
        self.tally.note_end(&RequestFacts {
            arrived: arrival.at,
            started: live.started.unwrap_or(arrival.at),
            first_token: live.first_token.unwrap_or(live.last_token),
            last_token: live.last_token,
            num_prompt_tokens: arrival.num_prompt_tokens,
            num_output_tokens: arrival.num_output_tokens,
            is_clipped: arrival.is_clipped,
        });
    }

    /// Checks the books, and sums up.
    fn end(self) -> Result<Report, SimulationError> {
        self.scheduler.check_integrity().map_err(SimulationError::Broken)?;
        let cache = self.scheduler.kv_cache();
        let (num_ended, num_used) = (self.tally.num_ended(), cache.num_used());
        if num_ended != self.arrivals.len() || num_used > 0 {
            let num_requests = self.arrivals.len();
            return Err(SimulationError::Broken(format!(
                "{num_ended} of {num_requests} requests ended, and {num_used} blocks are still held"
            )));
        }
        let stats = cache.stats();
        let hit_share = stats.num_hit_tokens as f64 / stats.num_query_tokens.max(1) as f64;
        let first = self.arrivals.first().map_or(0, |arrival| arrival.at);
        Ok(self.tally.report(End {
            duration: self.now - first,
            num_blocks: cache.num_blocks(),
            hit_share,
            buckets: self.meter.by_bucket(),
        }))
    }
}

/// A real runner with graphs that only tell the time.
fn runner(
    model: &DeviceModel,
    options: &EngineOptions,
    buckets: &[Bucket],
    meter: &Meter,
) -> Result<Runner, SimulationError> {
    let model = Arc::new(model.clone());
    let executables = buckets.iter().enumerate().map(|(bucket_idx, bucket)| {
        let is_dynamic = *bucket == (Bucket { kind: bucket.kind, ..Bucket::DYNAMIC });
        let (model, meter, seqs) = (Arc::clone(&model), meter.clone(), Vec::new());
        let graph = SimulatedGraph { model, meter, bucket_idx, is_dynamic, seqs };
        (bucket.clone(), Box::new(graph) as Box<dyn Executable>)
    });
    let executables = executables.collect();
    let vocab_size = model.shape.vocab_size;
    let columns = Columns { tokens: vocab_size, all: vocab_size };
    let (meter, block_size) = (meter.clone(), options.block_size);
    let memory = Box::new(SimulatedMemory { model, meter, block_size });
    Ok(Runner::new(executables, memory, columns, 0, options)?)
}
