//! Where the blocks of the KV pool lie in the states of a memory.
//!
//! ```text
//! state 0          | block 0 | block 1 | .. |      the first axis of a state counts blocks
//! state 1          | block 0 | block 1 | .. |
//! bytes of block 1 = those in state 0, then those in state 1, ..
//! ```
//!
//! What this module deliberately does not do: it holds no numbers and copies none; it says where
//! they lie and refuses what lies nowhere.

use std::ops::Range;

use super::BackendError;

/// The part of a block that is in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index of the state.
    pub(super) state: usize,
    /// Where its bytes begin in the state.
    pub(super) offset: usize,
    /// Where they lie among the bytes of the block.
    pub(super) range: Range<usize>,
}

/// The blocks of a memory; by default there are none.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    /// How many every state has.
    count: usize,
    /// Bytes of one block, by state.
    state_bytes: Vec<usize>,
    /// Bytes of one block over all states.
    bytes: usize,
}

impl Blocks {
    /// Of states with so many blocks of so many bytes each. Their sum was allocated, so that it does
    /// not overflow.
    pub(super) fn new(states: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let (counts, state_bytes): (Vec<_>, Vec<_>) = states.into_iter().unzip();
        let count = counts.into_iter().min().unwrap_or(0);
        let bytes = state_bytes.iter().sum();
        Self { count, state_bytes, bytes }
    }

    /// Bytes of one block over all states.
    pub(super) fn block_bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of one block, by state.
    pub(super) fn state_bytes(&self) -> &[usize] {
        &self.state_bytes
    }

    /// The parts of a block of that index, state after state.
    pub(super) fn pieces(&self, index: usize) -> impl Iterator<Item = Piece> + '_ {
        self.state_bytes.iter().enumerate().scan(0, move |start, (state, &bytes)| {
            let range = *start..*start + bytes;
            *start = range.end;
            Some(Piece { state, offset: index * bytes, range })
        })
    }

    /// The index of a block.
    ///
    /// # Errors
    /// [`BackendError::BadInput`] when there is no such block.
    pub(super) fn index(&self, block: u32) -> Result<usize, BackendError> {
        let index = usize::try_from(block).ok().filter(|&index| index < self.count);
        index.ok_or_else(|| {
            let count = self.count;
            BackendError::BadInput(format!("block {block} is outside the KV pool of {count}"))
        })
    }

    /// Checks blocks to copy from and to.
    ///
    /// # Errors
    /// As of [`index`](Self::index).
    pub(super) fn check_copies(&self, copies: &[(u32, u32)]) -> Result<(), BackendError> {
        copies.iter().try_for_each(|&(from, to)| {
            self.index(from)?;
            self.index(to).map(drop)
        })
    }

    /// The index of a block whose numbers are in a buffer of `len` bytes.
    ///
    /// # Errors
    /// As of [`index`](Self::index), or when the buffer has another length.
    pub(super) fn index_with_bytes(&self, block: u32, len: usize) -> Result<usize, BackendError> {
        if len != self.bytes {
            return Err(BackendError::BadInput(format!(
                "block {block} of the KV pool has {} bytes, the buffer for it {len}",
                self.bytes
            )));
        }
        self.index(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_in_all_states_or_there_is_none() {
        let blocks = Blocks::new([(4, 12), (3, 8)]);
        assert_eq!((blocks.block_bytes(), blocks.state_bytes()), (20, &[12, 8][..]));
        assert_eq!(blocks.index(2).unwrap(), 2);
        let piece = |state, offset, range| Piece { state, offset, range };
        assert!(blocks.pieces(2).eq([piece(0, 24, 0..12), piece(1, 16, 12..20)]));
        assert!(blocks.check_copies(&[(0, 2), (2, 2)]).is_ok());
        for copies in [&[(0, 3)][..], &[(0, 1), (3, 0)], &[(u32::MAX, 0)]] {
            let error = blocks.check_copies(copies).unwrap_err().to_string();
            assert!(error.ends_with("is outside the KV pool of 3"), "{error}");
        }
        assert_eq!(blocks.index_with_bytes(1, 20).unwrap(), 1);
        let error = blocks.index_with_bytes(1, 12).unwrap_err().to_string();
        assert_eq!(error, "block 1 of the KV pool has 20 bytes, the buffer for it 12");
    }

    #[test]
    fn without_states_there_are_no_blocks() {
        let blocks = Blocks::default();
        assert_eq!(blocks.block_bytes(), 0);
        assert!(blocks.check_copies(&[]).is_ok());
        assert!(blocks.index_with_bytes(0, 0).is_err());
    }
}
