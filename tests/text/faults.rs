//! Broken and hostile tokenizer files and texts: an error each, soon, and never a panic.

use std::path::Path;
use std::time::{Duration, Instant};

use cairn::text::{TextError, Tokenizer};
use serde_json::{Value, json};

use super::{gguf, golden, model_folders};

fn good() -> Value {
    golden::read("tokenizers.json")["smollm"].clone()
}

fn load_text(text: &str) -> Result<Tokenizer, TextError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), text).unwrap();
    Tokenizer::from_folder(folder.path())
}

/// The error of a golden tokenizer after a change.
fn error_of(change: impl FnOnce(&mut Value)) -> String {
    let mut tokenizer = good();
    change(&mut tokenizer);
    load_text(&tokenizer.to_string()).unwrap_err().to_string()
}

#[test]
fn files_that_are_not_tokenizers_are_errors_that_name_the_file() {
    let nested = "[".repeat(100_000);
    let in_model = format!(r#"{{"model": {nested}"#);
    let in_normalizer = format!(r#"{{"normalizer": {nested}"#);
    for text in [
        "",
        " ",
        "{",
        "[]",
        "{}",
        "null",
        "\"x\"",
        "{\"model\": null}",
        "{\"model\": {}}",
        &nested,
        &in_model,
        &in_normalizer,
    ] {
        let message = load_text(text).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json: "), "{message}");
    }
}

#[test]
fn a_folder_without_a_tokenizer_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err();
    assert!(matches!(error, TextError::NotFound { file: "tokenizer.json", .. }));
    assert!(Tokenizer::from_folder(Path::new("/nonexistent")).is_err());
    std::fs::create_dir(folder.path().join("tokenizer.json")).unwrap();
    let message = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(message.ends_with("tokenizer.json: not a regular file"), "{message}");
}

#[test]
fn a_broken_configuration_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    model_folders::write(folder.path(), &good(), Some(&json!({"bos_token": 5})));
    let message = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(message.contains("tokenizer_config.json: "), "{message}");
}

#[test]
fn ids_out_of_range_taken_twice_or_out_of_place_are_errors() {
    error_of(|file| file["model"]["vocab"]["a"] = json!(1_u64 << 40));
    error_of(|file| file["model"]["vocab"]["a"] = json!(-1));
    let huge = error_of(|file| file["model"]["vocab"]["a"] = json!(u32::MAX));
    assert!(huge.contains("token 4294967295: ids must be below"), "{huge}");
    let twice = error_of(|file| file["model"]["vocab"]["a"] = file["model"]["vocab"]["b"].clone());
    assert!(twice.contains("two tokens have this id"), "{twice}");
    error_of(|file| file["added_tokens"][0]["id"] = json!(1_u64 << 40));
    let moved = error_of(|file| file["added_tokens"][0]["id"] = json!(77));
    assert!(moved.contains("`<|endoftext|>` has id 77 but its place is 0"), "{moved}");
    let empty = error_of(|file| file["added_tokens"][0]["content"] = json!(""));
    assert!(empty.contains("added_tokens: the token with id 0 is empty"), "{empty}");
}

#[test]
fn merges_of_unknown_tokens_and_broken_merges_are_errors() {
    for merge in [
        json!(["zzz", "a"]),
        json!(["a", "zzz"]),
        json!("a"),
        json!("a b c"),
        json!(["a"]),
        json!(5),
    ] {
        error_of(|file| file["model"]["merges"] = json!([merge]));
    }
}

#[test]
fn unknown_parts_are_named() {
    for (key, what) in
        [("normalizer", "normalizer"), ("pre_tokenizer", "pre-tokenizer"), ("decoder", "decoder")]
    {
        let message = error_of(|file| file[key] = json!({"type": "Nonsense"}));
        assert!(message.starts_with(&format!("{what} `Nonsense` is not supported")), "{message}");
    }
    let message = error_of(|file| file["model"]["type"] = json!("Nonsense"));
    assert!(message.starts_with("tokenizer model `Nonsense` is not supported"), "{message}");
    error_of(|file| file["post_processor"] = json!({"type": "Nonsense"}));
    error_of(|file| file["normalizer"] = json!({"normalizers": []}));
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

#[test]
fn invalid_regular_expressions_are_errors() {
    let nested = "(".repeat(100_000);
    for regex in ["(", "[a", "a{3,1}", "(?<n>a", "\\", &nested] {
        error_of(|file| file["pre_tokenizer"] = split(regex));
    }
}

#[test]
fn a_catastrophic_regular_expression_ends() {
    for regex in ["(?=(a+)+$)(a+)+$", "(a*)*(?=b)c", "(x+x+)+(?!z)y", "(?:(?=a)a){1000000000}"] {
        let mut tokenizer = good();
        tokenizer["pre_tokenizer"] = split(regex);
        let start = Instant::now();
        if let Ok(tokenizer) = load_text(&tokenizer.to_string()) {
            // Ids or an error, as long as it comes back.
            let _ = tokenizer.encode(&"a".repeat(2000), false);
            let _ = tokenizer.encode(&"x".repeat(2000), false);
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{regex}: {:?}", start.elapsed());
    }
}

#[test]
fn a_normaliser_that_grows_without_end_only_takes_short_texts() {
    let ten = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(10)});
    let mut tokenizer = good();
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": vec![ten; 7]});
    let tokenizer = load_text(&tokenizer.to_string()).unwrap();
    let start = Instant::now();
    assert!(matches!(tokenizer.encode("aaaaaaaa", false), Err(TextError::TextTooLong { .. })));
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(tokenizer.encode("", false).is_ok());
}

#[test]
fn texts_beyond_the_limit_are_refused_and_long_words_are_fine() {
    let tokenizer = Tokenizer::from_gguf(gguf::byte_level("smollm")).unwrap();
    let start = Instant::now();
    let error = tokenizer.encode(&"a".repeat((4 << 20) + 1), false).unwrap_err();
    assert!(matches!(error, TextError::TextTooLong { max: 4_194_304, .. }), "{error}");
    assert!(tokenizer.encode(&" ".repeat(1_000_000), false).is_err());
    let word = "ab".repeat(200_000);
    let ids = tokenizer.encode(&word, false).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), word);
    assert!(start.elapsed() < Duration::from_mins(1), "{:?}", start.elapsed());
}

#[test]
fn cut_and_flipped_files_never_panic() {
    let text = good().to_string();
    for index in (0..text.len()).step_by(997) {
        assert!(load_text(text.get(..index).unwrap_or("")).is_err());
        let mut bytes = text.clone().into_bytes();
        bytes[index] ^= 1 << (index % 7);
        if let Ok(flipped) = String::from_utf8(bytes)
            && let Ok(tokenizer) = load_text(&flipped)
        {
            let _ = tokenizer.encode("The lazy dog 123 <|im_end|>\n", true);
        }
    }
}
