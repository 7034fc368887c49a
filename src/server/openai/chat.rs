//! `POST /v1/chat/completions`: renders a conversation with the model's template and continues it.
//!
//! | Field | Meaning here |
//! | --- | --- |
//! | `messages[].role` | `system`, `user`, `assistant`; `developer` is another word for `system` |
//! | `messages[].content` | a string, or text parts, which are joined by line ends |
//! | `max_completion_tokens`, `max_tokens` | the first wins; default: the rest of the context |
//! | `temperature` | the server's default, 1 unless set otherwise |
//! | `logprobs`, `top_logprobs` | whether, and of how many of the likeliest besides the token itself |
//! | `add_generation_prompt` | default true |
//! | `add_special_tokens` | default false: templates write them out |

use axum::extract::{Request, State};
use axum::response::Response;

use super::generate::{self, Answer, Head, OfPrompt, Prepared, Shape};
use super::json::parse;
use super::logprobs::{ChatLogprobs, PromptLogprobs};
use super::prompt::{check_model, check_text_bytes, encode};
use super::requests::{ChatRequest, Content, Message, NOT_SUPPORTED_IN_CHAT, Part};
use super::sampling::{Named, Setting, sampling_params};
use super::scheduling;
use super::types::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, Delta, StopReason,
    TokenUsage, UsageKey,
};
use crate::engine::{ChoiceDelta, ChoiceEnd, TokenLogprobs};
use crate::server::ServerState;
use crate::server::error::ApiError;
use crate::text::{ChatMessage, Conversation, Tokenizer};

const PARAM: &str = "messages";

/// The endpoint.
pub(crate) async fn chat_completions(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    generate::endpoint(state, request, prepare).await
}

/// Reads and checks a body; the text is the request's id.
///
/// # Errors
/// The first field that is wrong, by name.
pub(super) fn prepare(
    state: &ServerState,
    id: &str,
    body: &[u8],
) -> Result<Prepared<Shaped>, ApiError> {
    let request: ChatRequest = parse(body, NOT_SUPPORTED_IN_CHAT)?;
    let fields = &request.sampling;
    check_model(state, fields)?;
    let max_tokens = match request.max_completion_tokens {
        Some(count) => Named { param: "max_completion_tokens", value: Some(count) },
        None => Named { param: "max_tokens", value: fields.max_tokens },
    };
    let logprobs = Named { param: "top_logprobs", value: num_logprobs(&request)? };
    let setting = Setting {
        defaults: &state.options().default_sampling,
        tokenizer: state.tokenizer(),
        vocab_size: state.engine().vocab_size(),
    };
    let params = sampling_params(fields, max_tokens, logprobs, setting)?;
    let streaming = generate::streaming(fields)?;

    let messages = conversation(request.messages)?;
    let add_generation_prompt = request.add_generation_prompt.unwrap_or(true);
    let text = render(state, &messages, add_generation_prompt)?;
    let add_special_tokens = fields.add_special_tokens.unwrap_or(false);
    let prompt = encode(state, PARAM, &text, add_special_tokens)?;
    if prompt.is_empty() {
        return Err(ApiError::invalid(PARAM, "the messages render to an empty prompt"));
    }
    let shape = Shaped {
        head: Head::new(state, "chatcmpl", id, streaming),
        tokenizer: state.tokenizer().clone(),
        has_logprobs: params.logprobs.is_some(),
        prompt_logprobs: params.prompt_logprobs,
    };
    let requests = scheduling::requests(fields, vec![prompt], params)?;
    Ok(Prepared { requests, streaming, prompt_param: PARAM, shape })
}

/// How many of the likeliest tokens are asked for; `None`: no log probabilities at all.
fn num_logprobs(request: &ChatRequest) -> Result<Option<i64>, ApiError> {
    match (request.logprobs.unwrap_or(false), request.top_logprobs.unwrap_or(0)) {
        (true, count) => Ok(Some(count)),
        (false, 0) => Ok(None),
        (false, _) => {
            let message = "`top_logprobs` is only allowed together with `logprobs`";
            Err(ApiError::invalid("top_logprobs", message))
        }
    }
}

