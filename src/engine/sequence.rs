//! One request on its way: its tokens, its text, and what ends it.
//!
//! ```text
//! token --push--> stop token? --no--> detokenizer --> stop string? --no--> max_tokens? --no--> next
//!                      | yes                               | yes                | yes
//!                   Stop: text so far             Stop: text before it   Length: text so far
//! ```
//!
//! What this module deliberately does not do: it does not choose tokens and holds no KV blocks.

use std::time::Instant;

use crate::backend::Wanted;
use crate::text::{Detokenizer, TextError};

use super::output::Outbox;
use super::request::{FinishReason, RequestError, Usage};
use super::sampler::{self, LogitsError, Row, Sampler, uniform};
use super::sampling_params::SamplingParams;
use super::shared::Slot;
use super::stop::StopStrings;

/// A request and all that belongs to it, except its KV blocks.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// First, so that it is free before the outbox below sends its last message.
    slot: Slot,
    outbox: Outbox,
    /// Prompt and generated.
    token_ids: Vec<u32>,
    num_prompt_tokens: usize,
    /// Prompt tokens that were computed at least once.
    num_prompt_tokens_seen: usize,
    /// Most tokens to generate: the request's wish and the context's end.
    max_tokens: usize,
    params: SamplingParams,
    /// How much of its logits the parameters need.
    wanted: Wanted,
    seed: u64,
    /// Sorted: the request's own and, unless they are ignored, the model's.
    stop_token_ids: Vec<u32>,
    stop_strings: StopStrings,
    detokenizer: Detokenizer,
    submitted_at: Instant,
    started_at: Option<Instant>,
    first_token_at: Option<Instant>,
}

/// What a sequence is made of, apart from its request.
#[derive(Debug)]
pub(crate) struct SequenceParts {
    pub(crate) slot: Slot,
    pub(crate) outbox: Outbox,
    pub(crate) detokenizer: Detokenizer,
    /// The model's end-of-text tokens.
    pub(crate) eos_token_ids: Vec<u32>,
    /// Tokens that the context still holds after the prompt.
    pub(crate) context_left: usize,
    /// Seeds a request that brought no seed.
    pub(crate) default_seed: u64,
}

impl Sequence {
    /// A sequence for a request that was checked.
    pub(crate) fn new(
        prompt_token_ids: Vec<u32>,
        params: SamplingParams,
        parts: SequenceParts,
        now: Instant,
    ) -> Self {
        let wish =
            params.max_tokens.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let mut stop_token_ids = params.stop_token_ids.clone();
        if !params.ignore_eos {
            stop_token_ids.extend(parts.eos_token_ids);
        }
        stop_token_ids.sort_unstable();
        Self {
            slot: parts.slot,
            outbox: parts.outbox,
            num_prompt_tokens: prompt_token_ids.len(),
            num_prompt_tokens_seen: 0,
            token_ids: prompt_token_ids,
            max_tokens: wish.min(parts.context_left),
            seed: params.seed.unwrap_or(parts.default_seed),
            stop_token_ids,
            stop_strings: StopStrings::new(&params.stop),
            wanted: sampler::wanted(&params),
            params,
            detokenizer: parts.detokenizer,
            submitted_at: now,
            started_at: None,
            first_token_at: None,
        }
    }

    /// Prompt and generated tokens.
    pub(crate) fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    /// How much of its logits is needed to choose a token.
    pub(crate) fn wanted(&self) -> Wanted {
        self.wanted
    }

    fn num_generated(&self) -> usize {
        self.token_ids.len() - self.num_prompt_tokens
    }

    /// Whether nobody reads the output any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.outbox.is_closed()
    }

    /// Sends what is pending, if the reader has room for it.
    pub(crate) fn flush(&mut self) {
        self.outbox.flush();
    }

    /// Takes note that a step begins that computes tokens of it.
    pub(crate) fn start(&mut self, now: Instant) {
        self.started_at.get_or_insert(now);
    }

    /// Takes note that the first `num_computed` tokens are computed, and says how many of them are
    /// prompt tokens that never were before.
    pub(crate) fn count_prompt(&mut self, num_computed: usize) -> usize {
        let seen = num_computed.min(self.num_prompt_tokens).max(self.num_prompt_tokens_seen);
        seen - std::mem::replace(&mut self.num_prompt_tokens_seen, seen)
    }

    /// Chooses the next token. The random number depends on the seed and the token's index alone.
    pub(crate) fn sample(&self, sampler: &mut Sampler, row: Row<'_>) -> Result<u32, LogitsError> {
        let token_idx = self.num_generated() as u64;
        sampler.sample(row, &self.params, || uniform(self.seed, token_idx))
    }

    /// Appends a token and its text; `Some` when the sequence ends with it.
    pub(crate) fn push(
        &mut self,
        token_id: u32,
        now: Instant,
    ) -> Result<Option<FinishReason>, TextError> {
        self.token_ids.push(token_id);
        self.outbox.push_token(token_id);
        self.first_token_at.get_or_insert(now);
        if self.stop_token_ids.binary_search(&token_id).is_ok() {
            return Ok(Some(self.end_text(FinishReason::Stop)));
        }
        let text = match self.detokenizer.push(token_id) {
            // A row of the model's vocabulary that the tokenizer has no token for: no text.
            Err(TextError::UnknownToken { .. }) => String::new(),
            pushed => pushed?,
        };
        if self.stop_strings.push(&text, self.outbox.text()) {
            return Ok(Some(FinishReason::Stop));
        }
        if self.num_generated() >= self.max_tokens {
            return Ok(Some(self.end_text(FinishReason::Length)));
        }
        Ok(None)
    }

    /// Lets out the text that was held back; it may turn out to hold a stop string.
    fn end_text(&mut self, reason: FinishReason) -> FinishReason {
        // A copy, for this is not the sequence's end yet; it holds a few bytes and a pointer.
        let tail = self.detokenizer.clone().finish();
        if self.stop_strings.push(&tail, self.outbox.text()) {
            return FinishReason::Stop;
        }
        self.outbox.text().push_str(&self.stop_strings.finish());
        reason
    }

    /// Frees the request's place and sends its last message.
    pub(crate) fn finish(self, reason: FinishReason, now: Instant) {
        let since_submission = |at: Option<Instant>| at.unwrap_or(now) - self.submitted_at;
        let usage = Usage {
            prompt_tokens: self.num_prompt_tokens,
            completion_tokens: self.num_generated(),
            queue_time: since_submission(self.started_at),
            time_to_first_token: since_submission(self.first_token_at),
            total_time: now - self.submitted_at,
        };
        drop(self.slot);
        self.outbox.finish(reason, usage);
    }

    /// Frees the request's place and sends its last message.
    pub(crate) fn fail(self, error: RequestError) {
        drop(self.slot);
        self.outbox.fail(error);
    }
}
