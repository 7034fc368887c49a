//! How much longer a text can get on its way to the merges.
//!
//! A normaliser of a few hundred bytes (replace `a` by ten of them, seven times over) turns one
//! character into ten million. Nothing stops it while it runs, so its growth is bounded before:
//! each part has a worst factor, parts in sequence multiply, and a text is refused when its length
//! times the factor exceeds what memory should bear.
//!
//! | Part | Bytes out per byte in, at most |
//! | --- | --- |
//! | `NFC` `NFD` / `NFKC` `NFKD` | 3 / 11 (Unicode's own table of expansion factors) |
//! | `Replace` | length of the content per length of the pattern; per character for a regex |
//! | `Prepend` | its length and one |
//! | `Precompiled` | longest string in its table |
//! | `ByteLevel`, `Metaspace` | 2, 8 |
//! | `Sequence` | product of its members |
//! | splits, strips | 1 |

use serde_json::Value;

use super::error::TextError;

/// Names that a normaliser or pre-tokenizer may have: also what error messages list.
const KNOWN: [&str; 26] = [
    "Sequence",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Lowercase",
    "Strip",
    "StripAccents",
    "Bert",
    "BertNormalizer",
    "Replace",
    "Prepend",
    "Precompiled",
    "ByteLevel",
    "Metaspace",
    "BertPreTokenizer",
    "CharDelimiterSplit",
    "Digits",
    "FixedLength",
    "Punctuation",
    "Split",
    "UnicodeScripts",
    "Whitespace",
    "WhitespaceSplit",
    "Delimiter",
];

/// The worst growth of a normaliser or pre-tokenizer as `tokenizer.json` spells it.
///
/// # Errors
/// [`TextError::Unsupported`] when a part has an unknown type.
pub(super) fn bound(what: &'static str, part: &Value) -> Result<u64, TextError> {
    if part.is_null() {
        return Ok(1);
    }
    let Some(kind) = part.get("type").and_then(Value::as_str) else {
        return Err(TextError::invalid(what, "has no `type`"));
    };
    Ok(match kind {
        "Sequence" => {
            let members =
                ["normalizers", "pretokenizers"].iter().find_map(|key| part.get(key)?.as_array());
            let mut product = 1_u64;
            for member in members.into_iter().flatten() {
                product = product.saturating_mul(bound(what, member)?);
            }
            product
        }
        "NFC" | "NFD" => 3,
        "NFKC" | "NFKD" => 11,
        "Lowercase" | "ByteLevel" => 2,
        "Bert" | "BertNormalizer" => 4,
        "Metaspace" => 8,
        "Prepend" => length(part.get("prepend")).saturating_add(1),
        "Replace" => replacement(part),
        "Precompiled" => precompiled(part),
        _ if KNOWN.contains(&kind) => 1,
        _ => {
            return Err(TextError::Unsupported {
                what,
                name: kind.to_owned(),
                supported: KNOWN.join(", "),
            });
        }
    })
}

fn length(text: Option<&Value>) -> u64 {
    text.and_then(Value::as_str).map_or(0, |text| text.len() as u64)
}

fn replacement(part: &Value) -> u64 {
    let content = length(part.get("content"));
    let pattern = part.get("pattern").and_then(|pattern| pattern.get("String"));
    match length(pattern) {
        // A regex may match nothing, between all characters.
        0 => content.saturating_add(1),
        pattern => content.div_ceil(pattern).max(1),
    }
}

/// The table ends in its replacements, each closed by a zero byte; a base64 digit is 6 bits.
fn precompiled(part: &Value) -> u64 {
    let encoded = part.get("precompiled_charsmap").and_then(Value::as_str);
    let table = decode_base64(encoded.unwrap_or_default());
    let trie_bytes = match table.first_chunk::<4>() {
        Some(size) => u32::from_le_bytes(*size) as usize,
        None => return 1,
    };
    let strings = table[4..].get(trie_bytes..).unwrap_or_default();
    let longest = strings.split(|&byte| byte == 0).map(<[u8]>::len).max();
    longest.unwrap_or(0).max(1) as u64
}

fn decode_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut num_bits) = (0_u32, 0_u32);
    for digit in text.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        num_bits += 6;
        if num_bits >= 8 {
            num_bits -= 8;
            bytes.push((bits >> num_bits) as u8);
            bits &= (1 << num_bits) - 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn factors_multiply_and_saturate() {
        let ten = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"});
        let sequence = |n: usize| json!({"type": "Sequence", "normalizers": vec![ten.clone(); n]});
        assert_eq!(bound("normalizer", &sequence(3)).unwrap(), 1000);
        assert_eq!(bound("normalizer", &sequence(40)).unwrap(), u64::MAX);
        assert_eq!(bound("normalizer", &Value::Null).unwrap(), 1);
    }

    #[test]
    fn a_regex_grows_by_its_content_at_every_character() {
        let part = json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "12345"});
        assert_eq!(bound("normalizer", &part).unwrap(), 6);
    }

    #[test]
    fn a_precompiled_table_is_bounded_by_its_longest_string() {
        // 4 bytes of length (0), then "abc\0de\0".
        let part = json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAGFiYwBkZQA="});
        assert_eq!(bound("normalizer", &part).unwrap(), 3);
    }

    #[test]
    fn an_unknown_type_is_named() {
        let error = bound("normalizer", &json!({"type": "Rot13"})).unwrap_err();
        assert!(error.to_string().starts_with("normalizer `Rot13` is not supported"));
    }
}
