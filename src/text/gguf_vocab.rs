//! The tokenizer inside a GGUF file.
//!
//! | `tokenizer.ggml.model` | Tokens are | Merges are | Text is cut by |
//! | --- | --- | --- | --- |
//! | `gpt2` | letters that stand for bytes | listed | `tokenizer.ggml.pre` |
//! | `llama` | text with `▁` for spaces, `<0xNN>` for bytes | listed, or implied by the scores | nothing |
//!
//! `SentencePiece` joins the neighbours whose joint token has the best score. That is a merge list in
//! disguise: every way to cut a token into two tokens is a merge, ranked by the token's score.
//!
//! A space goes in front of a text, and in front of what follows a special token, unless
//! `add_space_prefix` is false: so does the `SentencePiece` library, which sees the parts of a chat
//! prompt one by one.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NFC, NormalizerWrapper, Prepend, Replace, Sequence};
use tokenizers::{AddedToken, Tokenizer as Machine};

use super::decoder::Decoder;
use super::error::TextError;
use super::pre_tokenizer::PreTokenizer;
use super::segmenter::{Segmenter, guarded};
use super::tokenizer::{Inner, NamedToken};
use super::vocabulary::{MAX_VOCAB_SIZE, Vocabulary};

const MODELS: [&str; 2] = ["gpt2", "llama"];
/// Finding every cut of a token takes the square of its length; real ones stay below 50 bytes.
const MAX_JOINED_BYTES: usize = 256;

/// The fields `tokenizer.ggml.*` of a GGUF file, as they are there.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `model`: the kind of tokenizer, `gpt2` or `llama`.
    pub model: String,
    /// `pre`: the pre-tokenizer; only for `gpt2`.
    pub pre: Option<String>,
    /// `tokens`: the vocabulary, by id.
    pub tokens: Vec<String>,
    /// `scores`: how soon a token is merged, by id; higher is sooner.
    pub scores: Option<Vec<f32>>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; by id.
    pub token_types: Option<Vec<i32>>,
    /// `merges`: pairs of tokens separated by a space, the first to be merged first.
    pub merges: Option<Vec<String>>,
    /// `bos_token_id`.
    pub bos_token_id: Option<u32>,
    /// `eos_token_id`.
    pub eos_token_id: Option<u32>,
    /// `unknown_token_id`.
    pub unknown_token_id: Option<u32>,
    /// `padding_token_id`.
    pub padding_token_id: Option<u32>,
    /// `add_bos_token`.
    pub add_bos_token: Option<bool>,
    /// `add_eos_token`.
    pub add_eos_token: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

/// The values of `tokenizer.ggml.token_type` that matter here.
mod token_type {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
}

/// The machine for one kind of vocabulary, with what goes around it.
struct Parts {
    machine: Machine,
    decoder: Decoder,
    growth: u64,
    adds_bos: bool,
}

pub(super) fn build_tokenizer(vocab: GgufVocab) -> Result<Inner, TextError> {
    check(&vocab)?;
    let Parts { mut machine, decoder, growth, adds_bos } = match vocab.model.as_str() {
        "gpt2" => byte_level(&vocab)?,
        "llama" => sentencepiece(&vocab)?,
        other => {
            return Err(TextError::Unsupported {
                what: "tokenizer.ggml.model",
                name: other.to_owned(),
                supported: MODELS.join(", "),
            });
        }
    };
    guarded(|| machine.add_tokens(added_tokens(&vocab)))
        .map_err(|error| invalid("tokens", error))?;

    let mut vocabulary = Vocabulary::default();
    for (id, token) in (0_u32..).zip(&vocab.tokens) {
        vocabulary.insert(id, &decoder.bytes_of(token, false), is_special(&vocab, id))?;
    }
    let named =
        |id: Option<u32>| id.map(|id| NamedToken { text: vocab.tokens[id as usize].clone(), id });
    Ok(Inner {
        segmenter: Segmenter::new(machine, growth),
        decoder,
        vocabulary,
        bos: named(vocab.bos_token_id),
        eos: named(vocab.eos_token_id),
        adds_bos: vocab.add_bos_token.unwrap_or(adds_bos),
        adds_eos: vocab.add_eos_token.unwrap_or(false),
    })
}

fn invalid(field: &str, problem: impl ToString) -> TextError {
    TextError::invalid(format!("tokenizer.ggml.{field}"), problem)
}

/// Lengths agree and ids are indices: the rest of the file relies on it.
fn check(vocab: &GgufVocab) -> Result<(), TextError> {
    let num_tokens = vocab.tokens.len();
    if num_tokens == 0 || num_tokens > MAX_VOCAB_SIZE {
        let problem =
            format!("has {num_tokens} tokens, between 1 and {MAX_VOCAB_SIZE} are allowed");
        return Err(invalid("tokens", problem));
    }
    let lengths = [
        ("scores", vocab.scores.as_ref().map(Vec::len)),
        ("token_type", vocab.token_types.as_ref().map(Vec::len)),
    ];
    for (field, length) in lengths {
        if let Some(length) = length.filter(|&length| length != num_tokens) {
            return Err(invalid(field, format!("has {length} entries for {num_tokens} tokens")));
        }
    }
    let ids = [
        ("bos_token_id", vocab.bos_token_id),
        ("eos_token_id", vocab.eos_token_id),
        ("unknown_token_id", vocab.unknown_token_id),
        ("padding_token_id", vocab.padding_token_id),
    ];
    for (field, id) in ids {
        if let Some(id) = id.filter(|&id| id as usize >= num_tokens) {
            return Err(invalid(field, format!("is {id}, but there are {num_tokens} tokens")));
        }
    }
    if let Some(id) = vocab.scores.iter().flatten().position(|score| score.is_nan()) {
        return Err(invalid("scores", format!("the score of token {id} is not a number")));
    }
    Ok(())
}

