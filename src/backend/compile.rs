//! The only way from a graph to an executable, and the only user of the graph cache.
//!
//! ```text
//! graph --specialise--> verify --> passes --> canonical bytes --+
//!                         Backend::name, Backend::fingerprint --+--> key --> hit: verify bytes, load
//!                                                                        `-> miss: compile once, put, load
//! ```
//!
//! What is in the key is in [`Prepared::fields`] and nowhere else. Weights' contents, paths, names
//! and time are not: they change nothing in the artifact.

use std::sync::Arc;
use std::time::Duration;

use cairn_graph_cache::{GraphCache, KeyFields, LoadFailure, Lookup, Origin};

use super::{Backend, BackendError, Executable};
use crate::ir::graph::SpecialiseError;
use crate::ir::{Graph, SymbolId, Verified, VerifyError, canonical_bytes, passes, verify};

/// Why a graph did not become an executable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// A symbol cannot have the value of the bucket.
    #[error(transparent)]
    Specialise(#[from] SpecialiseError),
    /// The graph breaks a rule of the IR.
    #[error("the graph is not valid: {0}")]
    Verify(#[from] VerifyError),
    /// The backend refused or failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// A graph that is ready for its key to be looked up.
#[derive(Debug)]
pub struct Prepared {
    /// After specialisation and passes.
    pub graph: Verified<Graph>,
    /// Everything that changes what compiling it gives.
    pub fields: KeyFields,
    /// For people: which bucket it is.
    pub name: String,
}

/// An executable and how it was obtained.
pub struct Compiled {
    /// Ready to run.
    pub executable: Box<dyn Executable>,
    /// Whether it was compiled or found.
    pub origin: Origin,
    /// The key, as hexadecimal digits.
    pub key: String,
    /// Time of looking up, compiling and loading.
    pub elapsed: Duration,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("origin", &self.origin)
            .field("key", &self.key)
            .field("elapsed", &self.elapsed)
            .finish_non_exhaustive()
    }
}

/// A backend and the cache of what it compiled.
#[derive(Debug)]
pub struct Compiler {
    backend: Arc<dyn Backend>,
    cache: GraphCache,
}

impl Compiler {
    /// A compiler for that backend.
    pub fn new(backend: Arc<dyn Backend>, cache: GraphCache) -> Self {
        Self { backend, cache }
    }

    /// Specialises a graph to a bucket, verifies it, runs the passes, and makes its key.
    ///
    /// # Errors
    /// When a symbol is out of bounds or the graph is not valid.
    pub fn prepare(
        &self,
        graph: &Graph,
        bucket: &[(SymbolId, u64)],
        name: &str,
    ) -> Result<Prepared, CompileError> {
        let graph = passes::optimise(&verify(graph.specialise(bucket)?)?)?;
        let mut fields = KeyFields::new()
            .text("backend", self.backend.name())
            .bytes("graph", &canonical_bytes(&graph));
        for (field, value) in self.backend.fingerprint() {
            fields = fields.text(&format!("backend.{field}"), value);
        }
        Ok(Prepared { graph, fields, name: name.to_owned() })
    }

    /// The executable of a prepared graph: from the cache, or compiled.
    ///
    /// # Errors
    /// Those of the backend; trouble of the cache is a warning and a compile.
    pub fn executable(&self, prepared: &Prepared) -> Result<Compiled, CompileError> {
        let load = |bytes: &[u8]| self.backend.load(bytes).map_err(failure);
        let compile = || {
            tracing::info!(graph = prepared.name, backend = self.backend.name(), "compiling");
            self.backend.compile(&prepared.graph)
        };
        let (executable, outcome) =
            self.cache.get_or_compile(&prepared.fields, &prepared.name, load, compile)?;
        Ok(Compiled {
            executable,
            origin: outcome.origin,
            key: outcome.key.to_string(),
            elapsed: outcome.elapsed,
        })
    }

    /// Whether the cache holds a usable artifact of a prepared graph, without compiling anything.
    pub fn is_cached(&self, prepared: &Prepared) -> bool {
        match self.cache.store().get(&prepared.fields.key()) {
            Lookup::Hit(entry) => self.backend.load(&entry.artifact).is_ok(),
            Lookup::Miss(_) => false,
        }
    }
}

/// Only bytes that the backend does not know are the artifact's fault.
fn failure(error: BackendError) -> LoadFailure<BackendError> {
    if matches!(error, BackendError::BadArtifact { .. }) {
        LoadFailure::BadArtifact(error)
    } else {
        LoadFailure::Other(error)
    }
}
