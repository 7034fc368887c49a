//! Who computes how many tokens in the next step.
//!
//! There is no prefill phase and no decode phase. A sequence has `num_tokens` (prompt and generated
//! so far) and `num_computed_tokens` (those whose K and V are in the cache), and a step gives it
//! some of the tokens that it lacks: one when it decodes, many when its prompt is new, a chunk
//! when the step is nearly full, a few more when there are drafts to be checked.
//!
//! ```text
//!                 add                  admitted: blocks for all its tokens are free
//!  submitted ----------->  waiting  --------------------------------->  running  --> removed
//!                            ^ by rank                                     |
//!                            `---- preempted: blocks freed, computed 0 ----'  latest rank first
//! ```
//!
//! | Rule | Why |
//! | --- | --- |
//! | running sequences first, by rank | what started is finished before another starts |
//! | waiting ones strictly by [`Rank`], except behind a shared prompt that is being computed | nobody is overtaken, so nobody starves |
//! | admitted only with blocks for all present tokens | a half-admitted prompt would be preempted by the next decode, again and again |
//! | out of blocks: the latest rank is preempted | the earliest always gets on, so there is no deadlock |
//! | nobody is admitted in a step that preempted | the blocks just freed are for those who lacked them |
//!
//! ## A step ahead
//!
//! A step is planned while the one before it runs:
//!
//! ```text
//! device       | step n            | step n+1          |
//! engine       | schedule n+1      | results of n; schedule again: who could not be planned ahead
//! ```
//!
//! Until its results are there, a sequence that was sampled is *expected* to have one token more,
//! and is planned with it. Who ends instead is taken out of the plan ([`Scheduler::remove`]). A
//! sequence whose next tokens cannot be counted on (drafts, beams) is planned once its results are
//! there. [`Scheduler::schedule`] may therefore be called several times for one plan: it adds.
//!
//! What this module deliberately does not do: it touches no device, no clock and no text; of tokens
//! it only hands the prefix cache what it asks for.

mod entry;
mod pack;

use std::collections::BTreeSet;

pub(crate) use entry::NewSequence;
use entry::{Entry, Share};
pub(crate) use pack::TokenBuckets;

use super::EngineOptions;
use super::kv_cache::{BlockTable, KvCache};
use super::rank::Rank;
use super::scheduler_output::{ScheduledSequence, SchedulerOutput};
use super::sequence::SeqKey;

/// Where the scheduler finds a sequence's known tokens.
pub(crate) trait Tokens {
    /// Prompt and generated, drafts not included.
    fn of(&self, key: SeqKey) -> &[u32];
}

/// Limits of what is planned.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Sequences in one step.
    pub(crate) max_num_seqs: usize,
    /// Tokens in one step.
    pub(crate) max_num_batched_tokens: usize,
    /// Rows of logits in one step; at least as many as sequences.
    pub(crate) max_num_logits: usize,
    /// Rows of logits of one sequence in one step.
    pub(crate) max_logits_per_seq: usize,
    /// Most prompt tokens of one sequence in one step.
    pub(crate) max_chunk: usize,
    /// Blocks that admission leaves free for those who run.
    pub(crate) watermark: usize,
}

impl Limits {
    /// Those of an engine whose device gives one sequence so many rows of logits.
    pub(crate) fn new(options: &EngineOptions, max_logits_per_seq: usize) -> Self {
        Self {
            max_num_seqs: options.max_num_seqs,
            max_num_batched_tokens: options.max_num_batched_tokens,
            max_num_logits: options.max_num_logits(),
            max_logits_per_seq,
            max_chunk: options.max_chunk(),
            watermark: options.watermark(),
        }
    }

    /// Tokens that a plan may still take.
    fn tokens_left(&self, plan: &SchedulerOutput) -> usize {
        let taken = plan.total_num_scheduled_tokens + plan.num_kept_tokens;
        self.max_num_batched_tokens.saturating_sub(taken)
    }

