//! How the KV cache lies on the device, where it differs from the IR's `[b, p, g, d]`.
//!
//! ```text
//! IR       block 0 .. b-1                   heads of d
//! device   block 0 .. b-1 | dump block b    heads of d, filled up with zeros to a multiple of 16
//! ```
//!
//! Padding of a step is written to the dump block, which nobody reads. The attention operator takes
//! heads of whole 32-byte units only.

const HEAD_MULTIPLE: u64 = 16;

/// The size that heads have in the cache.
pub(super) const fn head_size(d: u64) -> u64 {
    d.next_multiple_of(HEAD_MULTIPLE)
}

/// The shape on the device of a state of the IR; `None` for one that is no KV cache.
pub(super) fn device_shape(state: &[u64]) -> Option<[u64; 3]> {
    let &[blocks, positions, heads, d] = state else { return None };
    let padded = d.checked_next_multiple_of(HEAD_MULTIPLE)?;
    Some([blocks.checked_add(1)?, positions, heads.checked_mul(padded)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_block_follows_and_heads_are_filled_up() {
        assert_eq!(device_shape(&[8, 128, 2, 64]), Some([9, 128, 128]));
        assert_eq!(device_shape(&[8, 128, 2, 8]), Some([9, 128, 32]));
        assert_eq!(device_shape(&[8, 128, 2]), None);
        assert_eq!(device_shape(&[8, 128, u64::MAX, 64]), None);
        assert_eq!([head_size(8), head_size(16), head_size(80)], [16, 16, 80]);
    }
}
