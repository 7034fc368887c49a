//! Reading values out of a JSON object with errors that name file, key path, expected and got.
//!
//! What it deliberately does not do: know any key.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::ConfigError;

/// Most token ids in one list.
const MAX_TOKEN_IDS: usize = 256;

pub(super) type Result<T> = std::result::Result<T, ConfigError>;

/// A JSON object and where it lies, for messages. A null counts as absent.
pub(super) struct Object<'a> {
    file: &'static str,
    /// Key path of the object with a final dot; empty for the root.
    prefix: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub(super) fn root(file: &'static str, value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(fields) => Ok(Self { file, prefix: String::new(), fields }),
            other => Err(ConfigError::NotAnObject { file, got: describe(other) }),
        }
    }

    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{}", self.prefix, shortened(key))
    }

    /// Whether the key is there, be it with null.
    pub(super) fn contains(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The first key that holds an object itself.
    pub(super) fn nested(&self) -> Option<&'a str> {
        let mut fields = self.fields.iter();
        fields.find_map(|(key, value)| value.is_object().then_some(key.as_str()))
    }

    pub(super) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { file: self.file, key: self.path(key) }
    }

    pub(super) fn invalid(
        &self,
        key: &str,
        expected: impl Into<String>,
        got: String,
    ) -> ConfigError {
        ConfigError::Invalid {
            file: self.file,
            key: self.path(key),
            expected: expected.into(),
            got,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// The value of a key, or an error that says what it should have been.
    fn read<T>(
        &self,
        key: &str,
        expected: impl FnOnce() -> String,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.invalid(key, expected(), describe(value))),
        }
    }

    /// An integer from `least` to `most`.
    fn integer(&self, key: &str, least: usize, most: usize) -> Result<Option<usize>> {
        let expected = || format!("an integer from {least} to {most}");
        self.read(key, expected, |value| {
            let number = usize::try_from(value.as_u64()?).ok()?;
            (least..=most).contains(&number).then_some(number)
        })
    }

    pub(super) fn size(&self, key: &str, most: usize) -> Result<Option<usize>> {
        self.integer(key, 1, most)
    }

    pub(super) fn count(&self, key: &str, most: usize) -> Result<Option<usize>> {
        self.integer(key, 0, most)
    }

    pub(super) fn required(&self, key: &str, most: usize) -> Result<usize> {
        self.size(key, most)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let expected = || format!("a number from {:?} to {:?}", range.start(), range.end());
        self.read(key, expected, |value| value.as_f64().filter(|number| range.contains(number)))
    }

    pub(super) fn refuse_partial_rotary(&self) -> Result<()> {
        let expected = || "1, every element of a head rotating".to_owned();
        self.read("partial_rotary_factor", expected, |value| {
            (1.0..=1.0).contains(&value.as_f64()?).then_some(())
        })?;
        Ok(())
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, || "true or false".to_owned(), Value::as_bool)
    }

    pub(super) fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, || "a string".to_owned(), Value::as_str)
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Object<'a>>> {
        let fields = self.read(key, || "an object".to_owned(), Value::as_object)?;
        Ok(fields.map(|fields| Object {
            file: self.file,
            prefix: format!("{}.", self.path(key)),
            fields,
        }))
    }

    /// One token id or a list of them, each once.
    pub(super) fn token_ids(&self, key: &str, vocab_size: usize) -> Result<Vec<u32>> {
        let expected = format!(
            "a token id below `vocab_size` {vocab_size}, or a list of up to {MAX_TOKEN_IDS} of them"
        );
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let values = match value {
            Value::Array(values) if values.len() <= MAX_TOKEN_IDS => values.as_slice(),
            single => std::slice::from_ref(single),
        };
        let mut ids = Vec::new();
        for value in values {
            let id = value.as_u64().filter(|&id| id < vocab_size as u64);
            match id.and_then(|id| u32::try_from(id).ok()) {
                Some(id) if ids.contains(&id) => {}
                Some(id) => ids.push(id),
                None => return Err(self.invalid(key, expected, describe(value))),
            }
        }
        Ok(ids)
    }
}

/// A value as a message shows it: scalars as they are, containers by their kind and size.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::Object(fields) => format!("an object of {} keys", fields.len()),
        Value::String(text) => format!("\"{}\"", shortened(text)),
        scalar => scalar.to_string(),
    }
}

/// Text from the file, without control characters and not longer than a message bears.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 64;
    let mut short: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        short.push_str("...");
    }
    short
}
