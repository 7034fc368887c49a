//! The flags that every command with a model shares, and what they mean.
//!
//! What this module deliberately does not do: it reads no model. Whether one can run with these
//! settings shows when it is loaded.

use std::path::PathBuf;

use clap::Args;

use super::{Context, models, values};
use crate::config::{
    BackendKind, DEFAULT_BLOCK_SIZE, DEFAULT_MAX_NUM_BATCHED_TOKENS, DEFAULT_MAX_NUM_SEQS,
    DTypeChoice, EngineConfig, Environment,
};

// Far above any use, and low enough that products of two of them fit.
const MAX_THREADS: u64 = 1024;
const MAX_SEQS: u64 = 65_536;
const MAX_TOKENS: u64 = 1 << 24;
const MAX_BLOCK_SIZE: u64 = 1024;

/// Which model, where, and within which limits.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model options")]
pub(crate) struct ModelArgs {
    /// A folder with safetensors and config.json, a .gguf file, or the name of a known model.
    ///
    /// A path that exists wins over a name. Without MODEL, the small default model
    /// smollm2-135m-instruct is used, and fetched (93 MB) when it is not there yet.
    #[arg(value_name = "MODEL", env = "CAIRN_MODEL", help_heading = None::<&str>)]
    model: Option<PathBuf>,

    /// Which device runs the model.
    #[arg(long, value_name = "NAME", env = "CAIRN_BACKEND", value_enum, default_value_t)]
    backend: BackendKind,

    /// The type that weights are held in.
    #[arg(long, value_name = "TYPE", env = "CAIRN_DTYPE", value_enum, default_value_t)]
    dtype: DTypeChoice,

    /// Threads of the CPU backend [default: one per core].
    #[arg(long, value_name = "N", env = "CAIRN_THREADS")]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_THREADS), allow_hyphen_values = true)]
    threads: Option<usize>,

    /// Folder of compiled graphs [default: `graphs` in the cache folder, see `cairn --help`].
    #[arg(long, value_name = "DIR", env = "CAIRN_GRAPH_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// Neither look for compiled graphs nor keep them.
    #[arg(long, env = "CAIRN_NO_CACHE", value_parser = values::switch())]
    no_cache: bool,

    /// Longest sequence in tokens, prompt and output together [default: the model's own limit, or
    /// as much of it as the KV cache holds].
    #[arg(long, value_name = "TOKENS", env = "CAIRN_MAX_MODEL_LEN")]
    #[arg(value_parser = values::whole::<usize>(2..=MAX_TOKENS), allow_hyphen_values = true)]
    max_model_len: Option<usize>,

    /// Most sequences in one step.
    #[arg(long, value_name = "N", env = "CAIRN_MAX_NUM_SEQS")]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_SEQS), allow_hyphen_values = true)]
    #[arg(default_value_t = DEFAULT_MAX_NUM_SEQS)]
    max_num_seqs: usize,

    /// Most tokens in one step; longer prompts are computed in parts.
    #[arg(long, value_name = "TOKENS", env = "CAIRN_MAX_NUM_BATCHED_TOKENS")]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_TOKENS), allow_hyphen_values = true)]
    #[arg(default_value_t = DEFAULT_MAX_NUM_BATCHED_TOKENS)]
    max_num_batched_tokens: usize,

    /// Tokens in one block of the KV cache.
    #[arg(long, value_name = "TOKENS", env = "CAIRN_BLOCK_SIZE")]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_BLOCK_SIZE), allow_hyphen_values = true)]
    #[arg(default_value_t = DEFAULT_BLOCK_SIZE)]
    block_size: usize,

    /// Size of the KV cache, as in 512MiB or 2GB [default: enough for `--max-num-seqs` sequences,
    /// within a budget].
    #[arg(long, value_name = "BYTES", env = "CAIRN_KV_CACHE_BYTES")]
    #[arg(value_parser = values::bytes, allow_hyphen_values = true)]
    kv_cache_bytes: Option<u64>,

    /// Compile one graph per size, as backends with static shapes need, even where one for all
    /// sizes would do; to test that path.
    #[arg(long, env = "CAIRN_STATIC_SHAPES", value_parser = values::switch())]
    static_shapes: bool,
}

impl ModelArgs {
    /// What the flags mean. Fetches the model when it is a known one that is not there yet.
    pub(crate) fn engine_config(&self, context: &Context) -> anyhow::Result<EngineConfig> {
        let Context { environment, progress } = context;
        let model = models::resolve(self.model.as_deref(), environment, &**progress)?;
        Ok(EngineConfig {
            backend: self.backend,
            dtype: self.dtype,
            threads: self.threads,
            graph_cache: self.graph_cache(environment),
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            block_size: self.block_size,
            kv_cache_bytes: self.kv_cache_bytes,
            static_shapes: self.static_shapes,
            ..EngineConfig::new(model)
        })
    }

    fn graph_cache(&self, environment: &Environment) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        let folder = self.cache_dir.clone().or_else(|| environment.graphs_dir());
        if folder.is_none() {
            tracing::warn!(
                "compiled graphs are not kept: there is no home folder; set `CAIRN_CACHE_DIR`"
            );
        }
        folder
    }
}
