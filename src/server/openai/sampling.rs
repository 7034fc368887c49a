//! Wire fields to sampling parameters.
//!
//! What this module deliberately does not do: it repeats no range that the engine checks itself,
//! only what the engine's types cannot hold.

use super::types::SamplingFields;
use crate::engine::SamplingParams;
use crate::server::error::ApiError;

/// Overlays a request's fields on the server's defaults and checks them.
///
/// `max_tokens` comes with the name of the field it was read from.
pub(super) fn sampling_params(
    fields: &SamplingFields,
    max_tokens: (&'static str, Option<i64>),
    defaults: &SamplingParams,
    vocab_size: usize,
) -> Result<SamplingParams, ApiError> {
    let mut params = defaults.clone();
    let (max_tokens_param, max_tokens) = max_tokens;
    if let Some(max_tokens) = max_tokens {
        let checked = u64::try_from(max_tokens).ok().filter(|count| *count > 0);
        let expected =
            || format!("invalid {max_tokens_param}: expected at least 1, got {max_tokens}");
        params.max_tokens =
            Some(checked.ok_or_else(|| ApiError::invalid(max_tokens_param, expected()))?);
    }
    if let Some(temperature) = fields.temperature {
        params.temperature = temperature as f32;
    }
    if let Some(top_p) = fields.top_p {
        params.top_p = top_p as f32;
    }
    if let Some(min_p) = fields.min_p {
        params.min_p = min_p as f32;
    }
    if let Some(top_k) = fields.top_k {
        params.top_k = checked_top_k(top_k)?;
    }
    if let Some(seed) = fields.seed {
        // Negative seeds are as good as any: the bits count.
        params.seed = Some(seed.cast_unsigned());
    }
    if let Some(stop) = &fields.stop {
        params.stop.clone_from(&stop.0);
    }
    if let Some(ids) = &fields.stop_token_ids {
        check_token_ids("stop_token_ids", &ids.0, vocab_size)?;
        params.stop_token_ids.clone_from(&ids.0);
    }
    if let Some(ignore_eos) = fields.ignore_eos {
        params.ignore_eos = ignore_eos;
    }
    match params.validate() {
        Ok(()) => Ok(params),
        Err(error) => Err(ApiError::invalid(error.param, error.to_string())),
    }
}

/// -1 and 0 keep all tokens; so does more than any vocabulary has.
fn checked_top_k(top_k: i64) -> Result<Option<u32>, ApiError> {
    match top_k {
        -1 | 0 => Ok(None),
        1.. => Ok(u32::try_from(top_k).ok()),
        _ => Err(ApiError::invalid(
            "top_k",
            format!("invalid top_k: expected at least 1, or -1 for all, got {top_k}"),
        )),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::openai::json::parse;

    fn params(body: &str) -> Result<SamplingParams, String> {
        let fields: SamplingFields = parse(body.as_bytes(), &[]).unwrap();
        let max_tokens = ("max_tokens", fields.max_tokens);
        sampling_params(&fields, max_tokens, &SamplingParams::default(), 100)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_field_arrives() {
        let got = params(
            r#"{"max_tokens": 3, "temperature": 0, "top_p": 0.5, "top_k": 4, "min_p": 0.25,
                "seed": -1, "stop": "x", "stop_token_ids": [7], "ignore_eos": true}"#,
        );
        let expected = SamplingParams {
            max_tokens: Some(3),
            temperature: 0.0,
            top_k: Some(4),
            top_p: 0.5,
            min_p: 0.25,
            seed: Some(u64::MAX),
            stop: vec!["x".into()],
            stop_token_ids: vec![7],
            ignore_eos: true,
            ..SamplingParams::default()
        };
        assert_eq!(got, Ok(expected));
        assert_eq!(params("{}"), Ok(SamplingParams::default()));
    }

    #[test]
    fn all_tokens_are_kept_by_minus_one_zero_and_huge() {
        for top_k in ["-1", "0", "9223372036854775807"] {
            assert_eq!(params(&format!(r#"{{"top_k": {top_k}}}"#)).unwrap().top_k, None);
        }
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (body, message) in [
            (r#"{"max_tokens": 0}"#, "invalid max_tokens: expected at least 1, got 0"),
            (r#"{"max_tokens": -9223372036854775808}"#, "invalid max_tokens: expected at least 1"),
            (r#"{"top_k": -7}"#, "invalid top_k: expected at least 1, or -1 for all, got -7"),
            (r#"{"temperature": -0.1}"#, "invalid temperature"),
            (r#"{"temperature": 1e300}"#, "invalid temperature"),
            (r#"{"top_p": 1.5}"#, "invalid top_p"),
            (r#"{"stop": [""]}"#, "invalid stop"),
            (r#"{"stop_token_ids": [100]}"#, "invalid stop_token_ids: token id 100"),
        ] {
            let got = params(body).unwrap_err();
            assert!(got.starts_with(message), "{body}: {got}");
        }
    }
}
