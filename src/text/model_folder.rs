//! The tokenizer of a model folder.
//!
//! | File | What is read |
//! | --- | --- |
//! | `tokenizer.json` | everything that turns text into ids and back |
//! | `tokenizer_config.json` | which tokens are BOS and EOS, and whether to add them |
//! | `special_tokens_map.json` | the same, where the configuration has neither |
//!
//! What `tokenizer.json` adds around a text (its post-processor) wins; `add_bos_token` counts only
//! when it has no such part. Its truncation and padding are ignored: they are settings of training.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer as Machine;

use super::decoder::Decoder;
use super::error::TextError;
use super::growth;
use super::segmenter::{Segmenter, guarded};
use super::text_file;
use super::tokenizer::{Inner, NamedToken};
use super::vocabulary::Vocabulary;

const TOKENIZER_FILE: &str = "tokenizer.json";
/// The largest vocabularies in use make files of about 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
pub(super) const CONFIG_FILE: &str = "tokenizer_config.json";
pub(super) const MAX_CONFIG_BYTES: u64 = 16 << 20;
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";

const MODELS: [&str; 4] = ["BPE", "Unigram", "WordLevel", "WordPiece"];

/// The parts of `tokenizer.json` that are checked or used outside the segmenter.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// What `tokenizer_config.json` says about BOS and EOS.
#[derive(Default, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the fields are the keys of the file")]
struct TokenizerConfig {
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
}

/// A token in plain text, or with the flags of an added token.
#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Added { content: String },
}

impl SpecialToken {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

/// The BOS and EOS tokens that the folder's configuration names, as text.
pub(super) fn special_tokens(folder: &Path) -> Result<(Option<String>, Option<String>), TextError> {
    let config = read_config(folder)?;
    Ok((
        config.bos_token.map(SpecialToken::into_text),
        config.eos_token.map(SpecialToken::into_text),
    ))
}

fn read_config(folder: &Path) -> Result<TokenizerConfig, TextError> {
    let read = |file| text_file::read_json::<TokenizerConfig>(&folder.join(file), MAX_CONFIG_BYTES);
    let mut config = read(CONFIG_FILE)?.unwrap_or_default();
    if config.bos_token.is_none() && config.eos_token.is_none() {
        let special = read(SPECIAL_TOKENS_FILE)?.unwrap_or_default();
        (config.bos_token, config.eos_token) = (special.bos_token, special.eos_token);
    }
    Ok(config)
}

pub(super) fn load_tokenizer(folder: &Path) -> Result<Inner, TextError> {
    let path = folder.join(TOKENIZER_FILE);
    let Some(text) = text_file::read(&path, MAX_TOKENIZER_BYTES)? else {
        return Err(TextError::NotFound { file: TOKENIZER_FILE, folder: folder.to_owned() });
    };
    let config = read_config(folder)?;
    build(&text, config).map_err(|error| match error {
        TextError::Invalid { place, problem } if place.is_empty() => {
            TextError::invalid(path.display().to_string(), problem)
        }
        TextError::Invalid { place, problem } => {
            TextError::invalid(format!("{}: {place}", path.display()), problem)
        }
        other => other,
    })
}

/// Errors have a place within the file.
fn build(text: &str, config: TokenizerConfig) -> Result<Inner, TextError> {
    let broken = |error: String| TextError::invalid("", error);
    let file: TokenizerFile =
        serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
    if let Some(kind) = file.model.kind.filter(|kind| !MODELS.contains(&kind.as_str())) {
        return Err(TextError::Unsupported {
            what: "tokenizer model",
            name: kind,
            supported: MODELS.join(", "),
        });
    }
    let growth = growth::bound("normalizer", &file.normalizer)?
        .saturating_mul(growth::bound("pre-tokenizer", &file.pre_tokenizer)?);
    let decoder = Decoder::from_json(&file.decoder)?;

    let machine = guarded(|| {
        let mut machine = Machine::from_bytes(text)?;
        machine.with_truncation(None)?.with_padding(None);
        Ok(machine)
    });
    let segmenter = Segmenter::new(machine.map_err(broken)?, growth);
    check_added_tokens(&segmenter, &file.added_tokens)?;
    let vocabulary = vocabulary(&segmenter, &decoder)?;

    let named = |token: Option<SpecialToken>| {
        let text = token?.into_text();
        let id = segmenter.token_to_id(&text)?;
        Some(NamedToken { text, id })
    };
    let is_silent = !adds_tokens(&file.post_processor);
    Ok(Inner {
        bos: named(config.bos_token),
        eos: named(config.eos_token),
        adds_bos: is_silent && config.add_bos_token == Some(true),
        adds_eos: is_silent && config.add_eos_token == Some(true),
        segmenter,
        decoder,
        vocabulary,
    })
}

/// The segmenter numbers added tokens by itself, going on where the vocabulary ends, and does not
/// look at the id in the file.
fn check_added_tokens(segmenter: &Segmenter, added: &[AddedToken]) -> Result<(), TextError> {
    for token in added {
        match segmenter.token_to_id(&token.content) {
            Some(id) if id == token.id => {}
            Some(id) => {
                let problem =
                    format!("`{}` has id {} but its place is {id}", token.content, token.id);
                return Err(TextError::invalid("added_tokens", problem));
            }
            None => {
                let problem = format!("the token with id {} is empty", token.id);
                return Err(TextError::invalid("added_tokens", problem));
            }
        }
    }
    Ok(())
}

fn vocabulary(segmenter: &Segmenter, decoder: &Decoder) -> Result<Vocabulary, TextError> {
    let is_special: HashMap<u32, bool> =
        segmenter.added_tokens().map(|(id, token)| (id, token.special)).collect();
    let mut vocabulary = Vocabulary::default();
    for (token, id) in segmenter.tokens() {
        let special = is_special.get(&id).copied().unwrap_or(false);
        // A normalised added token is decoded as it was normalised, which only its id tells.
        let spelling = if is_special.contains_key(&id) {
            segmenter.id_to_token(id).unwrap_or(token)
        } else {
            token
        };
        vocabulary.insert(id, &decoder.bytes_of(&spelling, false), special)?;
    }
    Ok(vocabulary)
}

/// Whether the post-processor is of a kind that adds tokens, and so has the say about BOS and EOS.
fn adds_tokens(post_processor: &Value) -> bool {
    match post_processor.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            let members = post_processor.get("processors").and_then(Value::as_array);
            members.into_iter().flatten().any(adds_tokens)
        }
        Some("TemplateProcessing" | "BertProcessing" | "RobertaProcessing") => true,
        _ => false,
    }
}
