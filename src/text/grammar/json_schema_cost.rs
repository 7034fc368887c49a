//! How much a schema grows where the compiler multiplies it out.
//!
//! ```text
//! {"anyOf": [A, B, C], "properties": P}   -->   (A and P) or (B and P) or (C and P)
//! alternatives: 3         1                     3, and P is there three times
//! ```
//!
//! Keywords of one schema hold together, so that alternatives of one are combined with all that the
//! others say, and a few kilobytes of nested alternatives could become gigabytes. What it would come
//! to is counted before.
//!
//! What this module deliberately does not do: it finds no contradictions, which would make it less.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::GrammarError;
use super::json_schema::target;

/// Bytes of source, each counted as often as it is copied.
const MAX_COST: usize = 8_000_000;

/// Keywords that hold alternatives, or refer to a schema.
const COMBINERS: [&str; 6] = ["anyOf", "oneOf", "allOf", "$ref", "enum", "const"];

/// What a schema comes to.
#[derive(Clone, Copy, Debug)]
struct Size {
    alternatives: usize,
    bytes: usize,
}

impl Size {
    const NOTHING: Self = Self { alternatives: 1, bytes: 0 };

    /// Both hold: each alternative of one with each of the other.
    fn and(self, other: Self) -> Self {
        if self.bytes == 0 {
            return other;
        }
        let bytes = (self.alternatives.saturating_mul(other.bytes))
            .saturating_add(other.alternatives.saturating_mul(self.bytes));
        Self { alternatives: self.alternatives.saturating_mul(other.alternatives), bytes }
    }

    fn or(self, other: Self) -> Self {
        Self {
            alternatives: self.alternatives.saturating_add(other.alternatives),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

struct Counter<'a> {
    root: &'a Value,
    /// By reference; `None` while it is being counted.
    targets: BTreeMap<&'a str, Option<Size>>,
}

/// Checks that a schema, whose nesting is bounded, stays small.
///
/// # Errors
/// [`GrammarError::TooLarge`].
pub(super) fn check(schema: &Value) -> Result<(), GrammarError> {
    let mut counter = Counter { root: schema, targets: BTreeMap::new() };
    let got = counter.total(schema);
    if got > MAX_COST {
        return Err(GrammarError::TooLarge {
            what: "bytes once its alternatives are combined (anyOf, allOf, enum and references \
                   that hold together with other keywords)",
            got,
            max: MAX_COST,
        });
    }
    Ok(())
}

impl<'a> Counter<'a> {
    /// Over all schemas, wherever they are.
    fn total(&mut self, value: &'a Value) -> usize {
        match value {
            Value::Object(values) => {
                let own = self.size(value).bytes;
                values.values().fold(own, |sum, value| sum.saturating_add(self.total(value)))
            }
            Value::Array(values) => {
                values.iter().fold(0, |sum, value| sum.saturating_add(self.total(value)))
            }
            _ => 0,
        }
    }

    /// What one schema comes to.
    fn size(&mut self, schema: &'a Value) -> Size {
        let Value::Object(schema) = schema else { return Size { alternatives: 1, bytes: 1 } };
        let mut size = Size::NOTHING;
        let mut plain = 0_usize;
        let is_bare_reference = schema.len() == 1;
        for (keyword, value) in schema {
            if !COMBINERS.contains(&keyword.as_str()) {
                if keyword != "$defs" && keyword != "definitions" {
                    plain = plain.saturating_add(keyword.len() + num_bytes(value));
                }
                continue;
            }
            let own = match (keyword.as_str(), value) {
                ("allOf", Value::Array(parts)) => {
                    parts.iter().fold(Size::NOTHING, |all, part| all.and(self.size(part)))
                }
                ("anyOf" | "oneOf", Value::Array(parts)) => {
                    let none = Size { alternatives: 0, bytes: 0 };
                    parts.iter().fold(none, |any, part| any.or(self.size(part)))
                }
                ("enum", Value::Array(values)) => {
                    Size { alternatives: values.len(), bytes: num_bytes(value) }
                }
                // It stays a reference.
                ("$ref", _) if is_bare_reference => Size { alternatives: 1, bytes: 1 },
                ("$ref", Value::String(reference)) => self.target(reference),
                _ => Size { alternatives: 1, bytes: num_bytes(value) },
            };
            size = size.and(own);
        }
        if plain > 0 { size.and(Size { alternatives: 1, bytes: plain }) } else { size }
    }

    fn target(&mut self, reference: &'a str) -> Size {
        match self.targets.get(reference) {
            Some(Some(size)) => return *size,
            // A circle: the compiler refuses it.
            Some(None) => return Size { alternatives: 1, bytes: 1 },
            None => {}
        }
        self.targets.insert(reference, None);
        let found = target(self.root, reference);
        let size = found.map_or(Size::NOTHING, |schema| self.size(schema));
        self.targets.insert(reference, Some(size));
        size
    }
}

/// About the length of its text.
fn num_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => 2 + text.len(),
        Value::Array(values) => values.iter().fold(2, |sum, value| sum + num_bytes(value)),
        Value::Object(values) => {
            values.iter().fold(2, |sum, (name, value)| sum + name.len() + num_bytes(value))
        }
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn alternatives_that_multiply_are_counted_before_they_do() {
        let wide = |width: usize| {
            let option = |idx: usize| json!({"type": "object", "minProperties": idx});
            json!({"anyOf": (0..width).map(option).collect::<Vec<_>>()})
        };
        assert!(check(&wide(5000)).is_ok(), "side by side they only add up");
        let product = |width| json!({"allOf": [wide(width), wide(width), wide(width)]});
        assert!(check(&product(4)).is_ok());
        assert!(check(&product(100)).is_err());
        let long = "a".repeat(100_000);
        let copied = json!({"allOf": [wide(1000), {"properties": {"a": {"const": long}}}]});
        assert!(check(&copied).is_err());
        let strings: Vec<String> = (0..20_000).map(|idx| format!("value {idx}")).collect();
        assert!(check(&json!({"type": "string", "enum": strings})).is_ok());
    }

    #[test]
    fn circles_end() {
        let circle = json!({"$defs": {"a": {"$ref": "#/$defs/a", "minItems": 1}},
            "items": {"$ref": "#/$defs/a"}, "$ref": "#"});
        assert!(check(&circle).is_ok());
    }
}
