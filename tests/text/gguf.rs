//! Tokenizers inside GGUF files.

use cairn::text::{GgufVocab, Tokenizer};
use serde_json::Value;

use super::golden;

/// A `tokenizer.json` vocabulary as the tokens of a GGUF: by id.
fn tokens_by_id(vocab: &Value) -> Vec<String> {
    let mut tokens: Vec<(u64, &String)> = vocab
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token))
        .collect();
    tokens.sort_unstable();
    tokens.into_iter().map(|(_, token)| token.clone()).collect()
}

/// The byte-level vocabulary of the goldens; its first three tokens are special.
pub(crate) fn byte_level(pre: &str) -> GgufVocab {
    let golden = golden::read("pre_tokenizers.json");
    let tokens = tokens_by_id(&golden["vocab"]);
    GgufVocab {
        model: "gpt2".to_owned(),
        pre: Some(pre.to_owned()),
        token_types: Some((0..tokens.len()).map(|id| if id < 3 { 3 } else { 1 }).collect()),
        tokens,
        merges: Some(golden::strings(&golden["merges"])),
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        ..GgufVocab::default()
    }
}

/// A `SentencePiece` vocabulary of the goldens.
pub(crate) fn sentencepiece(name: &str) -> (GgufVocab, Value) {
    let golden = golden::read("sentencepiece.json")[name].clone();
    let numbers = |field: &str| golden[field].as_array().unwrap().clone();
    #[expect(clippy::cast_possible_truncation, reason = "scores are f32 in a GGUF")]
    let scores = numbers("scores").iter().map(|score| score.as_f64().unwrap() as f32).collect();
    let types = numbers("token_types")
        .iter()
        .map(|kind| i32::try_from(kind.as_i64().unwrap()).unwrap())
        .collect();
    let vocab = GgufVocab {
        model: "llama".to_owned(),
        tokens: golden::strings(&golden["tokens"]),
        scores: Some(scores),
        token_types: Some(types),
        unknown_token_id: Some(0),
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        add_space_prefix: Some(name == "add_space_prefix"),
        ..GgufVocab::default()
    };
    (vocab, golden)
}

#[test]
fn every_pre_tokenizer_cuts_as_the_reference() {
    let golden = golden::read("pre_tokenizers.json");
    for (pre, golden) in golden["pre"].as_object().unwrap() {
        let tokenizer = Tokenizer::from_gguf(byte_level(pre)).unwrap();
        golden::check_ids(pre, golden, |text| tokenizer.encode(text, false).unwrap());
    }
}

#[test]
fn a_file_without_a_pre_tokenizer_has_the_default_one() {
    let golden = golden::read("pre_tokenizers.json");
    let vocab = GgufVocab { pre: None, ..byte_level("") };
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    golden::check_ids("none", &golden["pre"]["default"], |text| {
        tokenizer.encode(text, false).unwrap()
    });
}

