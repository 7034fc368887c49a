//! A smaller model that guesses for a larger one.
//!
//! ```text
//! tokens             0 ............ num_computed ........ num_known | d1   d2   d3
//! pass 1, all        its cache has these    `- these, in one step --^ -> d1
//! pass 2, 3                                                           d1 -> d2 -> d3
//! ```
//!
//! Its KV cache has the blocks of the model's own, by the same numbers: a block table is good for
//! both, and so are copies, forks and cached prefixes. What it did not get to compute, of a prefix
//! that came from elsewhere for instance, makes its guesses worse and nothing else.
//!
//! A guess is drawn as the model would draw, with the random number of its place: where the two
//! models agree on the odds, they agree on the token.
//!
//! What this module deliberately does not do: it holds no blocks of its own.

use rustc_hash::FxHashMap;

use super::super::death::Death;
use super::super::host::Host;
use super::super::kv_cache::BlockCopy;
use super::super::results;
use super::super::runner::{Runner, SequenceView};
use super::super::scheduler_output::{ScheduledSequence, SchedulerOutput};
use super::super::sequence::SeqKey;

/// The draft model on its device.
#[derive(Debug)]
pub(crate) struct DraftModel {
    runner: Runner,
    max_num_batched_tokens: usize,
    /// Tokens whose K and V it has, by sequence.
    num_computed: FxHashMap<SeqKey, usize>,
    plan: SchedulerOutput,
    copies: Vec<(u32, u32)>,
}

/// A sequence that gets drafts.
#[derive(Debug)]
struct Guess {
    key: SeqKey,
    drafts: Vec<u32>,
    wanted: usize,
}

impl DraftModel {
    /// A model whose buckets hold every step of the large one.
    pub(crate) fn new(runner: Runner, max_num_batched_tokens: usize) -> Self {
        Self {
            runner,
            max_num_batched_tokens,
            num_computed: FxHashMap::default(),
            plan: SchedulerOutput::default(),
            copies: Vec::new(),
        }
    }

    /// Does what the model's cache did.
    pub(super) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        self.copies.clear();
        self.copies.extend(copies.iter().map(|copy| (copy.from.0, copy.to.0)));
        if !self.copies.is_empty()
            && let Err(error) = self.runner.memory().copy_blocks(&self.copies)
        {
            tracing::warn!(%error, "the draft model's cache could not be copied: worse guesses");
        }
    }

    /// Computes what the step computed, and guesses on from there.
    pub(super) fn propose(
        &mut self,
        host: &mut Host,
        step: &SchedulerOutput,
        num_tokens: usize,
    ) -> Result<(), Death> {
        if self.num_computed.len() > 2 * host.sequences.0.len() + 64 {
            self.num_computed.retain(|&key, _| host.sequences.0.get(key).is_some());
        }
        let mut guesses = self.catch_up(host, step, num_tokens)?;
        let most = guesses.iter().map(|guess| guess.wanted).max().unwrap_or(0);
        for _ in 1..most {
            self.plan.clear();
            for guess in guesses.iter().filter(|guess| guess.drafts.len() < guess.wanted) {
                let len = host.sequences.0[guess.key].token_ids().len() + guess.drafts.len();
                push(&mut self.plan, host, guess.key, len - 1..len, true);
            }
            if self.plan.is_empty() {
                break;
            }
            self.run(host, &mut guesses)?;
        }
        for guess in guesses {
            host.sequences.0[guess.key].clear_drafts();
            host.set_drafts(guess.key, &guess.drafts);
        }
        Ok(())
    }

    /// The first pass: everything that the model has and this one has not.
    fn catch_up(
        &mut self,
        host: &mut Host,
        step: &SchedulerOutput,
        num_tokens: usize,
    ) -> Result<Vec<Guess>, Death> {
        self.plan.clear();
        let mut guesses = Vec::new();
        for share in &step.scheduled {
            let Some(sequence) = host.sequences.0.get(share.key) else { continue };
            let known = sequence.token_ids().len();
            let (max_len, may_draft) = {
                let group = &host.groups[sequence.group];
                (group.max_len, group.may_draft())
            };
            let is_guessed = share.is_sampled && may_draft;
            let end = if share.is_sampled { known } else { share.tokens().end };
            let wanted =
                if is_guessed { num_tokens.min(max_len.saturating_sub(known + 1)) } else { 0 };
            if !host.scheduler.reserve_drafts(share.key, end + wanted, &mut host.plan) {
                continue;
            }
            let room = self.max_num_batched_tokens - self.plan.total_num_scheduled_tokens;
            // What was computed of wrong guesses, or before the blocks were lost, is computed again.
            let start = *self.num_computed.entry(share.key).or_insert(share.num_computed_tokens);
            let start = start.min(share.num_computed_tokens).min(end - 1);
            if end - start > room {
                continue;
            }
            push(&mut self.plan, host, share.key, start..end, wanted > 0);
            if wanted > 0 {
                guesses.push(Guess { key: share.key, drafts: Vec::new(), wanted });
            }
        }
        if !self.plan.is_empty() {
            self.run(host, &mut guesses)?;
        }
        Ok(guesses)
    }

    /// Runs the plan, and adds a guess to each sequence that got a row.
    fn run(&mut self, host: &mut Host, guesses: &mut [Guess]) -> Result<(), Death> {
        let Self { runner, plan, num_computed, .. } = self;
        runner.bind(plan, |key| {
            let sequence = &host.sequences.0[key];
            let wanted = host.groups[sequence.group].wanted;
            SequenceView { token_ids: sequence.with_drafts(), wanted, is_embedded: false }
        });
        let results = runner.run(&mut || {})?;
        for (place, share) in plan.scheduled.iter().enumerate() {
            if results.check(place).is_err() {
                continue;
            }
            num_computed.insert(share.key, share.tokens().end);
            let guess = guesses.iter_mut().find(|guess| guess.key == share.key);
            let (Some(guess), true) = (guess, share.is_sampled) else { continue };
            match results
                .row(place, 0)
                .ok()
                .and_then(|row| results::guess(host, share.key, &guess.drafts, row))
            {
                Some(token_id) => {
                    guess.drafts.push(token_id);
                    host.sequences.0[share.key].set_drafts(&guess.drafts);
                }
                // No good row: it guesses no further.
                None => guess.wanted = guess.drafts.len(),
            }
        }
        Ok(())
    }
}

fn push(
    plan: &mut SchedulerOutput,
    host: &Host,
    key: SeqKey,
    tokens: std::ops::Range<usize>,
    is_sampled: bool,
) {
    let num_blocks = host.kv_cache().num_blocks_for(tokens.end);
    let mut share = ScheduledSequence::new(key, tokens);
    (share.num_logits, share.is_sampled) = (usize::from(is_sampled), is_sampled);
    plan.push(share, &host.scheduler.table(key).blocks()[..num_blocks]);
}
