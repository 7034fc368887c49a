//! The pre-tokenizers of byte-level GGUF vocabularies, by the names of `tokenizer.ggml.pre`.
//!
//! A pre-tokenizer cuts text into pieces that merges do not cross. The name stands for regular
//! expressions, applied one after the other to what the ones before left, and for a few habits of
//! the model family. The expressions are those of the families' own `tokenizer.json` files.
//!
//! | Family | Words | Digits | Habits |
//! | --- | --- | --- | --- |
//! | `gpt-2` | letters with the space before | runs | |
//! | `smollm` | the same | one by one, cut first | |
//! | `llama-bpe` | letters with any one sign before | up to three | whole pieces before merges, BOS |
//! | `qwen2` | the same | one by one | NFC |
//! | `qwen35` | letters and marks | one by one | NFC |
//! | `tekken` | cut where case changes | one by one | whole pieces before merges, BOS |
//! | `gpt-4o` | the same, with the 's behind | up to three | whole pieces before merges |
//! | `deepseek-coder` | letters, signs and CJK apart | one by one | |
//! | `deepseek-v3` | CJK apart, one sign and letters | up to three, cut first | |
//!
//! A name that is not listed is an error: a wrong cut gives ids that look right and a model that
//! is quietly worse.

use tokenizers::SplitDelimiterBehavior::Isolated;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use super::error::TextError;
use super::segmenter::guarded;

/// How a family of byte-level vocabularies cuts text.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// Whether text is brought to Unicode's NFC first.
    pub(super) normalises_nfc: bool,
    /// Whether a piece that is a token is taken whole, without looking at merges.
    pub(super) ignores_merges: bool,
    /// Whether a BOS is added where the file does not say.
    pub(super) adds_bos: bool,
}

#[derive(Debug)]
enum Cut {
    Regex(&'static str),
    /// Every digit by itself.
    Digits,
}

const GPT2: Cut =
    Cut::Regex(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+");
const LLAMA3: Cut = Cut::Regex(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
));
const QWEN2: Cut = Cut::Regex(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
));
const QWEN35: Cut = Cut::Regex(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
));
const TEKKEN: Cut = Cut::Regex(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
));
const GPT4O: Cut = Cut::Regex(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
));
const DEEPSEEK_V3: [Cut; 3] = [
    Cut::Regex(r"\p{N}{1,3}"),
    Cut::Regex("[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+"),
    Cut::Regex(concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    )),
];
const DEEPSEEK_CODER: [Cut; 5] = [
    Cut::Regex(r"[\r\n]"),
    Cut::Regex(r"\s?\p{L}+"),
    Cut::Regex(r"\s?\p{P}+"),
    Cut::Regex("[\u{4e00}-\u{9fa5}\u{0800}-\u{4e00}\u{ac00}-\u{d7ff}]+"),
    Cut::Digits,
];

const PLAIN: PreTokenizer = PreTokenizer {
    names: &[],
    cuts: &[],
    normalises_nfc: false,
    ignores_merges: false,
    adds_bos: false,
};

static FAMILIES: [PreTokenizer; 11] = [
    PreTokenizer {
        // `default` is what files written before the key existed have: GPT-2's is the common one.
        names: &["gpt-2", "default", "phi-2", "mpt", "olmo", "gigachat", "exaone4"],
        cuts: &[GPT2],
        ..PLAIN
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        cuts: &[Cut::Digits, GPT2],
        ..PLAIN
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"],
        cuts: &[LLAMA3],
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer { names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], cuts: &[LLAMA3], ..PLAIN },
    PreTokenizer { names: &["qwen2"], cuts: &[QWEN2], normalises_nfc: true, ..PLAIN },
    PreTokenizer { names: &["deepseek-r1-qwen", "megrez"], cuts: &[QWEN2], ..PLAIN },
    PreTokenizer { names: &["qwen35"], cuts: &[QWEN35], normalises_nfc: true, ..PLAIN },
    PreTokenizer {
        names: &["tekken"],
        cuts: &[TEKKEN],
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer { names: &["gpt-4o", "llama4"], cuts: &[GPT4O], ignores_merges: true, ..PLAIN },
    PreTokenizer { names: &["deepseek-coder"], cuts: &DEEPSEEK_CODER, ..PLAIN },
    PreTokenizer { names: &["deepseek-v3"], cuts: &DEEPSEEK_V3, ..PLAIN },
];

impl PreTokenizer {
    /// The pre-tokenizer of that name.
    ///
    /// # Errors
    /// [`TextError::Unsupported`] with the names that are known.
    pub(super) fn by_name(name: &str) -> Result<&'static Self, TextError> {
        let found = FAMILIES.iter().find(|family| family.names.contains(&name));
        found.ok_or_else(|| TextError::Unsupported {
            what: "tokenizer.ggml.pre",
            name: name.to_owned(),
            supported: FAMILIES
                .iter()
                .flat_map(|family| family.names)
                .copied()
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    /// The cuts, then the letters that stand for bytes.
    pub(super) fn build(&self) -> Result<Sequence, TextError> {
        let mut parts = Vec::new();
        for cut in self.cuts {
            parts.push(match cut {
                Cut::Digits => PreTokenizerWrapper::Digits(Digits::new(true)),
                Cut::Regex(regex) => {
                    let pattern = SplitPattern::Regex((*regex).to_owned());
                    let split = guarded(|| Split::new(pattern, Isolated, false));
                    PreTokenizerWrapper::Split(split.map_err(TextError::Encode)?)
                }
            });
        }
        parts.push(ByteLevel::new(false, true, false).into());
        Ok(Sequence::new(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_builds_and_every_name_is_its_own() {
        let mut names: Vec<&str> =
            FAMILIES.iter().flat_map(|family| family.names).copied().collect();
        for name in &names {
            PreTokenizer::by_name(name).unwrap().build().unwrap();
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = PreTokenizer::by_name("gpt-5").unwrap_err().to_string();
        assert!(
            message.contains("`gpt-5`") && message.contains("smollm") && message.contains("qwen2"),
            "{message}"
        );
    }
}