/// The library sees no special tokens in a text; texts that hold one are compared elsewhere.
#[test]
fn sentencepiece_ids_and_texts_equal_the_library() {
    for name in ["add_space_prefix", "no_space_prefix"] {
        let (vocab, golden) = sentencepiece(name);
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        let ids = golden["ids"].as_array().unwrap();
        let decoded = golden["decoded"].as_array().unwrap();
        for ((text, ids), decoded) in golden::corpus().iter().zip(ids).zip(decoded) {
            if ["<s>", "</s>", "<unk>", "<tool>"].iter().any(|token| text.contains(token)) {
                continue;
            }
            let encoded = tokenizer.encode(text, false).unwrap();
            assert_eq!(encoded, golden::ids(ids), "{name}: {text:?}");
            let expected = decoded.as_str().unwrap_or(text);
            assert_eq!(tokenizer.decode(&encoded, false).unwrap(), expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn sentencepiece_special_tokens_are_whole_and_get_a_space_behind() {
    let (vocab, _) = sentencepiece("add_space_prefix");
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    let dog = tokenizer.encode("dog", false).unwrap();
    let joined = tokenizer.encode("<s>dog</s>dog", false).unwrap();
    assert_eq!(joined, [&[1], &dog[..], &[2], &dog[..]].concat());
    assert_eq!(tokenizer.encode("dog", true).unwrap(), [&[1], &dog[..]].concat());
    assert_eq!(tokenizer.decode(&joined, true).unwrap(), "dog dog");
}

#[test]
fn control_tokens_are_special_and_user_defined_ones_are_text() {
    let (vocab, _) = sentencepiece("no_space_prefix");
    let tool =
        u32::try_from(vocab.tokens.iter().position(|token| token == "<tool>").unwrap()).unwrap();
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    assert_eq!(tokenizer.encode("<tool></s>", false).unwrap(), [tool, 2]);
    assert_eq!(tokenizer.decode(&[tool, 2], true).unwrap(), "<tool>");
    assert_eq!(tokenizer.decode(&[tool, 2], false).unwrap(), "<tool></s>");
}

#[test]
fn bos_and_eos_follow_the_flags_and_else_the_family() {
    let adds = |vocab: GgufVocab| {
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        let ids = tokenizer.encode("a", true).unwrap();
        (ids[0] == 1, *ids.last().unwrap() == 2)
    };
    assert_eq!(adds(byte_level("smollm")), (false, false));
    assert_eq!(adds(byte_level("llama-bpe")), (true, false));
    assert_eq!(adds(sentencepiece("no_space_prefix").0), (true, false));
    let told = |bos, eos| GgufVocab {
        add_bos_token: Some(bos),
        add_eos_token: Some(eos),
        ..byte_level("llama-bpe")
    };
    assert_eq!(adds(told(false, true)), (false, true));
    assert_eq!(adds(told(true, true)), (true, true));
    let tokenizer = Tokenizer::from_gguf(byte_level("smollm")).unwrap();
    assert_eq!(tokenizer.bos_token(), Some(("<|im_start|>", 1)));
    assert_eq!(tokenizer.eos_token(), Some(("<|im_end|>", 2)));
}

#[test]
fn broken_fields_are_named() {
    let good = byte_level("smollm");
    let (spm, _) = sentencepiece("no_space_prefix");
    let with_nan = |scores: Option<Vec<f32>>| {
        let mut scores = scores.unwrap();
        scores[7] = f32::NAN;
        Some(scores)
    };
    let merges = |merge: &str| Some(vec![merge.to_owned()]);
    let cases = [
        (
            GgufVocab { model: "bert".to_owned(), ..good.clone() },
            "tokenizer.ggml.model `bert` is not supported",
        ),
        (
            GgufVocab { pre: Some("nope".to_owned()), ..good.clone() },
            "tokenizer.ggml.pre `nope` is not supported",
        ),
        (
            GgufVocab { tokens: Vec::new(), token_types: None, ..good.clone() },
            "tokenizer.ggml.tokens: has 0 tokens",
        ),
        (
            GgufVocab { token_types: Some(vec![1]), ..good.clone() },
            "tokenizer.ggml.token_type: has 1 entries for",
        ),
        (
            GgufVocab { scores: Some(vec![]), ..good.clone() },
            "tokenizer.ggml.scores: has 0 entries for",
        ),
        (
            GgufVocab { eos_token_id: Some(u32::MAX), ..good.clone() },
            "tokenizer.ggml.eos_token_id: is 4294967295, but",
        ),
        (GgufVocab { merges: None, ..good.clone() }, "tokenizer.ggml.merges: is missing"),
        (
            GgufVocab { merges: merges("ab"), ..good.clone() },
            "tokenizer.ggml.merges: entry 0 is `ab`",
        ),
        (
            GgufVocab { merges: merges("a b c"), ..good.clone() },
            "tokenizer.ggml.merges: entry 0 is `a b c`",
        ),
        (GgufVocab { merges: merges("zq qz"), ..good.clone() }, "tokenizer.ggml.merges: "),
        (
            GgufVocab { scores: with_nan(spm.scores.clone()), ..spm.clone() },
            "tokenizer.ggml.scores: the score of token 7",
        ),
        (
            GgufVocab { scores: None, ..spm.clone() },
            "tokenizer.ggml.scores: is missing, and so are merges",
        ),
    ];
    for (vocab, expected) in cases {
        let message = Tokenizer::from_gguf(vocab).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
}
