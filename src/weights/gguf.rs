//! GGUF files: header and table of tensors.
//!
//! ```text
//! "GGUF"  version u32 (2 or 3)  num_tensors u64  num_keys u64
//! num_keys times:     key string   type u32   value
//! num_tensors times:  name string  rank u32   dims u64[rank]   type u32   offset u64
//! padding to a multiple of `general.alignment` (32)
//! data                each tensor at its offset, which is a multiple of the alignment
//!
//! string = length u64, then so many bytes of UTF-8        all numbers little-endian
//! dims   = innermost axis first; turned around here
//! ```
//!
//! Follows the format's specification in the ggml project (`docs/gguf.md`). Refused are doubled
//! names, tensors outside of the file, off the alignment or overlapping, and shapes that do not fit
//! their type. A tensor of a type that is not ours is refused only when it is asked for: its length
//! is not known, and so not checked.
//!
//! What this deliberately does not do: no version 1, no big-endian files, and no files that are
//! split into several.

use std::ops::Range;
use std::path::Path;

use super::bytes::Bytes;
use super::error::{Optional, WeightsError};
use super::gguf_metadata::GgufMetadata;
use super::gguf_reader::Reader;
use super::table::{
    MAX_RANK, StoredDType, TensorEntry, check_shape, first_duplicate, tensor_bytes,
};
use crate::ir::DType;

/// The first four bytes.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";
const MAX_TENSORS: u64 = 1 << 20;
const MAX_NAME_BYTES: u64 = 65_535;
/// The fewest bytes of an entry: the name's length, rank, type, offset.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 4 + 8;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A parsed file.
#[derive(Debug)]
pub(super) struct Gguf {
    pub(super) metadata: GgufMetadata,
    pub(super) tensors: Vec<TensorEntry>,
}

/// A row of the table, before its place in the file is known.
struct Row {
    name: String,
    dims: Vec<u64>,
    type_code: u32,
    offset: u64,
}

/// Parses and checks everything but the tensors' values.
pub(super) fn parse(path: &Path, file: &Bytes) -> Result<Gguf, WeightsError> {
    let mut reader = Reader::new(path, file);
    expect_magic_and_version(path, file, &mut reader)?;
    let num_tensors = reader.u64(format_args!("the number of tensors"))?;
    let num_keys = reader.u64(format_args!("the number of metadata keys"))?;
    let metadata = GgufMetadata::read(path, file, &mut reader, num_keys)?;
    if let Some(parts) = metadata.u64("split.count").optional()?.filter(|&parts| parts > 1) {
        let what = format!(
            "one of {parts} parts of a split model, which is not supported; merge them into one file first"
        );
        return Err(WeightsError::unsupported(path, what));
    }
    let rows = read_rows(&mut reader, num_tensors)?;
    let alignment = alignment(&reader, &metadata)?;
    let data_start = (reader.position() as u64).next_multiple_of(alignment);
    let mut tensors = Vec::with_capacity(rows.len());
    for row in rows {
        let place = Place { alignment, data_start, file_bytes: file.len() as u64 };
        let name = row.name.clone();
        let entry =
            place.of(row).map_err(|what| reader.malformed(format!("tensor `{name}` {what}")))?;
        tensors.push(entry);
    }
    expect_disjoint(&reader, &tensors)?;
    Ok(Gguf { metadata, tensors })
}

fn expect_magic_and_version(
    path: &Path,
    file: &[u8],
    reader: &mut Reader<'_>,
) -> Result<(), WeightsError> {
    if !file.starts_with(MAGIC) {
        let start = &file[..file.len().min(MAGIC.len())];
        let what = format!(
            "not a GGUF file: expected `GGUF` at its start, got `{}`",
            start.escape_ascii()
        );
        return Err(WeightsError::malformed(path, what));
    }
    reader.take(MAGIC.len() as u64, format_args!("the magic number"))?;
    let version = reader.u32(format_args!("the version"))?;
    match version {
        2 | 3 => Ok(()),
        _ if matches!(version.swap_bytes(), 1..=3) => Err(WeightsError::unsupported(
            path,
            "a big-endian GGUF file, only little-endian ones are supported",
        )),
        _ => Err(WeightsError::unsupported(
            path,
            format!("GGUF version {version} is not supported, only 2 and 3 are"),
        )),
    }
}

fn read_rows(reader: &mut Reader<'_>, count: u64) -> Result<Vec<Row>, WeightsError> {
    reader.expect_room(count, MIN_ENTRY_BYTES, format_args!("the number of tensors"))?;
    if count > MAX_TENSORS {
        return Err(reader.malformed(format!("{count} tensors, at most {MAX_TENSORS} are allowed")));
    }
    let rows: Vec<Row> = (0..count).map(|idx| read_row(reader, idx)).collect::<Result<_, _>>()?;
    match first_duplicate(rows.iter().map(|row| row.name.as_str())) {
        Some(name) => Err(reader.malformed(format!("tensor `{name}` occurs twice"))),
        None => Ok(rows),
    }
}

