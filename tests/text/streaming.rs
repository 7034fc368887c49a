//! The detokenizer.

use cairn::text::{TextError, Tokenizer};
use proptest::prelude::*;

use super::{gguf, golden, model_folders};

fn stream(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> Vec<String> {
    let mut detokenizer = tokenizer.detokenizer(skip);
    let mut pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
    pieces.push(detokenizer.finish());
    pieces
}

#[test]
fn pieces_join_to_the_whole_and_hold_whole_characters() {
    for (name, tokenizer, _) in model_folders::all() {
        for text in golden::corpus() {
            for skip in [false, true] {
                let ids = tokenizer.encode(&text, false).unwrap();
                let pieces = stream(&tokenizer, &ids, skip);
                let whole = tokenizer.decode(&ids, skip).unwrap();
                assert_eq!(pieces.concat(), whole, "{name}: {text:?}");
                if !whole.contains('\u{fffd}') {
                    assert!(!pieces.concat().contains('\u{fffd}'), "{name}: {text:?}");
                }
            }
        }
    }
}

#[test]
fn a_character_comes_with_its_last_byte() {
    let (vocab, _) = gguf::sentencepiece("add_space_prefix");
    let id_of =
        |token: &str| u32::try_from(vocab.tokens.iter().position(|t| t == token).unwrap()).unwrap();
    let bytes = ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0xE4>", "<0x41>"].map(id_of);
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    assert_eq!(stream(&tokenizer, &bytes, true), ["", "", "", "😀", "", "\u{fffd}A", ""]);
    assert_eq!(stream(&tokenizer, &bytes[..2], true), ["", "", "\u{fffd}\u{fffd}"]);
}

#[test]
fn an_unknown_id_is_an_error_and_the_stream_goes_on() {
    let tokenizer = Tokenizer::from_gguf(gguf::byte_level("smollm")).unwrap();
    let size = u32::try_from(tokenizer.vocab_size()).unwrap();
    let mut detokenizer = tokenizer.detokenizer(true);
    for id in [size, u32::MAX] {
        assert!(matches!(detokenizer.push(id), Err(TextError::UnknownToken { .. })));
        assert!(tokenizer.decode(&[0, id], true).is_err());
    }
    let a = tokenizer.token_to_id("a").unwrap();
    assert_eq!(detokenizer.push(a).unwrap(), "a");
}

#[test]
fn a_long_stream_costs_the_same_per_token() {
    let tokenizer = Tokenizer::from_gguf(gguf::byte_level("smollm")).unwrap();
    // Bytes that never make a character: a decoder that waits for one would hold them all.
    let lead = tokenizer.token_to_id("ð").unwrap();
    let mut detokenizer = tokenizer.detokenizer(true);
    let mut num_bytes = 0;
    for _ in 0..200_000 {
        num_bytes += detokenizer.push(lead).unwrap().len();
    }
    assert_eq!(num_bytes, 199_999 * 3);
}

fn tokenizers() -> Vec<Tokenizer> {
    let mut tokenizers: Vec<Tokenizer> =
        model_folders::all().into_iter().map(|(_, tokenizer, _)| tokenizer).collect();
    tokenizers.push(Tokenizer::from_gguf(gguf::byte_level("qwen2")).unwrap());
    tokenizers.push(Tokenizer::from_gguf(gguf::sentencepiece("add_space_prefix").0).unwrap());
    tokenizers
}

#[test]
fn any_ids_decode_and_their_pieces_join_to_the_whole() {
    let tokenizers = tokenizers();
    let id = prop_oneof![0..600_u32, 0..100_u32];
    let config =
        ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ids in prop::collection::vec(id, 0..40), skip: bool)| {
        for tokenizer in &tokenizers {
            let ids: Vec<u32> = ids.iter().copied().filter(|&id| tokenizer.decode(&[id], false).is_ok()).collect();
            prop_assert_eq!(stream(tokenizer, &ids, skip).concat(), tokenizer.decode(&ids, skip).unwrap());
        }
    });
}

#[test]
fn byte_level_texts_come_back_as_they_went_in() {
    let tokenizer = Tokenizer::from_gguf(gguf::byte_level("smollm")).unwrap();
    let config =
        ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(text: String)| {
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    });
}
