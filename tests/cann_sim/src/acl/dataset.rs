//! Datasets and data buffers: lists of places that a model reads or writes.
//!
//! Neither owns memory; a dataset does not own its buffers either.

/// An `aclDataBuffer`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    pub(super) address: usize,
    pub(super) size: usize,
}

/// An `aclmdlDataset`: handles of buffers.
#[derive(Clone, Debug, Default)]
pub(super) struct Dataset {
    pub(super) buffers: Vec<u64>,
}
