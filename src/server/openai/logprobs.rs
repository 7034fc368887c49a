//! Log probabilities as clients get them, in three shapes.
//!
//! | Where | Shape |
//! | --- | --- |
//! | a chat's choice | [`ChatLogprobs`]: a list of tokens, each with its bytes and a list of the likeliest |
//! | a text completion's choice | [`TextLogprobs`]: four lists side by side, one entry per token |
//! | `prompt_logprobs` | [`PromptLogprobs`]: per token of the prompt an object by token id |
//!
//! There is one entry for each generated token, an end-of-text token included. A token whose bytes
//! are no text, since it is part of a character, is written as `OpenAI` does: `bytes:\xf0\x9f`. So
//! two different tokens never look alike in a list of the likeliest.
//!
//! What this module deliberately does not do: it computes no probability.

use std::fmt::Write as _;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::engine::TokenLogprobs;
use crate::text::{Detokenizer, Tokenizer};

/// Stands for what is less likely: JSON has no infinity.
const LOWEST: f32 = -9999.0;

/// How tokens are called: by their text, or as `token_id:7`.
#[derive(Clone, Debug)]
pub(super) struct TokenNames {
    pub(super) tokenizer: Tokenizer,
    /// vLLM's `return_tokens_as_token_ids`: no two tokens have one name then.
    pub(super) is_by_id: bool,
}

impl TokenNames {
    fn name(&self, token_id: u32) -> String {
        if self.is_by_id {
            format!("token_id:{token_id}")
        } else {
            text_of(bytes_of(&self.tokenizer, token_id))
        }
    }
}

/// `logprobs` of a chat's choice.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
    #[schema(schema_with = super::types::null)]
    refusal: (),
}

#[derive(Debug, Serialize, ToSchema)]
struct ChatToken {
    #[serde(flatten)]
    token: Likely,
    top_logprobs: Vec<Likely>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Likely {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Of some tokens of a choice.
    pub(super) fn new(names: &TokenNames, logprobs: &[TokenLogprobs]) -> Self {
        let likely = |token_id, logprob: f32| Likely {
            token: names.name(token_id),
            logprob: logprob.max(LOWEST),
            bytes: bytes_of(&names.tokenizer, token_id).to_vec(),
        };
        let token = |entry: &TokenLogprobs| ChatToken {
            token: likely(entry.token_id, entry.logprob),
            top_logprobs: entry.top.iter().map(|&(id, logprob)| likely(id, logprob)).collect(),
        };
        Self { content: logprobs.iter().map(token).collect(), refusal: () }
    }
}

/// `logprobs` of a text completion's choice.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub(super) struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<ByText>>,
    /// Where each token begins in the choice's text, in characters.
    text_offset: Vec<usize>,
}

impl TextLogprobs {
    /// Adds a token of a prompt or of a choice, with at most `num_top` of the likeliest and always
    /// itself. The first token of a prompt has no probability.
    pub(super) fn push(
        &mut self,
        names: &TokenNames,
        token_id: u32,
        logprobs: Option<(&TokenLogprobs, usize)>,
        offsets: &mut Offsets,
    ) {
        let text = names.name(token_id);
        self.token_logprobs.push(logprobs.map(|(entry, _)| entry.logprob.max(LOWEST)));
        self.top_logprobs.push(logprobs.map(|(entry, num_top)| {
            let mut likely = ByText::default();
            for &(token_id, logprob) in entry.top.iter().take(num_top) {
                likely.insert(names.name(token_id), logprob.max(LOWEST));
            }
            likely.insert(text.clone(), entry.logprob.max(LOWEST));
            likely
        }));
        self.tokens.push(text);
        self.text_offset.push(offsets.next(token_id));
    }
}

/// A JSON object from texts of tokens to log probabilities, likeliest first.
#[derive(Debug, Default, PartialEq, ToSchema)]
#[schema(value_type = BTreeMap<String, f32>)]
struct ByText(Vec<(String, f32)>);

impl ByText {
    fn insert(&mut self, text: String, logprob: f32) {
        if self.0.iter().all(|(known, _)| *known != text) {
            self.0.push((text, logprob));
        }
    }
}

impl Serialize for ByText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}

/// Where in a text the next token begins.
#[derive(Debug)]
pub(super) struct Offsets {
    detokenizer: Detokenizer,
    num_chars: usize,
}

impl Offsets {
    /// Of tokens whose text comes after so many characters.
    pub(super) fn new(detokenizer: Detokenizer, num_chars: usize) -> Self {
        Self { detokenizer, num_chars }
    }

    /// A character belongs to the token that completes it.
    fn next(&mut self, token_id: u32) -> usize {
        let offset = self.num_chars;
        // What the tokenizer has no token for has no text.
        let text = self.detokenizer.push(token_id).unwrap_or_default();
        self.num_chars += text.chars().count();
        offset
    }
}

/// vLLM's `prompt_logprobs`: null for the first token, then an object by token id.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PromptLogprobs(Vec<Option<ById>>);

