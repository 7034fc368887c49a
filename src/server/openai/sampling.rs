//! Wire fields to sampling parameters.
//!
//! What this module deliberately does not do: it repeats no range that the engine checks itself,
//! only what the engine's types cannot hold.

use super::requests::SamplingFields;
use crate::engine::{
    BeamParams, InvalidParam, MAX_BAD_WORDS, MAX_STOP_STRING_BYTES, SamplingParams,
};
use crate::server::error::ApiError;
use crate::text::Tokenizer;

/// A number, and what the endpoint calls its field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    pub(super) param: &'static str,
    pub(super) value: Option<i64>,
}

/// What fields become parameters with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    /// What a request gets where it does not say.
    pub(super) defaults: &'a SamplingParams,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) vocab_size: usize,
}

/// Overlays a request's fields on the server's defaults and checks them.
pub(super) fn sampling_params(
    fields: &SamplingFields,
    max_tokens: Named,
    logprobs: Named,
    setting: Setting<'_>,
) -> Result<SamplingParams, ApiError> {
    let mut params = setting.defaults.clone();
    if let Some(value) = max_tokens.value {
        params.max_tokens = Some(count(max_tokens.param, value)?);
    }
    if let Some(value) = logprobs.value {
        params.logprobs = Some(count(logprobs.param, value)?);
    }
    counts(fields, &mut params)?;
    numbers(fields, &mut params)?;
    lists(fields, &mut params, setting.tokenizer)?;
    params.beam = beam(fields, &params)?;
    params.validate_for(setting.vocab_size).map_err(|InvalidParam { param, message }| {
        let param = match param {
            "max_tokens" => max_tokens.param,
            "logprobs" => logprobs.param,
            param => param,
        };
        ApiError::invalid(param, format!("invalid {param}: {message}"))
    })?;
    Ok(params)
}

fn counts(fields: &SamplingFields, params: &mut SamplingParams) -> Result<(), ApiError> {
    if let Some(n) = fields.n {
        params.n = count("n", n)?;
    }
    if let Some(best_of) = fields.best_of {
        params.best_of = Some(count("best_of", best_of)?);
    }
    if let Some(min_tokens) = fields.min_tokens {
        params.min_tokens = count("min_tokens", min_tokens)?;
    }
    if let Some(prompt_logprobs) = fields.prompt_logprobs {
        params.prompt_logprobs = Some(count("prompt_logprobs", prompt_logprobs)?);
    }
    Ok(())
}

fn numbers(fields: &SamplingFields, params: &mut SamplingParams) -> Result<(), ApiError> {
    for (value, param) in [
        (fields.temperature, &mut params.temperature),
        (fields.top_p, &mut params.top_p),
        (fields.min_p, &mut params.min_p),
        (fields.presence_penalty, &mut params.presence_penalty),
        (fields.frequency_penalty, &mut params.frequency_penalty),
        (fields.repetition_penalty, &mut params.repetition_penalty),
    ] {
        if let Some(value) = value {
            *param = value as f32;
        }
    }
    if let Some(top_k) = fields.top_k {
        params.top_k = checked_top_k(top_k)?;
    }
    if let Some(seed) = fields.seed {
        // Negative seeds are as good as any: the bits count.
        params.seed = Some(seed.cast_unsigned());
    }
    if let Some(ignore_eos) = fields.ignore_eos {
        params.ignore_eos = ignore_eos;
    }
    if let Some(is_skipped) = fields.skip_special_tokens {
        params.skip_special_tokens = is_skipped;
    }
    if let Some(is_included) = fields.include_stop_str_in_output {
        params.include_stop_str_in_output = is_included;
    }
    Ok(())
}

fn lists(
    fields: &SamplingFields,
    params: &mut SamplingParams,
    tokenizer: &Tokenizer,
) -> Result<(), ApiError> {
    if let Some(stop) = &fields.stop {
        params.stop.clone_from(&stop.0);
    }
    if let Some(ids) = &fields.stop_token_ids {
        params.stop_token_ids.clone_from(&ids.0);
    }
    if let Some(bias) = &fields.logit_bias {
        params.logit_bias =
            bias.0.iter().map(|(&token_id, &bias)| (token_id, bias as f32)).collect();
    }
    if let Some(ids) = &fields.allowed_token_ids {
        params.allowed_token_ids = Some(ids.clone());
    }
    if let Some(words) = &fields.bad_words {
        params.bad_words = bad_words(words, tokenizer)?;
    }
    Ok(())
}

