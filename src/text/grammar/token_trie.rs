//! The vocabulary as the library wants it: bytes of every token, special tokens marked.
//!
//! ```text
//! id          0          1      2         3            4     5 (beyond the tokenizer)
//! token       <|end|>    a      (hole)    <0x61>       FF    -
//! for us      FF <|end|> a                (twin of 1)
//! ```
//!
//! A token that stands for no bytes is never allowed by a grammar, and neither is one with a byte
//! that no text has. The library keeps one token for each string of bytes; its twins follow it.
//!
//! What this module deliberately does not do: tokenizing. Which of several ways to write a text is
//! taken is left to the model.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::super::tokenizer::Tokenizer;
use super::error::GrammarError;

/// The library has as many bits for a token's length.
const MAX_TOKEN_BYTES: usize = 1000;
/// And for ids.
const MAX_VOCAB_SIZE: usize = (1 << 24) - 2;

/// One model's tokens.
pub(super) struct TokenTrie {
    pub(super) env: TokEnv,
    /// Tokens that stand for the same bytes as another one, and that one.
    twins: Vec<(u32, u32)>,
}

impl TokenTrie {
    /// The tokens of a tokenizer that have a place among so many logits.
    ///
    /// # Errors
    /// Without an end-of-text token, and for vocabularies beyond every use.
    pub(super) fn new(
        tokenizer: &Tokenizer,
        vocab_size: usize,
        eos: &[u32],
    ) -> Result<Self, GrammarError> {
        let size = vocab_size.min(tokenizer.vocab_size());
        if !(1..=MAX_VOCAB_SIZE).contains(&size) {
            return Err(GrammarError::Vocabulary(format!(
                "expected 1 to {MAX_VOCAB_SIZE} tokens, got {size}"
            )));
        }
        let eos: Vec<u32> = eos.iter().copied().filter(|id| (*id as usize) < size).collect();
        let Some(&first_eos) = eos.first() else {
            let problem = format!("expected an end-of-text token below {size}, got none");
            return Err(GrammarError::Vocabulary(problem));
        };
        let mut words = Vec::with_capacity(size);
        let mut twins = Vec::new();
        let mut by_bytes = HashMap::new();
        for id in 0..size as u32 {
            let word = word_of(tokenizer, id, eos.contains(&id));
            if word.is_empty() {
                words.push(word);
            } else if let Some(&of) = by_bytes.get(&word) {
                twins.push((id, of));
                words.push(Vec::new());
            } else {
                by_bytes.insert(word.clone(), id);
                words.push(word);
            }
        }
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, first_eos), &words);
        let trie = trie.with_eos_tokens(&eos);
        Ok(Self { env: Arc::new(ApproximateTokEnv::new(trie)), twins })
    }

    /// Tokens that stand for the same bytes as another one, and that one.
    pub(super) fn twins(&self) -> &[(u32, u32)] {
        &self.twins
    }

    /// The token that the library knows for those bytes.
    pub(super) fn original(&self, token_id: u32) -> u32 {
        // In order of the first of each pair.
        match self.twins.binary_search_by_key(&token_id, |(twin, _)| *twin) {
            Ok(idx) => self.twins[idx].1,
            Err(_) => token_id,
        }
    }
}

/// The bytes of a token; none where a grammar never allows it.
fn word_of(tokenizer: &Tokenizer, id: u32, is_eos: bool) -> Vec<u8> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    if bytes.len() > MAX_TOKEN_BYTES || bytes.contains(&MARKER) {
        return Vec::new();
    }
    if is_eos || tokenizer.is_special(id) {
        // An end-of-text token needs a name, if only for the library's messages.
        let name = if bytes.is_empty() { format!("<{id}>").into_bytes() } else { bytes.to_vec() };
        return [&[MARKER], name.as_slice()].concat();
    }
    bytes.to_vec()
}
