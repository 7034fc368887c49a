//! Bytes of a tensor, wherever they live.
//!
//! ```text
//! Bytes { owner, range } --clone--> another handle on the same memory
//!          |
//!          +-- Mapped   a whole file, mapped; unmapped when the last handle goes
//!          +-- Floats   f32 that we computed
//!          '-- Words    anything else that we computed
//! ```
//!
//! Owned memory is 4-byte aligned at its start; mapped memory is page-aligned, and a range in it as
//! aligned as the file made it. `Checkpoint::tensor` copies the rare tensor that its file did not
//! align, so that the typed views of a tensor from there never fail.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::mmap::Mapping;

/// A range of bytes that somebody keeps alive: cheap to clone, read-only.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<Mapping>),
    Floats(Arc<Vec<f32>>),
    Words(Arc<Vec<u32>>),
}

impl Owner {
    fn all(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => (**mapping).as_ref(),
            Self::Floats(floats) => bytemuck::cast_slice(floats.as_slice()),
            Self::Words(words) => bytemuck::cast_slice(words.as_slice()),
        }
    }
}

impl Bytes {
    pub(super) fn mapped(mapping: Mapping) -> Self {
        let range = 0..mapping.as_ref().len();
        Self { owner: Owner::Mapped(Arc::new(mapping)), range }
    }

    /// A copy of `bytes` in owned memory, 4-byte aligned.
    pub fn copied_from(bytes: &[u8]) -> Self {
        let mut words = vec![0_u32; bytes.len().div_ceil(size_of::<u32>())];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self { owner: Owner::Words(Arc::new(words)), range: 0..bytes.len() }
    }

    /// Says that they are not looked at soon, so that the system may use the memory that holds what a
    /// file holds, too. They stay what they are.
    pub fn release(&self) {
        if let Owner::Mapped(mapping) = &self.owner {
            mapping.release(&self.range);
        }
    }

    /// A part of these bytes that shares their memory, or `None` when it does not lie within.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        self.get(range.clone())?;
        Some(Self {
            owner: self.owner.clone(),
            range: self.range.start + range.start..self.range.start + range.end,
        })
    }

    /// Whether the bytes lie in a mapped file rather than in memory of our own.
    pub fn is_mapped(&self) -> bool {
        matches!(self.owner, Owner::Mapped(_))
    }

    /// Whether the first byte's address is a multiple of `alignment`.
    pub fn is_aligned_to(&self, alignment: usize) -> bool {
        self.as_ptr().addr().is_multiple_of(alignment)
    }

    /// The bytes as little-endian f32, or `None` when they are not aligned to 4 or not whole.
    pub fn as_f32(&self) -> Option<&[f32]> {
        bytemuck::try_cast_slice(self).ok()
    }

    /// The bytes as 16-bit words (f16 or bf16), or `None` when they are not aligned to 2 or not
    /// whole.
    pub fn as_u16(&self) -> Option<&[u16]> {
        bytemuck::try_cast_slice(self).ok()
    }

    /// The bytes as little-endian i32, or `None` when they are not aligned to 4 or not whole.
    pub fn as_i32(&self) -> Option<&[i32]> {
        bytemuck::try_cast_slice(self).ok()
    }
}

impl From<Vec<f32>> for Bytes {
    fn from(floats: Vec<f32>) -> Self {
        Self { range: 0..size_of_val(floats.as_slice()), owner: Owner::Floats(Arc::new(floats)) }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.owner.all()[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = if self.is_mapped() { "mapped" } else { "owned" };
        write!(f, "Bytes({} {home})", self.range.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_memory_and_never_leave_it() {
        let bytes = Bytes::copied_from(&[1, 2, 3, 4, 5]);
        let middle = bytes.slice(1..4).unwrap();
        assert_eq!(&*middle, &[2, 3, 4]);
        assert_eq!(&*middle.slice(2..3).unwrap(), &[4]);
        assert!(std::ptr::eq(&raw const bytes[1], &raw const middle[0]));
        assert!(middle.slice(1..4).is_none());
        assert!(middle.slice(usize::MAX..usize::MAX).is_none());
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
        let reversed = middle.slice(2..1);
        assert!(reversed.is_none());
    }

    #[test]
    fn typed_views_need_alignment_and_whole_elements() {
        let bytes = Bytes::from(vec![1.0_f32, 2.0]);
        assert_eq!(bytes.as_f32(), Some([1.0, 2.0].as_slice()));
        assert_eq!(bytes.as_u16().map(<[u16]>::len), Some(4));
        assert!(bytes.slice(1..5).unwrap().as_f32().is_none());
        assert!(bytes.slice(0..6).unwrap().as_f32().is_none());
        assert!(!bytes.is_mapped());
    }
}
