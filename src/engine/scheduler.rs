//! Who computes how many tokens in the next step.
//!
//! There is no prefill phase and no decode phase. A request has `num_tokens` (prompt and generated
//! so far) and `num_computed_tokens` (those whose K and V are in the cache), and a step gives it
//! some of the tokens that it lacks: one when it decodes, many when its prompt is new, a chunk
//! when the step is nearly full.
//!
//! ```text
//!                 add                  admitted: blocks for all its tokens are free
//!  submitted ----------->  waiting  --------------------------------->  running  --> removed
//!                            ^ front                                       |
//!                            `---- preempted: blocks freed, computed 0 ----'  latest arrival first
//! ```
//!
//! | Rule | Why |
//! | --- | --- |
//! | running requests first, in order of arrival | a request that started is finished before another starts |
//! | waiting ones strictly in order of arrival | nobody is overtaken, so nobody starves |
//! | admitted only with blocks for all present tokens | a half-admitted prompt would be preempted by the next decode, again and again |
//! | out of blocks: the latest arrival is preempted | the earliest always gets on, so there is no deadlock |
//! | nobody is admitted in a step that preempted | the blocks just freed are for those who lacked them |
//!
//! Everyone running therefore arrived before everyone waiting. All but the last of the running have
//! at most one token to compute, since nobody is admitted behind an unfinished prompt. A step holds
//! the first of the running, in their order: a place in the plan is a place in the running batch.
//!
//! What this module deliberately does not do: it touches no device, no clock and no token. It
//! counts.

use std::collections::VecDeque;

use super::block_pool::BlockTable;
use super::kv_cache_manager::KvCacheManager;
use super::request::RequestId;
use super::scheduler_output::SchedulerOutput;

/// A request as the scheduler knows it.
#[derive(Debug)]
struct Entry {
    id: RequestId,
    /// Prompt and generated.
    num_tokens: usize,
    /// Tokens whose K and V are in the cache; less than `num_tokens` between steps.
    num_computed_tokens: usize,
    blocks: BlockTable,
}

impl Entry {
    fn num_missing(&self) -> usize {
        self.num_tokens - self.num_computed_tokens
    }
}

/// Decides what each step computes.
#[derive(Debug)]
pub(crate) struct Scheduler {
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    kv_cache: KvCacheManager,
    /// In order of arrival.
    waiting: VecDeque<Entry>,
    /// In order of arrival, all before those that wait.
    running: Vec<Entry>,
}

impl Scheduler {
    /// A scheduler without requests. Every request that is added must fit into `kv_cache` alone.
    pub(crate) fn new(
        max_num_seqs: usize,
        max_num_batched_tokens: usize,
        kv_cache: KvCacheManager,
    ) -> Self {
        Self {
            // With fewer tokens than sequences, those at the end would hold blocks and never run.
            max_num_seqs: max_num_seqs.min(max_num_batched_tokens),
            max_num_batched_tokens,
            kv_cache,
            waiting: VecDeque::new(),
            running: Vec::new(),
        }
    }

    /// Queues a request of `num_tokens` tokens, at least 1, behind all others.
    pub(crate) fn add(&mut self, id: RequestId, num_tokens: usize) {
        let blocks = self.kv_cache.new_table();
        self.waiting.push_back(Entry { id, num_tokens, num_computed_tokens: 0, blocks });
    }

    /// Forgets a request, wherever it is, and frees its blocks.
    pub(crate) fn remove(&mut self, id: RequestId) {
        if let Some(idx) = self.running.iter().position(|entry| entry.id == id) {
            self.running.remove(idx);
        } else if let Some(idx) = self.waiting.iter().position(|entry| entry.id == id) {
            self.waiting.remove(idx);
        }
    }

    /// Forgets requests of the step that was planned last, given in its order, and frees their
    /// blocks.
    pub(crate) fn remove_scheduled(&mut self, ids: impl IntoIterator<Item = RequestId>) {
        let mut ids = ids.into_iter().peekable();
        self.running.retain(|entry| ids.next_if_eq(&entry.id).is_none());
        debug_assert_eq!(ids.next(), None, "not in the step, or not in its order");
    }