impl PromptLogprobs {
    /// Of a prompt's tokens, each with at most `num_top` of the likeliest.
    pub(super) fn new(
        tokenizer: &Tokenizer,
        logprobs: &[Option<TokenLogprobs>],
        num_top: usize,
    ) -> Self {
        let by_id = |entry: &TokenLogprobs| {
            let ranked = (1..).zip(entry.top.iter().take(num_top));
            let others = ranked
                .filter(|(_, (token_id, _))| *token_id != entry.token_id)
                .map(|(rank, &(token_id, logprob))| (token_id, logprob, rank));
            let own = (entry.token_id, entry.logprob, entry.rank);
            let ranked = std::iter::once(own).chain(others);
            ById(ranked.map(|token| Ranked::new(tokenizer, token)).collect())
        };
        Self(logprobs.iter().map(|entry| entry.as_ref().map(by_id)).collect())
    }
}

/// A JSON object by token id; the prompt's own token is the first.
#[derive(Debug, ToSchema)]
#[schema(value_type = BTreeMap<String, Ranked>)]
struct ById(Vec<(u32, Ranked)>);

#[derive(Debug, Serialize, ToSchema)]
struct Ranked {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}

impl Ranked {
    fn new(tokenizer: &Tokenizer, (token_id, logprob, rank): (u32, f32, u32)) -> (u32, Self) {
        let decoded_token = text_of(bytes_of(tokenizer, token_id));
        (token_id, Self { logprob: logprob.max(LOWEST), rank, decoded_token })
    }
}

impl Serialize for ById {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token_id, ranked)| (token_id, ranked)))
    }
}

/// What a token stands for; nothing where the tokenizer has no such token.
fn bytes_of(tokenizer: &Tokenizer, token_id: u32) -> &[u8] {
    tokenizer.token_bytes(token_id).unwrap_or_default()
}

fn text_of(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::fake;

    /// A token of these tests' tokenizer is a byte.
    fn entry(token: u8, logprob: f32, top: &[(u8, f32)]) -> TokenLogprobs {
        let top = top.iter().map(|&(token, logprob)| (token.into(), logprob)).collect();
        TokenLogprobs { token_id: token.into(), logprob, rank: 3, top }
    }

    fn json(value: &impl Serialize) -> serde_json::Value {
        serde_json::from_slice(&serde_json::to_vec(value).unwrap()).unwrap()
    }

    fn names(is_by_id: bool) -> TokenNames {
        TokenNames { tokenizer: fake::tokenizer(), is_by_id }
    }

    #[test]
    fn tokens_are_called_by_their_ids_where_that_is_asked_for() {
        let got = ChatLogprobs::new(&names(true), &[entry(b'a', -1.5, &[(b'b', -0.5)])]);
        let got = json(&got);
        assert_eq!(got["content"][0]["token"], "token_id:97");
        assert_eq!(got["content"][0]["top_logprobs"][0]["token"], "token_id:98");
        assert_eq!(got["content"][0]["bytes"], json!([97]));
    }

    #[test]
    fn a_chat_has_bytes_and_no_more_than_the_likeliest() {
        let got = ChatLogprobs::new(&names(false), &[entry(b'a', -1.5, &[(b'b', -0.5)])]);
        let token = |text: &str, logprob: f32| json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()});
        let mut expected = token("a", -1.5);
        expected["top_logprobs"] = json!([token("b", -0.5)]);
        assert_eq!(json(&got), json!({"content": [expected], "refusal": null}));
    }

    #[test]
    fn a_text_has_four_lists_and_the_token_itself_among_the_likeliest() {
        let names = names(false);
        let mut offsets = Offsets::new(names.tokenizer.detokenizer(true), 4);
        let mut got = TextLogprobs::default();
        got.push(&names, b'a'.into(), None, &mut offsets);
        let second = entry(b'b', f32::NEG_INFINITY, &[(b'c', -0.5), (b'd', -0.75)]);
        got.push(&names, b'b'.into(), Some((&second, 1)), &mut offsets);
        let expected = json!({
            "tokens": ["a", "b"], "token_logprobs": [null, -9999.0],
            "top_logprobs": [null, {"c": -0.5, "b": -9999.0}], "text_offset": [4, 5],
        });
        assert_eq!(json(&got), expected);
    }

    #[test]
    fn a_prompt_is_told_by_token_id_with_ranks() {
        let tokenizer = fake::tokenizer();
        let second = entry(b'b', -2.0, &[(b'a', -0.5), (b'b', -2.0), (b'c', -3.0)]);
        let got = PromptLogprobs::new(&tokenizer, &[None, Some(second)], 2);
        let token = |text: &str, logprob: f32, rank: u32| json!({"logprob": logprob, "rank": rank, "decoded_token": text});
        assert_eq!(
            json(&got),
            json!([null, {"98": token("b", -2.0, 3), "97": token("a", -0.5, 1)}])
        );
    }

    #[test]
    fn part_of_a_character_is_written_as_bytes() {
        assert_eq!(text_of("é".as_bytes()), "é");
        assert_eq!(text_of(&[0xc3]), "bytes:\\xc3");
        assert_eq!(text_of(&[0xf0, 0x9f]), "bytes:\\xf0\\x9f");
    }
}
