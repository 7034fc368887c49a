//! Safetensors files: the header.
//!
//! ```text
//! 0        length of the header, u64, little-endian, at most 100,000,000
//! 8        header: {"__metadata__": {..}, "name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ..}
//! 8 + len  data: every byte belongs to exactly one tensor
//! ```
//!
//! Follows the format's description in the safetensors project, and is stricter than its library
//! where that lets two files pass for one: a name that occurs twice is refused. Types that are not
//! ours may occur; only asking for such a tensor is an error.
//!
//! What this deliberately does not do: it does not keep `__metadata__`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use super::error::WeightsError;
use super::table::{
    MAX_RANK, StoredDType, TensorEntry, check_shape, first_duplicate, tensor_bytes,
};
use crate::ir::DType;

const LENGTH_BYTES: usize = 8;
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Every type of the format: name, bits of an element, ours where we have it.
const TYPES: [(&str, usize, Option<DType>); 22] = [
    ("F32", 32, Some(DType::F32)),
    ("F16", 16, Some(DType::F16)),
    ("BF16", 16, Some(DType::BF16)),
    ("I32", 32, Some(DType::I32)),
    ("BOOL", 8, None),
    ("U8", 8, None),
    ("I8", 8, None),
    ("U16", 16, None),
    ("I16", 16, None),
    ("U32", 32, None),
    ("U64", 64, None),
    ("I64", 64, None),
    ("F64", 64, None),
    ("C64", 64, None),
    ("F8_E4M3", 8, None),
    ("F8_E5M2", 8, None),
    ("F8_E8M0", 8, None),
    ("F8_E4M3FNUZ", 8, None),
    ("F8_E5M2FNUZ", 8, None),
    ("F6_E2M3", 6, None),
    ("F6_E3M2", 6, None),
    ("F4", 4, None),
];

/// Parses and checks everything but the tensors' values.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Vec<TensorEntry>, WeightsError> {
    table(file).map_err(|what| WeightsError::malformed(path, what))
}

fn table(file: &[u8]) -> Result<Vec<TensorEntry>, String> {
    let header = header_bytes(file)?;
    let data_start = LENGTH_BYTES + header.len();
    let Header(rows) = serde_json::from_slice(&header)
        .map_err(|error| format!("the header is not that of a safetensors file: {error}"))?;
    if let Some(name) = first_duplicate(rows.iter().map(|(name, _)| name.as_str())) {
        return Err(format!("tensor `{name}` occurs twice in the header"));
    }
    let data_bytes = file.len() - data_start;
    let mut tensors = Vec::with_capacity(rows.len());
    for (name, row) in rows {
        let entry = row.place(data_start, data_bytes);
        let (dtype, shape, range) = entry.map_err(|what| format!("tensor `{name}` {what}"))?;
        tensors.push(TensorEntry { name, dtype, shape, range });
    }
    expect_no_gaps(&mut tensors, data_start, file.len())?;
    Ok(tensors)
}

/// A copy of the header: it is parsed from memory that nobody else can change.
fn header_bytes(file: &[u8]) -> Result<Vec<u8>, String> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("too short for a safetensors file: {} bytes", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "the header's length is {length} bytes, at most {MAX_HEADER_BYTES} are allowed; is this a safetensors file?"
        ));
    }
    let header =
        usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(|| {
            format!(
                "cut off: the header needs {length} bytes, but {} follow its length",
                rest.len()
            )
        })?;
    if !header.starts_with(b"{") {
        return Err(format!("the header of {length} bytes does not begin with `{{`"));
    }
    Ok(header.to_vec())
}

/// Tensors in order of their place; every byte of the data belongs to exactly one.
fn expect_no_gaps(
    tensors: &mut [TensorEntry],
    data_start: usize,
    file_bytes: usize,
) -> Result<(), String> {
    tensors.sort_unstable_by_key(|entry| (entry.range.start, entry.range.end));
    let mut end = data_start;
    let mut previous: Option<&TensorEntry> = None;
    for entry in &*tensors {
        if entry.range.start < end {
            let previous = previous.map_or("", |previous| &previous.name);
            return Err(format!("tensors `{previous}` and `{}` overlap", entry.name));
        }
        if entry.range.start > end {
            let hole = entry.range.start - end;
            return Err(format!(
                "a hole of {hole} bytes before tensor `{}`: nothing may lie there",
                entry.name
            ));
        }
        end = entry.range.end;
        previous = Some(entry);
    }
    if end < file_bytes {
        return Err(format!(
            "{} bytes after the last tensor: nothing may lie there",
            file_bytes - end
        ));
    }
    Ok(())
}

