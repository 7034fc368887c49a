//! What a device would do, before there is one: the real scheduler in front of a model of a device.
//!
//! ```text
//! Workload ---> arrivals                     real                            modelled
//!                  |        Scheduler, KvCache, rank, TokenBuckets       SimulatedGraph
//!                  '------> plan --pack--> Runner: launches, buckets --> DeviceModel: seconds
//!                            ^                                               |
//!                            '---- tokens, ends <---- virtual time <---------'
//! ```
//!
//! *Virtual time*: nanoseconds that only the model's answers and the arrivals move forward. No
//! device, no thread and no clock is involved, and the same inputs give the same [`Report`].
//!
//! | File | Idea |
//! | --- | --- |
//! | `shape` | what of a model costs time and memory |
//! | `device` | how long a launch takes: the roofline and where its numbers are from |
//! | `graph` | the device model as the runner sees it |
//! | `buckets` | which graphs there are |
//! | `workload` | who comes when, with how many tokens |
//! | `run` | the engine's loop in virtual time |
//! | `report`, `tally` | what came of it |
//!
//! What this module deliberately does not do: it measures nothing. Its figures are as good as the
//! device model, whose efficiencies are guesses until a device has been measured; what is real is
//! everything that the scheduler decides. It samples no tokens, knows no text, and bounds no queue:
//! whoever arrives, waits.

mod buckets;
mod device;
mod graph;
mod report;
mod run;
mod shape;
mod tally;
mod workload;

#[cfg(test)]
mod tests;

use super::options::EngineError;

pub use buckets::{BucketSizes, Graphs};
pub use device::{Device, DeviceModel, LaunchShape, SequenceShape};
pub use report::{BucketUse, Report, Spread};
pub use run::{Server, run};
pub use shape::ModelShape;
pub use workload::{CommonPrefixes, Lengths, LogNormal, Workload};

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// A number is out of range.
    #[error("invalid {name}: expected {expected}, got {got}")]
    Invalid {
        /// Which number.
        name: &'static str,
        /// What would do.
        expected: String,
        /// What it is.
        got: String,
    },
    /// Weights and reserve leave no room for a block of the KV cache.
    #[error(
        "the model does not fit: a device has {hbm_bytes} bytes, its share of the weights takes \
         {weight_bytes}, {reserve_bytes} are set aside, and one block of the KV cache takes \
         {block_bytes}"
    )]
    DoesNotFit {
        /// Memory of one device.
        hbm_bytes: u64,
        /// Weights on one device.
        weight_bytes: u64,
        /// Set aside for everything else.
        reserve_bytes: u64,
        /// One block on one device.
        block_bytes: u64,
    },
    /// An engine with these options would not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The scheduler plans nothing although somebody is unfinished.
    #[error("the scheduler is stuck with {0} unfinished requests: a defect of the engine")]
    Stuck(usize),
    /// The scheduler's books do not agree.
    #[error("the scheduler's books do not agree, a defect of the engine: {0}")]
    Broken(String),
}

/// Checks that `got` is a number that `is_good`.
fn check(
    name: &'static str,
    got: f64,
    expected: &str,
    is_good: impl FnOnce(f64) -> bool,
) -> Result<(), SimulationError> {
    if got.is_finite() && is_good(got) {
        return Ok(());
    }
    Err(SimulationError::Invalid { name, expected: expected.into(), got: got.to_string() })
}

/// A span of virtual time.
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

/// The same in seconds.
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