    /// Rows of logits that a plan may still take.
    fn logits_left(&self, plan: &SchedulerOutput) -> usize {
        let taken = plan.total_num_logits + plan.num_kept_tokens;
        self.max_num_logits.saturating_sub(taken)
    }
}

/// What the results of a step were for one sequence.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Tokens that were appended.
    pub(crate) num_appended: usize,
    /// Drafts that were computed in vain.
    pub(crate) num_rejected: usize,
}

/// Decides what each step computes.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    buckets: TokenBuckets,
    kv_cache: KvCache,
    /// By index of the sequence's key.
    entries: Vec<Option<Entry>>,
    waiting: BTreeSet<(Rank, Waiting)>,
    /// By rank.
    running: Vec<SeqKey>,
    /// Shares of the step that the device computes, or has computed without its results being told.
    num_in_flight: usize,
    /// Prompt tokens that are computed whether cached or not, for their logprobs.
    num_tokens_not_looked_up: u64,
    /// The first that waits could not be admitted with so many blocks free: no use to try again
    /// before there are more.
    refused: Option<(SeqKey, usize)>,
}

/// A key in the queue; its order means nothing, ranks are all different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting(SeqKey);

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.idx().cmp(&other.0.idx())
    }
}

impl Scheduler {
    /// A scheduler without sequences. Every one that is added must fit into `kv_cache` alone.
    pub(crate) fn new(limits: Limits, buckets: TokenBuckets, kv_cache: KvCache) -> Self {
        let max_num_seqs =
            limits.max_num_seqs.min(limits.max_num_batched_tokens).min(limits.max_num_logits);
        Self {
            // With fewer tokens than sequences, those at the end would hold blocks and never run.
            limits: Limits { max_num_seqs, ..limits },
            buckets,
            kv_cache,
            entries: Vec::new(),
            waiting: BTreeSet::new(),
            running: Vec::new(),
            num_in_flight: 0,
            num_tokens_not_looked_up: 0,
            refused: None,
        }
    }

    /// Queues a sequence.
    pub(crate) fn add(&mut self, key: SeqKey, new: NewSequence<'_>) {
        let table = self.kv_cache.new_table(new.cache_salt);
        let entry = Entry::new(key, &new, table);
        self.waiting.insert((entry.rank, Waiting(key)));
        self.put(entry);
    }

    /// Adds a sequence that shares all that `parent` has computed. It has as many tokens as its
    /// parent, the last of them its own if it differs.
    pub(crate) fn fork(&mut self, parent: SeqKey, child: SeqKey, choice: u32) {
        let from = self.entry(parent);
        let rank = from.rank.of_choice(choice);
        let has_place = from.is_running && self.running.len() < self.limits.max_num_seqs;
        let table = if has_place {
            self.kv_cache.fork(&from.table)
        } else {
            // It waits, and waiting ones hold no blocks: the prefix cache may still have them.
            self.kv_cache.empty_like(&from.table)
        };
        let entry = from.fork(child, rank, table, has_place);
        if has_place {
            self.insert_running(child, rank);
        } else {
            self.waiting.insert((rank, Waiting(child)));
        }
        self.put(entry);
    }

    /// Forgets a sequence, wherever it is, and frees its blocks; what it computed stays in the
    /// prefix cache. `plan` is the one that is being made.
    pub(crate) fn remove(&mut self, key: SeqKey, tokens: &[u32], plan: &mut SchedulerOutput) {
        let Some(mut entry) =
            self.entries.get_mut(key.idx()).and_then(|slot| slot.take_if(|entry| entry.key == key))
        else {
            return;
        };
        if entry.planned.is_some() {
            plan.remove(key);
        }
        if entry.in_flight.is_some() {
            self.num_in_flight -= 1;
        }
        if entry.is_running {
            self.running.retain(|&other| other != key);
        } else {
            self.waiting.remove(&(entry.rank, Waiting(key)));
        }
        self.kv_cache.release(&mut entry.table, tokens, entry.num_done_tokens);
        self.refused = None;
    }

