//! The reading half: each member must be the next one.

use std::io::{self, BufReader, Read};
use std::ops::RangeInclusive;

use serde::Deserialize;

use super::write::{
    INDEX_SIZES, MANIFEST_SIZES, RECORD_SIZES, SIGNATURES_SIZES, check_size, header,
};
use super::{
    ArchiveEntry, ArchiveError, BLOCK_BYTES, FORMAT, INDEX, Index, MAX_ENTRIES, MAX_WINDOW_LOG,
    padding, path_of,
};
use crate::entry::{self, ArtifactFile, Entry, EntryError, Manifest};

/// Where the archive ends, for messages.
const END: &str = "the end";

/// An archive that is being read.
pub(super) struct Reader<R: Read> {
    zstd: zstd::Decoder<'static, BufReader<R>>,
    /// The header of the next member, if it has been looked at already.
    next: Option<[u8; BLOCK_BYTES]>,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Result<Self, ArchiveError> {
        let mut zstd = zstd::Decoder::new(input).map_err(failed(INDEX))?.single_frame();
        zstd.window_log_max(MAX_WINDOW_LOG).map_err(failed(INDEX))?;
        Ok(Self { zstd, next: None })
    }

    pub(super) fn index(&mut self) -> Result<Index, ArchiveError> {
        #[derive(Deserialize)]
        struct Marker {
            format: u64,
        }
        let bad = |error: serde_json::Error| ArchiveError::Index(error.to_string());
        let json = self.member(INDEX, INDEX_SIZES)?;
        // The format first: whatever else is in the index of another one may look otherwise.
        let Marker { format } = serde_json::from_slice(&json).map_err(bad)?;
        if format != u64::from(FORMAT) {
            return Err(ArchiveError::Format { got: format });
        }
        let index: Index = serde_json::from_slice(&json).map_err(bad)?;
        if index.entries.len() > MAX_ENTRIES {
            return Err(ArchiveError::Count { got: index.entries.len() });
        }
        match index.entries.windows(2).find(|pair| pair[0].key >= pair[1].key) {
            None => Ok(index),
            Some(pair) => {
                let (a, b) = (pair[0].key, pair[1].key);
                Err(ArchiveError::Index(format!("lists {b} after {a}, expected ascending keys")))
            }
        }
    }

    /// The next entry, which must be the one announced.
    pub(super) fn entry(&mut self, announced: &ArchiveEntry) -> Result<Entry, ArchiveError> {
        let key = announced.key;
        let path = |name: &str| path_of(&key, name);
        let bad = |source: EntryError| ArchiveError::Entry { key, source };
        let record = self.member(&path(entry::RECORD), RECORD_SIZES)?;
        let manifest_json = self.member(&path(entry::MANIFEST), MANIFEST_SIZES)?;
        let manifest = Manifest::verified(&key, &record, &manifest_json).map_err(bad)?;
        if ArchiveEntry::of(&manifest) != *announced {
            return Err(ArchiveError::Described { key });
        }
        let signatures = path(entry::SIGNATURES);
        let signatures = if self.is_next(&signatures)? {
            self.member(&signatures, SIGNATURES_SIZES)?
        } else {
            Vec::new()
        };
        let mut files = Vec::with_capacity(manifest.files.len());
        for info in manifest.files {
            let bytes = self.member(&path(&info.name), info.bytes..=info.bytes)?;
            files.push(ArtifactFile { name: info.name, bytes });
        }
        Entry::from_parts(&key, &record, manifest_json, signatures, files).map_err(bad)
    }

    /// The content of the next member, which must have this path and one of these sizes.
    fn member(&mut self, path: &str, sizes: RangeInclusive<u64>) -> Result<Vec<u8>, ArchiveError> {
        let head = self.head(path)?;
        let bytes = tar::Header::from_byte_slice(&head).entry_size().unwrap_or(u64::MAX);
        if path_in(&head) != path.as_bytes() {
            return Err(out_of_place(path, &head));
        }
        check_size(path, bytes, &sizes)?;
        if head != header(path, bytes) {
            return Err(out_of_place(path, &head));
        }
        let content = self.read(bytes, path)?;
        let filler = self.read(padding(bytes) as u64, path)?;
        if filler.iter().any(|byte| *byte != 0) {
            let got = "one that is followed by something else than zeros".to_owned();
            return Err(ArchiveError::Member { expected: path.to_owned(), got });
        }
        Ok(content)
    }

    fn is_next(&mut self, path: &str) -> Result<bool, ArchiveError> {
        let head = self.head(path)?;
        self.next = Some(head);
        Ok(path_in(&head) == path.as_bytes())
    }

    fn head(&mut self, path: &str) -> Result<[u8; BLOCK_BYTES], ArchiveError> {
        if let Some(head) = self.next.take() {
            return Ok(head);
        }
        let mut head = [0; BLOCK_BYTES];
        self.zstd.read_exact(&mut head).map_err(failed(path))?;
        Ok(head)
    }

    /// So many bytes. Memory grows with what has been read, not with what is promised.
    fn read(&mut self, bytes: u64, member: &str) -> Result<Vec<u8>, ArchiveError> {
        let mut content = Vec::new();
        (&mut self.zstd).take(bytes).read_to_end(&mut content).map_err(failed(member))?;
        if content.len() as u64 != bytes {
            return Err(ArchiveError::Cut { member: member.to_owned() });
        }
        content.shrink_to_fit();
        Ok(content)
    }

    /// Makes sure that nothing follows.
    pub(super) fn finish(mut self) -> Result<(), ArchiveError> {
        let mut end = [0; 2 * BLOCK_BYTES];
        self.zstd.read_exact(&mut end).map_err(failed(END))?;
        if end != [0; 2 * BLOCK_BYTES] {
            return Err(ArchiveError::Trailing("a member that the index does not announce"));
        }
        // Reading to the end of the frame also checks its checksum.
        if self.zstd.read(&mut [0]).map_err(failed(END))? != 0 {
            return Err(ArchiveError::Trailing("bytes after the end of the tar"));
        }
        if self.zstd.finish().read(&mut [0]).map_err(failed(END))? != 0 {
            return Err(ArchiveError::Trailing("bytes after the end of the compressed data"));
        }
        Ok(())
    }
}

fn failed(member: &str) -> impl FnOnce(io::Error) -> ArchiveError {
    move |source| {
        let member = member.to_owned();
        if source.kind() == io::ErrorKind::UnexpectedEof {
            ArchiveError::Cut { member }
        } else {
            ArchiveError::Read { member, source }
        }
    }
}

fn path_in(head: &[u8; BLOCK_BYTES]) -> Vec<u8> {
    tar::Header::from_byte_slice(head).path_bytes().into_owned()
}

/// The error about a member that is not the next one.
fn out_of_place(expected: &str, head: &[u8; BLOCK_BYTES]) -> ArchiveError {
    let path = path_in(head);
    let got = if head.iter().all(|byte| *byte == 0) {
        "the end of the archive".to_owned()
    } else if path == expected.as_bytes() {
        let kind = tar::Header::from_byte_slice(head).entry_type();
        format!("one of that name with a header that no export writes (kind {kind:?})")
    } else {
        format!("`{}`", path.escape_ascii())
    };
    ArchiveError::Member { expected: expected.to_owned(), got }
}
