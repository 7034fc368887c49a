//! The part of an address after `?`: names and values, percent-decoded.
//!
//! What this module deliberately does not do: it knows no names; who asked for a name that is unknown
//! is told so by the endpoint.

use super::error::ApiError;

/// The names and values of a query, in order.
///
/// # Errors
/// [`ApiError::Invalid`] for bytes that are no text once decoded.
pub(super) fn pairs(query: Option<&str>) -> Result<Vec<(String, String)>, ApiError> {
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name, name)?, decoded(name, value)?))
        })
        .collect()
}

fn decoded(name: &str, text: &str) -> Result<String, ApiError> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut decoded, mut idx) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(idx) {
        let pair = (digit(bytes.get(idx + 1)), digit(bytes.get(idx + 2)));
        match (byte, pair) {
            (b'%', (Some(high), Some(low))) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                idx += 3;
                continue;
            }
            (b'+', _) => decoded.push(b' '),
            _ => decoded.push(*byte),
        }
        idx += 1;
    }
    String::from_utf8(decoded).map_err(|_| {
        let message = format!("the value of `{name}` in the query is not UTF-8");
        ApiError::invalid(name, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_decoded() {
        let parsed = pairs(Some("a=1&b=x%20y+z&&c&d=%3D%zz%")).unwrap();
        let parsed: Vec<(&str, &str)> =
            parsed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(parsed, [("a", "1"), ("b", "x y z"), ("c", ""), ("d", "=%zz%")]);
        assert!(pairs(None).unwrap().is_empty());
        assert!(matches!(pairs(Some("a=%ff")), Err(ApiError::Invalid { .. })));
    }
}