    /// Adds to the next step whoever can be added: at least one token in all, when there is any
    /// sequence that lacks one and none is in flight.
    pub(crate) fn schedule(&mut self, plan: &mut SchedulerOutput, tokens: &impl Tokens) {
        self.schedule_running(plan);
        if plan.num_preempted == 0 {
            self.admit_waiting(plan, tokens);
        }
        while plan.is_empty() && self.num_in_flight == 0 && !self.waiting.is_empty() {
            // Whoever was to get the blocks that a preemption freed has ended; or those who run wait
            // for each other, or for one that waits: beams do.
            self.admit_waiting(plan, tokens);
            let latest = self.running.last().filter(|_| plan.is_empty());
            let Some(&latest) = latest else { break };
            self.preempt(latest, plan);
        }
    }

    fn schedule_running(&mut self, plan: &mut SchedulerOutput) {
        plan.num_kept_tokens = 0;
        let mut idx = 0;
        while idx < self.running.len() && self.limits.tokens_left(plan) > 0 {
            let key = self.running[idx];
            if self.try_share(key, plan) {
                idx += 1;
                continue;
            }
            // The last one may be the one that lacks blocks: then the loop ends here.
            let latest = *self.running.last().expect("invariant: idx is below the length");
            self.preempt(latest, plan);
        }
    }

    /// Plans a running sequence, if there is anything to plan; `false` when blocks ran out.
    fn try_share(&mut self, key: SeqKey, plan: &mut SchedulerOutput) -> bool {
        let entry = self.entries[key.idx()].as_mut().expect("invariant: it runs");
        if entry.is_waited_for() {
            // Those behind it must not take all of the step before it can be planned.
            plan.num_kept_tokens += 1;
            return true;
        }
        let Some(share) = entry.next_share(&self.limits, plan) else {
            return true;
        };
        share_out(&self.kv_cache, entry, share, plan)
    }

    fn preempt(&mut self, key: SeqKey, plan: &mut SchedulerOutput) {
        self.running.retain(|&other| other != key);
        let entry = self.entries[key.idx()].as_mut().expect("invariant: it runs");
        if entry.planned.is_some() {
            plan.remove(key);
        }
        entry.preempt();
        self.waiting.insert((entry.rank, Waiting(key)));
        plan.num_preempted += 1;
        self.refused = None;
    }

    fn admit_waiting(&mut self, plan: &mut SchedulerOutput, tokens: &impl Tokens) {
        // Those that wait for a prompt that another is computing are passed over.
        let mut after = None;
        while self.running.len() < self.limits.max_num_seqs && self.limits.tokens_left(plan) > 0 {
            let next = match after {
                None => self.waiting.first(),
                Some(after) => self
                    .waiting
                    .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
                    .next(),
            };
            let Some(&place) = next else { return };
            match self.try_admit(place.1.0, plan, tokens) {
                Admission::Done => {
                    self.waiting.remove(&place);
                    self.insert_running(place.1.0, place.0);
                }
                Admission::Later => after = Some(place),
                Admission::Full => return,
            }
        }
    }

