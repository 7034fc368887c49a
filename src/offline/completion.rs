//! What was made of one prompt, from the engine's messages to a whole.
//!
//! What this module deliberately does not do: it submits nothing.

use crate::engine::{
    ChoiceDelta, ChoiceEnd, FinishReason, Output, RequestError, ResponseStream, StopMatch,
    TokenLogprobs, Usage,
};

/// What was made of one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// The prompt's tokens.
    pub prompt_token_ids: Vec<u32>,
    /// With `prompt_logprobs`: one for each token of the prompt; the first has none.
    pub prompt_logprobs: Option<Vec<Option<TokenLogprobs>>>,
    /// Its continuations, as many as `n` asked for; of a beam search or of `best_of`, the likeliest
    /// first.
    pub choices: Vec<Choice>,
    /// Counts and times.
    pub usage: Usage,
}

/// One continuation of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The generated text, without what ended it.
    pub text: String,
    /// The generated tokens, an end-of-text token included.
    pub token_ids: Vec<u32>,
    /// With `logprobs`: one for each of them.
    pub logprobs: Vec<TokenLogprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What stopped it, where that was asked for; `None` for an end-of-text token and for its length.
    pub stop: Option<StopMatch>,
    /// Sum of the logprobs of its tokens, where they were needed.
    pub cumulative_logprob: Option<f64>,
}

impl Completion {
    /// The text of the first choice.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| &choice.text)
    }
}

/// Reads a request's output to its end.
pub(super) fn collect(
    prompt_token_ids: Vec<u32>,
    mut stream: ResponseStream,
) -> Result<Completion, RequestError> {
    let mut completion = Completion { prompt_token_ids, ..Completion::default() };
    let mut choices: Vec<ChoiceDelta> = Vec::new();
    loop {
        match stream.blocking_recv().unwrap_or(Output::Failed(RequestError::Stopped)) {
            Output::PromptLogprobs(logprobs) => completion.prompt_logprobs = Some(logprobs),
            Output::Embedding(_) => {}
            Output::Delta(delta) => append(&mut choices, delta),
            Output::Finished(usage) => {
                completion.choices = choices.into_iter().filter_map(whole).collect();
                completion.usage = usage;
                return Ok(completion);
            }
            Output::Failed(error) => return Err(error),
        }
    }
}

fn append(choices: &mut Vec<ChoiceDelta>, delta: ChoiceDelta) {
    if choices.len() <= delta.index {
        choices.resize_with(delta.index + 1, ChoiceDelta::default);
    }
    let choice = &mut choices[delta.index];
    choice.text.push_str(&delta.text);
    choice.token_ids.extend(delta.token_ids);
    choice.logprobs.extend(delta.logprobs);
    if delta.end.is_some() {
        choice.end = delta.end;
    }
}

/// A choice that has ended, as all have before the request has.
fn whole(delta: ChoiceDelta) -> Option<Choice> {
    let ChoiceDelta { text, token_ids, logprobs, end, .. } = delta;
    let ChoiceEnd { reason, stop, cumulative_logprob } = end?;
    Some(Choice { text, token_ids, logprobs, finish_reason: reason, stop, cumulative_logprob })
}
