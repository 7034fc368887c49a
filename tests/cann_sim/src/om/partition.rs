//! Tables of partitions: which kinds of data follow, and how many bytes of each.
//!
//! A table is `count u32, pad u32` and for each partition `type u32, pad u32, offset u64,
//! size u64`. The data follow the table back to back. As the real loader does, the reader adds up
//! sizes and does not look at the offsets.

use super::{DATA_SIZE_INVALID, LOAD_MODEL, OmError};

/// The kind of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionType(pub u32);

impl PartitionType {
    /// The graph and the model's attributes.
    pub const MODEL_DEF: Self = Self(0);
    /// What the device executes.
    pub const TASK_INFO: Self = Self(2);
    /// Libraries, such as that for tiling on the device.
    pub const SO_BINS: Self = Self(5);
}

const TABLE_BYTES: usize = 8;
const ENTRY_BYTES: usize = 24;
/// The loader knows no model with more.
const MAX_PARTITIONS: u32 = 8;

/// A table and its data.
pub(super) fn write(partitions: &[(PartitionType, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((partitions.len() as u32).to_le_bytes());
    bytes.extend([0; 4]);
    let mut offset = 0;
    for (kind, data) in partitions {
        bytes.extend(kind.0.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((offset as u64).to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        offset += data.len();
    }
    for (_, data) in partitions {
        bytes.extend(data);
    }
    bytes
}

/// Partitions by kind.
type Partitions<'a> = Vec<(PartitionType, &'a [u8])>;

/// The partitions of the first table in `bytes`, and what follows them.
pub(super) fn read(bytes: &[u8]) -> Result<(Partitions<'_>, &[u8]), OmError> {
    let too_short = |what: &str| {
        let message = format!("{what} is longer than the {} bytes that are left", bytes.len());
        OmError::new(DATA_SIZE_INVALID, message)
    };
    let (table, rest) =
        bytes.split_first_chunk::<TABLE_BYTES>().ok_or_else(|| too_short("a partition table"))?;
    let count = u32::from_le_bytes([table[0], table[1], table[2], table[3]]);
    if !(1..=MAX_PARTITIONS).contains(&count) {
        return Err(OmError::new(LOAD_MODEL, format!("a table of {count} partitions")));
    }
    let (entries, mut rest) = rest
        .split_at_checked(count as usize * ENTRY_BYTES)
        .ok_or_else(|| too_short("a partition table"))?;
    let mut partitions = Vec::new();
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        let (kind, size) = entry.split_at(16);
        let kind = PartitionType(u32::from_le_bytes([kind[0], kind[1], kind[2], kind[3]]));
        let size = u64::from_le_bytes(size.try_into().expect("invariant: 8 of 24 bytes are left"));
        let (data, next) = usize::try_from(size)
            .ok()
            .and_then(|size| rest.split_at_checked(size))
            .ok_or_else(|| too_short(&format!("partition {} of {size} bytes", kind.0)))?;
        partitions.push((kind, data));
        rest = next;
    }
    Ok((partitions, rest))
}
