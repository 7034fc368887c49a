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
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cairn_graph_cache::{self as graph_cache, CacheKey, Explanation, GetError, GraphCache};
use cairn_graph_cache::{KeyFields, LoadFailure, Lookup, Origin};

use super::artifact::{Artifact, ArtifactFile, Files};
use super::{Backend, BackendError, Executable};
use crate::ir::graph::SpecialiseError;
use crate::ir::{Graph, SymbolId, Verified, VerifyError, canonical_bytes, passes, verify};

/// Entries that a graph is compared with, of each store, to say what differs.
pub const MAX_COMPARED: usize = 1024;

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
    /// Graphs are missing in a cache that is required to have them all.
    #[error(transparent)]
    NotCached(#[from] NotCached),
}

/// Graphs are missing in a cache that is required to have them all. Says of each what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCached {
    /// What was found of each missing graph; at least one.
    pub missing: Vec<Explanation>,
    /// How many graphs are needed.
    pub num_graphs: usize,
}

impl NotCached {
    /// What can be done about it.
    pub const REMEDY: &str = "`cairn warmup --cache-mode rw` with the same model and settings \
                              compiles them; `cairn cache explain` compares them with what is there";
}

impl std::error::Error for NotCached {}

impl fmt::Display for NotCached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (missing, all) = (self.missing.len(), self.num_graphs);
        write!(
            f,
            "{missing} of {all} graphs are not in the cache, which is required to have them:"
        )?;
        self.missing.iter().try_for_each(|explanation| write!(f, "\n  {explanation}"))
    }
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

impl Prepared {
    /// The key of its fields.
    pub fn key(&self) -> CacheKey {
        self.fields.key()
    }
}

/// An artifact and how it was obtained.
#[derive(Clone, Debug)]
pub struct Built {
    artifact: Arc<graph_cache::Artifact>,
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

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    cache: Arc<GraphCache>,
}

impl Compiler {
    /// A compiler for that backend.
    pub fn new(backend: Arc<dyn Backend>, cache: impl Into<Arc<GraphCache>>) -> Self {
        Self { backend, cache: cache.into() }
    }

    /// The cache, to see what happened in it.
    pub fn cache(&self) -> &Arc<GraphCache> {
        &self.cache
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
        // Their order means nothing; of those with the same name it may.
        let mut fingerprint = self.backend.fingerprint();
        fingerprint.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (field, value) in fingerprint {
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
        let check = |artifact: &graph_cache::Artifact| {
            self.backend.check(&borrowed(artifact)).map_err(failure)
        };
        let ((), outcome) = self.get_or_compile(prepared, check)?;
        Ok(Built { artifact: outcome.artifact, origin: outcome.origin, elapsed: outcome.elapsed })
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
        match self.backend.load(&borrowed(&built.artifact)) {
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
        let load = |artifact: &graph_cache::Artifact| {
            self.backend.load(&borrowed(artifact)).map_err(failure)
        };
        let (executable, outcome) = self.get_or_compile(prepared, load)?;
        Ok(Compiled {
            executable,
            origin: outcome.origin,
            key: outcome.key.to_string(),
            elapsed: outcome.elapsed,
        })
    }

    fn get_or_compile<T>(
        &self,
        prepared: &Prepared,
        load: impl Fn(&graph_cache::Artifact) -> Result<T, LoadFailure<BackendError>>,
    ) -> Result<(T, graph_cache::Outcome), CompileError> {
        let compile = || self.compile(prepared);
        let found = self.cache.get_or_compile(&prepared.fields, &prepared.name, load, compile);
        found.map_err(|error| match error {
            GetError::Caller(error) => error.into(),
            GetError::NotCached(explanation) => {
                NotCached { missing: vec![*explanation], num_graphs: 1 }.into()
            }
        })
    }

    fn compile(&self, prepared: &Prepared) -> Result<graph_cache::Compiled, BackendError> {
        let reason = self.cache.differences(&prepared.fields);
        tracing::info!(graph = prepared.name, backend = self.backend.name(), reason, "compiling");
        let Artifact { files, io, log_tail } = self.backend.compile(&prepared.graph)?;
        let file = |ArtifactFile { name, bytes }| graph_cache::ArtifactFile { name, bytes };
        let artifact = graph_cache::Artifact::new(files.into_iter().map(file).collect());
        let artifact = artifact.map_err(|error| BackendError::Compile {
            what: format!("the {} backend made no artifact: {error}", self.backend.name()),
            remedy: None,
        })?;
        Ok(graph_cache::Compiled { artifact, io, log_tail })
    }

    /// Whether a prepared graph is in the cache, and if it is not, how it differs from the entry
    /// that is most like it. Compiles nothing; what is there is verified, but not loaded.
    pub fn explain(&self, prepared: &Prepared) -> Explanation {
        self.cache.explain(&prepared.fields, &prepared.name, MAX_COMPARED)
    }

    /// Moves the entry of a graph out of the way, so that the next process compiles it again.
    pub fn drop_entry(&self, prepared: &Prepared, reason: &str) {
        let key = prepared.key();
        match self.cache.quarantine(&key, reason) {
            Ok(()) => tracing::warn!(graph = prepared.name, %key, reason, "dropped from the cache"),
            Err(error) => tracing::warn!(graph = prepared.name, %key, %error, "cannot be dropped"),
        }
    }

    /// Whether the cache holds an artifact of a prepared graph that the backend would take, without
    /// compiling anything.
    pub fn is_cached(&self, prepared: &Prepared) -> bool {
        // Not through all layers at once: that would copy what is found into the upper one.
        self.cache.store().stores().any(|store| match store.get(&prepared.key()) {
            Lookup::Hit(entry) => self.backend.check(&borrowed(entry.artifact())).is_ok(),
            Lookup::Miss(_) => false,
        })
    }
}

/// The files of an artifact, where they are.
fn borrowed(artifact: &graph_cache::Artifact) -> Files<'_> {
    Files::new(artifact.files().iter().map(|file| (file.name.as_str(), file.bytes.as_slice())))
}

/// The types of a graph's weights, as in `bf16 f32`.
fn weight_types(graph: &Graph) -> String {
    let types: BTreeSet<&str> =
        graph.weights().map(|(weight, _)| graph.ty(weight).dtype.name()).collect();
    types.into_iter().collect::<Vec<_>>().join(" ")
}

/// Only files that the backend does not know are the artifact's fault.
fn failure(error: BackendError) -> LoadFailure<BackendError> {
    if matches!(error, BackendError::BadArtifact { .. }) {
        LoadFailure::BadArtifact(error)
    } else {
        LoadFailure::Other(error)
    }
}
