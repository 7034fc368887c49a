//! `POST /v1/embeddings`: texts as vectors, from the model's last hidden states.
//!
//! | Field | Default |
//! | --- | --- |
//! | `input` | a text, token ids, or a list of either, at most 2,048 |
//! | `encoding_format` | `float`; `base64`: the numbers as little-endian f32 |
//! | `dimensions` | all; fewer are cut off before the length becomes 1 |
//! | `pooling` | `last`: the last token's hidden state; `mean`: the mean over all tokens |
//! | `normalize` | true: vectors of length 1 |
//! | `add_special_tokens` | true |
//! | `truncate_prompt_tokens` | none: a longer input is refused; so many of its last tokens are kept, -1: as many as fit |
//!
//! What this module deliberately does not do: it generates nothing. A decoder that was not trained
//! for it gives vectors all the same; whether they are of use is the model's question.

use std::collections::VecDeque;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;

use super::json::{parse, wire_object};
use super::prompt::{check_model_name, check_token_ids, encode};
use super::requests::{Inputs, Prompt};
use super::scheduling;
use super::types::{Embedding, EmbeddingList, EmbeddingUsage, EmbeddingVector};
use crate::engine::{
    self, Output, Pooling, RequestError, ResponseStream, SamplingParams, SubmitError,
};
use crate::server::access::Grant;
use crate::server::error::ApiError;
use crate::server::metrics::RequestRecord;
use crate::server::openapi::schema::{Above, OneOf, Required};
use crate::server::{ServerState, body};

const PARAM: &str = "input";
/// Inputs of one request that are with the engine at one time; the others wait here.
const MAX_IN_FLIGHT: usize = 64;

wire_object! {
    /// The body of `POST /v1/embeddings`.
    "a JSON object" => pub(super) EmbeddingRequest {
        /// The served model; may be left out.
        model: String,
        /// A text, token ids, or a list of either.
        input: Inputs where Required,
        /// How vectors are written.
        encoding_format: String where OneOf(&["float", "base64"]),
        /// How many numbers of each vector are kept; at most the model's hidden size.
        dimensions: i64 where 1..,
        /// The last token's hidden state, or the mean over all tokens.
        pooling: String where OneOf(&["last", "mean"]),
        /// Whether vectors have length 1.
        normalize: bool,
        /// Whether the tokenizer adds its own tokens.
        add_special_tokens: bool,
        /// Only the last so many tokens of an input; -1: as many as fit.
        truncate_prompt_tokens: i64 where -1..,
        /// Where the server schedules by priority: lower runs sooner.
        priority: i64 where i32::MIN..=i32::MAX,
        /// Where the server schedules by deadline: in how many seconds the answer is wanted.
        deadline: f64 where Above(0.0, scheduling::MAX_SECONDS),
        /// Seconds after which the request fails if it is not finished.
        timeout: f64 where Above(0.0, scheduling::MAX_SECONDS),
        /// Only requests with the same salt share cached prefixes.
        cache_salt: String where 1..,
    }
}

/// The endpoint.
pub(crate) async fn embeddings(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    drop(state.admit()?);
    let grant = request.extensions().get::<Grant>().cloned().unwrap_or_default();
    let body = body::read(&state, request).await?;
    let _ticket = state.admit()?;
    let worker = state.clone();
    let prepared = state.blocking(move || prepare(&worker, body.as_bytes())).await??;
    let Prepared { requests, form } = prepared;
    let (vectors, num_tokens) = pooled(&state, &grant, requests).await?;
    let model = state.options().served_model_name.clone();
    // Thousands of numbers become text.
    let json = state.blocking(move || form.whole(&model, vectors, num_tokens)).await?;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

/// Answers a body that lies here already, in one piece.
///
/// # Errors
/// As of the endpoint.
pub(super) async fn posted(
    state: &ServerState,
    grant: &Grant,
    body: Arc<[u8]>,
) -> Result<Vec<u8>, ApiError> {
    let worker = state.clone();
    let prepared = state.blocking(move || prepare(&worker, &body)).await??;
    let Prepared { requests, form } = prepared;
    let (vectors, num_tokens) = pooled(state, grant, requests).await?;
    let model = state.options().served_model_name.clone();
    state.blocking(move || form.whole(&model, vectors, num_tokens)).await
}

/// A request that was read and checked.
struct Prepared {
    /// One for each input.
    requests: VecDeque<engine::Request>,
    form: Form,
}

/// What vectors look like when they are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Form {
    is_base64: bool,
    dimensions: Option<usize>,
    is_normalized: bool,
}

