//! The key-value table of a GGUF file, with typed access.
//!
//! ```text
//! "llama.block_count"      u32     30
//! "tokenizer.ggml.tokens"  array   string, 49152, "<|endoftext|>", ...
//!  key                     type    bytes in the file, decoded when asked for
//! ```
//!
//! Values stay in the mapped file: opening a model does not copy its vocabulary. That every value
//! lies within the file is checked when the file is opened; the text of strings is checked when it
//! is asked for, so that a bad byte in a description that nobody reads does no harm.
//!
//! What this deliberately does not do: it gives no key a meaning or a default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::bytes::Bytes;
use super::error::WeightsError;
use super::gguf_reader::{Reader, ValueType};

/// Most keys; the largest known models have some hundred.
const MAX_KEYS: u64 = 1 << 16;
/// Longest key, by the format's specification.
const MAX_KEY_BYTES: u64 = 65_535;
/// The fewest bytes of an entry: the key's length, the value's type, one byte.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;

/// The metadata of a GGUF file.
///
/// Every getter fails with [`WeightsError::MissingKey`] or [`WeightsError::WrongType`]; where a key
/// has a default, [`Optional::optional`](super::Optional::optional) tells the two apart.
#[derive(Clone, Debug)]
pub struct GgufMetadata {
    path: PathBuf,
    values: BTreeMap<String, Value>,
}

#[derive(Clone, Debug)]
struct Value {
    kind: ValueType,
    bytes: Bytes,
}

