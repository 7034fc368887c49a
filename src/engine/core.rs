//! The loop of the engine thread.
//!
//! ```text
//!      .--> nothing to do? sleep until a command
//!      |    take all commands
//!      |    send what is pending, forget whom nobody reads
//!      '--- one step: schedule -> run -> sample -> text
//!                                  `--> the device is gone: say so, fail everyone, end
//! ```
//!
//! What this module deliberately does not do: it makes no decision of its own; each line of the
//! loop is another module's work.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::EngineOptions;
use super::death::Death;
use super::kv_cache_manager::KvCacheManager;
use super::request::{FinishReason, RequestError, RequestId};
use super::runner::{RequestView, Runner};
use super::sampler::{Row, Sampler};
use super::scheduler::Scheduler;
use super::scheduler_output::SchedulerOutput;
use super::sequence::Sequence;
use super::shared::{Alive, Phase, Shared};

/// What the engine thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// A new request.
    Submit(RequestId, Box<Sequence>),
    /// The phase changed: look at it.
    Wake,
}

/// How a sequence ends.
type Ending = Result<FinishReason, RequestError>;

/// Everything that the engine thread owns.
#[derive(Debug)]
pub(crate) struct Core {
    /// First, so that it falls first: a reader who is told of the end finds an engine that says so.
    _alive: Alive,
    /// The same requests as the scheduler's. Before the runner, so that nobody waits for a device
    /// that is slow to let go.
    sequences: FxHashMap<RequestId, Box<Sequence>>,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    scheduler: Scheduler,
    runner: Runner,
    sampler: Sampler,
    plan: SchedulerOutput,
    /// Requests that end with the current step, in its order.
    ended: Vec<(RequestId, Ending)>,
}

impl Core {
    /// An engine without requests.
    pub(crate) fn new(
        runner: Runner,
        options: &EngineOptions,
        commands: Receiver<Command>,
        shared: Arc<Shared>,
    ) -> Self {
        // Checked with the options: blocks are counted in 31 bits.
        let kv_cache = KvCacheManager::new(options.num_blocks as u32, options.block_size);
        let (max_num_seqs, budget) = (options.max_num_seqs, options.max_num_batched_tokens);
        Self {
            _alive: Alive(Arc::clone(&shared)),
            sequences: FxHashMap::default(),
            commands,
            shared,
            scheduler: Scheduler::new(max_num_seqs, budget, kv_cache),
            runner,
            sampler: Sampler::default(),
            plan: SchedulerOutput::default(),
            ended: Vec::new(),
        }
    }

    /// Works until it is told to stop, or until every handle is gone and nothing is left to do.
    /// Whoever is unfinished then, or when this panics, is told by the drop of its outbox.
    pub(crate) fn run(mut self) {
        loop {
            if self.sequences.is_empty() {
                debug_assert_eq!(self.scheduler.check_integrity(), Ok(()));
                match self.commands.recv() {
                    Ok(command) => self.accept(command),
                    Err(_) => return,
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                self.accept(command);
            }
            if self.shared.phase() == Phase::Stopping {
                return;
            }
            self.sweep();
            if !self.sequences.is_empty()
                && let Err(death) = self.step()
            {
                return self.die(death);
            }
        }
    }

    /// Says what happened before anybody is told, so that who is told finds an engine that says so.
    fn die(mut self, death: Death) {
        self.shared.die(death.clone());
        // Whoever came meanwhile gets the same answer as the others.
        while let Ok(command) = self.commands.try_recv() {
            self.accept(command);
        }
        for id in self.sequences.keys() {
            self.scheduler.remove(*id);
        }
        self.publish();
        for (_, sequence) in self.sequences.drain() {
            sequence.fail(RequestError::Died(death.clone()));
        }
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::Submit(id, sequence) => {
                self.scheduler.add(id, sequence.token_ids().len());
                self.sequences.insert(id, sequence);
            }
            Command::Wake => {}
        }
    }

    /// Sends what is pending and forgets whom nobody reads any more.
    fn sweep(&mut self) {
        let scheduler = &mut self.scheduler;
        self.sequences.retain(|&id, sequence| {
            sequence.flush();
            let is_kept = !sequence.is_abandoned();
            if !is_kept {
                tracing::debug!(request_id = id.0, "cancelled: nobody reads the output");
                scheduler.remove(id);
            }
            is_kept
        });
        self.publish();
    }

