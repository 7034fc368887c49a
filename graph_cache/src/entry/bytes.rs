//! The content of a file of an artifact.
//!
//! | Size | Memory |
//! | --- | --- |
//! | below 4 MiB | an ordinary vector |
//! | above, when read by a store | a mapping of its own, of large pages where the system has them |
//!
//! Memory that is fresh from the system comes page by page, zeroed, at the first touch. In pages of
//! 4 KiB that costs as much as reading the file into it; in pages of 2 MiB next to nothing.
//!
//! What this module deliberately does not do: no file is mapped. What was verified cannot change
//! when somebody writes to the file, or vanish when somebody cuts it.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut, MmapOptions};

/// From this size on, memory comes in a mapping of its own.
const MAPPED_BYTES: usize = 4 << 20;

/// The content of a file of an artifact: bytes in memory.
pub struct FileBytes(Memory);

enum Memory {
    Vector(Vec<u8>),
    Mapping(MmapMut),
}

impl FileBytes {
    /// So many zeros.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        if len < MAPPED_BYTES {
            return Ok(Self(Memory::Vector(vec![0; len])));
        }
        let mapping = MmapOptions::new().len(len).map_anon()?;
        // A wish: where it is not granted, it only takes longer.
        let _ = mapping.advise(Advice::HugePage);
        Ok(Self(Memory::Mapping(mapping)))
    }

    /// The bytes as a vector; copied where they are none.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Memory::Vector(bytes) => bytes,
            Memory::Mapping(bytes) => bytes.to_vec(),
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Memory::Vector(bytes) => bytes,
            Memory::Mapping(bytes) => bytes,
        }
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl DerefMut for FileBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Vector(bytes) => bytes,
            Memory::Mapping(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Memory::Vector(bytes))
    }
}

impl From<&[u8]> for FileBytes {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl FromIterator<u8> for FileBytes {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> Self {
        bytes.into_iter().collect::<Vec<u8>>().into()
    }
}

impl Clone for FileBytes {
    fn clone(&self) -> Self {
        self.as_slice().into()
    }
}

impl PartialEq for FileBytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for FileBytes {}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_can_be_written_to_and_equal_a_vector_whatever_their_size() {
        for len in [0, 1, MAPPED_BYTES - 1, MAPPED_BYTES, MAPPED_BYTES + 1] {
            let mut bytes = FileBytes::zeroed(len).unwrap();
            assert_eq!(bytes, vec![0; len].into());
            bytes.fill(7);
            assert_eq!(bytes.clone(), vec![7; len].into());
        }
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        assert!(FileBytes::zeroed(usize::MAX / 2).is_err());
    }
}