fn prepare(state: &ServerState, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: EmbeddingRequest = parse(body, &[])?;
    check_model_name(state, request.model.as_deref())?;
    if !state.engine().has_embeddings() {
        return Err(ApiError::invalid(
            "model",
            "this server was started without embeddings; \
             `--embeddings on` compiles graphs for them",
        ));
    }
    let form = Form {
        is_base64: is_base64(request.encoding_format.as_deref())?,
        dimensions: dimensions(request.dimensions, state.engine().hidden_size())?,
        is_normalized: request.normalize.unwrap_or(true),
    };
    let pooling = pooling(request.pooling.as_deref())?;
    let prompts = tokens(state, &request)?;
    let mut like = scheduling::like(
        request.priority,
        request.deadline,
        request.timeout,
        request.cache_salt.as_deref(),
    )?;
    // Nothing is generated, but a sequence has to be allowed one token to be computed to its end.
    like.params = SamplingParams { max_tokens: Some(1), ..SamplingParams::default() };
    like.pooling = Some(pooling);
    let of_prompt = |prompt_token_ids| engine::Request { prompt_token_ids, ..like.clone() };
    Ok(Prepared { requests: prompts.into_iter().map(of_prompt).collect(), form })
}

fn is_base64(format: Option<&str>) -> Result<bool, ApiError> {
    match format {
        None | Some("float") => Ok(false),
        Some("base64") => Ok(true),
        Some(other) => {
            let message =
                format!("invalid encoding_format: expected `float` or `base64`, got `{other}`");
            Err(ApiError::invalid("encoding_format", message))
        }
    }
}

fn pooling(name: Option<&str>) -> Result<Pooling, ApiError> {
    match name {
        None | Some("last") => Ok(Pooling::Last),
        Some("mean") => Ok(Pooling::Mean),
        Some(other) => {
            let message = format!("invalid pooling: expected `last` or `mean`, got `{other}`");
            Err(ApiError::invalid("pooling", message))
        }
    }
}

fn dimensions(wanted: Option<i64>, hidden_size: usize) -> Result<Option<usize>, ApiError> {
    let Some(wanted) = wanted else { return Ok(None) };
    match usize::try_from(wanted) {
        Ok(count) if (1..=hidden_size).contains(&count) => Ok(Some(count)),
        _ => {
            let message = format!("invalid dimensions: expected 1 to {hidden_size}, got {wanted}");
            Err(ApiError::invalid("dimensions", message))
        }
    }
}

fn tokens(state: &ServerState, request: &EmbeddingRequest) -> Result<Vec<Vec<u32>>, ApiError> {
    let empty = || ApiError::invalid(PARAM, "the input is empty, expected at least one token");
    let add_special_tokens = request.add_special_tokens.unwrap_or(true);
    // One place of the context is the generated token's, also where none is.
    let longest = state.engine().max_model_len().saturating_sub(1);
    let kept = match request.truncate_prompt_tokens {
        None => None,
        Some(-1) => Some(longest),
        Some(count) => {
            Some(usize::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
                let message = format!(
                    "invalid truncate_prompt_tokens: expected -1 or 1 and more, got {count}"
                );
                ApiError::invalid("truncate_prompt_tokens", message)
            })?)
        }
    };
    let mut prompts = match &request.input {
        None => {
            let message = "`input` is missing, expected a string or a list";
            return Err(ApiError::invalid(PARAM, message));
        }
        Some(Inputs(Prompt::Texts(texts))) if texts.iter().any(String::is_empty) => {
            return Err(empty());
        }
        Some(Inputs(Prompt::Texts(texts))) => texts
            .iter()
            .map(|text| encode(state, PARAM, text, add_special_tokens))
            .collect::<Result<Vec<_>, _>>()?,
        Some(Inputs(Prompt::TokenIds(prompts))) => {
            for ids in prompts {
                check_token_ids(PARAM, ids, state.engine().vocab_size())?;
            }
            prompts.clone()
        }
    };
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        return Err(empty());
    }
    if let Some(kept) = kept {
        for prompt in &mut prompts {
            prompt.drain(..prompt.len().saturating_sub(kept));
        }
    }
    Ok(prompts)
}

