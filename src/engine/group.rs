//! One request on its way: what its sequences share, and how they become choices.
//!
//! ```text
//! n = 1        prompt -- a b c ...                          choice 0
//! n = 3        prompt -+ a b c ...                          choice 0     one prefill; the first
//!                      + d e f ...                          choice 1     tokens are drawn from the
//!                      ` g h i ...                          choice 2     same row of logits
//! best_of      as n, but shown only when all have ended: the n likeliest, per token
//! beams        see `beams`
//! ```
//!
//! What this module deliberately does not do: it computes nothing and holds no KV blocks.

use std::time::{Duration, Instant};

use crate::backend::Wanted;
use crate::text::grammar::{Grammar, Matcher};

use super::beams::Beams;
use super::output::Outbox;
use super::pooling::{Pooler, Pooling};
use super::prefixes::PrefixKeys;
use super::request::{ChoiceDelta, ChoiceEnd, RequestError, RequestId, StopMatch, Usage};
use super::sampling::{self, SamplingParams, TokenLogprobs};
use super::sequence::{SeqKey, TextStream};
use super::shared::Slot;
use super::slots::Key;

/// A request's place in the engine.
pub(crate) type GroupKey = Key<Group>;

/// What the sequences of one request share.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: RequestId,
    /// Before the outbox, so that it is free before the last message is sent.
    slot: Slot,
    pub(crate) outbox: Outbox,
    pub(crate) params: SamplingParams,
    /// How much of its logits the parameters need.
    pub(crate) wanted: Wanted,
    /// A sequence ends when it has so many tokens.
    pub(crate) max_len: usize,
    pub(crate) num_prompt_tokens: usize,
    /// Sorted: the request's own and, unless they are ignored, the model's.
    pub(crate) stop_token_ids: Vec<u32>,
    /// Sequences that have not ended.
    pub(crate) live: Vec<SeqKey>,
    pub(crate) mode: Mode,
    /// What its texts must look like.
    grammar: Option<Grammar>,
    /// Of a sequence that has said nothing.
    pub(crate) text: TextStream,
    /// With `pooling`: what is known of the prompt's hidden states.
    pub(crate) pooler: Option<Pooler>,
    /// With `prompt_logprobs`, until they are complete.
    pub(crate) prompt_logprobs: Option<Vec<Option<TokenLogprobs>>>,
    pub(crate) times: Times,
    pub(crate) cached_tokens: usize,
    /// Addresses of its prompt's blocks, where they may be kept outside.
    pub(crate) prefix_keys: PrefixKeys,
    completion_tokens: usize,
    /// Prompt tokens that were computed at least once.
    num_prompt_tokens_seen: usize,
    /// It is among those whose output waits to be flushed.
    pub(crate) is_dirty: bool,
}

/// When what happened to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) submitted: Instant,
    pub(crate) started: Option<Instant>,
    pub(crate) first_token: Option<Instant>,
    /// When it fails if it has not ended, and how long that was from its submission.
    pub(crate) timeout: Option<(Instant, Duration)>,
}

/// How sequences become choices.
#[derive(Debug)]
pub(crate) enum Mode {
    /// Each sequence is a choice.
    Choices {
        /// The first sequence has been forked, or need not be.
        is_forked: bool,
    },
    /// The likeliest are the choices.
    BestOf {
        is_forked: bool,
        /// Those that have ended.
        ended: Vec<Ended>,
    },
    /// Beam search.
    Beams(Box<Beams>),
}

/// A sequence of `best_of` that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    choice: usize,
    output: ChoiceDelta,
    /// Mean logprob of its tokens.
    score: f64,
}

/// What a group is made of, apart from its parameters.
#[derive(Debug)]
pub(crate) struct GroupParts {
    pub(crate) id: RequestId,
    pub(crate) slot: Slot,
    pub(crate) outbox: Outbox,
    pub(crate) text: TextStream,
    pub(crate) grammar: Option<Grammar>,
    /// The model's end-of-text tokens.
    pub(crate) eos_token_ids: Vec<u32>,
    pub(crate) num_prompt_tokens: usize,
    pub(crate) max_model_len: usize,
    pub(crate) timeout: Option<Duration>,
    pub(crate) prefix_keys: PrefixKeys,
    pub(crate) pooling: Option<Pooling>,
}

impl Group {
    /// A group for a request that was checked.
    pub(crate) fn new(params: SamplingParams, parts: GroupParts, now: Instant) -> Self {
        let GroupParts { num_prompt_tokens, max_model_len, .. } = parts;
        let wish =
            params.max_tokens.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let max_len = num_prompt_tokens.saturating_add(wish).min(max_model_len);
        let mut stop_token_ids = params.stop_token_ids.clone();
        // Where a grammar lets the text end, the end is no token like others.
        if !params.ignore_eos || parts.grammar.is_some() {
            stop_token_ids.extend(&parts.eos_token_ids);
        }
        stop_token_ids.sort_unstable();
        let mode = if params.beam.is_some() {
            let max_tokens = max_len - num_prompt_tokens;
            Mode::Beams(Box::new(Beams::new(
                &params,
                &stop_token_ids,
                num_prompt_tokens,
                max_tokens,
            )))
        } else if params.num_sequences() > params.n {
            Mode::BestOf { is_forked: false, ended: Vec::new() }
        } else {
            Mode::Choices { is_forked: params.n == 1 }
        };
        Self {
            id: parts.id,
            slot: parts.slot,
            outbox: parts.outbox,
            wanted: if params.prompt_logprobs.is_some()
                || parts.pooling.is_some()
                || parts.grammar.is_some()
            {
                Wanted::Logits
            } else {
                sampling::wanted(&params)
            },
            pooler: parts.pooling.map(Pooler::new),
            max_len,
            num_prompt_tokens,
            stop_token_ids,
            live: Vec::new(),
            mode,
            grammar: parts.grammar,
            text: parts.text,
            prompt_logprobs: params.prompt_logprobs.map(|_| vec![None; num_prompt_tokens]),
            times: Times {
                submitted: now,
                started: None,
                first_token: None,
                timeout: parts.timeout.and_then(|limit| Some((now.checked_add(limit)?, limit))),
            },
            cached_tokens: 0,
            prefix_keys: parts.prefix_keys,
            completion_tokens: 0,
            num_prompt_tokens_seen: 0,
            is_dirty: false,
            params,
        }
    }

