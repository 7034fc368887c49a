//! From the rows that a step gave to tokens, choices and ends.
//!
//! ```text
//! a share of a step     rows     what becomes of them
//! a chunk of a prompt     0
//! .. with prompt_logprobs n      logprobs of the tokens that follow
//! its last chunk          1      the first token; with n > 1 the first token of each choice
//! a decode                1      the next token
//! a decode with k drafts  1+k    tokens up to and including the first that is no draft
//! .. with pooling         n      the vector of the prompt, of all its chunks or of the last
//! a beam                  1      candidates; tokens once all beams of the search have theirs
//! ```
//!
//! A draft is checked by sampling: the token at its place is drawn as it would be without it, with
//! that place's own random number, from the row that its forerunners gave. If the two are equal the
//! next row is good, too. The output is therefore the same with and without drafts. A grammar takes
//! each token when it is drawn, so each place is drawn with what the grammar allows there.
//!
//! What this module deliberately does not do: it plans nothing.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::group::{Group, GroupKey, Mode};
use super::host::{Host, SequenceEnd};
use super::prefixes::ComputedPrompt;
use super::request::{ChoiceDelta, ChoiceEnd, FinishReason, RequestError, StopMatch};
use super::runner::StepResults;
use super::sampling::{
    History, Hypothesis, Row, Sampled, Sampler, TokenLogprobs, choice_seed, uniform,
};
use super::scheduler::Progress;
use super::scheduler_output::{ScheduledSequence, SchedulerOutput};
use super::sequence::{SeqKey, Sequence};

/// What a step's tokens were.
#[derive(Debug, Default)]
struct Tally {
    prompt: u64,
    generated: u64,
    drafts: u64,
    accepted: u64,
}

