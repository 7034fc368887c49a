//! Weights on disk: opens a checkpoint, checks everything in it that can be checked, and hands out
//! tensors whose bytes stay in the mapped file.
//!
//! ```text
//! folder with model.safetensors ------.
//! folder with ...index.json + shards --+--> Checkpoint --tensor(name)--> Tensor { dtype, shape, Bytes }
//! model.gguf -------------------------'         |                             |
//!                                               '--> GgufMetadata             '--> dequantise, convert
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Checkpoint`] | an open folder or file: names, and tensors by name |
//! | [`Tensor`] | name, dtype, shape (outermost first) and bytes |
//! | [`Bytes`] | a range of a mapped file or of owned memory; cheap to clone |
//! | [`GgufMetadata`] | the key-value table of a GGUF file |
//! | [`FileStamp`] | which file it is that was opened, and in which state |
//! | [`dequantise`](fn@dequantise) | the readable reference of every element type |
//!
//! Both formats are read by name: Transformers' names everywhere, which `gguf_names` maps from
//! GGUF's. Sizes, counts and offsets from a file are checked against what is left of the file
//! before anything is allocated or read.
//!
//! What this module deliberately does not do: it knows no model (which tensors there must be, and
//! of which shape, is `model`'s business), it never writes, and it never reads pickle files, since
//! unpickling runs code that the file brings along.

#[cfg(target_endian = "big")]
compile_error!(
    "checkpoints are little-endian and are read in place: big-endian hosts are not supported"
);

mod bytes;
mod checkpoint;
mod error;
mod gguf;
mod gguf_metadata;
mod gguf_names;
mod gguf_reader;
mod mmap;
mod safetensors;
mod shards;
mod stamp;
mod table;
mod tensor;

pub use bytes::Bytes;
pub use cairn_kernels::{BlockSizeMismatch, dequantise, q4_k_scale_min};
pub use checkpoint::{Checkpoint, Format};
pub use error::{Optional, WeightsError};
pub use gguf_metadata::GgufMetadata;
pub use stamp::FileStamp;
pub use tensor::Tensor;