    /// Plans and runs one step, and hands out what came of it.
    ///
    /// # Errors
    /// When there can be no next one.
    fn step(&mut self) -> Result<(), Death> {
        self.scheduler.schedule(&mut self.plan);
        assert!(!self.plan.scheduled.is_empty(), "invariant: the earliest request always gets on");
        let num_preempted = self.plan.num_preempted as u64;
        self.shared.counters.num_preemptions.fetch_add(num_preempted, Ordering::Relaxed);
        self.publish();
        let started_at = Instant::now();
        for scheduled in &self.plan.scheduled {
            sequence_of(&mut self.sequences, scheduled.id).start(started_at);
        }
        self.run_plan()?;
        self.end_sequences();
        Ok(())
    }

    /// Runs the planned step and gives each sequence that has all its tokens computed the next.
    fn run_plan(&mut self) -> Result<(), Death> {
        let sequences = &self.sequences;
        let results = self.runner.run(&self.plan, |id| {
            let sequence = &sequences[&id];
            RequestView { token_ids: sequence.token_ids(), wanted: sequence.wanted() }
        })?;
        let now = Instant::now();
        self.scheduler.complete(&self.plan);
        let (mut num_prompt, mut num_generated) = (0, 0);
        for (place, scheduled) in self.plan.scheduled.iter().enumerate() {
            let id = scheduled.id;
            let row = match results.row(place) {
                Ok(row) => row,
                Err(error) => {
                    self.ended.push((id, Err(RequestError::Execution(error.to_string()))));
                    continue;
                }
            };
            let sequence = sequence_of(&mut self.sequences, id);
            num_prompt += sequence.count_prompt(scheduled.tokens().end) as u64;
            let Some(row) = row else { continue };
            num_generated += 1;
            match next_token(sequence, &mut self.sampler, row, now) {
                Ok(None) => self.scheduler.append_token(place, id),
                Ok(Some(reason)) => self.ended.push((id, Ok(reason))),
                Err(error) => self.ended.push((id, Err(error))),
            }
        }
        let counters = &self.shared.counters;
        counters.num_steps.fetch_add(1, Ordering::Relaxed);
        counters.num_launches.fetch_add(results.num_launches, Ordering::Relaxed);
        counters.prompt_tokens.fetch_add(num_prompt, Ordering::Relaxed);
        counters.generation_tokens.fetch_add(num_generated, Ordering::Relaxed);
        counters.padded_tokens.fetch_add(results.num_padded_tokens, Ordering::Relaxed);
        Ok(())
    }

    /// Frees what ended sequences held, then tells their readers: who reads the last message finds
    /// an engine that has forgotten the request.
    fn end_sequences(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let now = Instant::now();
        self.scheduler.remove_scheduled(self.ended.iter().map(|(id, _)| *id));
        self.publish();
        for (id, ending) in self.ended.drain(..) {
            let sequence = self.sequences.remove(&id);
            let sequence = sequence.expect("invariant: a sequence ends once");
            match ending {
                Ok(reason) => sequence.finish(reason, now),
                Err(error) => {
                    tracing::debug!(request_id = id.0, %error, "failed");
                    sequence.fail(error);
                }
            }
        }
    }

    /// Writes down what is held now.
    fn publish(&self) {
        let counters = &self.shared.counters;
        let gauges = [
            (&counters.num_requests_running, self.scheduler.num_running()),
            (&counters.num_requests_waiting, self.scheduler.num_waiting()),
            (&counters.num_kv_blocks_used, self.scheduler.num_blocks_used()),
        ];
        for (gauge, value) in gauges {
            gauge.store(value as u64, Ordering::Relaxed);
        }
    }
}

fn sequence_of(
    sequences: &mut FxHashMap<RequestId, Box<Sequence>>,
    id: RequestId,
) -> &mut Sequence {
    sequences.get_mut(&id).expect("invariant: the scheduler and the core know the same requests")
}

/// Chooses a sequence's next token and appends it; `Some` when it ends there.
fn next_token(
    sequence: &mut Sequence,
    sampler: &mut Sampler,
    row: Row<'_>,
    now: Instant,
) -> Result<Option<FinishReason>, RequestError> {
    let failed = |error: &dyn std::error::Error| RequestError::Execution(error.to_string());
    let token_id = sequence.sample(sampler, row).map_err(|error| failed(&error))?;
    sequence.push(token_id, now).map_err(|error| failed(&error))
}
