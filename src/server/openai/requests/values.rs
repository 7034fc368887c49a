//! Values of fields that take more than one form, each of them bounded.
//!
//! | Type | Forms |
//! | --- | --- |
//! | [`Prompt`], [`Inputs`] | a text, a list of texts, token ids, a list of lists of them |
//! | [`Stop`], [`TokenIds`], [`LogitBias`] | what their names say |
//! | [`Json`] | any JSON, such as a schema, of at most [`MAX_JSON_BYTES`] |
//!
//! What this module deliberately does not do: ranges that the engine checks.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{MAX_PROMPTS, MAX_STOP_TOKEN_IDS};
use crate::engine::MAX_LOGIT_BIASES;

/// Most inputs of one request for embeddings, as `OpenAI` has it.
pub(in crate::server::openai) const MAX_INPUTS: usize = 2048;
/// Longest JSON text of a field that holds any JSON. As a tree of values it takes up to twenty
/// times as much memory.
pub(in crate::server::openai) const MAX_JSON_BYTES: usize = 1 << 20;

/// The prompt of a completion request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server::openai) enum Prompt {
    Texts(Vec<String>),
    TokenIds(Vec<Vec<u32>>),
}

/// What embeddings are wanted of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server::openai) struct Inputs(pub(in crate::server::openai) Prompt);

/// Stop strings.
#[derive(Debug, Default)]
pub(in crate::server::openai) struct Stop(pub(in crate::server::openai) Vec<String>);

/// A list of token ids, not longer than [`MAX_STOP_TOKEN_IDS`].
#[derive(Debug, Default)]
pub(in crate::server::openai) struct TokenIds(pub(in crate::server::openai) Vec<u32>);

/// What is added to the logits of tokens, by id.
#[derive(Debug, Default)]
pub(in crate::server::openai) struct LogitBias(pub(in crate::server::openai) BTreeMap<u32, f64>);

/// Any JSON, kept as a tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::server::openai) struct Json(pub(in crate::server::openai) Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let num_bytes = raw.get().len();
        if num_bytes > MAX_JSON_BYTES {
            let problem = format!("expected at most {MAX_JSON_BYTES} bytes of JSON");
            return Err(D::Error::custom(format!("{problem}, got {num_bytes}")));
        }
        serde_json::from_str(raw.get()).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor { max_prompts: MAX_PROMPTS })
    }
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor { max_prompts: MAX_INPUTS }).map(Self)
    }
}

struct PromptVisitor {
    max_prompts: usize,
}

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids or a list of such lists")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Texts(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
        let max_prompts = self.max_prompts;
        let too_many = || A::Error::custom(format!("expected at most {max_prompts} prompts"));
        match list.next_element()? {
            None => Ok(Prompt::Texts(Vec::new())),
            Some(PromptItem::TokenId(first)) => {
                let mut ids = vec![first];
                while let Some(id) = list.next_element()? {
                    ids.push(id);
                }
                Ok(Prompt::TokenIds(vec![ids]))
            }
            Some(PromptItem::Text(first)) => {
                let mut texts = vec![first];
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                    if texts.len() > max_prompts {
                        return Err(too_many());
                    }
                }
                Ok(Prompt::Texts(texts))
            }
            Some(PromptItem::TokenIds(first)) => {
                let mut prompts = vec![first];
                while let Some(ids) = list.next_element()? {
                    prompts.push(ids);
                    if prompts.len() > max_prompts {
                        return Err(too_many());
                    }
                }
                Ok(Prompt::TokenIds(prompts))
            }
        }
    }
}

/// The first element of a list of prompts; the others must be of its kind.
enum PromptItem {
    Text(String),
    TokenId(u32),
    TokenIds(Vec<u32>),
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;

        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = PromptItem;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id (0 to 4294967295) or a list of token ids")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PromptItem, E> {
                Ok(PromptItem::Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<PromptItem, E> {
                let out_of_range = |_| E::invalid_value(Unexpected::Unsigned(id), &self);
                u32::try_from(id).map(PromptItem::TokenId).map_err(out_of_range)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PromptItem, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = list.next_element()? {
                    ids.push(id);
                }
                Ok(PromptItem::TokenIds(ids))
            }
        }

        deserializer.deserialize_any(ItemVisitor)
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StopVisitor;

