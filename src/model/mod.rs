//! From a checkpoint to a graph: what kind of model it is, which tensors it needs, and how they are
//! computed with.
//!
//! ```text
//! folder | .gguf --open--> Model { config, checkpoint } --graph--> ir::Graph --tensors--> weights
//! ```
//!
//! | Noun | Home | Meaning |
//! | --- | --- | --- |
//! | [`ModelConfig`] | `config` | sizes and options, from `config.json` or GGUF metadata, checked |
//! | [`Architecture`] | `config`, `registry` | a family; one row in the registry, one file that builds it |
//! | layers | `layers` | the building blocks that architectures share |
//! | [`GraphInput`](io::GraphInput) | `io` | the signature that every model graph has |
//! | rope tables | `rope` | cosines and sines by position: computed, bound like weights |
//!
//! To add an architecture: a variant of [`Architecture`], a file beside `llama.rs`, a row in
//! `registry.rs`, a checkpoint in `tests/golden`. No other place knows.
//!
//! This module deliberately knows no device: what it builds depends on the model and on the types
//! that somebody else chose for it.

pub mod config;
pub mod io;
pub mod rope;

mod layers;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod registry;
mod source;

pub use config::{Architecture, ConfigError, ModelConfig};
pub use source::{Model, ModelError, Precision, WeightPolicy};
