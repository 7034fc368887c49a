//! Reading the golden files.

use std::path::Path;

use serde_json::Value;

/// A golden file.
pub(crate) fn read(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/text").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The texts that are hard to tokenize.
pub(crate) fn corpus() -> Vec<String> {
    strings(&read("corpus.json")["corpus"])
}

/// Compares the ids of the corpus, and of the long texts by their number and hash.
pub(crate) fn check_ids(name: &str, golden: &Value, encode: impl Fn(&str) -> Vec<u32>) {
    assert_eq!(golden["ids"].as_array().unwrap().len(), corpus().len());
    for (text, expected) in corpus().iter().zip(golden["ids"].as_array().unwrap()) {
        assert_eq!(encode(text), ids(expected), "{name}: {text:?}");
    }
    let corpus = read("corpus.json");
    let long = corpus["long"].as_array().unwrap();
    assert_eq!(golden["long"].as_array().unwrap().len(), long.len());
    for (long, expected) in long.iter().zip(golden["long"].as_array().unwrap()) {
        let piece = long[0].as_str().unwrap();
        let text = piece.repeat(usize::try_from(long[1].as_u64().unwrap()).unwrap());
        let ids = encode(&text);
        let got = (ids.len() as u64, hash(&ids));
        let expected = (expected[0].as_u64().unwrap(), expected[1].as_u64().unwrap());
        assert_eq!(got, expected, "{name}: {long}");
    }
}

/// The polynomial hash of `make_text.py`.
fn hash(ids: &[u32]) -> u64 {
    let modulus = (1_u128 << 61) - 1;
    let value = ids.iter().fold(0, |value, &id| (value * 1_000_003 + u128::from(id) + 1) % modulus);
    u64::try_from(value).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

pub(crate) fn strings(value: &Value) -> Vec<String> {
    let strings = value.as_array().unwrap().iter();
    strings.map(|text| text.as_str().unwrap().to_owned()).collect()
}
