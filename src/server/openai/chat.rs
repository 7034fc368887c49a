//! `POST /v1/chat/completions`: renders a conversation with the model's template and continues it.
//!
//! | Field | Meaning here |
//! | --- | --- |
//! | `messages[].role` | `system`, `user`, `assistant`; `developer` is another word for `system` |
//! | `messages[].content` | a string, or text parts, which are joined by line ends |
//! | `max_completion_tokens`, `max_tokens` | the first wins; default: the rest of the context |
//! | `temperature` | the server's default, 1 unless set otherwise |
//! | `add_generation_prompt` | default true |
//! | `add_special_tokens` | default false: templates write them out |

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::generate::{self, Answer, Head, Prepared, Shape};
use super::json::parse;
use super::prompt::{check_model, check_text_bytes, encode};
use super::sampling::sampling_params;
use super::types::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatRequest, Content,
    Delta, Message, NOT_SUPPORTED_IN_CHAT, Part, TokenUsage, UsageKey,
};
use crate::engine::{self, FinishReason};
use crate::server::ServerState;
use crate::server::error::ApiError;
use crate::server::sse::Event;
use crate::text::ChatMessage;

const PARAM: &str = "messages";

/// The endpoint.
pub(crate) async fn chat_completions(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    generate::endpoint(state, request, prepare).await
}

/// Reads and checks a body; the text is the request's id.
pub(super) fn prepare(
    state: &ServerState,
    id: &str,
    body: &[u8],
) -> Result<Prepared<Shaped>, ApiError> {
    let request: ChatRequest = parse(body, NOT_SUPPORTED_IN_CHAT)?;
    let fields = &request.sampling;
    check_model(state, fields)?;
    let max_tokens = match request.max_completion_tokens {
        Some(count) => ("max_completion_tokens", Some(count)),
        None => ("max_tokens", fields.max_tokens),
    };
    let defaults = &state.options().default_sampling;
    let params = sampling_params(fields, max_tokens, defaults, state.engine().vocab_size())?;
    let streaming = generate::streaming(fields)?;

    let messages = conversation(request.messages)?;
    let add_generation_prompt = request.add_generation_prompt.unwrap_or(true);
    let text = render(state, &messages, add_generation_prompt)?;
    let add_special_tokens = fields.add_special_tokens.unwrap_or(false);
    let prompt_token_ids = encode(state, PARAM, &text, add_special_tokens)?;
    if prompt_token_ids.is_empty() {
        return Err(ApiError::invalid(PARAM, "the messages render to an empty prompt"));
    }
    let requests = vec![engine::Request::new(prompt_token_ids, params)];
    let head = Head::new(state, "chatcmpl", id, streaming);
    Ok(Prepared { requests, streaming, prompt_param: PARAM, shape: Shaped { head } })
}

fn render(
    state: &ServerState,
    messages: &[ChatMessage],
    add_generation_prompt: bool,
) -> Result<String, ApiError> {
    let template = state.chat_template().ok_or_else(|| {
        ApiError::invalid(PARAM, "the model has no chat template; use /v1/completions")
    })?;
    check_text_bytes(state, PARAM, messages.iter().map(|message| message.content.len()).sum())?;
    template.render(messages, add_generation_prompt).map_err(|error| {
        ApiError::invalid(PARAM, format!("the chat template refuses the messages: {error}"))
    })
}

fn conversation(messages: Option<Vec<Message>>) -> Result<Vec<ChatMessage>, ApiError> {
    match messages {
        None => Err(ApiError::invalid(PARAM, "`messages` is missing, expected a list")),
        Some(messages) if messages.is_empty() => {
            Err(ApiError::invalid(PARAM, "`messages` is empty, expected at least one message"))
        }
        Some(messages) => messages.into_iter().enumerate().map(chat_message).collect(),
    }
}

fn chat_message((index, message): (usize, Message)) -> Result<ChatMessage, ApiError> {
    let invalid = |key: &str, problem: &str| {
        let param = format!("messages[{index}].{key}");
        let text = format!("invalid {param}: {problem}");
        Err(ApiError::invalid(&param, text))
    };
    let role = match message.role.as_deref() {
        Some(role @ ("system" | "user" | "assistant")) => role,
        Some("developer") => "system",
        Some(role @ ("tool" | "function")) => {
            return invalid("role", &format!("`{role}` is not supported by this version"));
        }
        Some(other) => {
            let expected = "expected `system`, `developer`, `user` or `assistant`";
            return invalid("role", &format!("{expected}, got `{other}`"));
        }
        None => return invalid("role", "it is missing"),
    };
    if message.tool_calls.is_some_and(|calls| !calls.is_empty()) {
        return invalid("tool_calls", "they are not supported by this version");
    }
    let content = match message.content {
        None => {
            return invalid("content", "expected a string or a list of text parts, got nothing");
        }
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => match joined(parts) {
            Ok(text) => text,
            Err(problem) => return invalid("content", &problem),
        },
    };
    Ok(ChatMessage { role: role.to_owned(), content })
}