fn render(
    state: &ServerState,
    messages: &[ChatMessage],
    add_generation_prompt: bool,
) -> Result<String, ApiError> {
    let template = state.chat_template().ok_or_else(|| {
        ApiError::invalid(PARAM, "the model has no chat template; use /v1/completions")
    })?;
    let contents = messages.iter().filter_map(|message| message.content.as_deref());
    check_text_bytes(state, PARAM, contents.map(str::len).sum())?;
    let conversation = Conversation { add_generation_prompt, ..Conversation::new(messages) };
    template.render(&conversation).map_err(|error| {
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
    Ok(ChatMessage::new(role, content))
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
    tokenizer: Tokenizer,
    has_logprobs: bool,
    /// How many of the likeliest tokens are told for each token of the prompt.
    prompt_logprobs: Option<usize>,
}

impl Shaped {
    fn chunk(&self, choices: Vec<ChatChunkChoice<'_>>, usage: UsageKey) -> Vec<u8> {
        let chunk = ChatChunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage,
        };
        chunk.to_json()
    }

    fn choice(&self, choice: ChatChunkChoice<'_>) -> Vec<u8> {
        self.chunk(vec![choice], self.head.usage_so_far())
    }

    fn whole_choice<'a>(&self, choice: &'a ChoiceDelta) -> ChatChoice<'a> {
        let end = choice.end.as_ref();
        ChatChoice {
            index: choice.index,
            message: AssistantMessage { role: "assistant", content: &choice.text, refusal: () },
            logprobs: self.logprobs(&choice.logprobs),
            finish_reason: end.map(|end| end.reason.as_str()),
            stop_reason: end.and_then(StopReason::of),
        }
    }

    fn logprobs(&self, logprobs: &[TokenLogprobs]) -> Option<ChatLogprobs> {
        self.has_logprobs.then(|| ChatLogprobs::new(&self.tokenizer, logprobs))
    }
}

impl Shape for Shaped {
    fn head(&self) -> &Head {
        &self.head
    }

    fn opening(&mut self, index: usize, _of_prompt: &OfPrompt) -> Option<Vec<u8>> {
        let delta = Delta { role: Some("assistant"), content: Some("") };
        Some(self.choice(ChatChunkChoice { index, delta, ..ChatChunkChoice::default() }))
    }

    fn delta(&mut self, delta: &ChoiceDelta) -> Option<Vec<u8>> {
        if delta.text.is_empty() && delta.logprobs.is_empty() {
            return None;
        }
        Some(self.choice(ChatChunkChoice {
            index: delta.index,
            delta: Delta { role: None, content: Some(&delta.text) },
            logprobs: self.logprobs(&delta.logprobs),
            ..ChatChunkChoice::default()
        }))
    }

    fn finish(&mut self, index: usize, end: &ChoiceEnd) -> Vec<u8> {
        self.choice(ChatChunkChoice {
            index,
            finish_reason: Some(end.reason.as_str()),
            stop_reason: StopReason::of(end),
            ..ChatChunkChoice::default()
        })
    }

    fn usage(&mut self, usage: TokenUsage) -> Vec<u8> {
        self.chunk(Vec::new(), UsageKey::Of(usage))
    }

    fn whole(&mut self, answer: &Answer) -> Vec<u8> {
        let of_prompt = answer.of_prompts.first().and_then(Option::as_deref);
        let prompt_logprobs = self
            .prompt_logprobs
            .zip(of_prompt)
            .map(|(num_top, logprobs)| PromptLogprobs::new(&self.tokenizer, logprobs, num_top));
        let completion = ChatCompletion {
            id: &self.head.id,
            object: "chat.completion",
            created: self.head.created,
            model: &self.head.model,
            choices: answer.choices.iter().map(|choice| self.whole_choice(choice)).collect(),
            usage: answer.usage,
            prompt_logprobs,
        };
        completion.to_json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: &str) -> Result<Vec<(String, String)>, (String, String)> {
        let body = format!(r#"{{"messages": {messages}}}"#);
        let request: ChatRequest = parse(body.as_bytes(), NOT_SUPPORTED_IN_CHAT).unwrap();
        match conversation(request.messages) {
            Ok(messages) => {
                Ok(messages.into_iter().map(|m| (m.role, m.content.unwrap())).collect())
            }
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
