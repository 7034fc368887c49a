//! Reads a GGUF file from front to back, never past its end.
//!
//! Every length and count is compared with what is left of the file before it is used, so that a
//! number in a damaged file can neither allocate much nor loop long: time and memory are bounded by
//! the length of the file.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::error::WeightsError;

/// Deepest nesting of arrays; the known writers use one level.
const MAX_NESTING: u32 = 4;

/// Type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    fn from_code(code: u32) -> Option<Self> {
        const TYPES: [ValueType; 13] = [
            ValueType::U8,
            ValueType::I8,
            ValueType::U16,
            ValueType::I16,
            ValueType::U32,
            ValueType::I32,
            ValueType::F32,
            ValueType::Bool,
            ValueType::String,
            ValueType::Array,
            ValueType::U64,
            ValueType::I64,
            ValueType::F64,
        ];
        TYPES.get(usize::try_from(code).ok()?).copied()
    }

    /// Bytes of a value, or the fewest that one takes when they differ in length.
    pub(super) const fn min_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }

    /// The name used in messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// A position in a file, or in a part of it.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// An error about this file.
    pub(super) fn malformed(&self, what: impl Into<String>) -> WeightsError {
        WeightsError::malformed(self.path, what)
    }

    fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// Fails unless `count` things of at least `min_bytes` each can follow.
    pub(super) fn expect_room(
        &self,
        count: u64,
        min_bytes: u64,
        what: fmt::Arguments<'_>,
    ) -> Result<(), WeightsError> {
        if count.checked_mul(min_bytes).is_some_and(|bytes| bytes <= self.remaining()) {
            return Ok(());
        }
        Err(self.malformed(format!(
            "{what} at byte {} cannot be {count}: only {} bytes are left",
            self.at,
            self.remaining()
        )))
    }

    /// The range of the next `len` bytes.
    pub(super) fn take(
        &mut self,
        len: u64,
        what: fmt::Arguments<'_>,
    ) -> Result<Range<usize>, WeightsError> {
        if len > self.remaining() {
            return Err(self.malformed(format!(
                "cut off or damaged: {what} at byte {} needs {len} bytes, but {} are left",
                self.at,
                self.remaining()
            )));
        }
        let start = self.at;
        self.at += usize::try_from(len).expect("invariant: no more than what is left of the file");
        Ok(start..self.at)
    }

    fn array<const N: usize>(&mut self, what: fmt::Arguments<'_>) -> Result<[u8; N], WeightsError> {
        let range = self.take(N as u64, what)?;
        let bytes = self.bytes[range].as_array();
        Ok(*bytes.expect("invariant: the range has N bytes"))
    }

    pub(super) fn u32(&mut self, what: fmt::Arguments<'_>) -> Result<u32, WeightsError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: fmt::Arguments<'_>) -> Result<u64, WeightsError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The bytes of a string: its length as u64, then its text.
    pub(super) fn string_bytes(
        &mut self,
        what: fmt::Arguments<'_>,
    ) -> Result<&'a [u8], WeightsError> {
        let len = self.u64(what)?;
        let range = self.take(len, what)?;
        Ok(&self.bytes[range])
    }

    /// A string of at most `max_bytes`.
    pub(super) fn string(
        &mut self,
        max_bytes: u64,
        what: fmt::Arguments<'_>,
    ) -> Result<String, WeightsError> {
        let start = self.at;
        let len = self.u64(what)?;
        if len > max_bytes {
            return Err(self.malformed(format!(
                "{what} at byte {start} has {len} bytes, at most {max_bytes} are allowed"
            )));
        }
        let range = self.take(len, what)?;
        // Copied before it is checked: the file may change under the map.
        String::from_utf8(self.bytes[range].to_vec()).map_err(|error| {
            self.malformed(format!("{what} at byte {start} is not UTF-8: {error}"))
        })
    }

    pub(super) fn value_type(
        &mut self,
        what: fmt::Arguments<'_>,
    ) -> Result<ValueType, WeightsError> {
        let start = self.at;
        let code = self.u32(what)?;
        ValueType::from_code(code).ok_or_else(|| {
            self.malformed(format!("{what} at byte {start} is {code}, which is no type"))
        })
    }

    /// Passes over a value, checking that all of it is there, and gives its range.
    pub(super) fn value(
        &mut self,
        kind: ValueType,
        what: fmt::Arguments<'_>,
    ) -> Result<Range<usize>, WeightsError> {
        let start = self.at;
        self.skip(kind, 0, what)?;
        Ok(start..self.at)
    }

    fn skip(
        &mut self,
        kind: ValueType,
        depth: u32,
        what: fmt::Arguments<'_>,
    ) -> Result<(), WeightsError> {
        match kind {
            ValueType::String => self.string_bytes(what).map(drop),
            ValueType::Array => self.skip_array(depth, what),
            _ => self.take(kind.min_bytes(), what).map(drop),
        }
    }

    fn skip_array(&mut self, depth: u32, what: fmt::Arguments<'_>) -> Result<(), WeightsError> {
        if depth == MAX_NESTING {
            return Err(self.malformed(format!("{what} nests arrays more than {MAX_NESTING} deep")));
        }
        let (kind, len) = self.array_head(what)?;
        if !matches!(kind, ValueType::String | ValueType::Array) {
            // No overflow: `array_head` made sure that they fit what is left.
            return self.take(len * kind.min_bytes(), what).map(drop);
        }
        (0..len).try_for_each(|_| self.skip(kind, depth + 1, what))
    }

    /// The head of an array: type and number of its elements, for which there is room.
    pub(super) fn array_head(
        &mut self,
        what: fmt::Arguments<'_>,
    ) -> Result<(ValueType, u64), WeightsError> {
        let kind = self.value_type(format_args!("the element type of {what}"))?;
        let len = self.u64(what)?;
        self.expect_room(len, kind.min_bytes(), format_args!("the length of {what}"))?;
        Ok((kind, len))
    }
}
