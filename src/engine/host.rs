//! All that the engine thread owns besides the device: requests, their sequences, and the scheduler.
//!
//! ```text
//! Group (a request) --live--> Sequence --SeqKey--> Scheduler's entry --> KV blocks
//!    `- outbox --> reader                  `- group
//! ```
//!
//! Its methods keep the three in step: a sequence that comes or goes does so everywhere.
//!
//! What this module deliberately does not do: it runs nothing; the results of a step are taken
//! apart in `results`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::core::Command;
use super::group::{Group, GroupKey, Mode};
use super::kv_cache::KvCache;
use super::prefixes::ComputedPrompt;
use super::rank::Rank;
use super::request::{FinishReason, RequestError, RequestId, StopMatch};
use super::sampling::{Sampler, TokenCounts};
use super::scheduler::{NewSequence, Scheduler, Tokens};
use super::scheduler_output::SchedulerOutput;
use super::sequence::{SeqKey, Sequence};
use super::shared::Shared;
use super::slots::Slots;

/// A request as it comes from the door.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) group: Group,
    pub(crate) rank: Rank,
    pub(crate) cache_salt: Option<String>,
    /// Makes the first sequence, once the group has a place.
    pub(crate) prompt_token_ids: Vec<u32>,
    pub(crate) seed: u64,
    /// For whoever takes it aside for a while, to bring it back.
    pub(crate) commands: Sender<Command>,
}

/// Sequences, by key.
#[derive(Debug, Default)]
pub(crate) struct Sequences(pub(crate) Slots<Sequence>);

impl Tokens for Sequences {
    fn of(&self, key: SeqKey) -> &[u32] {
        self.0[key].token_ids()
    }
}

/// Everything but the device.
#[derive(Debug)]
pub(crate) struct Host {
    pub(super) groups: Slots<Group>,
    pub(super) sequences: Sequences,
    pub(super) scheduler: Scheduler,
    pub(super) sampler: Sampler,
    pub(super) shared: Arc<Shared>,
    /// The step that is being planned.
    pub(super) plan: SchedulerOutput,
    /// Sequences whose newest tokens have no text yet.
    pub(super) untold: Vec<SeqKey>,
    /// Groups whose output is not handed over yet.
    dirty: Vec<GroupKey>,
    /// Groups that ended with the current step.
    ended: Vec<(GroupKey, Result<(), RequestError>)>,
    by_id: FxHashMap<RequestId, GroupKey>,
    /// Requests that fail when they are not finished by then.
    timeouts: BTreeMap<(Instant, RequestId), Duration>,
    /// Prompts that the current step completed, where their blocks may be kept outside.
    pub(super) computed_prompts: Vec<ComputedPrompt>,
    /// Drafts may follow the tokens of a sequence.
    pub(super) has_drafts: bool,
}

impl Host {
    /// Without requests.
    pub(crate) fn new(scheduler: Scheduler, shared: Arc<Shared>, has_drafts: bool) -> Self {
        Self {
            groups: Slots::default(),
            sequences: Sequences::default(),
            scheduler,
            sampler: Sampler::default(),
            shared,
            plan: SchedulerOutput::default(),
            untold: Vec::new(),
            dirty: Vec::new(),
            ended: Vec::new(),
            by_id: FxHashMap::default(),
            timeouts: BTreeMap::new(),
            computed_prompts: Vec::new(),
            has_drafts,
        }
    }

    /// Whether no request is left.
    pub(crate) fn is_idle(&self) -> bool {
        self.groups.is_empty()
    }

    /// The KV cache.
    pub(crate) fn kv_cache(&self) -> &KvCache {
        self.scheduler.kv_cache()
    }

