//! Settings of an engine, and the start.
//!
//! What this module deliberately does not do: it has no setting for everything; [`EngineConfig`]
//! has, and [`Engine::start`] takes it.

use std::path::PathBuf;

use cairn_graph_cache::CacheMode;

use super::{Engine, Error};
use crate::boot::{Silent, models};
use crate::config::{BackendKind, DTypeChoice, EngineConfig, Environment};

/// What an [`Engine`] is started with. What is not set is as `cairn serve` has it without flags.
#[derive(Clone, Debug)]
pub struct EngineBuilder {
    config: EngineConfig,
    /// `None`: the user's own.
    cache_dir: Option<PathBuf>,
}

/// Setters of fields of the configuration.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $Type:ty => $value:expr,)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $name: $Type) -> Self {
                self.config.$name = $value;
                self
            }
        )*
    };
}

impl EngineBuilder {
    pub(super) fn new(model: PathBuf) -> Self {
        Self { config: EngineConfig::new(model), cache_dir: None }
    }

    setters! {
        /// Which device runs the model.
        backend: BackendKind => backend,
        /// The type that weights are held in.
        dtype: DTypeChoice => dtype,
        /// Threads of the CPU backend.
        threads: usize => Some(threads),
        /// Longest sequence in tokens, prompt and output together.
        max_model_len: usize => Some(max_model_len),
        /// Most sequences in one step.
        max_num_seqs: usize => max_num_seqs,
        /// Most tokens in one step; longer prompts are computed in parts.
        max_num_batched_tokens: usize => max_num_batched_tokens,
        /// Most requests that wait besides; calls wait for room beyond it.
        max_num_queued_reqs: usize => max_num_queued_reqs,
        /// Tokens in one block of the KV cache.
        block_size: usize => Some(block_size),
        /// Bytes of the KV cache.
        kv_cache_bytes: u64 => Some(kv_cache_bytes),
    }

    /// The folder of compiled graphs; without it, the one that the command line uses.
    #[must_use]
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(folder.into());
        self
    }

    /// What may be done with compiled graphs.
    #[must_use]
    pub fn cache_mode(mut self, mode: CacheMode) -> Self {
        self.config.graph_cache.mode = mode;
        self
    }

    /// Loads the model, compiles its graphs or takes them from the cache, and starts the engine.
    ///
    /// # Errors
    /// [`Error::Start`] when there is no such model or it cannot be loaded, a setting cannot be used
    /// or something does not fit.
    pub fn build(self) -> Result<Engine, Error> {
        let environment = Environment::of_process();
        let mut config = self.config;
        let model = models::resolve(Some(&config.model), &environment, &Silent);
        config.model = model.map_err(|error| Error::start(error.into()))?;
        config.graph_cache.folder = self.cache_dir.or_else(|| environment.graphs_dir());
        config.graph_cache.remote_settings = environment.remote_settings;
        Engine::start(&config)
    }
}