impl Host {
    /// Takes what the step gave that `step` planned.
    pub(crate) fn take_results(
        &mut self,
        step: &SchedulerOutput,
        results: &StepResults<'_>,
        launched_at: Instant,
    ) {
        let now = Instant::now();
        let mut tally = Tally::default();
        for (place, share) in step.scheduled.iter().enumerate() {
            // Whoever was cancelled meanwhile is gone.
            let Some(sequence) = self.sequences.0.get(share.key) else { continue };
            let group = sequence.group;
            self.note_start(group, share.key, launched_at);
            if let Err(error) = self.take_share(place, share, results, now, &mut tally) {
                self.end_group(group, Err(error));
            }
        }
        let counters = &self.shared.counters;
        for (counter, more) in [
            (&counters.num_steps, 1),
            (&counters.num_launches, results.num_launches),
            (&counters.padded_tokens, results.num_padded_tokens),
            (&counters.prompt_tokens, tally.prompt),
            (&counters.generation_tokens, tally.generated),
            (&counters.num_draft_tokens, tally.drafts),
            (&counters.num_accepted_tokens, tally.accepted),
        ] {
            counter.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn note_start(&mut self, group: GroupKey, key: SeqKey, launched_at: Instant) {
        let group = &mut self.groups[group];
        if group.times.started.is_none() {
            group.times.started = Some(launched_at);
            group.cached_tokens = self.scheduler.num_cached_tokens(key);
        }
    }

    fn take_share(
        &mut self,
        place: usize,
        share: &ScheduledSequence,
        results: &StepResults<'_>,
        now: Instant,
        tally: &mut Tally,
    ) -> Result<(), RequestError> {
        let key = share.key;
        let rows = Rows { results, place };
        rows.check()?;
        let group_key = self.sequences.0[key].group;
        tally.prompt += self.groups[group_key].count_prompt(share.tokens().end) as u64;
        if self.groups[group_key].pooler.is_some() {
            return self.take_hidden_states(key, share, rows, now);
        }
        self.take_prompt_logprobs(key, share, rows)?;
        if !share.is_sampled {
            self.complete(key, Progress::default());
            return Ok(());
        }
        self.note_prompt(key);
        if matches!(self.groups[group_key].mode, Mode::Beams(_)) {
            self.complete(key, Progress::default());
            return self.take_candidates(key, share, rows, now, tally);
        }
        self.take_tokens(key, share, rows, now, tally)
    }

    /// Keeps hold of the blocks of a prompt that is computed, where somebody may want to keep them.
    fn note_prompt(&mut self, key: SeqKey) {
        let sequence = &self.sequences.0[key];
        let group = &mut self.groups[sequence.group];
        if group.prefix_keys.keys.is_empty() {
            return;
        }
        self.computed_prompts.push(ComputedPrompt {
            table: self.scheduler.kv_cache().fork(self.scheduler.table(key)),
            token_ids: sequence.prompt().to_vec(),
            // Once is enough.
            keys: std::mem::take(&mut group.prefix_keys),
            num_cached_tokens: group.cached_tokens,
        });
    }

    fn complete(&mut self, key: SeqKey, progress: Progress) {
        let tokens = self.sequences.0[key].token_ids();
        self.scheduler.complete(key, tokens, progress);
    }

    /// Samples the next tokens of a sequence: one, and one more for each draft that was right.
    fn take_tokens(
        &mut self,
        key: SeqKey,
        share: &ScheduledSequence,
        rows: Rows<'_>,
        now: Instant,
        tally: &mut Tally,
    ) -> Result<(), RequestError> {
        let sequence = self.sequences.0.get_mut(key).expect("invariant: it was looked up");
        let group_key = sequence.group;
        let group = &mut self.groups[group_key];
        group.times.first_token.get_or_insert(now);
        let first_row = share.num_logits - 1 - share.num_drafts;
        let (mut num_appended, mut end) = (0, None);
        while num_appended <= share.num_drafts {
            let row = rows.row(first_row + num_appended)?;
            let sampled = sample(&mut self.sampler, row, sequence, group)?;
            let is_draft = sequence.drafts().first() == Some(&sampled.token_id);
            end = append(sequence, group, sampled)?;
            num_appended += 1;
            if end.is_some() || !is_draft {
                break;
            }
        }
        sequence.clear_drafts();
        let num_rejected = (1 + share.num_drafts) - num_appended;
        tally.generated += num_appended as u64;
        tally.drafts += share.num_drafts as u64;
        tally.accepted += num_appended as u64 - 1;
        let width = group.fork_width();
        self.complete(key, Progress { num_appended, num_rejected });
        if width > 1 {
            self.fork_choices(key, width, rows.row(first_row)?, tally)?;
        }
        match end {
            Some(end) => self.end_sequence(key, end)?,
            None => self.untold.push(key),
        }
        self.mark_dirty(group_key);
        Ok(())
    }

    /// Makes the other choices of a request, whose first tokens come from the same row.
    fn fork_choices(
        &mut self,
        first: SeqKey,
        width: usize,
        row: Row<'_>,
        tally: &mut Tally,
    ) -> Result<(), RequestError> {
        let group_key = self.sequences.0[first].group;
        for choice in 1..width {
            let parent = &self.sequences.0[first];
            let group = &mut self.groups[group_key];
            let seed = choice_seed(parent.seed, choice as u64);
            let mut child = parent.first_again(choice, seed, group);
            let sampled = sample(&mut self.sampler, row, &mut child, group)?;
            let end = append(&mut child, group, sampled)?;
            tally.generated += 1;
            let child = self.fork(first, child);
            match end {
                Some(end) => self.end_sequence(child, end)?,
                None => self.untold.push(child),
            }
        }
        let keys = self.groups[group_key].live.clone();
        for key in keys {
            if !self.has_drafts {
                self.scheduler.set_predictable(key);
            }
        }
        Ok(())
    }

    /// Ends a sequence, and its group with the last one.
    fn end_sequence(&mut self, key: SeqKey, end: SequenceEnd) -> Result<(), RequestError> {
        let Some(mut sequence) = self.drop_sequence(key) else { return Ok(()) };
        let group_key = sequence.group;
        let group = &mut self.groups[group_key];
        let mut held = sequence.held.take();
        let out = match &mut held {
            Some(held) => held,
            None => group.outbox.choice(sequence.choice),
        };
        let mut end = end;
        if end.stop_text().is_none() {
            end = tell_end(&mut sequence, out, &group.params, end)?;
        }
        let num_generated = sequence.generated().len();
        let cumulative_logprob =
            group.params.num_token_logprobs().is_some().then_some(sequence.cumulative_logprob);
        let end = ChoiceEnd { reason: end.reason, stop: end.stop, cumulative_logprob };
        group.end_choice(sequence.choice, held, end, num_generated);
        if group.live.is_empty() {
            self.end_group(group_key, Ok(()));
        }
        Ok(())
    }

    /// Takes the rows of a prompt whose logprobs are wanted.
    fn take_prompt_logprobs(
        &mut self,
        key: SeqKey,
        share: &ScheduledSequence,
        rows: Rows<'_>,
    ) -> Result<(), RequestError> {
        let sequence = &self.sequences.0[key];
        let group = &mut self.groups[sequence.group];
        let (Some(logprobs), Some(num_top)) =
            (&mut group.prompt_logprobs, group.params.prompt_logprobs)
        else {
            return Ok(());
        };
        let first = share.tokens().end - share.num_logits;
        let prompt = sequence.prompt();
        for (row, position) in (first..share.tokens().end).enumerate() {
            let Some(&token_id) = prompt.get(position + 1) else { break };
            let Row::Logits(logits) = rows.row(row)? else { break };
            let told = self.sampler.logprobs_of(logits, token_id, num_top).map_err(failed)?;
            logprobs[position + 1] = Some(told);
        }
        if share.tokens().end >= prompt.len()
            && let Some(logprobs) = group.prompt_logprobs.take()
        {
            group.outbox.prompt_logprobs(logprobs);
        }
        Ok(())
    }

    /// Takes the hidden states of a prompt, and ends its request with the last of them.
    fn take_hidden_states(
        &mut self,
        key: SeqKey,
        share: &ScheduledSequence,
        rows: Rows<'_>,
        now: Instant,
    ) -> Result<(), RequestError> {
        let group_key = self.sequences.0[key].group;
        let group = &mut self.groups[group_key];
        let Some(pooler) = &mut group.pooler else { return Ok(()) };
        let first = share.tokens().end - share.num_logits;
        for (row, position) in (first..share.tokens().end).enumerate() {
            let Row::Logits(hidden) = rows.row(row)? else { break };
            if !hidden.iter().all(|value| value.is_finite()) {
                let what = "the hidden states of the prompt are not all finite numbers";
                return Err(RequestError::Execution(what.to_owned()));
            }
            pooler.add(position, hidden);
        }
        if share.is_sampled {
            group.times.first_token.get_or_insert(now);
            group.outbox.embedding(pooler.finish());
        }
        self.complete(key, Progress::default());
        if share.is_sampled {
            self.note_prompt(key);
            self.end_group(group_key, Ok(()));
        }
        Ok(())
    }

    /// Takes what a beam offers, and goes on when all beams have.
    fn take_candidates(
        &mut self,
        key: SeqKey,
        share: &ScheduledSequence,
        rows: Rows<'_>,
        now: Instant,
        tally: &mut Tally,
    ) -> Result<(), RequestError> {
        let sequence = &self.sequences.0[key];
        if share.tokens().end != sequence.token_ids().len() {
            // The search went on without waiting: it had this row before its blocks were lost.
            return Ok(());
        }
        let group_key = sequence.group;
        let group = &mut self.groups[group_key];
        group.times.first_token.get_or_insert(now);
        let Mode::Beams(beams) = &mut group.mode else { return Ok(()) };
        let row = rows.row(share.num_logits - 1)?;
        let history = history(sequence, &group.stop_token_ids);
        let candidates =
            self.sampler.beam_candidates(row, &group.params, history, beams.num_candidates());
        if beams.offer(key, candidates.map_err(failed)?) {
            let (continuations, ended) = beams.advance();
            tally.generated += continuations.len() as u64;
            if continuations.is_empty() {
                return self.finish_beams(group_key);
            }
            self.continue_beams(group_key, &continuations, &ended);
        }
        Ok(())
    }

    fn continue_beams(
        &mut self,
        group_key: GroupKey,
        continuations: &[super::beams::Continuation],
        ended: &[SeqKey],
    ) {
        let mut keys = Vec::with_capacity(continuations.len());
        // Forks first: they want their parents as they are.
        for continuation in continuations {
            if continuation.is_parent {
                keys.push(continuation.parent);
                continue;
            }
            let Mode::Beams(beams) = &mut self.groups[group_key].mode else { return };
            let choice = beams.next_choice();
            let parent = &self.sequences.0[continuation.parent];
            let child = parent.fork(choice, parent.seed);
            keys.push(self.fork(continuation.parent, child));
        }
        for (&key, continuation) in keys.iter().zip(continuations) {
            self.sequences.0[key].append(continuation.token_id);
            self.scheduler.append(key);
        }
        for &key in ended {
            self.drop_sequence(key);
        }
        if let Mode::Beams(beams) = &mut self.groups[group_key].mode {
            beams.carry_on(keys);
        }
    }

    fn finish_beams(&mut self, group_key: GroupKey) -> Result<(), RequestError> {
        let group = &mut self.groups[group_key];
        let is_forked = true;
        let Mode::Beams(beams) = std::mem::replace(&mut group.mode, Mode::Choices { is_forked })
        else {
            return Ok(());
        };
        for (index, hypothesis) in beams.finish(group.params.n).into_iter().enumerate() {
            let mut output = ChoiceDelta { index, ..ChoiceDelta::default() };
            let tokens = &hypothesis.token_ids;
            let num_texted = tokens.len() - usize::from(hypothesis.is_stopped);
            group.text.tell_all(&tokens[..num_texted], &mut output.text).map_err(failed)?;
            if group.params.logprobs.is_some() {
                output.logprobs = logprobs_of(&hypothesis);
            }
            let last = tokens.last().filter(|_| hypothesis.is_stopped);
            output.end = Some(ChoiceEnd {
                reason: if hypothesis.is_stopped {
                    FinishReason::Stop
                } else {
                    FinishReason::Length
                },
                stop: last.and_then(|&token_id| group.stop_of_token(token_id)),
                cumulative_logprob: Some(hypothesis.cumulative_logprob),
            });
            output.token_ids = hypothesis.token_ids;
            group.put_choice(index, output);
        }
        self.end_group(group_key, Ok(()));
        Ok(())
    }
}

/// What is known of the tokens of a text that beam search found.
fn logprobs_of(hypothesis: &Hypothesis) -> Vec<TokenLogprobs> {
    let tokens = hypothesis.token_ids.iter().zip(&hypothesis.logprobs);
    let told = |(&token_id, &logprob): (&u32, &f64)| TokenLogprobs {
        token_id,
        logprob: logprob as f32,
        rank: 0,
        top: Vec::new(),
    };
    tokens.map(told).collect()
}

/// The rows of one share.
#[derive(Clone, Copy)]
struct Rows<'a> {
    results: &'a StepResults<'a>,
    place: usize,
}

impl<'a> Rows<'a> {
    fn check(self) -> Result<(), RequestError> {
        self.results.check(self.place).map_err(failed)
    }

