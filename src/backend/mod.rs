//! Devices behind two traits: [`Backend`] turns a verified graph into an artifact and an artifact
//! into an [`Executable`]; [`Memory`] is what lives on the device between steps.
//!
//! ```text
//! Verified<Graph> --compile--> Artifact (files) --load--> Executable --run(Memory, Step)--> logits
//!                     `------- compile.rs: key, cache, single flight -------'
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Artifact`], [`Files`] | plain files in the backend's own formats; no weights, no addresses |
//! | [`Weight`] | one weight of the graph, in the graph's order: one or more tensors, row-concatenated |
//! | state | a tensor that steps change in place: the KV cache |
//! | block | of the KV pool: what has the same index along the first axis of every state |
//! | [`Step`] | the inputs of one run and the values of the graph's symbols |
//!
//! What this module deliberately does not do: it knows no model, no request and no scheduler.

pub mod artifact;
#[cfg(feature = "ascend")]
pub mod ascend;
#[cfg_attr(
    not(any(feature = "ascend", feature = "cpu")),
    allow(dead_code, reason = "for backends that hold states")
)]
mod blocks;
pub mod compile;
#[cfg(feature = "cpu")]
pub mod cpu;
pub mod null;

use std::any::Any;
use std::borrow::Cow;
use std::fmt;

pub use artifact::{Artifact, ArtifactFile, Files};

use blocks::Blocks;

use crate::ir::{DType, Graph, Verified};
use crate::weights::Tensor;

/// What a backend can do with a graph, beyond compiling and running it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Runs a graph whose symbols are still symbolic. Without it, every symbol must be given a
    /// value before compiling: one graph per bucket.
    pub dynamic_shapes: bool,
    /// Which sequences may share a run.
    pub batching: Batching,
    /// Tokens of a KV block must be a multiple of this.
    pub block_size_multiple: usize,
    /// Blocks of the KV pool are rounded down to a multiple of this where they are part of a
    /// compiled graph, so that small changes of a budget need no new graphs.
    pub num_blocks_step: usize,
    /// How many graphs may be compiled at once.
    pub compile_jobs: usize,
}

impl Capabilities {
    /// What a backend can do that runs any step of any graph, as it comes.
    pub const ANY: Self = Self {
        dynamic_shapes: true,
        batching: Batching::Ragged,
        block_size_multiple: 1,
        num_blocks_step: 1,
        compile_jobs: 1,
    };
}

/// Which sequences may share a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Batching {
    /// Any, with any number of tokens each.
    Ragged,
    /// Either sequences with one token each (as many tokens as sequences), or one sequence.
    Separate,
}

/// A device, or a kind of device, that compiles and runs graphs.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Short lower-case name, as in `--backend`.
    fn name(&self) -> &'static str;

    /// What it can do with that graph.
    fn capabilities(&self, graph: &Graph) -> Capabilities;

    /// Everything besides the graph that changes what [`compile`](Self::compile) produces: target,
    /// versions of whatever compiles or is packed into the artifact. Part of the cache key.
    fn fingerprint(&self) -> Vec<(Cow<'static, str>, String)>;

    /// Everything besides the graph and the [`fingerprint`](Self::fingerprint) that changes the bits
    /// of what runs here, such as the instructions of this processor. The same artifact runs with
    /// others, so no graph's key has it; whoever keeps results needs it.
    fn numerics(&self) -> Vec<(Cow<'static, str>, String)> {
        Vec::new()
    }

    /// Compiles a graph into an artifact that [`load`](Self::load) accepts.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] for a graph that this backend cannot run.
    fn compile(&self, graph: &Verified<Graph>) -> Result<Artifact, BackendError>;

    /// Loads an artifact. The files were verified against their digests, but may stem from another
    /// version: they are checked, never trusted.
    ///
    /// # Errors
    /// [`BackendError::BadArtifact`] when the files are not an artifact of this backend.
    fn load(&self, files: &Files<'_>) -> Result<Box<dyn Executable>, BackendError>;

    /// Whether [`load`](Self::load) would accept the files, as far as that shows without a device.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn check(&self, files: &Files<'_>) -> Result<(), BackendError> {
        self.load(files).map(drop)
    }

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
    /// when the device fails. What this step was to write to the states is then unspecified; the rest of
    /// them is as it was.
    fn run(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), BackendError>;

    /// Does what the first [`run`](Self::run) with that memory would do before it runs, so that it
    /// waits for nothing.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn prepare(&mut self, memory: &mut dyn Memory) -> Result<(), BackendError> {
        let _ = memory;
        Ok(())
    }

    /// Says which of a memory's weights are those of this graph, by index, where another graph of the
    /// same model was the one that they were placed for. Without it they are all of them, in order.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] where graphs cannot share weights,
    /// [`BackendError::BadInput`] when it is not one place for each weight.
    fn use_weights(&mut self, places: &[usize]) -> Result<(), BackendError> {
        if places.iter().enumerate().all(|(idx, place)| idx == *place) {
            return Ok(());
        }
        let what = "two graphs with weights in different orders".to_owned();
        Err(BackendError::Unsupported { backend: "device's", what })
    }

    /// Runs one step like [`run`](Self::run), of whose result no more than `wanted` is needed. A
    /// device that can find the largest logits itself then copies only those; any other answers
    /// with all of them. [`Output::rows`] says which it was.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn run_wanted(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        wanted: Wanted,
        output: &mut Output,
    ) -> Result<(), BackendError> {
        let _ = wanted;
        output.rows = Rows::Logits;
        self.run(memory, step, &mut output.logits)
    }

    /// Runs one step like [`run_wanted`](Self::run_wanted), and calls `meanwhile` exactly once, on
    /// the calling thread, also when the step fails: while the device works, where it works on its
    /// own, and before the step otherwise. `meanwhile` must not use the backend.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn run_meanwhile(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        wanted: Wanted,
        output: &mut Output,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), BackendError> {
        meanwhile();
        self.run_wanted(memory, step, wanted, output)
    }
}

/// How much of the logits is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    Logits,
    /// The k largest of each row: exactly those, the lower index among equals.
    TopK(usize),
    /// The largest of each row: the lowest index among equals.
    Argmax,
}

/// Which of the buffers of an [`Output`] a run has filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// `logits`.
    #[default]
    Logits,
    /// `values` and `indices` with `k` columns, largest first. Among equal values the order is any.
    TopK {
        /// Columns: at least as many as were wanted.
        k: usize,
    },
    /// `values` and `indices` with one column.
    Argmax,
}

/// What a run gave. The buffers are kept from run to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Which buffers were filled.
    pub rows: Rows,
    /// The graph's output, `[num_logits, vocab_size]`, row-major.
    pub logits: Vec<f32>,
    /// The largest logits of each row.
    pub values: Vec<f32>,
    /// Their indices.
    pub indices: Vec<i32>,
}

/// Weights and states on a device. Opaque to all but the backend that made it.
pub trait Memory: Any + Send {
    /// For the backend to find its own type again.
    fn as_any_mut(&mut self) -> &mut dyn Any;

    /// Bytes held on the device for weights that are not mapped from a file, and for states.
    fn allocated_bytes(&self) -> u64;

    /// Bytes of one block of the KV pool over all states. Like what follows, by default that of a
    /// memory without states, which has no blocks.
    fn block_bytes(&self) -> usize {
        Blocks::default().block_bytes()
    }

    /// Copies whole blocks of the KV pool, from and to, one after the other: what runs later finds
    /// them copied.
    ///
    /// # Errors
    /// [`BackendError::BadInput`] when there is no such block: then nothing is copied. When the device
    /// fails, as a step: what the blocks that were to be written hold is then unspecified.
    fn copy_blocks(&mut self, copies: &[(u32, u32)]) -> Result<(), BackendError> {
        Blocks::default().check_copies(copies)
    }

    /// Copies a block of the KV pool to the host: one state after the other, in the order of the
    /// graph, each as the device has it, numbers in little-endian order.
    ///
    /// # Errors
    /// [`BackendError::BadInput`] when there is no such block or `bytes` is not as long as
    /// [`block_bytes`](Self::block_bytes) says; when the device fails, as a step.
    fn read_block(&mut self, block: u32, bytes: &mut [u8]) -> Result<(), BackendError> {
        Blocks::default().index_with_bytes(block, bytes.len()).map(drop)
    }

    /// Writes a block of the KV pool as [`read_block`](Self::read_block) gave it, maybe in another
    /// process with the same states on the same kind of device.
    ///
    /// # Errors
    /// As of [`read_block`](Self::read_block); when the device fails, what the block holds is
    /// unspecified.
    fn write_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), BackendError> {
        Blocks::default().index_with_bytes(block, bytes.len()).map(drop)
    }
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
    /// The compiler failed; the graph may be fine.
    #[error("{what}")]
    Compile {
        /// What happened, with the last that the compiler said.
        what: String,
        /// What can be done, where that is known.
        remedy: Option<String>,
    },
    /// The artifact's files are not what this version writes, or the device refuses them: a cache
    /// miss, not a failure.
    #[error("the {backend} backend cannot use the compiled graph: {what}")]
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
    #[error("no memory for {what}{}{}", shortage(*needed), aside(detail))]
    OutOfMemory {
        /// What was to be allocated.
        what: String,
        /// Its size, where that is known.
        needed: Option<u64>,
        /// More about it, such as what is free; may be empty.
        detail: String,
    },
    /// The device failed while running; the next run may work.
    #[error("{0}")]
    Execution(String),
    /// The device cannot be used by this process any more.
    #[error("{what}")]
    Device {
        /// What happened.
        what: String,
        /// What can be done.
        fate: DeviceFate,
    },
    /// The runtime refuses to run a graph that it loaded: the artifact has to be compiled again.
    #[error("{0}")]
    StaleArtifact(String),
}

fn shortage(needed: Option<u64>) -> String {
    needed.map_or_else(String::new, |needed| format!(": {needed} bytes could not be allocated"))
}

fn aside(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

/// What can be done about a device that this process cannot use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFate {
    /// Its state is unknown: a new process can use it.
    Restart,
    /// It or a link to it is broken: somebody has to look at it.
    Lost,
}