    fn try_admit(
        &mut self,
        key: SeqKey,
        plan: &mut SchedulerOutput,
        tokens: &impl Tokens,
    ) -> Admission {
        let num_free = self.kv_cache.num_free();
        if self.refused.is_some_and(|(refused, free)| refused == key && num_free <= free) {
            return Admission::Full;
        }
        let is_alone = self.running.is_empty();
        let entry = self.entries[key.idx()].as_mut().expect("invariant: it waits");
        if entry.in_flight.is_some() {
            // It was preempted in mid-flight; its newest token is not known yet.
            return Admission::Later;
        }
        let token_ids = tokens.of(key);
        let limit = entry.lookup_limit();
        let lookup = self.kv_cache.lookup(&mut entry.table, token_ids, limit);
        if lookup.is_pending && !is_alone {
            entry.table.clear();
            return Admission::Later;
        }
        entry.resume_at(lookup.num_cached_tokens);
        let Some(share) = entry.next_share(&self.limits, plan) else {
            // No row of logits is left in this step.
            entry.drop_blocks();
            return Admission::Full;
        };
        let watermark = if is_alone { 0 } else { self.limits.watermark };
        let (num_computed, num_tokens) = (entry.num_computed_tokens, entry.num_tokens);
        let copies = &mut plan.copies;
        let num_copies = copies.len();
        let has_room = self.kv_cache.try_reserve(
            &mut entry.table,
            num_computed,
            num_tokens,
            watermark,
            copies,
        ) && share_out(&self.kv_cache, entry, share, plan);
        if !has_room {
            plan.copies.truncate(num_copies);
            entry.drop_blocks();
            self.refused = Some((key, self.kv_cache.num_free()));
            return Admission::Full;
        }
        entry.is_running = true;
        if !std::mem::replace(&mut entry.is_counted, true) {
            entry.num_cached_tokens = lookup.num_cached_tokens;
            if limit == 0 && entry.num_tokens > 1 {
                self.num_tokens_not_looked_up += entry.num_tokens as u64;
            } else {
                self.kv_cache.count(&lookup);
            }
        }
        self.kv_cache.announce(&mut entry.table, token_ids);
        Admission::Done
    }

    /// Ends the plan: cuts it to the size that wastes least.
    pub(crate) fn pack(&mut self, plan: &mut SchedulerOutput) {
        let Some((place, num_tokens)) = self.buckets.cut(plan) else { return };
        let key = plan.scheduled[place].key;
        let entry = self.entries[key.idx()].as_mut().expect("invariant: it is planned");
        entry.shorten_plan(num_tokens);
        plan.shorten(place, num_tokens);
    }

    /// Takes note that a planned step begins to run.
    pub(crate) fn launch(&mut self, plan: &SchedulerOutput) {
        for share in &plan.scheduled {
            let entry = self.entry_mut(share.key);
            debug_assert!(entry.in_flight.is_none(), "results were not told");
            entry.in_flight = entry.planned.take();
        }
        self.num_in_flight = plan.scheduled.len();
    }

    /// Takes note of the results for one sequence, whose known tokens are now `tokens`.
    pub(crate) fn complete(&mut self, key: SeqKey, tokens: &[u32], progress: Progress) {
        let Some(entry) = self.entries[key.idx()].as_mut().filter(|entry| entry.key == key) else {
            return;
        };
        let Some(share) = entry.in_flight.take() else { return };
        self.num_in_flight -= 1;
        entry.complete(share, progress);
        if !entry.table.is_empty() {
            self.kv_cache.commit(&mut entry.table, tokens, entry.num_done_tokens);
        }
    }

    /// Appends a token that no step expected: a beam's.
    pub(crate) fn append(&mut self, key: SeqKey) {
        self.entry_mut(key).num_tokens += 1;
    }

    /// From now on each of its steps that samples gives one token, unless it ends.
    pub(crate) fn set_predictable(&mut self, key: SeqKey) {
        self.entry_mut(key).is_predictable = true;
    }

    /// Says how many guesses at its next tokens a sequence has; they are checked in the next step
    /// that has room for them.
    pub(crate) fn set_drafts(&mut self, key: SeqKey, num_drafts: usize) {
        self.entry_mut(key).num_drafts = num_drafts;
    }

    /// Makes room for guesses behind a running sequence's tokens; `false` when there is none.
    pub(crate) fn reserve_drafts(
        &mut self,
        key: SeqKey,
        num_tokens: usize,
        plan: &mut SchedulerOutput,
    ) -> bool {
        let entry = self.entries[key.idx()].as_mut().filter(|entry| entry.is_running);
        let Some(entry) = entry else { return false };
        let (computed, copies) = (entry.num_computed_tokens, &mut plan.copies);
        self.kv_cache.try_reserve(&mut entry.table, computed, num_tokens, 0, copies)
    }