/// The beam search that was asked for. As vLLM had it, `best_of` is the number of beams.
fn beam(fields: &SamplingFields, params: &SamplingParams) -> Result<Option<BeamParams>, ApiError> {
    let length_penalty = fields.length_penalty.unwrap_or(1.0) as f32;
    let early_stopping = fields.early_stopping.unwrap_or(false);
    if fields.use_beam_search == Some(true) {
        let width = params.best_of.unwrap_or(params.n);
        return Ok(Some(BeamParams { width, length_penalty, early_stopping }));
    }
    let only_with = |param| {
        let message = format!("`{param}` is only allowed together with `use_beam_search`");
        Err(ApiError::invalid(param, message))
    };
    if length_penalty.to_bits() != 1.0_f32.to_bits() {
        return only_with("length_penalty");
    }
    if early_stopping { only_with("early_stopping") } else { Ok(None) }
}

/// The tokens of forbidden words. A word looks different in the middle of a text, where its space
/// belongs to it: where that makes it begin with another token, both are forbidden, as vLLM does.
fn bad_words(words: &[String], tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, ApiError> {
    const PARAM: &str = "bad_words";
    let invalid = |message: String| ApiError::invalid(PARAM, format!("invalid {PARAM}: {message}"));
    if words.len() > MAX_BAD_WORDS {
        let got = words.len();
        return Err(invalid(format!("expected at most {MAX_BAD_WORDS} words, got {got}")));
    }
    let encode = |text: &str| {
        let failed = |error| invalid(format!("a word cannot be tokenised: {error}"));
        tokenizer.encode(text, false).map_err(failed)
    };
    let mut sequences = Vec::new();
    for word in words {
        if word.is_empty() || word.len() > MAX_STOP_STRING_BYTES {
            let (expected, got) = (format!("1 to {MAX_STOP_STRING_BYTES} bytes"), word.len());
            return Err(invalid(format!("expected words of {expected}, got {got}")));
        }
        let bare = Some(word.trim_start()).filter(|bare| !bare.is_empty()).unwrap_or(word);
        let at_start = encode(bare)?;
        let in_text = encode(&format!(" {bare}"))?;
        let is_other = in_text.len() == at_start.len() && in_text.first() != at_start.first();
        sequences.push(at_start);
        sequences.extend(is_other.then_some(in_text));
    }
    Ok(sequences)
}

/// A number that cannot be negative; whether it is too large is the engine's to say.
fn count<T: TryFrom<i64>>(param: &'static str, value: i64) -> Result<T, ApiError> {
    T::try_from(value).map_err(|_| {
        let message =
            format!("invalid {param}: expected a number that is not negative, got {value}");
        ApiError::invalid(param, message)
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake;
    use crate::server::openai::json::parse;

    fn params(body: &str) -> Result<SamplingParams, String> {
        let fields: SamplingFields = parse(body.as_bytes(), &[]).unwrap();
        let max_tokens = Named { param: "max_completion_tokens", value: fields.max_tokens };
        let logprobs = Named { param: "top_logprobs", value: fields.prompt_logprobs };
        let (defaults, tokenizer) = (SamplingParams::default(), fake::tokenizer());
        let setting = Setting { defaults: &defaults, tokenizer: &tokenizer, vocab_size: 200 };
        sampling_params(&fields, max_tokens, logprobs, setting).map_err(|error| error.to_string())
    }

    #[test]
    fn every_field_arrives() {
        let got = params(
            r#"{"n": 2, "best_of": 3, "max_tokens": 9, "min_tokens": 1, "temperature": 0,
                "top_p": 0.5, "top_k": 4, "min_p": 0.25, "seed": -1, "presence_penalty": 0.5,
                "frequency_penalty": -0.5, "repetition_penalty": 1.5, "logit_bias": {"7": -100},
                "bad_words": ["a"], "allowed_token_ids": [7, 8], "use_beam_search": true,
                "length_penalty": 0.5, "early_stopping": true, "prompt_logprobs": 5, "stop": "x",
                "include_stop_str_in_output": true, "stop_token_ids": [7], "ignore_eos": true,
                "skip_special_tokens": false}"#,
        );
        let beam = BeamParams { width: 3, length_penalty: 0.5, early_stopping: true };
        let expected = SamplingParams {
            n: 2,
            best_of: Some(3),
            max_tokens: Some(9),
            min_tokens: 1,
            temperature: 0.0,
            top_k: Some(4),
            top_p: 0.5,
            min_p: 0.25,
            seed: Some(u64::MAX),
            presence_penalty: 0.5,
            frequency_penalty: -0.5,
            repetition_penalty: 1.5,
            logit_bias: vec![(7, -100.0)],
            bad_words: vec![vec![b'a'.into()]],
            allowed_token_ids: Some(vec![7, 8]),
            logprobs: Some(5),
            prompt_logprobs: Some(5),
            beam: Some(beam),
            stop: vec!["x".into()],
            include_stop_str_in_output: true,
            stop_token_ids: vec![7],
            ignore_eos: true,
            skip_special_tokens: false,
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
    fn beams_are_as_many_as_best_of_or_n() {
        let width = |body: &str| params(body).unwrap().beam.unwrap().width;
        assert_eq!(width(r#"{"use_beam_search": true, "n": 2, "best_of": 4}"#), 4);
        assert_eq!(width(r#"{"use_beam_search": true, "n": 2}"#), 2);
        let nothing = r#"{"use_beam_search": false, "length_penalty": 1, "early_stopping": false}"#;
        assert_eq!(params(nothing).unwrap().beam, None);
    }

    #[test]
    fn what_is_out_of_range_is_named_as_the_endpoint_calls_it() {
        for (body, message) in [
            (r#"{"max_tokens": 0}"#, "invalid max_completion_tokens: expected at least 1, got 0"),
            (r#"{"max_tokens": -9223372036854775808}"#, "invalid max_completion_tokens: expected"),
            (r#"{"prompt_logprobs": 21}"#, "invalid top_logprobs: expected 0 to 20, got 21"),
            (r#"{"n": 0}"#, "invalid n"),
            (r#"{"n": -1}"#, "invalid n: expected a number that is not negative, got -1"),
            (r#"{"n": 3, "best_of": 2}"#, "invalid best_of"),
            (r#"{"min_tokens": -1}"#, "invalid min_tokens"),
            (r#"{"max_tokens": 2, "min_tokens": 3}"#, "invalid min_tokens"),
            (r#"{"top_k": -7}"#, "invalid top_k: expected at least 1, or -1 for all, got -7"),
            (r#"{"temperature": -0.1}"#, "invalid temperature"),
            (r#"{"temperature": 1e300}"#, "invalid temperature"),
            (r#"{"top_p": 1.5}"#, "invalid top_p"),
            (r#"{"presence_penalty": 2.5}"#, "invalid presence_penalty"),
            (r#"{"frequency_penalty": -3}"#, "invalid frequency_penalty"),
            (r#"{"repetition_penalty": 0}"#, "invalid repetition_penalty"),
            (r#"{"logit_bias": {"200": 1}}"#, "invalid logit_bias"),
            (r#"{"logit_bias": {"1": 1e300}}"#, "invalid logit_bias"),
            (r#"{"bad_words": [""]}"#, "invalid bad_words"),
            (r#"{"allowed_token_ids": []}"#, "invalid allowed_token_ids"),
            (r#"{"allowed_token_ids": [200]}"#, "invalid allowed_token_ids"),
            (r#"{"length_penalty": 2}"#, "`length_penalty` is only allowed together with"),
            (r#"{"early_stopping": true}"#, "`early_stopping` is only allowed together with"),
            (r#"{"stop": [""]}"#, "invalid stop"),
            (r#"{"stop_token_ids": [200]}"#, "invalid stop_token_ids"),
        ] {
            let got = params(body).unwrap_err();
            assert!(got.starts_with(message), "{body}: {got}");
        }
    }

    #[test]
    fn a_bad_word_is_forbidden_with_its_space_where_that_is_one_other_token() {
        // Here a space is a token of its own, so the word without it says it all.
        let tokenizer = fake::tokenizer();
        let forbidden = |word: &str| bad_words(&[word.to_owned()], &tokenizer).unwrap();
        assert_eq!(forbidden("ab"), [[u32::from(b'a'), u32::from(b'b')]]);
        assert_eq!(forbidden(" ab"), forbidden("ab"));
        assert_eq!(forbidden(" ").len(), 1, "a space is a word, too");
    }
}