fn type_of(vocab: &GgufVocab, id: u32) -> i32 {
    let types = vocab.token_types.as_ref();
    types.map_or(token_type::NORMAL, |types| types[id as usize])
}

/// BOS and EOS are special whatever their type says: old files give them none.
fn is_special(vocab: &GgufVocab, id: u32) -> bool {
    matches!(type_of(vocab, id), token_type::CONTROL | token_type::UNKNOWN)
        || [vocab.bos_token_id, vocab.eos_token_id].contains(&Some(id))
}

/// Tokens that are recognised in a text before it is cut.
fn added_tokens(vocab: &GgufVocab) -> Vec<AddedToken> {
    (0_u32..)
        .zip(&vocab.tokens)
        .filter_map(|(id, token)| {
            let special = is_special(vocab, id);
            let is_added = special || type_of(vocab, id) == token_type::USER_DEFINED;
            is_added.then(|| AddedToken::from(token.as_str(), special).normalized(false))
        })
        .collect()
}

/// Of equal tokens, the last one wins, as it does in the reference.
fn ids_by_token(vocab: &GgufVocab) -> Vocab {
    vocab.tokens.iter().cloned().zip(0_u32..).collect()
}

fn byte_level(vocab: &GgufVocab) -> Result<Parts, TextError> {
    let pre_tokenizer = PreTokenizer::by_name(vocab.pre.as_deref().unwrap_or("default"))?;
    let merges = listed_merges(vocab)?.ok_or_else(|| invalid("merges", "is missing"))?;
    let bpe = guarded(|| {
        BPE::builder()
            .vocab_and_merges(ids_by_token(vocab), merges)
            .ignore_merges(pre_tokenizer.ignores_merges)
            .build()
    });
    let mut machine = Machine::new(bpe.map_err(|error| invalid("merges", error))?);
    let mut growth = 2;
    if pre_tokenizer.normalises_nfc {
        growth *= 3;
        set_normaliser(&mut machine, vec![NFC.into()])?;
    }
    machine.with_pre_tokenizer(Some(pre_tokenizer.build()?));
    Ok(Parts { machine, decoder: Decoder::byte_level(), growth, adds_bos: pre_tokenizer.adds_bos })
}

fn sentencepiece(vocab: &GgufVocab) -> Result<Parts, TextError> {
    let merges = match listed_merges(vocab)? {
        Some(merges) => merges,
        None => merges_of_scores(vocab)?,
    };
    let bpe = guarded(|| {
        let mut builder = BPE::builder()
            .vocab_and_merges(ids_by_token(vocab), merges)
            .byte_fallback(true)
            .fuse_unk(true);
        if let Some(unknown) = vocab.unknown_token_id {
            builder = builder.unk_token(vocab.tokens[unknown as usize].clone());
        }
        builder.build()
    });
    let mut machine = Machine::new(bpe.map_err(|error| invalid("merges", error))?);
    let has_space_prefix = vocab.add_space_prefix.unwrap_or(true);
    let mut normalisers: Vec<NormalizerWrapper> = Vec::new();
    if has_space_prefix {
        normalisers.push(Prepend::new("▁".to_owned()).into());
    }
    let replace = guarded(|| Replace::new(" ".to_owned(), "▁"));
    normalisers.push(replace.map_err(TextError::Encode)?.into());
    set_normaliser(&mut machine, normalisers)?;
    Ok(Parts {
        machine,
        decoder: Decoder::sentencepiece(has_space_prefix),
        // A prefix of three bytes in front of one, and three bytes for every space.
        growth: 4 * 3,
        adds_bos: true,
    })
}

fn set_normaliser(machine: &mut Machine, parts: Vec<NormalizerWrapper>) -> Result<(), TextError> {
    guarded(|| machine.with_normalizer(Some(Sequence::new(parts))).map(|_| ()))
        .map_err(TextError::Encode)
}

fn listed_merges(vocab: &GgufVocab) -> Result<Option<Merges>, TextError> {
    let Some(merges) = &vocab.merges else {
        return Ok(None);
    };
    let pairs = merges.iter().enumerate().map(|(rank, merge)| match merge.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => {
            Err(invalid("merges", format!("entry {rank} is `{merge}`, not two tokens and a space")))
        }
    });
    pairs.collect::<Result<_, _>>().map(Some)
}

/// Every way to cut a token into two tokens, best score first.
fn merges_of_scores(vocab: &GgufVocab) -> Result<Merges, TextError> {
    let Some(scores) = &vocab.scores else {
        return Err(invalid("scores", "is missing, and so are merges"));
    };
    // Tokens that stand for structure or for a byte are never made by joining text.
    let is_text = |&(id, _): &(u32, &String)| {
        type_of(vocab, id) == token_type::NORMAL && !is_special(vocab, id)
    };
    let text_tokens: HashMap<&str, u32> = (0_u32..)
        .zip(&vocab.tokens)
        .filter(is_text)
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let mut by_score: Vec<(&str, u32)> =
        text_tokens.iter().map(|(&token, &id)| (token, id)).collect();
    by_score.sort_unstable_by(|&(_, a), &(_, b)| {
        scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b))
    });
    let mut merges = Merges::new();
    for (token, id) in by_score {
        if token.len() > MAX_JOINED_BYTES {
            let problem = format!(
                "token {id} has {} bytes, at most {MAX_JOINED_BYTES} are allowed",
                token.len()
            );
            return Err(invalid("tokens", problem));
        }
        for (middle, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(middle);
            if text_tokens.contains_key(left) && text_tokens.contains_key(right) {
                merges.push((left.to_owned(), right.to_owned()));
            }
        }
    }
    Ok(merges)
}