fn read_row(reader: &mut Reader<'_>, idx: u64) -> Result<Row, WeightsError> {
    let name = reader.string(MAX_NAME_BYTES, format_args!("the name of tensor {idx}"))?;
    let rank = reader.u32(format_args!("the rank of tensor `{name}`"))?;
    if rank as usize > MAX_RANK {
        return Err(reader.malformed(format!(
            "tensor `{name}` has {rank} axes, at most {MAX_RANK} are supported"
        )));
    }
    let mut dims = (0..rank)
        .map(|_| reader.u64(format_args!("the shape of tensor `{name}`")))
        .collect::<Result<Vec<u64>, _>>()?;
    dims.reverse();
    let type_code = reader.u32(format_args!("the type of tensor `{name}`"))?;
    let offset = reader.u64(format_args!("the offset of tensor `{name}`"))?;
    Ok(Row { name, dims, type_code, offset })
}

fn alignment(reader: &Reader<'_>, metadata: &GgufMetadata) -> Result<u64, WeightsError> {
    let alignment = metadata.u64("general.alignment").optional()?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && (8..=1 << 31).contains(&alignment) {
        return Ok(alignment);
    }
    Err(reader.malformed(format!(
        "metadata key `general.alignment` is {alignment}, expected a power of two from 8 to 2^31"
    )))
}

/// What is needed to place a tensor in the file.
struct Place {
    alignment: u64,
    data_start: u64,
    file_bytes: u64,
}

impl Place {
    fn of(&self, row: Row) -> Result<TensorEntry, String> {
        let shape = check_shape(&row.dims)?;
        let dtype = dtype_of_code(row.type_code);
        let bytes = match dtype {
            StoredDType::Known(dtype) => tensor_bytes(dtype, &shape)? as u64,
            // Of unknown length, but no axis is 0.
            StoredDType::Foreign(_) => 1,
        };
        if !row.offset.is_multiple_of(self.alignment) {
            return Err(format!(
                "begins at offset {}, which is not a multiple of {}",
                row.offset, self.alignment
            ));
        }
        let range = self.range(row.offset, bytes).ok_or_else(|| {
            format!(
                "lies outside of the file: {bytes} bytes at offset {} of the data, which begins at byte {} of {}",
                row.offset, self.data_start, self.file_bytes
            )
        })?;
        Ok(TensorEntry { name: row.name, dtype, shape, range })
    }

    /// The place in the file, if that is within it.
    fn range(&self, offset: u64, bytes: u64) -> Option<Range<usize>> {
        let start = self.data_start.checked_add(offset)?;
        let end = start.checked_add(bytes)?;
        (end <= self.file_bytes).then_some(())?;
        Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }
}

fn expect_disjoint(reader: &Reader<'_>, tensors: &[TensorEntry]) -> Result<(), WeightsError> {
    let mut by_start: Vec<&TensorEntry> = tensors.iter().collect();
    by_start.sort_unstable_by_key(|entry| (entry.range.start, entry.range.end));
    for pair in by_start.array_windows() {
        let [before, after] = pair;
        if after.range.start < before.range.end {
            return Err(
                reader.malformed(format!("tensors `{}` and `{}` overlap", before.name, after.name))
            );
        }
    }
    Ok(())
}

/// Names of the types in ggml's header `ggml.h`, with ours where we have it.
const TYPES: [(u32, &str, Option<DType>); 34] = [
    (0, "F32", Some(DType::F32)),
    (1, "F16", Some(DType::F16)),
    (2, "Q4_0", Some(DType::Q4_0)),
    (3, "Q4_1", Some(DType::Q4_1)),
    (6, "Q5_0", Some(DType::Q5_0)),
    (7, "Q5_1", Some(DType::Q5_1)),
    (8, "Q8_0", Some(DType::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", None),
    (11, "Q3_K", None),
    (12, "Q4_K", Some(DType::Q4K)),
    (13, "Q5_K", Some(DType::Q5K)),
    (14, "Q6_K", Some(DType::Q6K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", Some(DType::I32)),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(DType::BF16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", None),
    (40, "NVFP4", None),
    (41, "Q1_0", None),
];

fn dtype_of_code(code: u32) -> StoredDType {
    match TYPES.iter().find(|(other, ..)| *other == code) {
        Some(&(_, _, Some(dtype))) => StoredDType::Known(dtype),
        Some(&(_, name, None)) => StoredDType::Foreign(name.to_owned()),
        None => StoredDType::Foreign(format!("ggml type {code}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bytes_never_panic(
            version in 2_u32..4,
            num_tensors in 0_u64..3,
            num_keys in 0_u64..3,
            tail in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(version.to_le_bytes());
            bytes.extend(num_tensors.to_le_bytes());
            bytes.extend(num_keys.to_le_bytes());
            bytes.extend(tail);
            let _ = parse(Path::new("a.gguf"), &Bytes::copied_from(&bytes));
        }
    }
}