    fn row(self, idx: usize) -> Result<Row<'a>, RequestError> {
        self.results.row(self.place, idx).map_err(failed)
    }
}

fn failed(error: impl std::error::Error) -> RequestError {
    RequestError::Execution(error.to_string())
}

fn history<'a>(sequence: &'a Sequence, stop_token_ids: &'a [u32]) -> History<'a> {
    History {
        prompt: sequence.prompt(),
        output: sequence.generated(),
        counts: sequence.counts.as_ref(),
        stop_token_ids,
        mask: None,
    }
}

/// Chooses the next token. The random number depends on the seed and the token's index alone.
fn sample(
    sampler: &mut Sampler,
    row: Row<'_>,
    sequence: &mut Sequence,
    group: &Group,
) -> Result<Sampled, RequestError> {
    let token_idx = sequence.generated().len() as u64;
    let mask = sequence.matcher.as_mut().map(|matcher| matcher.mask()).transpose()?;
    let history = History { mask: mask.as_ref(), ..history(sequence, &group.stop_token_ids) };
    let random = || uniform(sequence.seed, token_idx);
    sampler.sample(row, &group.params, history, random).map_err(failed)
}

/// What a draft model's row says comes after a sequence and those guesses, drawn as the sequence
/// will draw; `None` for a row that is no good.
pub(super) fn guess(host: &mut Host, key: SeqKey, drafts: &[u32], row: Row<'_>) -> Option<u32> {
    let sequence = &host.sequences.0[key];
    let group = &host.groups[sequence.group];
    let token_idx = (sequence.generated().len() + drafts.len()) as u64;
    let history = history(sequence, &group.stop_token_ids);
    let random = || uniform(sequence.seed, token_idx);
    host.sampler.sample(row, &group.params, history, random).ok().map(|guess| guess.token_id)
}