        impl<'de> Visitor<'de> for StopVisitor {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Stop, A::Error> {
                let mut stop = Vec::new();
                while let Some(text) = list.next_element()? {
                    stop.push(text);
                }
                Ok(Stop(stop))
            }
        }

        deserializer.deserialize_any(StopVisitor)
    }
}

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ids = Vec::<u32>::deserialize(deserializer)?;
        if ids.len() > MAX_STOP_TOKEN_IDS {
            let got = ids.len();
            return Err(D::Error::custom(format!(
                "expected at most {MAX_STOP_TOKEN_IDS} token ids, got {got}"
            )));
        }
        Ok(Self(ids))
    }
}

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BiasVisitor;

        impl<'de> Visitor<'de> for BiasVisitor {
            type Value = LogitBias;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with token ids as keys and numbers as values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
                let mut biases = BTreeMap::new();
                while let Some((key, bias)) = map.next_entry::<String, f64>()? {
                    let token_id: u32 = key.parse().map_err(|_| {
                        A::Error::invalid_value(Unexpected::Str(&key), &"a token id as key")
                    })?;
                    biases.insert(token_id, bias);
                    if biases.len() > MAX_LOGIT_BIASES {
                        let problem = format!("expected at most {MAX_LOGIT_BIASES} tokens");
                        return Err(A::Error::custom(problem));
                    }
                }
                Ok(LogitBias(biases))
            }
        }

        deserializer.deserialize_map(BiasVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::openai::json::parse;
    use crate::server::openai::requests::{
        CompletionRequest, NOT_SUPPORTED_IN_COMPLETIONS, SamplingFields,
    };

    fn prompt(json: &str) -> Result<Prompt, String> {
        let body = format!(r#"{{"prompt": {json}}}"#);
        parse::<CompletionRequest>(body.as_bytes(), NOT_SUPPORTED_IN_COMPLETIONS)
            .map(|request| request.prompt.unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_prompt_comes_in_four_forms() {
        let texts =
            |texts: &[&str]| Ok(Prompt::Texts(texts.iter().copied().map(String::from).collect()));
        assert_eq!(prompt(r#""a\u0000b""#), texts(&["a\0b"]));
        assert_eq!(prompt(r#"["a", "b"]"#), texts(&["a", "b"]));
        assert_eq!(prompt("[1, 2]"), Ok(Prompt::TokenIds(vec![vec![1, 2]])));
        assert_eq!(prompt("[[1], [2, 3]]"), Ok(Prompt::TokenIds(vec![vec![1], vec![2, 3]])));
        assert_eq!(prompt("[]"), texts(&[]));
        assert_eq!(prompt("[[]]"), Ok(Prompt::TokenIds(vec![vec![]])));
    }

    #[test]
    fn other_prompts_are_refused() {
        for json in [
            "5",
            "true",
            "{}",
            "1.5",
            "[1, \"a\"]",
            "[\"a\", 1]",
            "[[1], 2]",
            "[-1]",
            "[1.5]",
            "[1099511627776]",
            "[[[1]]]",
            "[null]",
            "[{}]",
        ] {
            let error = prompt(json).unwrap_err();
            assert!(error.starts_with("invalid prompt: "), "{json}: {error}");
        }
        let many = format!("[{}\"x\"]", "\"x\",".repeat(3_000));
        assert!(prompt(&many).unwrap_err().contains("at most 128 prompts"));
    }

    #[test]
    fn a_bias_has_token_ids_for_keys() {
        let read = |bias: &str| {
            let body = format!(r#"{{"logit_bias": {bias}}}"#);
            parse::<SamplingFields>(body.as_bytes(), &[]).map(|fields| fields.logit_bias.unwrap().0)
        };
        let two = read(r#"{"7": 1, "8": -2.5, "7": 3}"#).unwrap();
        assert_eq!(
            two,
            [(7, 3.0), (8, -2.5)].into(),
            "of a key that appears twice the last one counts"
        );
        assert_eq!(read("{}").unwrap(), BTreeMap::new());
        for bad in
            [r#"{"x": 1}"#, r#"{"-1": 1}"#, r#"{"1.5": 1}"#, r#"{"1": "2"}"#, "[1]", "[[1, 2]]"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many: Vec<String> = (0..=MAX_LOGIT_BIASES).map(|id| format!(r#""{id}": 1"#)).collect();
        assert!(read(&format!("{{{}}}", many.join(","))).is_err());
    }
}
