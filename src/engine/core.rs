//! The loop of the engine thread.
//!
//! ```text
//!      .--> nothing to do? sleep until a command, or until a request's time is over
//!      |    take all commands
//!      |    plan: whoever was not planned ahead is added
//!      '--- one step:   device  | run                              |
//!                       here    | texts, commands, plan, masks     | sample -> tokens, ends, drafts
//!                                  `--> the device is gone: say so, fail everyone, end
//! ```
//!
//! What this module deliberately does not do: it makes no decision of its own; each line of the
//! loop is another module's work.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use super::EngineOptions;
use super::death::Death;
use super::drafter::Drafter;
use super::handle::random_seed;
use super::host::{Host, Submission};
use super::kv_cache::{KvCache, KvCacheOptions};
use super::prefixes::{LoadedPrefix, PrefixIo, Prefixes};
use super::request::{RequestError, RequestId};
use super::runner::{Runner, SequenceView};
use super::scheduler::{Limits, Scheduler};
use super::scheduler_output::SchedulerOutput;
use super::shared::{Alive, Phase, Shared};

/// How long nothing must happen before the books are checked.
const IDLE_BEFORE_CHECK: Duration = Duration::from_secs(1);
/// How long a busy disk is left alone while the engine has nothing else to do.
const SAVE_PAUSE: Duration = Duration::from_millis(1);

/// What the engine thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// A new request.
    Submit(Box<Submission>),
    /// A new request whose prefix was looked for on disk.
    Loaded(Box<Submission>, LoadedPrefix),
    /// Nobody reads that request's output any more.
    Abandon(RequestId),
    /// Forget all cached prefixes.
    ResetPrefixCache,
    /// The phase changed: look at it.
    Wake,
}

/// Everything that the engine thread owns.
#[derive(Debug)]
pub(crate) struct Core {
    /// First, so that it falls first: a reader who is told of the end finds an engine that says so.
    _alive: Alive,
    /// Before the runner, so that nobody waits for a device that is slow to let go.
    host: Host,
    inbox: Inbox,
    shared: Arc<Shared>,
    prefixes: Option<Prefixes>,
    drafter: Option<Drafter>,
    /// The step that runs.
    step: SchedulerOutput,
    num_steps: u64,
    /// Steps until the books were checked last.
    num_steps_checked: u64,
    runner: Runner,
}

/// Commands, and those that have to wait for the end of a step.
#[derive(Debug)]
struct Inbox {
    commands: Receiver<Command>,
    /// They touch the device's memory.
    late: Vec<(Box<Submission>, LoadedPrefix)>,
    is_closed: bool,
}

impl Core {
    /// An engine without requests.
    pub(crate) fn new(
        runner: Runner,
        drafter: Option<Drafter>,
        prefixes: Option<PrefixIo>,
        options: &EngineOptions,
        commands: Receiver<Command>,
        shared: Arc<Shared>,
    ) -> Self {
        let kv_cache = KvCache::new(KvCacheOptions {
            // Checked with the options: blocks are counted in 31 bits.
            num_blocks: options.num_blocks as u32,
            block_size: options.block_size,
            is_prefix_cache_on: options.is_prefix_cache_on,
            hash_seed: random_seed(),
        });
        let limits = Limits::new(options, runner.max_logits_per_seq());
        let scheduler = Scheduler::new(limits, runner.token_buckets(), kv_cache);
        Self {
            _alive: Alive(Arc::clone(&shared)),
            host: Host::new(scheduler, Arc::clone(&shared), drafter.is_some()),
            inbox: Inbox { commands, late: Vec::new(), is_closed: false },
            shared,
            prefixes: prefixes.map(Prefixes::new),
            drafter,
            step: SchedulerOutput::default(),
            num_steps: 0,
            num_steps_checked: 0,
            runner,
        }
    }

    /// Works until it is told to stop, or until every handle is gone and nothing is left to do.
    /// Whoever is unfinished then, or when this panics, is told by the drop of its outbox.
    pub(crate) fn run(mut self) {
        loop {
            self.inbox.take_all(&mut self.host, self.prefixes.as_mut());
            self.take_loaded();
            if self.shared.phase() == Phase::Stopping {
                return;
            }
            let next_timeout = self.host.expire(Instant::now());
            self.host.end_groups();
            self.plan();
            if !self.host.plan.is_empty() {
                if let Err(death) = self.run_step() {
                    return self.die(death);
                }
                continue;
            }
            self.host.tell();
            self.host.publish();
            if self.save_some() {
                continue;
            }
            let is_idle = self.host.is_idle();
            debug_assert!(!is_idle || self.host.scheduler.check_integrity() == Ok(()));
            if self.inbox.is_closed && is_idle {
                return;
            }
            let is_unchecked = is_idle && self.num_steps_checked != self.num_steps;
            let check_at = is_unchecked.then(|| Instant::now() + IDLE_BEFORE_CHECK);
            let until = next_timeout.into_iter().chain(check_at).min();
            let has_come = self.inbox.wait(until, &mut self.host, self.prefixes.as_mut());
            if is_unchecked && !has_come {
                self.check_integrity();
            }
        }
    }