/// Appends a token; `Some` when the sequence ends with it.
fn append(
    sequence: &mut Sequence,
    group: &mut Group,
    sampled: Sampled,
) -> Result<Option<SequenceEnd>, RequestError> {
    let Sampled { token_id, logprob } = sampled;
    sequence.append(token_id);
    sequence.cumulative_logprob += logprob.as_ref().map_or(0.0, |told| f64::from(told.logprob));
    let mut held = sequence.held.take();
    let out = match &mut held {
        Some(held) => held,
        None => group.outbox.choice(sequence.choice),
    };
    let logprob = logprob.filter(|_| group.params.logprobs.is_some());
    out.token_ids.push(token_id);
    out.logprobs.extend(logprob);
    let end = end_of(sequence, out, token_id, &group.params, &group.stop_token_ids, group.max_len);
    sequence.held = held;
    end
}

/// Whether a sequence ends with its newest token.
fn end_of(
    sequence: &mut Sequence,
    out: &mut ChoiceDelta,
    token_id: u32,
    params: &super::sampling::SamplingParams,
    stop_token_ids: &[u32],
    max_len: usize,
) -> Result<Option<SequenceEnd>, RequestError> {
    let end = |reason, stop| Ok(Some(SequenceEnd { reason, stop, is_marked: false }));
    if stop_token_ids.binary_search(&token_id).is_ok() {
        let is_named = params.stop_token_ids.contains(&token_id);
        let stop = is_named.then_some(StopMatch::Token(token_id));
        return Ok(Some(SequenceEnd { reason: FinishReason::Stop, stop, is_marked: true }));
    }
    let is_complete = match &mut sequence.matcher {
        Some(matcher) => matcher.consume(token_id)?,
        None => false,
    };
    if sequence.text_can_stop() {
        let found = sequence.tell_text(out, 0, params.min_tokens).map_err(failed)?;
        if let Some(which) = found {
            return end(FinishReason::Stop, Some(StopMatch::Text(params.stop[which].clone())));
        }
    }
    if is_complete {
        return end(FinishReason::Stop, None);
    }
    if sequence.token_ids().len() >= max_len {
        return end(FinishReason::Length, None);
    }
    Ok(None)
}

/// Makes the text that is still missing at a sequence's end; it may turn out that a stop string
/// ended it.
fn tell_end(
    sequence: &mut Sequence,
    out: &mut ChoiceDelta,
    params: &super::sampling::SamplingParams,
    end: SequenceEnd,
) -> Result<SequenceEnd, RequestError> {
    // A stop token is no part of the text, unless it is one of the request's and that is wanted.
    let is_wanted = params.include_stop_str_in_output && end.stop.is_some();
    let num_left = usize::from(end.is_marked && !is_wanted);
    let mut found = sequence.tell_text(out, num_left, params.min_tokens).map_err(failed)?;
    if found.is_none() {
        found = sequence.end_text(out);
    }
    Ok(match found {
        Some(which) => SequenceEnd {
            reason: FinishReason::Stop,
            stop: Some(StopMatch::Text(params.stop[which].clone())),
            is_marked: false,
        },
        None => end,
    })
}