    /// For a sequence that has said nothing.
    pub(crate) fn matcher(&self) -> Option<Box<Matcher>> {
        self.grammar.as_ref().map(|grammar| Box::new(grammar.matcher()))
    }

    /// Whether each of its steps that samples gives one token.
    pub(crate) fn is_predictable(&self) -> bool {
        self.pooler.is_none() && matches!(self.mode, Mode::Choices { is_forked: true })
    }

    /// How many rows of its prompt are wanted, besides the last one.
    pub(crate) fn num_prompt_rows(&self) -> usize {
        let of_logprobs = self.prompt_logprobs.as_ref().map_or(0, Vec::len);
        let of_pooler = |pooler: &Pooler| pooler.num_rows_of(self.num_prompt_tokens);
        self.pooler.as_ref().map_or(of_logprobs, of_pooler)
    }

    /// Whether its next tokens may be guessed.
    pub(crate) fn may_draft(&self) -> bool {
        self.pooler.is_none() && !matches!(self.mode, Mode::Beams(_))
    }

    /// How many sequences the first one is to become now; 1 once that has happened.
    pub(crate) fn fork_width(&mut self) -> usize {
        match &mut self.mode {
            Mode::Choices { is_forked: forked @ false } => {
                *forked = true;
                self.params.n
            }
            Mode::BestOf { is_forked: forked @ false, .. } => {
                *forked = true;
                self.params.num_sequences()
            }
            _ => 1,
        }
    }

    /// Whether output may be seen only when all sequences have ended.
    pub(crate) fn is_held(&self) -> bool {
        !matches!(self.mode, Mode::Choices { .. })
    }

    /// Takes note that the first `num_computed` tokens are computed, and says how many of them are
    /// prompt tokens that never were before.
    pub(crate) fn count_prompt(&mut self, num_computed: usize) -> usize {
        let seen = num_computed.min(self.num_prompt_tokens).max(self.num_prompt_tokens_seen);
        seen - std::mem::replace(&mut self.num_prompt_tokens_seen, seen)
    }

    /// What stopped a sequence that ends with that token, as far as the request named it.
    pub(crate) fn stop_of_token(&self, token_id: u32) -> Option<StopMatch> {
        let is_named = self.params.stop_token_ids.contains(&token_id);
        is_named.then_some(StopMatch::Token(token_id))
    }

    /// Takes a sequence that has ended.
    pub(crate) fn end_choice(
        &mut self,
        choice: usize,
        held: Option<ChoiceDelta>,
        end: ChoiceEnd,
        num_generated: usize,
    ) {
        if let (Mode::BestOf { ended, .. }, Some(mut output)) = (&mut self.mode, held) {
            let score = end.cumulative_logprob.unwrap_or(0.0) / num_generated.max(1) as f64;
            output.end = Some(end);
            ended.push(Ended { choice, output, score });
        } else {
            self.completion_tokens += num_generated;
            self.outbox.end_choice(choice, end);
        }
    }

    /// Writes a whole choice at once.
    pub(crate) fn put_choice(&mut self, index: usize, output: ChoiceDelta) {
        self.completion_tokens += output.token_ids.len();
        *self.outbox.choice(index) = ChoiceDelta { index, ..output };
    }

    /// Chooses the best, once all have ended.
    fn choose_best(&mut self) {
        let Mode::BestOf { ended, .. } = &mut self.mode else { return };
        let mut ended = std::mem::take(ended);
        // Among equals the one that was drawn first.
        ended.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.choice.cmp(&b.choice)));
        for (index, best) in ended.into_iter().take(self.params.n).enumerate() {
            self.put_choice(index, best.output);
        }
    }

    /// Frees the request's place and sends its last message.
    pub(crate) fn finish(mut self, now: Instant) {
        self.choose_best();
        let Times { submitted, started, first_token, .. } = self.times;
        let since_submission = |at: Option<Instant>| at.unwrap_or(now) - submitted;
        let usage = Usage {
            prompt_tokens: self.num_prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            queue_time: since_submission(started),
            time_to_first_token: since_submission(first_token),
            total_time: now - submitted,
        };
        drop(self.slot);
        self.outbox.finish(usage);
    }

    /// Frees the request's place and sends its last message.
    pub(crate) fn fail(self, error: RequestError) {
        drop(self.slot);
        self.outbox.fail(error);
    }
}