    /// Looks whether the books are in order, now that nobody waits for it.
    fn check_integrity(&mut self) {
        self.num_steps_checked = self.num_steps;
        if let Err(what) = self.host.scheduler.check_integrity() {
            tracing::error!(what, "the KV cache's books are wrong: cached prefixes are forgotten");
            self.host.kv_cache().reset();
        }
    }

    /// Writes some prefixes to disk while nothing else is to do; `false` when there are none.
    fn save_some(&mut self) -> bool {
        let block_size = self.host.kv_cache().block_size();
        let Some(prefixes) = &mut self.prefixes else { return false };
        if !prefixes.has_saves() {
            return false;
        }
        if !prefixes.save_some(self.runner.memory(), block_size) {
            // The disk is busy.
            thread::sleep(SAVE_PAUSE);
        }
        true
    }

    /// Completes the plan of the next step.
    fn plan(&mut self) {
        self.host.schedule();
        if self.host.plan.is_empty()
            && !self.host.is_idle()
            && let Some(prefixes) = &mut self.prefixes
            && prefixes.drop_saves()
        {
            // Blocks that were to be written to disk are wanted more urgently.
            self.host.schedule();
        }
        let host = &mut self.host;
        host.scheduler.pack(&mut host.plan);
        let num_preempted = host.plan.num_preempted as u64;
        self.shared.counters.num_preemptions.fetch_add(num_preempted, Ordering::Relaxed);
    }

    /// Runs the planned step, and hands out what came of it.
    ///
    /// # Errors
    /// When there can be no next one.
    fn run_step(&mut self) -> Result<(), Death> {
        self.num_steps += 1;
        let Self { host, runner, step, inbox, prefixes, .. } = self;
        std::mem::swap(step, &mut host.plan);
        host.plan.clear();
        host.scheduler.launch(step);
        host.publish();
        self.shared.step_tokens.observe(step.total_num_scheduled_tokens as u64);
        let launched_at = Instant::now();
        if let Some(drafter) = &mut self.drafter {
            drafter.copy_blocks(&step.copies);
        }
        runner.bind(step, |key| {
            let sequence = &host.sequences.0[key];
            let group = &host.groups[sequence.group];
            let (wanted, is_embedded) = (group.wanted, group.pooler.is_some());
            SequenceView { token_ids: sequence.with_drafts(), wanted, is_embedded }
        });
        let results = runner.run(&mut || {
            host.tell();
            inbox.take_all(host, prefixes.as_mut());
            host.schedule();
            host.prepare_masks(step);
        })?;
        host.take_results(step, &results, launched_at);
        if let Some(prefixes) = prefixes {
            prefixes.save(host, runner.memory());
        }
        host.end_groups();
        if let Some(drafter) = &mut self.drafter {
            drafter.propose(host, step)?;
        }
        Ok(())
    }

    /// Puts what was read from disk into the cache, and takes in who waits for it.
    fn take_loaded(&mut self) {
        for (submission, loaded) in self.inbox.late.drain(..) {
            if let Some(prefixes) = &mut self.prefixes {
                prefixes.insert(&submission, loaded, self.host.kv_cache(), self.runner.memory());
            }
            if !submission.group.outbox.is_abandoned() {
                self.host.submit(*submission);
            }
        }
    }

    /// Says what happened before anybody is told, so that who is told finds an engine that says so.
    fn die(mut self, death: Death) {
        self.shared.die(death.clone());
        // Whoever came meanwhile gets the same answer as the others.
        self.inbox.take_all(&mut self.host, None);
        for (submission, _) in self.inbox.late.drain(..) {
            self.host.submit(*submission);
        }
        self.host.fail_all(&RequestError::Died(death));
    }
}

impl Inbox {
    /// Takes what is there.
    fn take_all(&mut self, host: &mut Host, mut prefixes: Option<&mut Prefixes>) {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.take(command, host, prefixes.as_deref_mut()),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.is_closed = true;
                    return;
                }
            }
        }
    }

    /// Waits for one command, at most until then, and takes it; `false` when none came.
    fn wait(
        &mut self,
        until: Option<Instant>,
        host: &mut Host,
        prefixes: Option<&mut Prefixes>,
    ) -> bool {
        let received = match until {
            None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => self.commands.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        let received_any = received.is_ok();
        match received {
            Ok(command) => self.take(command, host, prefixes),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.is_closed = true,
        }
        received_any
    }

    fn take(&mut self, command: Command, host: &mut Host, prefixes: Option<&mut Prefixes>) {
        match command {
            Command::Submit(submission) => {
                let submission = match prefixes {
                    Some(prefixes) => prefixes.look_up(submission, host.kv_cache()),
                    None => Some(submission),
                };
                if let Some(submission) = submission {
                    host.submit(*submission);
                }
            }
            Command::Loaded(submission, loaded) => self.late.push((submission, loaded)),
            Command::Abandon(id) => host.abandon(id),
            Command::ResetPrefixCache => {
                host.kv_cache().reset();
            }
            Command::Wake => {}
        }
    }
}
