//! Maps a file read-only: the only place of this crate's weights that needs `unsafe`.
//!
//! ```text
//! path --stat: a regular file?--> open --stat again--> map (shared, read-only) --> &[u8]
//! ```
//!
//! The first `stat` comes before `open`, since opening a FIFO waits for a writer that may never
//! come. An empty file is refused: it is no checkpoint, and cannot be mapped.
//!
//! What this deliberately does not do: it does not lock the file. A file that is overwritten in
//! place while it is mapped gives wrong numbers, and one that is cut short ends the process
//! (`SIGBUS`); whoever replaces a model should write a new file and rename it.

use std::io;
use std::ops::Range;
use std::path::Path;

use fs_err as fs;
use memmap2::Mmap;

use super::error::WeightsError;
use super::stamp::FileStamp;

/// A multiple of every page size that is in use.
#[cfg(target_os = "linux")]
const PAGE: usize = 64 << 10;

/// A whole file, mapped read-only.
#[derive(Debug)]
pub(super) struct Mapping {
    map: Mmap,
    stamp: FileStamp,
}

impl Mapping {
    /// Maps the regular file at `path`, which must not be empty. Links are followed.
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        expect_regular(path, &fs::metadata(path)?)?;
        let file = fs::File::open(path)?;
        let metadata = file.metadata()?;
        expect_regular(path, &metadata)?;
        #[expect(unsafe_code, reason = "mapping a file is unsafe: others may change it meanwhile")]
        // SAFETY: `Mmap::map` asks that the file is not changed while it is mapped. We map it
        // read-only and never write to it. What another process may do to it cannot become
        // undefined behaviour of ours beyond what the module's documentation says: the bytes are
        // only ever read as integers and floats, for which every bit pattern is a value; lengths,
        // offsets and text are copied out and checked, each time they are read, and the copy is
        // used; and slices are bounded by the length of the map.
        let map = unsafe { Mmap::map(&file) };
        let map = map.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("failed to map file `{}`: {error}", path.display()),
            )
        })?;
        Ok(Self { map, stamp: FileStamp::of(&metadata) })
    }

    /// Gives the memory of some bytes back to the system, which reads them from the file again when
    /// they are looked at. Only a wish, where the system knows it.
    pub(super) fn release(&self, range: &Range<usize>) {
        #[cfg(target_os = "linux")]
        {
            // Whole pages that nobody else's bytes lie in.
            let start = range.start.next_multiple_of(PAGE);
            let end = if range.end == self.map.len() { range.end } else { range.end / PAGE * PAGE };
            if start >= end {
                return;
            }
            #[expect(
                unsafe_code,
                reason = "on other kinds of mappings this would lose what was written"
            )]
            // SAFETY: the mapping is shared with its file and read-only, so its pages hold nothing
            // that the file does not: they read the same after this as before.
            let _ = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    start,
                    end - start,
                )
            };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    /// Which file it is, and its state when it was opened.
    pub(super) fn stamp(&self) -> FileStamp {
        self.stamp
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

fn expect_regular(path: &Path, metadata: &std::fs::Metadata) -> Result<(), WeightsError> {
    if metadata.is_dir() {
        return Err(WeightsError::malformed(path, "expected a file, got a folder"));
    }
    if !metadata.is_file() {
        let what = "expected a regular file, got a pipe, socket or device";
        return Err(WeightsError::malformed(path, what));
    }
    if metadata.len() == 0 {
        return Err(WeightsError::malformed(path, "the file is empty"));
    }
    Ok(())
}