    /// Tokens of the sequence's prompt that were cached when it was admitted first.
    pub(crate) fn num_cached_tokens(&self, key: SeqKey) -> usize {
        self.entry(key).num_cached_tokens
    }

    /// Prompt tokens that were not looked for in the prefix cache, since their logprobs were asked
    /// for.
    pub(crate) fn num_tokens_not_looked_up(&self) -> u64 {
        self.num_tokens_not_looked_up
    }

    /// Sequences in the running batch.
    pub(crate) fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait for room in the batch.
    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The KV cache.
    pub(crate) fn kv_cache(&self) -> &KvCache {
        &self.kv_cache
    }

    /// The blocks of a sequence.
    pub(crate) fn table(&self, key: SeqKey) -> &BlockTable {
        &self.entry(key).table
    }

    /// Checks that blocks, entries and queues agree.
    ///
    /// # Errors
    /// What is wrong, with the block or the sequence.
    pub(crate) fn check_integrity(&self) -> Result<(), String> {
        let entries = || self.entries.iter().flatten();
        for entry in entries() {
            entry.check()?;
            let is_queued = self.waiting.contains(&(entry.rank, Waiting(entry.key)));
            let is_listed = self.running.contains(&entry.key);
            if is_queued == is_listed || is_listed != entry.is_running {
                return Err(format!("sequence {:?} is not in exactly one queue", entry.key));
            }
        }
        if entries().count() != self.running.len() + self.waiting.len() {
            return Err("a queue holds a sequence that is gone".into());
        }
        if !self.running.is_sorted_by_key(|&key| self.entry(key).rank) {
            return Err("the running are not in order of rank".into());
        }
        self.kv_cache.check_integrity(entries().map(|entry| &entry.table))
    }

    fn put(&mut self, entry: Entry) {
        let idx = entry.key.idx();
        if self.entries.len() <= idx {
            self.entries.resize_with(idx + 1, || None);
        }
        self.entries[idx] = Some(entry);
    }

    fn insert_running(&mut self, key: SeqKey, rank: Rank) {
        let entries = &self.entries;
        let rank_of = |key: &SeqKey| entries[key.idx()].as_ref().map(|entry| entry.rank);
        let place = self.running.partition_point(|other| rank_of(other) < Some(rank));
        self.running.insert(place, key);
    }

    fn entry(&self, key: SeqKey) -> &Entry {
        let entry = self.entries[key.idx()].as_ref().filter(|entry| entry.key == key);
        entry.expect("invariant: the engine and the scheduler know the same sequences")
    }

    fn entry_mut(&mut self, key: SeqKey) -> &mut Entry {
        let entry = self.entries[key.idx()].as_mut().filter(|entry| entry.key == key);
        entry.expect("invariant: the engine and the scheduler know the same sequences")
    }
}

/// What came of the wish to run.
enum Admission {
    Done,
    /// It has to wait, but not for room: the next one may be tried.
    Later,
    /// It lacks room, and who comes after it has to wait, too.
    Full,
}

/// Puts a share into the plan once its blocks are there; `false` when too few are free.
fn share_out(
    kv_cache: &KvCache,
    entry: &mut Entry,
    share: Share,
    plan: &mut SchedulerOutput,
) -> bool {
    let computed = entry.num_computed_tokens;
    let end = computed + share.num_tokens;
    if !kv_cache.try_reserve(&mut entry.table, computed, end, 0, &mut plan.copies) {
        return false;
    }
    let mut scheduled = ScheduledSequence::new(entry.key, computed..end);
    scheduled.num_logits = share.num_logits;
    scheduled.num_drafts = share.num_drafts;
    scheduled.is_sampled = share.is_sampled;
    let num_blocks = kv_cache.num_blocks_for(end);
    plan.push(scheduled, &entry.table.blocks()[..num_blocks]);
    entry.plan(share);
    true
}

#[cfg(test)]
mod tests;