    /// Takes a request in.
    pub(crate) fn submit(&mut self, submission: Submission) {
        let Submission { group, rank, cache_salt, prompt_token_ids, seed, .. } = submission;
        let (id, timeout) = (group.id, group.times.timeout);
        let new = NewSequence {
            rank,
            num_tokens: prompt_token_ids.len(),
            max_len: group.max_len,
            is_predictable: group.is_predictable() && !self.has_drafts,
            num_prompt_logits: group.num_prompt_rows(),
            cache_salt: cache_salt.as_deref(),
        };
        let counts = group.params.has_penalties().then(|| TokenCounts::new(&prompt_token_ids, &[]));
        let (text, is_held, matcher) = (group.text.clone(), group.is_held(), group.matcher());
        let group_key = self.groups.insert(group);
        let mut sequence = Sequence::new(group_key, prompt_token_ids, seed, counts, text);
        sequence.held = is_held.then(Default::default);
        sequence.matcher = matcher;
        let key = self.sequences.0.insert(sequence);
        self.scheduler.add(key, new);
        let group = &mut self.groups[group_key];
        group.live.push(key);
        if let Mode::Beams(beams) = &mut group.mode {
            beams.begin(key);
        }
        self.by_id.insert(id, group_key);
        if let Some((at, limit)) = timeout {
            self.timeouts.insert((at, id), limit);
        }
    }

    /// Forgets a request that nobody reads any more.
    pub(crate) fn abandon(&mut self, id: RequestId) {
        if let Some(&key) = self.by_id.get(&id) {
            tracing::debug!(request_id = id.0, "cancelled: nobody reads the output");
            self.forget(key);
        }
    }

