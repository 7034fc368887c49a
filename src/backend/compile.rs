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

use std::collections::BTreeSet;
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

/// An artifact and how it was obtained.
#[derive(Clone, Debug)]
pub struct Built {
    bytes: Vec<u8>,
    /// Whether it was compiled or found.
    pub origin: Origin,
    /// Time of looking up and compiling.
    pub elapsed: Duration,
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
        let mut fields = KeyFields::new().text("backend", self.backend.name());
        // The graph says all this, but only its digest can be read beside an artifact.
        for symbol in graph.symbols().iter().filter(|symbol| symbol.min == symbol.max) {
            fields = fields.text(&format!("graph.{}", symbol.name), symbol.min.to_string());
        }
        fields = fields
            .text("graph.weights", weight_types(&graph))
            .bytes("graph", &canonical_bytes(&graph));
        for (field, value) in self.backend.fingerprint() {
            fields = fields.text(&format!("backend.{field}"), value);
        }
        Ok(Prepared { graph, fields, name: name.to_owned() })
    }

    /// The artifact of a prepared graph: from the cache, or compiled. Needs no device where
    /// [`Backend::check`] and [`Backend::compile`] need none, and may be called from several threads.
    ///
    /// # Errors
    /// Those of the backend; trouble of the cache is a warning and a compile.
    pub fn artifact(&self, prepared: &Prepared) -> Result<Built, CompileError> {
        let check =
            |bytes: &[u8]| self.backend.check(bytes).map(|()| bytes.to_vec()).map_err(failure);
        let compile = || self.compile(prepared);
        let (bytes, outcome) =
            self.cache.get_or_compile(&prepared.fields, &prepared.name, check, compile)?;
        Ok(Built { bytes, origin: outcome.origin, elapsed: outcome.elapsed })
    }

    /// Loads an artifact that [`artifact`](Self::artifact) gave. When the device refuses it, its
    /// entry is dropped, and the graph is compiled again, once, if it was not just now.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn load(
        &self,
        prepared: &Prepared,
        built: &Built,
    ) -> Result<(Box<dyn Executable>, Origin), CompileError> {
        match self.backend.load(&built.bytes) {
            Ok(executable) => Ok((executable, built.origin)),
            Err(error @ BackendError::BadArtifact { .. }) => {
                self.drop_entry(prepared, &error.to_string());
                // What was compiled just now does not get better.
                if built.origin == Origin::Compiled {
                    return Err(error.into());
                }
                let compiled = self.executable(prepared)?;
                Ok((compiled.executable, compiled.origin))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The executable of a prepared graph: from the cache, or compiled.
    ///
    /// # Errors
    /// Those of the backend; trouble of the cache is a warning and a compile.
    pub fn executable(&self, prepared: &Prepared) -> Result<Compiled, CompileError> {
        let load = |bytes: &[u8]| self.backend.load(bytes).map_err(failure);
        let compile = || self.compile(prepared);
        let (executable, outcome) =
            self.cache.get_or_compile(&prepared.fields, &prepared.name, load, compile)?;
        Ok(Compiled {
            executable,
            origin: outcome.origin,
            key: outcome.key.to_string(),
            elapsed: outcome.elapsed,
        })
    }

    fn compile(&self, prepared: &Prepared) -> Result<Vec<u8>, BackendError> {
        let reason = self.miss(prepared).unwrap_or_default();
        tracing::info!(graph = prepared.name, backend = self.backend.name(), reason, "compiling");
        self.backend.compile(&prepared.graph)
    }

    /// Why a prepared graph is not in the cache: what differs from the entry that is most like it.
    /// `None` when it is there, or when nothing is.
    pub fn miss(&self, prepared: &Prepared) -> Option<String> {
        let nearest = self.cache.nearest(&prepared.fields)?;
        let differences: Vec<String> =
            nearest.differences.iter().map(ToString::to_string).collect();
        (!differences.is_empty()).then(|| differences.join("; "))
    }

    /// Moves the entry of a graph out of the way, so that the next process compiles it again.
    pub fn drop_entry(&self, prepared: &Prepared, reason: &str) {
        let key = prepared.fields.key();
        match self.cache.store().quarantine(&key, reason) {
            Ok(()) => tracing::warn!(graph = prepared.name, %key, reason, "dropped from the cache"),
            Err(error) => tracing::warn!(graph = prepared.name, %key, %error, "cannot be dropped"),
        }
    }

    /// Whether the cache holds a usable artifact of a prepared graph, without compiling anything.
    pub fn is_cached(&self, prepared: &Prepared) -> bool {
        match self.cache.store().get(&prepared.fields.key()) {
            Lookup::Hit(entry) => self.backend.check(&entry.artifact).is_ok(),
            Lookup::Miss(_) => false,
        }
    }
}

/// The types of a graph's weights, as in `bf16 f32`.
fn weight_types(graph: &Graph) -> String {
    let types: BTreeSet<&str> =
        graph.weights().map(|(weight, _)| graph.ty(weight).dtype.name()).collect();
    types.into_iter().collect::<Vec<_>>().join(" ")
}

/// Only bytes that the backend does not know are the artifact's fault.
fn failure(error: BackendError) -> LoadFailure<BackendError> {
    if matches!(error, BackendError::BadArtifact { .. }) {
        LoadFailure::BadArtifact(error)
    } else {
        LoadFailure::Other(error)
    }
}
