//! What a tokenizer keeps of the texts that it has cut. A program of its own: the memory of others'
//! tests would be counted too.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use cairn::text::Tokenizer;
use serde_json::json;

/// A word of 250 letters that no other number has.
fn word(number: u32) -> String {
    let digits = format!("{number:08}");
    let letters: String = digits.bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
    letters + &"z".repeat(242)
}

fn resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn what_is_remembered_of_strange_words_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let vocab: serde_json::Map<_, _> =
        ('a'..='z').zip(0..).map(|(letter, id)| (letter.to_string(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let encode = |number| assert_eq!(tokenizer.encode(&word(number), false).unwrap().len(), 250);
    (0..100).for_each(encode);
    let before = resident_bytes();
    (100..10_100).for_each(encode);
    let grown = resident_bytes().saturating_sub(before);
    // The library by itself remembers all of them, which takes more than 80 MB.
    assert!(grown < 24 << 20, "{grown} bytes more");
}
