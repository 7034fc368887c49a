//! The graph that a model becomes: pure values, no IO, no device.
//!
//! ```text
//! Builder --build--> Graph --specialise(bucket)--> Graph --verify--> Verified<Graph>
//!                      |                                                  |
//!                text (print, parse)                    passes::optimise, canonical_bytes
//! ```
//!
//! | Noun | Home | Meaning |
//! | --- | --- | --- |
//! | [`DType`] | `cairn_kernels` | element type, plain or block-quantised |
//! | [`Shape`], [`Dim`], [`Symbol`] | `shape` | sizes, some of them known only when the graph runs |
//! | [`Op`] | `op` | what a node computes: the one list, matched everywhere without a wildcard |
//! | [`Graph`], [`Node`], [`Value`] | `graph` | an arena of nodes in topological order |
//! | [`Builder`] | `builder` | the only way to make a graph; infers types as it goes |
//! | [`Verified`] | `verify` | proof that a graph keeps every rule listed there |
//! | passes | `passes` | rewrites that keep a graph's meaning |
//! | [`Work`] | `work` | how much it reads and computes |
//! | canonical bytes | `canonical` | what the cache key hashes: all of the meaning, none of the names |
//!
//! The graph is in static single assignment form. A state (the KV cache) is changed in place by
//! ops that take its value and return the next one; `verify` makes sure that the old value is not
//! used again.
//!
//! This module deliberately knows no model, no weights' contents and no hardware.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod builder;
pub mod canonical;
pub mod graph;
pub mod infer;
pub mod op;
pub mod passes;
pub mod shape;
#[cfg(test)]
mod tests;
pub mod text;
pub mod verify;
pub mod work;

pub use builder::Builder;
pub use cairn_kernels::DType;
pub use canonical::canonical_bytes;
pub use graph::{Graph, Node, NodeId, Value, ValueId, ValueType};
pub use infer::TypeError;
pub use op::{Constant, Op, RopeStyle, WeightPart};
pub use shape::{Dim, Shape, Symbol, SymbolId};
pub use verify::{Verified, VerifyError, verify};
pub use work::Work;