/// The header's entries in order, doubled names included.
struct Header<'a>(Vec<(String, Row<'a>)>);

/// What the header says about a tensor.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Dims,
    data_offsets: (u64, u64),
}

/// A list of sizes that ends the reading once it is too long.
struct Dims(Vec<u64>);

type Placed = (StoredDType, Vec<usize>, std::ops::Range<usize>);

impl Row<'_> {
    fn place(&self, data_start: usize, data_bytes: usize) -> Result<Placed, String> {
        let (begin, end) = self.data_offsets;
        if begin > end {
            return Err(format!("begins at offset {begin}, after its end {end}"));
        }
        if end > data_bytes as u64 {
            return Err(format!(
                "ends at offset {end}, past the end of the data of {data_bytes} bytes"
            ));
        }
        // Both fit a usize now, and so does their sum with the start of the data: it is in the file.
        let range = data_start + begin as usize..data_start + end as usize;
        let shape = check_shape(&self.shape.0)?;
        let (dtype, needed) = self.dtype_and_bytes(&shape)?;
        if needed != range.len() {
            return Err(format!(
                "has {} bytes, but {shape:?} of {} needs {needed}",
                range.len(),
                self.dtype
            ));
        }
        Ok((dtype, shape, range))
    }

    fn dtype_and_bytes(&self, shape: &[usize]) -> Result<(StoredDType, usize), String> {
        let Some(&(name, bits, ours)) = TYPES.iter().find(|(name, ..)| *name == self.dtype) else {
            let supported: Vec<_> =
                TYPES.iter().filter(|(.., ours)| ours.is_some()).map(|(name, ..)| *name).collect();
            return Err(format!(
                "has the unknown type `{}`, supported are {}",
                self.dtype,
                supported.join(", ")
            ));
        };
        if let Some(dtype) = ours {
            return Ok((StoredDType::Known(dtype), tensor_bytes(dtype, shape)?));
        }
        let elements: usize = shape.iter().product();
        let bits = elements.checked_mul(bits).filter(|bits| bits.is_multiple_of(8));
        let bytes =
            bits.ok_or_else(|| format!("does not fill whole bytes: {shape:?} of {name}"))? / 8;
        Ok((StoredDType::Foreign(name.to_owned()), bytes))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Header<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one entry per tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header<'de>, A::Error> {
                let mut rows = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?;
                        continue;
                    }
                    let row = map.next_value().map_err(|error| {
                        de::Error::custom(format_args!("tensor `{name}`: {error}"))
                    })?;
                    rows.push((name, row));
                }
                Ok(Header(rows))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Dims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_RANK} sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dims, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if dims.len() == MAX_RANK {
                        return Err(de::Error::invalid_length(MAX_RANK + 1, &self));
                    }
                    dims.push(dim);
                }
                Ok(Dims(dims))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(header: &[u8], data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.resize(file.len() + data, 0);
        file
    }

    #[test]
    fn types_that_are_not_ours_are_kept_for_later() {
        let header = br#"{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#;
        let tensors = table(&file(header, 2)).unwrap();
        assert_eq!(tensors[0].dtype, StoredDType::Foreign("F4".to_owned()));
        let header = br#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#;
        assert!(table(&file(header, 2)).unwrap_err().contains("whole bytes"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bytes_never_panic(header in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = b"{\"a\":".to_vec();
            bytes.extend(header);
            prop_assert!(table(&file(&bytes, 8)).is_err());
        }

        #[test]
        fn arbitrary_rows_never_panic(
            dtype in proptest::sample::select(TYPES.map(|(name, ..)| name).to_vec()),
            shape in proptest::collection::vec(any::<u64>(), 0..10),
            offsets in any::<(u64, u64)>(),
        ) {
            let header = format!(
                r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{},{}]}}}}"#,
                offsets.0, offsets.1
            );
            let _ = table(&file(header.as_bytes(), 64));
        }
    }
}
