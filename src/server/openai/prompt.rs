//! Checks and conversions on the way from a body's text to a prompt's tokens. They run on a
//! blocking thread.
//!
//! What this module deliberately does not do: it does not say how long a prompt may be. It only
//! refuses early what is certain to be too long, so that nobody waits for its tokens.

use super::requests::SamplingFields;
use crate::server::ServerState;
use crate::server::error::ApiError;
use crate::text::TextError;

/// Longer than the longest token of any known vocabulary, in bytes.
const LONGEST_TOKEN_BYTES: usize = 1024;

/// The model must be the one that is served; not naming one means it too.
pub(super) fn check_model(state: &ServerState, fields: &SamplingFields) -> Result<(), ApiError> {
    check_model_name(state, fields.model.as_deref())
}

/// As [`check_model`], for bodies without the fields of completions.
pub(super) fn check_model_name(state: &ServerState, model: Option<&str>) -> Result<(), ApiError> {
    let served = &state.options().served_model_name;
    match model {
        Some(model) if model != served => {
            Err(ApiError::ModelNotFound { model: model.to_owned(), served: served.clone() })
        }
        _ => Ok(()),
    }
}

/// Refuses text of which even the longest tokens would not fit the context.
pub(super) fn check_text_bytes(
    state: &ServerState,
    param: &'static str,
    bytes: usize,
) -> Result<(), ApiError> {
    let max_model_len = state.engine().max_model_len();
    if bytes.div_ceil(LONGEST_TOKEN_BYTES) < max_model_len {
        return Ok(());
    }
    Err(ApiError::ContextLength {
        param,
        message: format!(
            "the prompt has {bytes} bytes, more than the context of {max_model_len} tokens can hold"
        ),
    })
}

/// Every id must name a token.
pub(super) fn check_token_ids(
    param: &'static str,
    ids: &[u32],
    vocab_size: usize,
) -> Result<(), ApiError> {
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(ApiError::invalid(
            param,
            format!(
                "invalid {param}: token id {id} is not below the vocabulary's size {vocab_size}"
            ),
        )),
    }
}

/// Text to tokens.
pub(super) fn encode(
    state: &ServerState,
    param: &'static str,
    text: &str,
    add_special_tokens: bool,
) -> Result<Vec<u32>, ApiError> {
    check_text_bytes(state, param, text.len())?;
    state.tokenizer().encode(text, add_special_tokens).map_err(|error| {
        let message = format!("{param} cannot be tokenised: {error}");
        match error {
            // Far more text than any context holds.
            TextError::TextTooLong { .. } => ApiError::ContextLength { param, message },
            _ => ApiError::invalid(param, message),
        }
    })
}

/// The last tokens of a prompt, where the request asks for so many: -1 means what the context holds
/// besides the tokens to generate.
pub(super) fn truncate(
    state: &ServerState,
    fields: &SamplingFields,
    mut prompt: Vec<u32>,
) -> Result<Vec<u32>, ApiError> {
    const PARAM: &str = "truncate_prompt_tokens";
    let max_model_len = state.engine().max_model_len();
    let room = match fields.truncate_prompt_tokens {
        None => return Ok(prompt),
        Some(-1) => {
            let generated = fields.max_tokens.and_then(|count| usize::try_from(count).ok());
            max_model_len.saturating_sub(generated.unwrap_or(1).max(1))
        }
        Some(count) => {
            let room = usize::try_from(count).ok().filter(|room| (1..max_model_len).contains(room));
            room.ok_or_else(|| {
                let expected = format!("expected 1 to {}, or -1", max_model_len.saturating_sub(1));
                ApiError::invalid(PARAM, format!("invalid {PARAM}: {expected}, got {count}"))
            })?
        }
    };
    prompt.drain(..prompt.len().saturating_sub(room));
    Ok(prompt)
}