/// The vectors of all inputs in order, and how many tokens they had.
async fn pooled(
    state: &ServerState,
    grant: &Grant,
    mut requests: VecDeque<engine::Request>,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let mut vectors = Vec::with_capacity(requests.len());
    let mut num_tokens = 0;
    let mut in_flight = VecDeque::new();
    for request in &mut requests {
        request.priority = grant.priority(request.priority);
    }
    loop {
        while in_flight.len() < MAX_IN_FLIGHT
            && let Some(request) = requests.front()
        {
            match state.engine().submit(request.clone()) {
                Ok(stream) => {
                    let charge = grant.charge(request.prompt_token_ids.len());
                    let record = RequestRecord::new(Arc::clone(state.metrics()), 1, None, charge);
                    in_flight.push_back((stream, record));
                    requests.pop_front();
                }
                // Its own inputs make room as they end.
                Err(SubmitError::Overloaded { .. }) if !in_flight.is_empty() => break,
                Err(error) => return Err(ApiError::from_submit(error, PARAM)),
            }
        }
        let Some((stream, record)) = in_flight.pop_front() else { break };
        let (vector, prompt_tokens) = vector_of(stream, record).await?;
        vectors.push(vector);
        num_tokens += prompt_tokens;
    }
    Ok((vectors, num_tokens))
}

async fn vector_of(
    mut stream: ResponseStream,
    mut record: RequestRecord,
) -> Result<(Vec<f32>, usize), ApiError> {
    let mut vector = Vec::new();
    loop {
        match stream.recv().await.unwrap_or(Output::Failed(RequestError::Stopped)) {
            Output::Embedding(embedding) => vector = embedding,
            Output::Finished(usage) => {
                record.finished(&usage);
                return Ok((vector, usage.prompt_tokens));
            }
            Output::Failed(error) => {
                record.failed();
                return Err(ApiError::from_request(&error));
            }
            Output::Delta(_) | Output::PromptLogprobs(_) => {}
        }
    }
}

impl Form {
    fn whole(self, model: &str, vectors: Vec<Vec<f32>>, num_tokens: usize) -> Vec<u8> {
        let data = vectors.into_iter().enumerate().map(|(index, vector)| {
            let embedding = self.vector(vector);
            Embedding { object: "embedding", index, embedding }
        });
        let usage = EmbeddingUsage { prompt_tokens: num_tokens, total_tokens: num_tokens };
        EmbeddingList { object: "list", data: data.collect(), model, usage }.to_json()
    }

    fn vector(self, mut vector: Vec<f32>) -> EmbeddingVector {
        vector.truncate(self.dimensions.unwrap_or(vector.len()));
        if self.is_normalized {
            normalize(&mut vector);
        }
        if !self.is_base64 {
            return EmbeddingVector::Float(vector);
        }
        let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        EmbeddingVector::Base64(STANDARD.encode(bytes))
    }
}

/// Scales to length 1; a vector of zeros stays one.
fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        for value in vector {
            *value = (f64::from(*value) / length) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_cut_before_it_gets_its_length() {
        let form = Form { is_base64: false, dimensions: Some(2), is_normalized: true };
        let EmbeddingVector::Float(vector) = form.vector(vec![3.0, 4.0, 100.0]) else {
            panic!("numbers were asked for")
        };
        assert_eq!(vector, [0.6, 0.8]);
        let zero = Form { dimensions: None, ..form }.vector(vec![0.0; 3]);
        assert_eq!(zero, EmbeddingVector::Float(vec![0.0; 3]));
    }

    #[test]
    fn base64_holds_little_endian_numbers() {
        let form = Form { is_base64: true, dimensions: None, is_normalized: false };
        let EmbeddingVector::Base64(text) = form.vector(vec![1.0, -2.5]) else {
            panic!("base64 was asked for")
        };
        assert_eq!(text, "AACAPwAAIMA=");
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let param = |error: ApiError| error.body().error.param.unwrap_or_default();
        for bad in [0, -1, 65, i64::MAX] {
            assert_eq!(param(dimensions(Some(bad), 64).unwrap_err()), "dimensions", "{bad}");
        }
        assert_eq!(dimensions(Some(64), 64).unwrap(), Some(64));
        assert_eq!(param(is_base64(Some("hex")).unwrap_err()), "encoding_format");
        assert_eq!(param(pooling(Some("cls")).unwrap_err()), "pooling");
    }
}
