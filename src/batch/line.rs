//! What one line of a batch asks for, and the line that answers it, both as `OpenAI`'s batches have
//! them.
//!
//! ```text
//! {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {..}}
//!
//! {"id":"batch_req_7_3f9a62c01b7d4e5f","custom_id":"a","response":{"status_code":200,"request_id":"..","body":{..}},"error":null}
//!                 |  `- digest of the line
//!                 `- its number
//! ```
//!
//! | A line that | has as `response` | and as `error` |
//! | --- | --- | --- |
//! | was answered | status 200 and the answer | null |
//! | the endpoint refused | the status and the error object that HTTP clients get | code and message from it |
//! | never came to an endpoint | null | code and message |
//!
//! What this module deliberately does not do: it does not look into bodies of requests; the
//! endpoints do.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Answered;
use super::source::LineId;

/// What the `id` of every result begins with.
pub(crate) const ID_PREFIX: &str = "batch_req_";

/// A request to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) custom_id: String,
    /// The endpoint's path.
    pub(crate) url: String,
    pub(crate) body: Arc<[u8]>,
}

/// A line that comes to no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// As far as it could be read.
    pub(crate) custom_id: Option<String>,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// A line as it is written, its values still unread.
#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct Envelope<'a> {
    #[serde(borrow)]
    custom_id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    url: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// Reads a line.
pub(crate) fn read(text: &[u8]) -> Result<Ask, Refused> {
    let refused = |custom_id: Option<&String>, code, message: String| Refused {
        custom_id: custom_id.cloned(),
        code,
        message,
    };
    // A mark of the byte order at a file's begin is no part of the line.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let envelope: Envelope<'_> = serde_json::from_slice(text).map_err(|error| {
        let code = if error.is_data() { "invalid_request" } else { "invalid_json" };
        refused(None, code, format!("the line is no request: {error}"))
    })?;
    let custom_id = string("custom_id", envelope.custom_id)
        .map_err(|message| refused(None, "invalid_request", message))?;
    let invalid = |message| refused(Some(&custom_id), "invalid_request", message);
    let method = string("method", envelope.method).map_err(invalid)?;
    if method != "POST" {
        let message = format!("invalid method: expected `POST`, got `{method}`");
        return Err(refused(Some(&custom_id), "invalid_method", message));
    }
    let url = string("url", envelope.url).map_err(invalid)?;
    let body = envelope.body.ok_or_else(|| invalid("`body` is missing".to_owned()))?;
    let body = body.get().as_bytes().into();
    Ok(Ask { custom_id, url, body })
}

fn string(name: &str, value: Option<&RawValue>) -> Result<String, String> {
    let value = value.ok_or_else(|| format!("`{name}` is missing"))?;
    serde_json::from_str(value.get()).map_err(|error| format!("invalid {name}: {error}"))
}

impl LineId {
    /// The `id` of the line's result.
    pub(crate) fn result_id(self) -> String {
        format!("{ID_PREFIX}{}_{:016x}", self.number, self.digest)
    }

    /// The line of that result; `None`: it is no result of ours.
    pub(crate) fn of_result(id: &str) -> Option<Self> {
        let (number, digest) = id.strip_prefix(ID_PREFIX)?.split_once('_')?;
        let (number, digest) = (number.parse().ok()?, u64::from_str_radix(digest, 16).ok()?);
        let line = Self { number, digest };
        // Numbers have many spellings, and only one is ours.
        (number > 0 && line.result_id() == id).then_some(line)
    }
}

/// A result, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResultLine {
    /// Its line, ended by a line break.
    pub(crate) text: Vec<u8>,
    pub(crate) is_failed: bool,
    pub(crate) usage: Usage,
}

/// Tokens that an answer tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    #[serde(default)]
    pub(crate) prompt_tokens: u64,
    #[serde(default)]
    pub(crate) completion_tokens: u64,
}

#[derive(Serialize)]
struct Written<'a> {
    id: &'a str,
    custom_id: Option<&'a str>,
    response: Option<Response<'a>>,
    error: Option<Failure>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: &'a str,
    body: &'a RawValue,
}

#[derive(Serialize)]
struct Failure {
    code: String,
    message: String,
}

/// What of an answer's body is looked at.
#[derive(Default, Deserialize)]
struct Body {
    usage: Option<Usage>,
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct ErrorObject {
    message: String,
    #[serde(rename = "type")]
    kind: String,
    code: Option<String>,
}

impl ResultLine {
    /// Of a line that an endpoint answered.
    pub(crate) fn answered(line: LineId, custom_id: &str, answered: &Answered) -> Self {
        let raw: &RawValue = serde_json::from_slice(&answered.body)
            .expect("invariant: endpoints answer with JSON text");
        let body: Body = serde_json::from_str(raw.get()).unwrap_or_default();
        let is_failed = answered.status != 200;
        let error = is_failed.then(|| match body.error {
            Some(ErrorObject { message, kind, code }) => {
                Failure { code: code.unwrap_or(kind), message }
            }
            None => Failure {
                code: "server_error".to_owned(),
                message: format!("status {}", answered.status),
            },
        });
        let id = line.result_id();
        let response = Response { status_code: answered.status, request_id: &id, body: raw };
        Self::new(
            &Written { id: &id, custom_id: Some(custom_id), response: Some(response), error },
            body.usage.unwrap_or_default(),
        )
    }

    /// Of a line that came to no endpoint.
    pub(crate) fn refused(line: LineId, refused: Refused) -> Self {
        let id = line.result_id();
        let Refused { custom_id, code, message } = refused;
        let error = Some(Failure { code: code.to_owned(), message });
        let written = Written { id: &id, custom_id: custom_id.as_deref(), response: None, error };
        Self::new(&written, Usage::default())
    }