    /// Plans the next step into `output`: at least one token when there is any request.
    pub(crate) fn schedule(&mut self, output: &mut SchedulerOutput) {
        output.clear();
        self.schedule_running(output);
        if output.num_preempted == 0 {
            self.admit_waiting(output);
        }
    }

    fn schedule_running(&mut self, output: &mut SchedulerOutput) {
        let mut idx = 0;
        while idx < self.running.len()
            && output.total_num_scheduled_tokens < self.max_num_batched_tokens
        {
            let entry = &mut self.running[idx];
            let budget = self.max_num_batched_tokens - output.total_num_scheduled_tokens;
            if schedule_entry(&self.kv_cache, entry, budget, output) {
                idx += 1;
                continue;
            }
            // The last one may be the one that lacks blocks: then the loop ends here.
            let mut latest = self.running.pop().expect("invariant: idx is below the length");
            latest.blocks.clear();
            latest.num_computed_tokens = 0;
            self.waiting.push_front(latest);
            output.num_preempted += 1;
        }
    }

    fn admit_waiting(&mut self, output: &mut SchedulerOutput) {
        while self.running.len() < self.max_num_seqs
            && output.total_num_scheduled_tokens < self.max_num_batched_tokens
            && let Some(entry) = self.waiting.front_mut()
            && self.kv_cache.try_reserve(&mut entry.blocks, entry.num_tokens)
        {
            let budget = self.max_num_batched_tokens - output.total_num_scheduled_tokens;
            let is_scheduled = schedule_entry(&self.kv_cache, entry, budget, output);
            debug_assert!(is_scheduled, "the blocks were reserved in the line above");
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// Takes note that a planned step was computed.
    pub(crate) fn complete(&mut self, output: &SchedulerOutput) {
        for (place, scheduled) in output.scheduled.iter().enumerate() {
            self.entry_at(place, scheduled.id).num_computed_tokens +=
                scheduled.num_scheduled_tokens;
        }
    }

    /// Takes note of a new token at the end of a request, given with its place in the step that was
    /// planned last.
    pub(crate) fn append_token(&mut self, place: usize, id: RequestId) {
        self.entry_at(place, id).num_tokens += 1;
    }

    /// The running request at that place of the step that was planned last.
    fn entry_at(&mut self, place: usize, id: RequestId) -> &mut Entry {
        let entry = self.running.get_mut(place).filter(|entry| entry.id == id);
        entry.expect("invariant: a step holds the first of the running, which stay until its end")
    }

    /// Requests in the running batch.
    pub(crate) fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Requests that wait for room in the batch.
    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// KV blocks held by requests.
    pub(crate) fn num_blocks_used(&self) -> usize {
        self.kv_cache.num_used()
    }

    /// Checks that every block is free or held by exactly one running request.
    ///
    /// # Errors
    /// What is wrong, with the block or the request.
    pub(crate) fn check_integrity(&self) -> Result<(), String> {
        if let Some(entry) = self.waiting.iter().find(|entry| !entry.blocks.blocks().is_empty()) {
            return Err(format!("request {} waits and holds blocks", entry.id.0));
        }
        self.kv_cache.check_integrity(self.running.iter().map(|entry| &entry.blocks))
    }
}

/// Gives a request up to `budget` of the tokens that it lacks; `false` when blocks ran out.
fn schedule_entry(
    kv_cache: &KvCacheManager,
    entry: &mut Entry,
    budget: usize,
    output: &mut SchedulerOutput,
) -> bool {
    let end = entry.num_computed_tokens + entry.num_missing().min(budget);
    if !kv_cache.try_reserve(&mut entry.blocks, end) {
        return false;
    }
    let is_sampled = end == entry.num_tokens;
    output.push(entry.id, entry.num_computed_tokens..end, is_sampled, entry.blocks.blocks());
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn scheduler(max_num_seqs: usize, budget: usize, num_blocks: u32) -> Scheduler {
        Scheduler::new(max_num_seqs, budget, KvCacheManager::new(num_blocks, 4))
    }

    /// Runs one step in which every request that can gets a token; returns (id, tokens) of each.
    fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize)> {
        let mut output = SchedulerOutput::default();
        scheduler.schedule(&mut output);
        scheduler.complete(&output);
        for (place, scheduled) in output.scheduled.iter().enumerate() {
            if scheduled.is_sampled {
                scheduler.append_token(place, scheduled.id);
            }
        }
        scheduler.check_integrity().unwrap();
        let shares = output.scheduled.iter();
        shares.map(|scheduled| (scheduled.id.0, scheduled.num_scheduled_tokens)).collect()
    }

    #[test]
    fn mixes_chunks_of_prompts_with_decodes() {
        let mut scheduler = scheduler(4, 8, 100);
        scheduler.add(RequestId(0), 3);
        assert_eq!(step(&mut scheduler), [(0, 3)]);
        scheduler.add(RequestId(1), 12);
        scheduler.add(RequestId(2), 2);
        assert_eq!(step(&mut scheduler), [(0, 1), (1, 7)]);
        assert_eq!(step(&mut scheduler), [(0, 1), (1, 5), (2, 2)]);
        assert_eq!(step(&mut scheduler), [(0, 1), (1, 1), (2, 1)]);
    }

    #[test]
    fn runs_no_more_sequences_than_it_may() {
        let mut scheduler = scheduler(2, 8, 100);
        for id in 0..3 {
            scheduler.add(RequestId(id), 1);
        }
        assert_eq!(step(&mut scheduler), [(0, 1), (1, 1)]);
        scheduler.remove(RequestId(0));
        assert_eq!(step(&mut scheduler), [(1, 1), (2, 1)]);
        assert_eq!((scheduler.num_running(), scheduler.num_waiting()), (2, 0));
    }

    #[test]
    fn preempts_the_latest_arrival_and_recomputes_it() {
        let mut scheduler = scheduler(4, 64, 3);
        scheduler.add(RequestId(0), 4);
        scheduler.add(RequestId(1), 4);
        assert_eq!(step(&mut scheduler), [(0, 4), (1, 4)]);
        // Request 0 takes the last block; request 1 lacks one, is the latest, and steps back.
        assert_eq!(step(&mut scheduler), [(0, 1)]);
        assert_eq!((scheduler.num_running(), scheduler.num_waiting()), (1, 1));
        assert_eq!(step(&mut scheduler), [(0, 1)], "five tokens need two blocks, one is free");
        scheduler.remove(RequestId(0));
        assert_eq!(step(&mut scheduler), [(1, 5)], "its prompt and its first token again");
    }

    #[test]
    fn nobody_overtakes_a_request_that_waits_for_blocks() {
        let mut scheduler = scheduler(4, 64, 3);
        scheduler.add(RequestId(0), 8);
        scheduler.add(RequestId(1), 8);
        scheduler.add(RequestId(2), 1);
        assert_eq!(step(&mut scheduler), [(0, 8)]);
        assert_eq!(scheduler.num_waiting(), 2);
    }

    #[test]
    fn a_removed_request_returns_its_blocks_wherever_it_is() {
        let mut scheduler = scheduler(1, 64, 3);
        scheduler.add(RequestId(0), 8);
        scheduler.add(RequestId(1), 8);
        step(&mut scheduler);
        scheduler.remove(RequestId(1));
        scheduler.remove(RequestId(0));
        scheduler.remove(RequestId(7));
        assert_eq!((scheduler.num_waiting(), scheduler.num_blocks_used()), (0, 0));
    }

    /// One request of a random run: arrives before a step, ends after some tokens or is aborted.
    #[derive(Clone, Debug)]
    struct Plan {
        arrives_at: usize,
        prompt: usize,
        generates: usize,
        aborted_at: Option<usize>,
    }

    const MAX_MODEL_LEN: usize = 24;

    fn plan() -> impl Strategy<Value = Plan> {
        let aborted_at = prop::option::weighted(0.2, 0_usize..60);
        (0_usize..30, 1..MAX_MODEL_LEN, 1_usize..20, aborted_at).prop_map(
            |(arrives_at, prompt, generates, aborted_at)| Plan {
                arrives_at,
                prompt,
                generates: generates.min(MAX_MODEL_LEN - prompt),
                aborted_at,
            },
        )
    }

    proptest! {
        #[test]
        fn every_request_ends_and_no_rule_is_ever_broken(
            mut plans in prop::collection::vec(plan(), 1..14),
            max_num_seqs in 1_usize..6,
            budget in 1_usize..40,
            spare_blocks in 0_u32..8,
        ) {
            plans.sort_by_key(|plan| plan.arrives_at);
            let num_blocks = MAX_MODEL_LEN.div_ceil(4) as u32 + spare_blocks;
            let mut scheduler = scheduler(max_num_seqs, budget, num_blocks);
            // By id: tokens computed, tokens in all. Recomputing starts from 0 again.
            let mut alive: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
            let mut output = SchedulerOutput::default();
            let mut num_arrived = 0;
            for now in 0.. {
                prop_assert!(now < 4000, "requests {:?} never end", alive);
                while num_arrived < plans.len() && plans[num_arrived].arrives_at <= now {
                    scheduler.add(RequestId(num_arrived as u64), plans[num_arrived].prompt);
                    alive.insert(num_arrived as u64, (0, plans[num_arrived].prompt));
                    num_arrived += 1;
                }
                alive.retain(|&id, _| {
                    let is_aborted = plans[id as usize].aborted_at == Some(now);
                    if is_aborted {
                        scheduler.remove(RequestId(id));
                    }
                    !is_aborted
                });
                if alive.is_empty() && num_arrived == plans.len() {
                    break;
                }
                scheduler.schedule(&mut output);
                prop_assert_eq!(scheduler.check_integrity(), Ok(()));
                prop_assert!(alive.is_empty() || !output.scheduled.is_empty());
                prop_assert!(scheduler.num_running() <= max_num_seqs);
                prop_assert_eq!(scheduler.num_running() + scheduler.num_waiting(), alive.len());
                let last_running = scheduler.running.last().map(|entry| entry.id);
                let first_waiting = scheduler.waiting.front().map(|entry| entry.id);
                prop_assert!(first_waiting.is_none() || last_running < first_waiting);
                if let Some(&earliest) = alive.keys().next() {
                    prop_assert_eq!(output.scheduled[0].id.0, earliest, "the earliest starves");
                }
                let shares = output.scheduled.iter();
                let total: usize = shares.map(|share| share.num_scheduled_tokens).sum();
                prop_assert_eq!(total, output.total_num_scheduled_tokens);
                prop_assert!(total <= budget);
                scheduler.complete(&output);
                let mut ended = Vec::new();
                for (place, share) in output.scheduled.iter().enumerate() {
                    let (computed, tokens) = alive.get_mut(&share.id.0).unwrap();
                    prop_assert!(share.num_computed_tokens == *computed || share.num_computed_tokens == 0);
                    *computed = share.tokens().end;
                    prop_assert!(output.blocks_of(share).len() * 4 >= *computed);
                    prop_assert_eq!(share.is_sampled, *computed == *tokens);
                    if !share.is_sampled {
                        continue;
                    }
                    *tokens += 1;
                    let plan = &plans[share.id.0 as usize];
                    if *tokens == plan.prompt + plan.generates {
                        ended.push(share.id);
                        alive.remove(&share.id.0);
                    } else {
                        scheduler.append_token(place, share.id);
                    }
                }
                scheduler.remove_scheduled(ended);
            }
            prop_assert_eq!(scheduler.num_blocks_used(), 0);
        }
    }
}