impl GgufMetadata {
    /// Reads `count` entries and leaves `reader`, which reads `file`, behind them.
    pub(super) fn read(
        path: &Path,
        file: &Bytes,
        reader: &mut Reader<'_>,
        count: u64,
    ) -> Result<Self, WeightsError> {
        let what = format_args!("the number of metadata keys");
        reader.expect_room(count, MIN_ENTRY_BYTES, what)?;
        if count > MAX_KEYS {
            return Err(
                reader.malformed(format!("{count} metadata keys, at most {MAX_KEYS} are allowed"))
            );
        }
        let mut values = BTreeMap::new();
        for idx in 0..count {
            let key = reader.string(MAX_KEY_BYTES, format_args!("metadata key {idx}"))?;
            let kind = reader.value_type(format_args!("the type of metadata key `{key}`"))?;
            let range = reader.value(kind, format_args!("the value of metadata key `{key}`"))?;
            let bytes = file.slice(range).expect("invariant: the reader stays within the file");
            if values.insert(key.clone(), Value { kind, bytes }).is_some() {
                return Err(reader.malformed(format!("metadata key `{key}` occurs twice")));
            }
        }
        Ok(Self { path: path.to_owned(), values })
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Whether there is such a key, of whatever type.
    pub fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// An integer that is not negative, of whatever width.
    pub fn u64(&self, key: &str) -> Result<u64, WeightsError> {
        let value = self.value(key)?;
        integer(value.kind, &value.bytes)
            .and_then(|number| u64::try_from(number).ok())
            .ok_or_else(|| self.wrong_type(key, "an integer that is not negative"))
    }

    /// A floating-point number; an f64 is rounded.
    pub fn f32(&self, key: &str) -> Result<f32, WeightsError> {
        let value = self.value(key)?;
        float(value.kind, &value.bytes)
            .ok_or_else(|| self.wrong_type(key, "a floating-point number"))
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<bool, WeightsError> {
        let value = self.value(key)?;
        match (value.kind, &*value.bytes) {
            (ValueType::Bool, [0]) => Ok(false),
            (ValueType::Bool, [1]) => Ok(true),
            _ => Err(self.wrong_type(key, "a bool")),
        }
    }

    /// A text.
    pub fn string(&self, key: &str) -> Result<String, WeightsError> {
        let value = self.value(key)?;
        if value.kind != ValueType::String {
            return Err(self.wrong_type(key, "a string"));
        }
        Reader::new(&self.path, &value.bytes)
            .string(u64::MAX, format_args!("the value of metadata key `{key}`"))
    }

    /// An array of texts.
    pub fn strings(&self, key: &str) -> Result<Vec<String>, WeightsError> {
        let (mut reader, kind, len) = self.array(key, "an array of strings")?;
        if kind != ValueType::String {
            return Err(self.wrong_type(key, "an array of strings"));
        }
        (0..len)
            .map(|idx| {
                reader.string(u64::MAX, format_args!("element {idx} of metadata key `{key}`"))
            })
            .collect()
    }

    /// An array of floating-point numbers; f64 are rounded.
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>, WeightsError> {
        self.numbers(key, "an array of floating-point numbers", float)
    }

    /// An array of integers that fit an i32, of whatever width.
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>, WeightsError> {
        self.numbers(key, "an array of integers that fit an i32", |kind, bytes| {
            integer(kind, bytes).and_then(|number| i32::try_from(number).ok())
        })
    }

    fn numbers<T>(
        &self,
        key: &str,
        expected: &'static str,
        decode: impl Fn(ValueType, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, WeightsError> {
        let (mut reader, kind, len) = self.array(key, expected)?;
        if matches!(kind, ValueType::String | ValueType::Array) {
            return Err(self.wrong_type(key, expected));
        }
        let bytes = &self.value(key)?.bytes;
        (0..len)
            .map(|idx| {
                let range =
                    reader.value(kind, format_args!("element {idx} of metadata key `{key}`"))?;
                decode(kind, &bytes[range]).ok_or_else(|| self.wrong_type(key, expected))
            })
            .collect()
    }

    /// A reader of an array's elements, their type and their number.
    fn array(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<(Reader<'_>, ValueType, u64), WeightsError> {
        let value = self.value(key)?;
        if value.kind != ValueType::Array {
            return Err(self.wrong_type(key, expected));
        }
        let mut reader = Reader::new(&self.path, &value.bytes);
        let (kind, len) = reader.array_head(format_args!("metadata key `{key}`"))?;
        Ok((reader, kind, len))
    }

    fn value(&self, key: &str) -> Result<&Value, WeightsError> {
        self.values.get(key).ok_or_else(|| WeightsError::MissingKey {
            path: self.path.clone(),
            key: key.to_owned(),
        })
    }

    fn wrong_type(&self, key: &str, expected: &'static str) -> WeightsError {
        WeightsError::WrongType {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
            found: self.values.get(key).map_or_else(String::new, describe),
        }
    }
}

/// The number, if it is an integer.
fn integer(kind: ValueType, bytes: &[u8]) -> Option<i128> {
    match kind {
        ValueType::U8 => number(bytes, u8::from_le_bytes).map(i128::from),
        ValueType::I8 => number(bytes, i8::from_le_bytes).map(i128::from),
        ValueType::U16 => number(bytes, u16::from_le_bytes).map(i128::from),
        ValueType::I16 => number(bytes, i16::from_le_bytes).map(i128::from),
        ValueType::U32 => number(bytes, u32::from_le_bytes).map(i128::from),
        ValueType::I32 => number(bytes, i32::from_le_bytes).map(i128::from),
        ValueType::U64 => number(bytes, u64::from_le_bytes).map(i128::from),
        ValueType::I64 => number(bytes, i64::from_le_bytes).map(i128::from),
        ValueType::F32
        | ValueType::F64
        | ValueType::Bool
        | ValueType::String
        | ValueType::Array => None,
    }
}

/// The number, if it is a floating-point one.
fn float(kind: ValueType, bytes: &[u8]) -> Option<f32> {
    match kind {
        ValueType::F32 => number(bytes, f32::from_le_bytes),
        ValueType::F64 => number(bytes, f64::from_le_bytes).map(|value| value as f32),
        _ => None,
    }
}

fn number<const N: usize, T>(bytes: &[u8], from_le_bytes: impl Fn([u8; N]) -> T) -> Option<T> {
    bytes.as_array().map(|bytes| from_le_bytes(*bytes))
}

/// Type and, where it is short, value.
fn describe(value: &Value) -> String {
    let Value { kind, bytes } = value;
    let name = kind.name();
    if let Some(number) = integer(*kind, bytes) {
        return format!("{name} {number}");
    }
    if let Some(number) = float(*kind, bytes) {
        return format!("{name} {number}");
    }
    match kind {
        ValueType::Bool => format!("{name} {}", bytes.first().copied().unwrap_or_default()),
        ValueType::Array => {
            Reader::new(Path::new(""), bytes).array_head(format_args!("array")).map_or_else(
                |_| name.to_owned(),
                |(kind, len)| format!("array of {len} {}", kind.name()),
            )
        }
        _ => name.to_owned(),
    }
}
