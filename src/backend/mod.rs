//! Devices behind two traits: [`Backend`] turns a verified graph into an artifact and an artifact
//! into an [`Executable`]; [`Memory`] is what lives on the device between steps.
//!
//! ```text
//! Verified<Graph> --compile--> artifact (bytes) --load--> Executable --run(Memory, Step)--> logits
//!                     `------- compile.rs: key, cache, single flight -------'
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | artifact | plain bytes, the backend's own format; holds no weights and no addresses |
//! | [`Weight`] | one weight of the graph, in the graph's order: one or more tensors, row-concatenated |
//! | state | a tensor that steps change in place: the KV cache |
//! | [`Step`] | the inputs of one run and the values of the graph's symbols |
//!
//! What this module deliberately does not do: it knows no model, no request and no scheduler.

#[cfg(feature = "ascend")]
pub mod ascend;
pub mod compile;
#[cfg(feature = "cpu")]
pub mod cpu;
pub mod null;

use std::any::Any;
use std::fmt;

use crate::ir::{DType, Graph, Verified};
use crate::weights::Tensor;

/// What a backend can do, beyond compiling and running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Runs a graph whose symbols are still symbolic. Without it, every symbol must be given a
    /// value before compiling: one graph per bucket.
    pub dynamic_shapes: bool,
}

/// A device, or a kind of device, that compiles and runs graphs.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Short lower-case name, as in `--backend`.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Everything besides the graph that changes what [`compile`](Self::compile) produces: target,
    /// versions of whatever compiles or is packed into the artifact. Part of the cache key.
    fn fingerprint(&self) -> Vec<(&'static str, String)>;

    /// Compiles a graph into an artifact that [`load`](Self::load) accepts.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] for a graph that this backend cannot run.
    fn compile(&self, graph: &Verified<Graph>) -> Result<Vec<u8>, BackendError>;

    /// Loads an artifact. The bytes were verified against their digest, but may stem from another
    /// version: they are checked, never trusted.
    ///
    /// # Errors
    /// [`BackendError::BadArtifact`] when the bytes are not an artifact of this backend.
    fn load(&self, artifact: &[u8]) -> Result<Box<dyn Executable>, BackendError>;

    /// Places weights and zeroed states on the device, in the order of the graph.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] when they do not fit.
    fn place(
        &self,
        weights: Vec<Weight>,
        states: &[StateSpec],
    ) -> Result<Box<dyn Memory>, BackendError>;
}

/// A loaded graph.
pub trait Executable: Send {
    /// Runs one step: reads `step` and the weights, changes the states in place, and writes the
    /// graph's one output (logits, `[num_logits, vocab_size]`, f32, row-major) to `output`, which
    /// is resized to fit.
    ///
    /// # Errors
    /// [`BackendError::BadInput`] when inputs do not match the graph; [`BackendError::Execution`]
    /// when the device fails. States are then unspecified.
    fn run(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), BackendError>;
}

/// Weights and states on a device. Opaque to all but the backend that made it.
pub trait Memory: Any + Send {
    /// For the backend to find its own type again.
    fn as_any_mut(&mut self) -> &mut dyn Any;

    /// Bytes held on the device for weights that are not mapped from a file, and for states.
    fn allocated_bytes(&self) -> u64;
}

/// One weight of a graph: tensors of equal dtype and row length, concatenated along the first axis.
#[derive(Clone, Debug)]
pub struct Weight {
    /// At least one tensor; usually exactly one, several for fused projections.
    pub parts: Vec<Tensor>,
}

/// A state to allocate: dtype and sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSpec {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

/// The inputs of one run.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The value of every symbol of the graph, by symbol id.
    pub symbols: &'a [u64],
    /// The graph's inputs in order, row-major, each as long as its shape says.
    pub inputs: &'a [&'a [i32]],
}

/// Why a backend did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The graph, dtype or option is beyond this backend.
    #[error("the {backend} backend does not support {what}")]
    Unsupported {
        /// The backend's name.
        backend: &'static str,
        /// What it does not support, with the place.
        what: String,
    },
    /// The artifact's bytes are not what this version writes: a cache miss, not a failure.
    #[error("the artifact is not one that this version of the {backend} backend wrote: {what}")]
    BadArtifact {
        /// The backend's name.
        backend: &'static str,
        /// What was expected and got.
        what: String,
    },
    /// Inputs, weights or states do not match the graph.
    #[error("{0}")]
    BadInput(String),
    /// Weights, states or workspace do not fit.
    #[error("{what} needs {needed} bytes, which could not be allocated")]
    OutOfMemory {
        /// What was to be allocated.
        what: String,
        /// Its size.
        needed: u64,
    },
    /// The device failed while running.
    #[error("{0}")]
    Execution(String),
}
