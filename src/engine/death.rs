//! Why an engine ended that nobody told to end.
//!
//! | What happened | [`Fate`] | What helps |
//! | --- | --- | --- |
//! | the device is in an unknown state | `Restart` | a new process |
//! | the engine thread panicked | `Restart` | a new process |
//! | a graph that was loaded may not run | `StaleArtifact` | to forget its artifact, and a new process |
//! | the device or a link to it is broken | `Lost` | somebody who looks at it |
//!
//! What this module deliberately does not do: it ends no process; whoever holds the handle does.

use crate::backend::{BackendError, DeviceFate};

use super::buckets::Bucket;

/// The end of an engine that nobody asked for. It is final: another engine needs another process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Death {
    /// What happened.
    pub what: String,
    /// What can be done.
    pub fate: Fate,
}

/// What can be done about a dead engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A new process can go on.
    Restart,
    /// The device or a link to it is broken: somebody has to look at it.
    Lost,
    /// A new process can go on once the artifact of that bucket's graph is forgotten.
    StaleArtifact {
        /// The bucket, whose text form is the graph's name.
        bucket: Bucket,
    },
}

impl Death {
    /// The death that an error of a launch means; `None` when the next launch may work.
    pub(crate) fn of(error: &BackendError, bucket: &Bucket) -> Option<Self> {
        let fate = match error {
            BackendError::Device { fate: DeviceFate::Restart, .. } => Fate::Restart,
            BackendError::Device { fate: DeviceFate::Lost, .. } => Fate::Lost,
            BackendError::StaleArtifact(_) => Fate::StaleArtifact { bucket: bucket.clone() },
            _ => return None,
        };
        Some(Self { what: error.to_string(), fate })
    }

    /// The death of an engine whose thread panicked.
    pub(crate) fn of_panic() -> Self {
        Self { what: "the engine thread panicked".into(), fate: Fate::Restart }
    }
}