    /// Fails requests that took too long; when the next one would.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        while let Some((&(at, id), &limit)) = self.timeouts.first_key_value() {
            if at > now {
                return Some(at);
            }
            self.timeouts.remove(&(at, id));
            if let Some(&key) = self.by_id.get(&id) {
                self.shared.counters.num_requests_timed_out.fetch_add(1, Ordering::Relaxed);
                self.ended.push((key, Err(RequestError::TimedOut(limit))));
            }
        }
        None
    }

    /// Adds a sequence with the same past as another one.
    pub(super) fn fork(&mut self, parent: SeqKey, child: Sequence) -> SeqKey {
        let (group, choice) = (child.group, child.choice);
        let key = self.sequences.0.insert(child);
        self.scheduler.fork(parent, key, choice as u32);
        self.groups[group].live.push(key);
        key
    }

    /// Forgets a sequence; its request goes on.
    pub(super) fn drop_sequence(&mut self, key: SeqKey) -> Option<Sequence> {
        let sequence = self.sequences.0.remove(key)?;
        self.scheduler.remove(key, sequence.token_ids(), &mut self.plan);
        self.groups[sequence.group].live.retain(|&other| other != key);
        Some(sequence)
    }

    /// Puts guesses behind a sequence, to be checked in its next step.
    pub(super) fn set_drafts(&mut self, key: SeqKey, drafts: &[u32]) {
        self.sequences.0[key].set_drafts(drafts);
        self.scheduler.set_drafts(key, drafts.len());
    }

    /// Writes down how many blocks came from and went to the prefix store.
    pub(super) fn note_prefixes(&self, num_loaded: u64, num_saved: u64) {
        let counters = &self.shared.counters;
        counters.prefix_blocks_loaded.store(num_loaded, Ordering::Relaxed);
        counters.prefix_blocks_saved.store(num_saved, Ordering::Relaxed);
    }

    /// The group ends with this step, well or badly.
    pub(super) fn end_group(&mut self, key: GroupKey, ending: Result<(), RequestError>) {
        self.ended.push((key, ending));
    }

    /// Notes that a group has output to hand over.
    pub(super) fn mark_dirty(&mut self, key: GroupKey) {
        let group = &mut self.groups[key];
        if !std::mem::replace(&mut group.is_dirty, true) {
            self.dirty.push(key);
        }
    }

    /// Takes a group and all that belongs to it out.
    fn forget(&mut self, key: GroupKey) -> Option<Group> {
        let live = std::mem::take(&mut self.groups.get_mut(key)?.live);
        for seq_key in live {
            self.drop_sequence(seq_key);
        }
        let group = self.groups.remove(key)?;
        self.by_id.remove(&group.id);
        if let Some((at, _)) = group.times.timeout {
            self.timeouts.remove(&(at, group.id));
        }
        Some(group)
    }

    /// Frees what ended groups held, then tells their readers: who reads the last message finds an
    /// engine that has forgotten the request.
    pub(crate) fn end_groups(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut ended = std::mem::take(&mut self.ended);
        let mut forgotten = Vec::with_capacity(ended.len());
        for (key, ending) in ended.drain(..) {
            forgotten.extend(self.forget(key).map(|group| (group, ending)));
        }
        self.ended = ended;
        self.publish();
        for (group, ending) in forgotten {
            match ending {
                Ok(()) => {
                    self.shared.note_end(now);
                    group.finish(now);
                }
                Err(error) => {
                    tracing::debug!(request_id = group.id.0, %error, "failed");
                    group.fail(error);
                }
            }
        }
    }

    /// Fails every request.
    pub(crate) fn fail_all(&mut self, error: &RequestError) {
        let keys: Vec<GroupKey> = self.groups.keys().collect();
        self.ended.extend(keys.into_iter().map(|key| (key, Err(error.clone()))));
        self.end_groups();
    }

    /// What can be done while the device runs a step: texts, and handing them over.
    pub(crate) fn tell(&mut self) {
        self.tell_texts();
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.retain(|&key| {
            let Some(group) = self.groups.get_mut(key) else { return false };
            group.is_dirty = !group.outbox.flush();
            group.is_dirty
        });
        // Nobody marks a group while this runs.
        self.dirty = dirty;
    }

    fn tell_texts(&mut self) {
        let mut untold = std::mem::take(&mut self.untold);
        for key in untold.drain(..) {
            // It may have ended meanwhile.
            let Some(sequence) = self.sequences.0.get_mut(key) else { continue };
            let group_key = sequence.group;
            let group = &mut self.groups[group_key];
            let mut held = sequence.held.take();
            let out = match &mut held {
                Some(held) => held,
                None => group.outbox.choice(sequence.choice),
            };
            let told = sequence.tell_text(out, 0, group.params.min_tokens);
            sequence.held = held;
            match told {
                Ok(_) => {}
                Err(error) => {
                    self.ended.push((group_key, Err(RequestError::Execution(error.to_string()))));
                }
            }
        }
        self.untold = untold;
    }

    /// Finds out what the sequences of a step may say next, while the device computes what they
    /// would.
    pub(crate) fn prepare_masks(&mut self, step: &SchedulerOutput) {
        for share in step.scheduled.iter().filter(|share| share.is_sampled) {
            let sequence = self.sequences.0.get_mut(share.key);
            if let Some(matcher) = sequence.and_then(|sequence| sequence.matcher.as_mut()) {
                matcher.prepare();
            }
        }
    }

    /// Plans the next step, or more of it.
    pub(crate) fn schedule(&mut self) {
        self.scheduler.schedule(&mut self.plan, &self.sequences);
    }

    /// Writes down what is held now.
    pub(crate) fn publish(&self) {
        let counters = &self.shared.counters;
        let cache = self.scheduler.kv_cache();
        let stats = cache.stats();
        let gauges = [
            (&counters.num_requests_running, self.scheduler.num_running() as u64),
            (&counters.num_requests_waiting, self.scheduler.num_waiting() as u64),
            (&counters.num_kv_blocks_used, cache.num_used() as u64),
            (&counters.num_kv_blocks_cached, cache.num_cached() as u64),
            (&counters.prefix_query_tokens, stats.num_query_tokens),
            (&counters.prefix_hit_tokens, stats.num_hit_tokens),
            (&counters.prefix_partial_hit_tokens, stats.num_partial_hit_tokens),
            (&counters.prefix_miss_new_tokens, stats.num_miss_tokens_new),
            (&counters.prefix_miss_evicted_tokens, stats.num_miss_tokens_evicted),
            (&counters.prefix_miss_tail_tokens, stats.num_miss_tokens_tail),
            (&counters.prefix_miss_disabled_tokens, self.scheduler.num_tokens_not_looked_up()),
            (&counters.prefix_evictions_capacity, stats.num_evictions_capacity),
            (&counters.prefix_evictions_reset, stats.num_evictions_reset),
            (&counters.num_block_copies, stats.num_copies),
        ];
        for (gauge, value) in gauges {
            gauge.store(value, Ordering::Relaxed);
        }
    }
}

/// The end of a sequence's text and life, as `results` finds it.
#[derive(Clone, Debug)]
pub(super) struct SequenceEnd {
    pub(super) reason: FinishReason,
    pub(super) stop: Option<StopMatch>,
    /// Its last token only says that it ends, and is no text.
    pub(super) is_marked: bool,
}

impl SequenceEnd {
    /// The stop string that ended it, if one did: then its text is complete.
    pub(super) fn stop_text(&self) -> Option<&str> {
        match &self.stop {
            Some(StopMatch::Text(text)) => Some(text),
            _ => None,
        }
    }
}