    fn new(written: &Written<'_>, usage: Usage) -> Self {
        let mut text = serde_json::to_vec(written).expect("invariant: its keys are strings");
        text.push(b'\n');
        Self { text, is_failed: written.error.is_some(), usage }
    }
}

/// The line of a result, and whether it failed; `None`: it is no result of ours.
pub(crate) fn read_result(text: &[u8]) -> Option<(LineId, bool)> {
    #[derive(Deserialize)]
    struct Read<'a> {
        #[serde(borrow)]
        id: std::borrow::Cow<'a, str>,
        error: Option<serde::de::IgnoredAny>,
    }
    let read: Read<'_> = serde_json::from_slice(text).ok()?;
    Some((LineId::of_result(&read.id)?, read.error.is_some()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LINE: LineId = LineId { number: 7, digest: 0xab };

    fn value(result: &ResultLine) -> Value {
        assert_eq!(result.text.split(|&byte| byte == b'\n').count(), 2);
        serde_json::from_slice(&result.text).unwrap()
    }

    #[test]
    fn a_body_is_passed_on_as_it_is() {
        let text = br#"{"body": {"a": 1e999,  "a": 2}, "x": [], "custom_id": "\u00e9", "method": "POST", "url": "/v1/x"}"#;
        let ask = read(text).unwrap();
        assert_eq!((ask.custom_id.as_str(), ask.url.as_str()), ("é", "/v1/x"));
        assert_eq!(&*ask.body, br#"{"a": 1e999,  "a": 2}"#);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said_under_its_custom_id() {
        let read = |text: &str| read(text.as_bytes()).unwrap_err();
        for text in ["", "{", "nonsense", "{}}", "\u{1}"] {
            assert_eq!((read(text).code, read(text).custom_id), ("invalid_json", None), "{text}");
        }
        for text in ["[]", "5", "{}", r#"{"custom_id": 5}"#, r#"{"custom_id": null}"#] {
            let got = read(text);
            assert_eq!((got.code, got.custom_id), ("invalid_request", None), "{text}");
        }
        for (rest, code, message) in [
            ("", "invalid_request", "`method` is missing"),
            (r#", "method": "GET""#, "invalid_method", "expected `POST`, got `GET`"),
            (r#", "method": "POST""#, "invalid_request", "`url` is missing"),
            (r#", "method": "POST", "url": 5"#, "invalid_request", "invalid url: "),
            (r#", "method": "POST", "url": "/""#, "invalid_request", "`body` is missing"),
        ] {
            let got = read(&format!(r#"{{"custom_id": "a"{rest}}}"#));
            assert_eq!((got.code, got.custom_id.as_deref()), (code, Some("a")));
            assert!(got.message.contains(message), "{}", got.message);
        }
    }

    #[test]
    fn an_answer_is_written_as_it_is_and_its_tokens_are_counted() {
        let body = r#"{"usage":{"prompt_tokens":5,"completion_tokens":2,"x":{}},"z":1.50}"#;
        let answered = Answered { status: 200, body: body.into() };
        let result = ResultLine::answered(LINE, "a", &answered);
        let expected = format!(
            r#"{{"id":"batch_req_7_00000000000000ab","custom_id":"a","response":{{"status_code":200,"request_id":"batch_req_7_00000000000000ab","body":{body}}},"error":null}}"#
        );
        assert_eq!(str::from_utf8(&result.text).unwrap(), format!("{expected}\n"));
        let usage = Usage { prompt_tokens: 5, completion_tokens: 2 };
        assert_eq!((result.is_failed, result.usage), (false, usage));
        assert_eq!(read_result(&result.text), Some((LINE, false)));
    }

    #[test]
    fn a_refusal_of_the_endpoint_is_response_and_error() {
        let error = json!({"message": "no", "type": "t", "param": null, "code": null});
        let body = json!({"error": error}).to_string().into_bytes();
        let result = ResultLine::answered(LINE, "a", &Answered { status: 400, body });
        let value = value(&result);
        assert_eq!(value["response"]["body"]["error"], error);
        assert_eq!(value["error"], json!({"code": "t", "message": "no"}));
        assert!(result.is_failed);
        assert_eq!(read_result(&result.text), Some((LINE, true)));
    }

    #[test]
    fn a_line_that_came_nowhere_has_no_response() {
        let refused = Refused { custom_id: None, code: "invalid_json", message: "x".to_owned() };
        let value = value(&ResultLine::refused(LINE, refused));
        assert_eq!((&value["custom_id"], &value["response"]), (&Value::Null, &Value::Null));
        assert_eq!(value["error"], json!({"code": "invalid_json", "message": "x"}));
    }

    #[test]
    fn only_ids_of_ours_are_read() {
        for id in [LINE, LineId { number: u64::MAX, digest: u64::MAX }] {
            assert_eq!(LineId::of_result(&id.result_id()), Some(id));
        }
        for id in [
            "",
            "batch_req_",
            "batch_req_1",
            "batch_req_1_ab",
            "batch_req_0_00000000000000ab",
            "batch_req_+1_00000000000000ab",
            "batch_req_01_00000000000000ab",
            "batch_req_1_000000000000000xy",
            "vllm-1",
        ] {
            assert_eq!(LineId::of_result(id), None, "{id}");
        }
        for text in ["", "{}", "[1]", r#"{"id": 5}"#, r#"{"id":"batch_req_1_00000000000000ab""#] {
            assert_eq!(read_result(text.as_bytes()), None, "{text}");
        }
    }
}
