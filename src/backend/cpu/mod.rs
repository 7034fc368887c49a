//! The host's processor as a backend.
//!
//! ```text
//! compile: graph --lower--> Plan (kernels, views, memory plan) --artifact--> plan.json
//! load:    plan.json --artifact, checked--> Plan --> CpuExecutable
//! run:     for each step of the plan: kernel(views of slots, weights, states) -> slot
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | plan | the compiled graph: steps in order, each with its kernel and operands |
//! | slot | a region of working memory that several values share, one after the other |
//! | view | rows of a slot: an offset and a stride, so slices and reshapes cost nothing |
//! | [`KernelSet`] | the readable reference kernels, or the fast ones that are tested against them |
//!
//! Activations and the KV cache are f32, whatever the weights' type: a result depends on the
//! weights' values only, unless products are asked to round their operands ([`Arithmetic`]). Each row of a result is computed in the same order of operations however
//! many rows there are and however they are split over threads, so a sequence's logits do not
//! depend on what else is in the batch.

mod artifact;
mod executable;
mod lower;
mod memory;
mod memory_plan;
mod plan;

use std::borrow::Cow;
use std::sync::Arc;

use cairn_kernels::{Fast, Kernels, Pool, Reference, instructions};

use super::artifact::{Artifact, Files, io_of};
use super::{Backend, BackendError, Capabilities, Executable, Memory, StateSpec, Weight};
use crate::ir::{Graph, Verified};
pub use cairn_kernels::Roofline;
use executable::CpuExecutable;
use memory::CpuMemory;
pub use plan::Arithmetic;

/// Name of this backend, in flags, errors and keys.
pub const NAME: &str = "cpu";

/// Raised when the same graph compiles to another plan, or a plan to another result.
const LOWERING_VERSION: u32 = 2;

/// Which kernels run the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelSet {
    /// Readable, single-threaded: the oracle of the fast ones.
    Reference,
    /// Vectorised for the processor found at start, on all threads of the pool.
    #[default]
    Fast,
}

/// The CPU backend: a thread pool and a set of kernels.
#[derive(Debug)]
pub struct CpuBackend {
    pool: Arc<Pool>,
    kernels: KernelSet,
    arithmetic: Arithmetic,
    static_shapes: bool,
}

impl CpuBackend {
    /// A backend of that many threads; `None`: one per core.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(threads: Option<usize>, kernels: KernelSet) -> Result<Self, BackendError> {
        let threads = threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
        let pool = Pool::new(threads.unwrap_or(1))
            .map_err(|error| BackendError::Execution(format!("starting threads: {error}")))?;
        Ok(Self {
            pool: Arc::new(pool),
            kernels,
            arithmetic: Arithmetic::F32,
            static_shapes: false,
        })
    }

    /// Rounds the operands of products, for speed.
    pub fn with_arithmetic(mut self, arithmetic: Arithmetic) -> Self {
        self.arithmetic = arithmetic;
        self
    }

    /// Pretends to need one graph per size, as devices with static shapes do: for testing buckets
    /// and padding without such a device.
    pub fn with_static_shapes(mut self, static_shapes: bool) -> Self {
        self.static_shapes = static_shapes;
        self
    }

    /// What the machine can do at most with these threads: reading so many bytes again and again, and
    /// multiplying as products are computed here. Takes some tenths of a second.
    pub fn roofline(&self, bytes: usize) -> Roofline {
        Roofline::measure(&self.pool, self.arithmetic.into(), bytes)
    }

    /// Number of threads.
    pub fn num_threads(&self) -> usize {
        self.pool.num_threads()
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self, _: &Graph) -> Capabilities {
        Capabilities { dynamic_shapes: !self.static_shapes, ..Capabilities::ANY }
    }

    fn fingerprint(&self) -> Vec<(Cow<'static, str>, String)> {
        let kernels = match self.kernels {
            KernelSet::Reference => "reference",
            KernelSet::Fast => "fast",
        };
        vec![
            ("target".into(), std::env::consts::ARCH.to_owned()),
            ("kernels".into(), kernels.to_owned()),
            ("products".into(), self.arithmetic.name().to_owned()),
            ("lowering".into(), LOWERING_VERSION.to_string()),
        ]
    }

    fn numerics(&self) -> Vec<(Cow<'static, str>, String)> {
        match self.kernels {
            KernelSet::Reference => Vec::new(),
            // They differ in what is rounded once and what twice.
            KernelSet::Fast => vec![("instructions".into(), instructions().to_owned())],
        }
    }

    fn compile(&self, graph: &Verified<Graph>) -> Result<Artifact, BackendError> {
        let plan = lower::lower(graph, self.kernels, self.arithmetic)?;
        Ok(Artifact::single(artifact::FILE, artifact::to_bytes(&plan)?, io_of(graph)))
    }

    fn load(&self, files: &Files<'_>) -> Result<Box<dyn Executable>, BackendError> {
        let plan = artifact::from_bytes(files.file(artifact::FILE, NAME)?)?;
        let kernels: Box<dyn Kernels> = match plan.kernels {
            KernelSet::Reference => Box::new(Reference),
            KernelSet::Fast => Box::new(Fast::detect(Arc::clone(&self.pool))),
        };
        Ok(Box::new(CpuExecutable::new(plan, kernels)))
    }

    fn place(
        &self,
        weights: Vec<Weight>,
        states: &[StateSpec],
    ) -> Result<Box<dyn Memory>, BackendError> {
        Ok(Box::new(CpuMemory::new(weights, states)?))
    }
}