fn joined(parts: Vec<Part>) -> Result<String, String> {
    if parts.is_empty() {
        return Err("the list of parts is empty".to_owned());
    }
    let texts: Vec<String> = parts
        .into_iter()
        .map(|part| match (part.kind.as_deref(), part.text) {
            (Some("text"), Some(text)) => Ok(text),
            (Some("text"), None) => Err("a part of type `text` has no `text`".to_owned()),
            (Some(kind), _) => Err(format!(
                "parts of type `{kind}` are not supported by this version, only `text` is"
            )),
            (None, _) => Err("a part has no `type`".to_owned()),
        })
        .collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}

/// The shape of a chat completion.
pub(super) struct Shaped {
    head: Head,
}

impl Shaped {
    fn chunk(&self, choices: Vec<ChatChunkChoice<'_>>, usage: UsageKey) -> Event {
        let chunk = ChatChunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage,
        };
        Event::json(&chunk.to_json())
    }

    fn choice(&self, index: usize, delta: Delta<'_>, reason: Option<FinishReason>) -> Event {
        let finish_reason = reason.map(FinishReason::as_str);
        let choice = ChatChunkChoice { index, delta, logprobs: (), finish_reason };
        self.chunk(vec![choice], self.head.usage_so_far())
    }
}

impl Shape for Shaped {
    fn head(&self) -> &Head {
        &self.head
    }

    fn opening(&self, index: usize) -> Option<Event> {
        let delta = Delta { role: Some("assistant"), content: Some("") };
        Some(self.choice(index, delta, None))
    }

    fn delta(&self, index: usize, text: &str) -> Event {
        self.choice(index, Delta { role: None, content: Some(text) }, None)
    }

    fn finish(&self, index: usize, reason: FinishReason) -> Event {
        self.choice(index, Delta::default(), Some(reason))
    }

    fn usage(&self, usage: TokenUsage) -> Event {
        self.chunk(Vec::new(), UsageKey::Of(usage))
    }

    fn whole(&self, answers: &[Answer], usage: TokenUsage) -> Response {
        let choices = answers
            .iter()
            .enumerate()
            .map(|(index, answer)| ChatChoice {
                index,
                message: AssistantMessage { role: "assistant", content: &answer.text, refusal: () },
                logprobs: (),
                finish_reason: answer.reason.as_str(),
            })
            .collect();
        let completion = ChatCompletion {
            id: &self.head.id,
            object: "chat.completion",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage,
        };
        ([(CONTENT_TYPE, "application/json")], completion.to_json()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: &str) -> Result<Vec<(String, String)>, (String, String)> {
        let body = format!(r#"{{"messages": {messages}}}"#);
        let request: ChatRequest = parse(body.as_bytes(), NOT_SUPPORTED_IN_CHAT).unwrap();
        match conversation(request.messages) {
            Ok(messages) => Ok(messages.into_iter().map(|m| (m.role, m.content)).collect()),
            Err(error) => {
                let object = error.body().error;
                Err((object.param.unwrap_or_default(), object.message))
            }
        }
    }

    #[test]
    fn text_parts_are_joined_and_developer_means_system() {
        let read = read(
            r#"[{"role": "developer", "content": "be brief"}, {"role": "user", "content":
                [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": "c", "tool_calls": []}]"#,
        );
        let pair = |role: &str, content: &str| (role.to_owned(), content.to_owned());
        let expected =
            vec![pair("system", "be brief"), pair("user", "a\nb"), pair("assistant", "c")];
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn what_cannot_be_rendered_is_refused_with_its_place() {
        let image = r#"{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}"#;
        let user = r#"{"role": "user", "content": "a"}"#;
        for (messages, param) in [
            ("null".to_owned(), "messages"),
            ("[]".to_owned(), "messages"),
            ("[{}]".to_owned(), "messages[0].role"),
            (r#"[{"role": "user"}]"#.to_owned(), "messages[0].content"),
            (r#"[{"role": "user", "content": null}]"#.to_owned(), "messages[0].content"),
            (r#"[{"role": "user", "content": []}]"#.to_owned(), "messages[0].content"),
            (r#"[{"role": "user", "content": [{"text": "a"}]}]"#.to_owned(), "messages[0].content"),
            (
                r#"[{"role": "user", "content": [{"type": "text"}]}]"#.to_owned(),
                "messages[0].content",
            ),
            (
                format!(r#"[{user}, {{"role": "user", "content": [{image}]}}]"#),
                "messages[1].content",
            ),
            (format!(r#"[{user}, {{"role": "tool", "content": "a"}}]"#), "messages[1].role"),
            (format!(r#"[{user}, {{"role": "king", "content": "a"}}]"#), "messages[1].role"),
            (
                r#"[{"role": "assistant", "content": null, "tool_calls": [{"id": "x"}]}]"#
                    .to_owned(),
                "messages[0].tool_calls",
            ),
        ] {
            assert_eq!(read(&messages).unwrap_err().0, param, "{messages}");
        }
    }
}
