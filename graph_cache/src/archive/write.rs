//! The writing half: members, one after the other, in the one form that is read again.

use std::io::Write;
use std::ops::RangeInclusive;

use super::{ArchiveError, BLOCK_BYTES, INDEX, Index, MAX_INDEX_BYTES, padding, path_of};
use crate::entry::{self, Entry};

/// How hard zstd tries: fast enough not to be what an export waits for.
const LEVEL: i32 = 3;

/// The sizes of the members that no manifest gives.
pub(super) const INDEX_SIZES: RangeInclusive<u64> = 1..=MAX_INDEX_BYTES;
pub(super) const RECORD_SIZES: RangeInclusive<u64> = 1..=entry::codec::MAX_RECORD_BYTES as u64;
pub(super) const MANIFEST_SIZES: RangeInclusive<u64> = 1..=entry::manifest::MAX_MANIFEST_BYTES;
pub(super) const SIGNATURES_SIZES: RangeInclusive<u64> = 1..=entry::MAX_SIGNATURES_BYTES;

/// An archive that is being written.
pub(super) struct Writer<W: Write> {
    zstd: zstd::Encoder<'static, W>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> Result<Self, ArchiveError> {
        let mut zstd = zstd::Encoder::new(out, LEVEL).map_err(ArchiveError::Write)?;
        zstd.include_checksum(true).map_err(ArchiveError::Write)?;
        Ok(Self { zstd })
    }

    pub(super) fn index(&mut self, index: &Index) -> Result<(), ArchiveError> {
        let mut json = serde_json::to_vec_pretty(index)
            .expect("invariant: an index is strings and numbers, which always encode");
        json.push(b'\n');
        self.member(INDEX, INDEX_SIZES, &json)
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        let path = |name: &str| path_of(entry.key(), name);
        self.member(&path(entry::RECORD), RECORD_SIZES, &entry.record())?;
        self.member(&path(entry::MANIFEST), MANIFEST_SIZES, entry.manifest_json())?;
        if !entry.signatures().is_empty() {
            self.member(&path(entry::SIGNATURES), SIGNATURES_SIZES, entry.signatures())?;
        }
        for file in entry.artifact().files() {
            let bytes = file.bytes.len() as u64;
            self.member(&path(&file.name), bytes..=bytes, &file.bytes)?;
        }
        Ok(())
    }

    /// What is larger than it is ever read is not written either.
    fn member(
        &mut self,
        path: &str,
        sizes: RangeInclusive<u64>,
        content: &[u8],
    ) -> Result<(), ArchiveError> {
        let bytes = content.len() as u64;
        check_size(path, bytes, &sizes)?;
        self.write(&header(path, bytes))?;
        self.write(content)?;
        self.write(&[0; BLOCK_BYTES][..padding(bytes)])
    }

    pub(super) fn finish(mut self) -> Result<(), ArchiveError> {
        self.write(&[0; 2 * BLOCK_BYTES])?;
        let mut out = self.zstd.finish().map_err(ArchiveError::Write)?;
        out.flush().map_err(ArchiveError::Write)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.zstd.write_all(bytes).map_err(ArchiveError::Write)
    }
}

pub(super) fn check_size(
    member: &str,
    got: u64,
    sizes: &RangeInclusive<u64>,
) -> Result<(), ArchiveError> {
    if sizes.contains(&got) {
        return Ok(());
    }
    let (min, max) = (*sizes.start(), *sizes.end());
    Err(ArchiveError::Size { member: member.to_owned(), got, min, max })
}

/// The header of a member: a regular file of root, that only root can read, as old as 1970.
pub(super) fn header(path: &str, bytes: u64) -> [u8; BLOCK_BYTES] {
    let mut header = tar::Header::new_ustar();
    header
        .set_path(path)
        .expect("invariant: paths are relative, and no part is longer than a header has room for");
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    *header.as_bytes()
}
