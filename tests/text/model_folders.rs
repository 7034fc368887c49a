//! Tokenizers of model folders.

use std::path::Path;

use cairn::text::Tokenizer;
use serde_json::{Value, json};

use super::golden;

/// Writes the golden tokenizer as a model folder.
pub(crate) fn write(folder: &Path, tokenizer: &Value, config: Option<&Value>) {
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    if let Some(config) = config {
        std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    }
}

pub(crate) fn load(tokenizer: &Value, config: Option<&Value>) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), tokenizer, config);
    Tokenizer::from_folder(folder.path()).unwrap()
}

/// Every golden tokenizer with its golden results.
pub(crate) fn all() -> Vec<(String, Tokenizer, Value)> {
    let tokenizers = golden::read("tokenizers.json");
    let results = golden::read("ids.json");
    let tokenizers = tokenizers.as_object().unwrap().iter();
    tokenizers
        .map(|(name, tokenizer)| (name.clone(), load(tokenizer, None), results[name].clone()))
        .collect()
}

#[test]
fn ids_equal_the_reference() {
    for (name, tokenizer, golden) in all() {
        golden::check_ids(&name, &golden, |text| tokenizer.encode(text, false).unwrap());
        let expected = golden::ids(&golden["around_hello"]);
        assert_eq!(tokenizer.encode("Hello", true).unwrap(), expected, "{name}");
    }
}

#[test]
fn decoded_texts_equal_the_reference() {
    for (name, tokenizer, golden) in all() {
        for (field, skip) in [("decoded", false), ("decoded_without_special", true)] {
            let expected = golden[field].as_array().unwrap();
            for (text, expected) in golden::corpus().iter().zip(expected) {
                let ids = tokenizer.encode(text, false).unwrap();
                let decoded = tokenizer.decode(&ids, skip).unwrap();
                assert_eq!(decoded, expected.as_str().unwrap_or(text), "{name}, {field}: {text:?}");
            }
        }
    }
}

#[test]
fn the_configuration_names_bos_and_eos_and_adds_them_where_the_post_processor_is_silent() {
    let tokenizers = golden::read("tokenizers.json");
    let config = json!({
        "bos_token": "<|im_start|>",
        "eos_token": {"content": "<|im_end|>", "lstrip": false},
        "add_bos_token": true,
        "add_eos_token": true,
    });
    let silent = load(&tokenizers["smollm"], Some(&config));
    let bos = silent.token_to_id("<|im_start|>").unwrap();
    let eos = silent.token_to_id("<|im_end|>").unwrap();
    assert_eq!(silent.bos_token(), Some(("<|im_start|>", bos)));
    assert_eq!(silent.eos_token(), Some(("<|im_end|>", eos)));
    assert!(silent.is_special(bos) && !silent.is_special(eos + 1));
    let ids = silent.encode("dog", true).unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (bos, eos));
    assert_eq!(ids[1..ids.len() - 1], silent.encode("dog", false).unwrap());

    // This one's post-processor adds a BOS of its own, and no EOS.
    let speaks = load(&tokenizers["llama3"], Some(&config));
    let ids = speaks.encode("dog", true).unwrap();
    assert_eq!(ids[0], speaks.token_to_id("<|endoftext|>").unwrap());
    assert_eq!(ids[1..], speaks.encode("dog", false).unwrap());
}

#[test]
fn an_old_folder_names_bos_and_eos_in_the_special_tokens_map() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &golden::read("tokenizers.json")["smollm"], None);
    let map = json!({"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>"});
    std::fs::write(folder.path().join("special_tokens_map.json"), map.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.bos_token().unwrap().0, "<|im_start|>");
    assert_eq!(tokenizer.eos_token().unwrap().0, "<|im_end|>");
}

#[test]
fn truncation_and_padding_of_the_file_are_ignored() {
    let mut tokenizer = golden::read("tokenizers.json")["smollm"].clone();
    let text = "the lazy dog and the quick brown fox";
    let expected = load(&tokenizer, None).encode(text, true).unwrap();
    tokenizer["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    tokenizer["padding"] = json!({
        "strategy": {"Fixed": 1_u64 << 40}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
    });
    assert_eq!(load(&tokenizer, None).encode(text, true).unwrap(), expected);
}
