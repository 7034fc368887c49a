//! The tokenizer that the rest of the program sees.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::decoder::Decoder;
use super::detokenizer::Detokenizer;
use super::error::TextError;
use super::gguf_vocab::{self, GgufVocab};
use super::model_folder;
use super::segmenter::Segmenter;
use super::vocabulary::Vocabulary;

/// Text to token ids and back. Cloning is cheap, and clones can work on several threads.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

/// The parts that tokenizers and their detokenizers share.
pub(super) struct Inner {
    pub(super) segmenter: Segmenter,
    pub(super) decoder: Decoder,
    pub(super) vocabulary: Vocabulary,
    pub(super) bos: Option<NamedToken>,
    pub(super) eos: Option<NamedToken>,
    /// Whether to add them around a text, where the segmenter does not by itself.
    pub(super) adds_bos: bool,
    pub(super) adds_eos: bool,
}

/// A token with a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedToken {
    pub(super) text: String,
    pub(super) id: u32,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, and `tokenizer_config.json` if there is one.
    ///
    /// # Errors
    /// [`TextError::NotFound`] without a `tokenizer.json`; errors that name the file and the place
    /// when something in it is broken, too large or not implemented.
    pub fn from_folder(model_folder: &Path) -> Result<Self, TextError> {
        model_folder::load_tokenizer(model_folder).map(Self::new)
    }

    /// Builds the tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// Errors that name the GGUF key when a field is broken or not implemented.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Self, TextError> {
        gguf_vocab::build_tokenizer(vocab).map(Self::new)
    }

    fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// The ids of a text. Special tokens written in it are recognised. With `add_special_tokens`,
    /// the ids that the model wants around a text (such as a BOS) are added; a rendered chat prompt
    /// has them already.
    ///
    /// # Errors
    /// [`TextError::TextTooLong`] and [`TextError::Encode`].
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let mut ids = self.inner.segmenter.encode(text, add_special_tokens)?;
        if add_special_tokens {
            let id_of = |adds: bool, token: &Option<NamedToken>| {
                token.as_ref().filter(|_| adds).map(|token| token.id)
            };
            if let Some(bos) = id_of(self.inner.adds_bos, &self.inner.bos) {
                ids.insert(0, bos);
            }
            ids.extend(id_of(self.inner.adds_eos, &self.inner.eos));
        }
        Ok(ids)
    }

    /// The text of some ids. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`] for an id that the vocabulary does not have.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        let mut text = String::new();
        let mut detokenizer = self.detokenizer(skip_special_tokens);
        for &id in ids {
            detokenizer.push_into(id, &mut text)?;
        }
        detokenizer.finish_into(&mut text);
        Ok(text)
    }

    /// A decoder for ids that come one at a time.
    pub fn detokenizer(&self, skip_special_tokens: bool) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.inner), skip_special_tokens)
    }

    /// One more than the highest id. A model's logits can be wider: their width is padded.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocabulary.size()
    }

    /// The id of a token as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.segmenter.token_to_id(token)
    }

    /// A token as the vocabulary spells it, which is not the text it stands for.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.segmenter.id_to_token(id)
    }

    /// The bytes that a token stands for, unless it is the first of a text; alone they may be part
    /// of a character.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`] for an id that the vocabulary does not have.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], TextError> {
        Ok(self.inner.vocabulary.token(id)?.bytes)
    }

    /// Whether the id marks structure (such as the end of a turn) rather than being text.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.vocabulary.token(id).is_ok_and(|token| token.is_special)
    }

    /// The token that begins a text, and its id.
    pub fn bos_token(&self) -> Option<(&str, u32)> {
        self.inner.bos.as_ref().map(|token| (token.text.as_str(), token.id))
    }

    /// The token that ends a text, and its id.
    pub fn eos_token(&self) -> Option<(&str, u32)> {
        self.inner.eos.as_ref().map(|token| (token.text.as_str(), token.id))
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocabulary.size())
            .field("decoder", &self.decoder)
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}
