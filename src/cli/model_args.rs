//! The flags that every command with a model shares, and what they mean.
//!
//! What this module deliberately does not do: it reads no model. Whether one can run with these
//! settings shows when it is loaded.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::cache_args::CacheArgs;
use super::prefix_args::PrefixArgs;
use super::speculation_args::SpeculationArgs;
use super::{Context, models, values};
use crate::config::{
    AscendConfig, BackendKind, DEFAULT_COMPILE_TIMEOUT, DEFAULT_DEVICE_TIMEOUT,
    DEFAULT_MAX_NUM_BATCHED_TOKENS, DEFAULT_MAX_NUM_SEQS, DTypeChoice, EmbeddingsChoice,
    EngineConfig, Environment, GraphCacheConfig, Quantization,
};

// Far above any use, and low enough that products of two of them fit.
const MAX_THREADS: u64 = 1024;
const MAX_SEQS: u64 = 65_536;
const MAX_TOKENS: u64 = 1 << 24;
const MAX_BLOCK_SIZE: u64 = 1024;
pub(super) const MAX_DEVICE: u64 = 1023;
const MAX_COMPILE_JOBS: u64 = 256;
pub(super) const MAX_SECONDS: u64 = 86_400;

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

    /// Computes products with fewer bits than the weights have.
    #[arg(long, value_name = "NAME", env = "CAIRN_QUANTIZATION", value_enum, default_value_t)]
    quantization: Quantization,

    /// Threads of the CPU backend [default: one per core].
    #[arg(long, value_name = "N", env = "CAIRN_THREADS")]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_THREADS), allow_hyphen_values = true)]
    threads: Option<usize>,

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

    /// Tokens in one block of the KV cache [default: 16; on ascend 128].
    #[arg(long, value_name = "TOKENS", env = "CAIRN_BLOCK_SIZE")]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_BLOCK_SIZE), allow_hyphen_values = true)]
    block_size: Option<usize>,

    /// Size of the KV cache, as in 512MiB or 2GB [default: enough for `--max-num-seqs` sequences,
    /// within a budget].
    #[arg(long, value_name = "BYTES", env = "CAIRN_KV_CACHE_BYTES")]
    #[arg(value_parser = values::bytes, allow_hyphen_values = true)]
    kv_cache_bytes: Option<u64>,

    /// Compile one graph per size, as backends with static shapes need, even where one for all
    /// sizes would do; to test that path.
    #[arg(long, env = "CAIRN_STATIC_SHAPES", value_parser = values::switch())]
    static_shapes: bool,

    /// Whether embeddings are served, which takes graphs of their own; auto: where one graph serves
    /// every size.
    #[arg(long, value_name = "WHEN", env = "CAIRN_EMBEDDINGS", value_enum, default_value_t)]
    embeddings: EmbeddingsChoice,

    #[command(flatten)]
    speculation: SpeculationArgs,

    #[command(flatten)]
    cache: CacheArgs,

    #[command(flatten)]
    prefix: PrefixArgs,

    #[command(flatten)]
    ascend: AscendArgs,
}

/// What only the Ascend backend asks for.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Ascend options")]
struct AscendArgs {
    /// The chip to compile for, as in `Ascend910B3` [default: that of the device]. With it, `warmup`
    /// and `inspect` need no device.
    #[arg(long, value_name = "NAME", env = "CAIRN_SOC")]
    soc: Option<String>,

    /// Which device runs the model, counted among those that are visible to this process.
    #[arg(long, value_name = "ID", env = "CAIRN_DEVICE", default_value_t = 0)]
    #[arg(value_parser = values::whole::<u32>(0..=MAX_DEVICE), allow_hyphen_values = true)]
    device: u32,

    /// How many graphs are compiled at once [default: by cores and memory].
    #[arg(long, value_name = "N", env = "CAIRN_COMPILE_JOBS")]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_COMPILE_JOBS), allow_hyphen_values = true)]
    compile_jobs: Option<usize>,

    /// How long one graph may take to compile.
    #[arg(long, value_name = "SECONDS", env = "CAIRN_COMPILE_TIMEOUT")]
    #[arg(value_parser = values::whole::<u64>(1..=MAX_SECONDS), allow_hyphen_values = true)]
    #[arg(default_value_t = DEFAULT_COMPILE_TIMEOUT.as_secs())]
    compile_timeout: u64,

    /// How long one step may take on the device; after that the process gives it up and ends.
    #[arg(long, value_name = "SECONDS", env = "CAIRN_DEVICE_TIMEOUT")]
    #[arg(value_parser = values::whole::<u64>(1..=MAX_SECONDS), allow_hyphen_values = true)]
    #[arg(default_value_t = DEFAULT_DEVICE_TIMEOUT.as_secs())]
    device_timeout: u64,
}

impl AscendArgs {
    fn config(&self) -> AscendConfig {
        AscendConfig {
            soc: self.soc.clone(),
            device: self.device,
            compile_jobs: self.compile_jobs,
            compile_timeout: Duration::from_secs(self.compile_timeout),
            device_timeout: Duration::from_secs(self.device_timeout),
        }
    }
}

impl ModelArgs {
    /// Whether a model was named.
    pub(crate) fn is_named(&self) -> bool {
        self.model.is_some()
    }

    /// What the model is called before it is looked at: the last part of what was named.
    pub(crate) fn name(&self) -> String {
        let named = self.model.as_deref().and_then(Path::file_name);
        let default = || models::default_model().name.to_owned();
        match (named, &self.model) {
            (Some(name), _) => name.to_string_lossy().into_owned(),
            (None, Some(_)) => "model".to_owned(),
            (None, None) => default(),
        }
    }

    /// Whether the model may have to be fetched: it is known by a name, or the default.
    pub(crate) fn may_be_fetched(&self) -> bool {
        let name = self.model.as_deref().and_then(Path::to_str);
        self.model.is_none() || name.is_some_and(|name| models::known_model(name).is_some())
    }

    /// Which device is asked for.
    pub(crate) fn backend(&self) -> BackendKind {
        self.backend
    }

    /// What was asked of the graph cache, for what needs no model.
    pub(crate) fn cache(&self, environment: &Environment) -> GraphCacheConfig {
        self.cache.config(environment)
    }

    /// What the flags mean. Fetches the model when it is a known one that is not there yet.
    pub(crate) fn engine_config(&self, context: &Context) -> anyhow::Result<EngineConfig> {
        let Context { environment, progress, .. } = context;
        // What is wrong with flags is told before anything is fetched.
        let speculation = self.speculation.config()?;
        let model = models::resolve(self.model.as_deref(), environment, &**progress)?;
        Ok(EngineConfig {
            backend: self.backend,
            dtype: self.dtype,
            quantization: self.quantization,
            threads: self.threads,
            graph_cache: self.cache.config(environment),
            prefix_cache: self.prefix.config(),
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            block_size: self.block_size,
            kv_cache_bytes: self.kv_cache_bytes,
            embeddings: self.embeddings,
            speculation,
            static_shapes: self.static_shapes,
            ascend: self.ascend.config(),
            ..EngineConfig::new(model)
        })
    }
}
