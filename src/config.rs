//! What was asked for, after defaults, environment and flags: the only module that reads the
//! environment.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`EngineConfig`] | everything that loading a model and starting an engine depends on |
//! | [`GraphCacheConfig`] | the part of it about compiled graphs |
//! | [`PrefixCacheConfig`] | the part of it about prefixes that outlive the process |
//! | [`SchedulingConfig`], [`SpeculationConfig`] | the parts about who runs when, and about guesses |
//! | [`Environment`] | the variables that belong to no flag, read once at the start |
//!
//! ```text
//! flag > its variable (CAIRN_...) > default          command-line parsing, one variable per flag
//! CAIRN_CACHE_DIR > XDG_CACHE_HOME/cairn > ~/.cache/cairn                        cache_root here
//! --state-dir > XDG_STATE_HOME/cairn > ~/.local/state/cairn                      state_root here
//! ```
//!
//! A variable that is set to nothing counts as not set, everywhere. Reading goes through a lookup
//! function, so tests pass their own environment and never change that of the process.
//!
//! What this module deliberately does not do: it opens no file, and it does not decide whether a
//! model can run with what was asked; loading the model does.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

pub use graph_cache::{CacheTrust, DEFAULT_CACHE_LOCK_TIMEOUT, GraphCacheConfig, RemoteSettings};
pub use prefix_cache::{
    DEFAULT_PREFIX_CACHE_MAX_BYTES, DEFAULT_PREFIX_CACHE_MIN_HITS, PrefixCacheConfig,
};

pub use scheduling::{
    DEFAULT_MAX_NUM_QUEUED_TOKENS, SchedulingConfig, SchedulingPolicy, SpeculationConfig,
    SpeculationMethod,
};

mod graph_cache;
mod prefix_cache;
mod scheduling;

/// Most sequences in one step, where nothing was asked for.
pub const DEFAULT_MAX_NUM_SEQS: usize = 32;
/// Most tokens in one step, where nothing was asked for.
pub const DEFAULT_MAX_NUM_BATCHED_TOKENS: usize = 512;
/// Tokens in one KV block, where nothing was asked for.
pub const DEFAULT_BLOCK_SIZE: usize = 16;
/// The same on Ascend, whose attention takes no smaller ones.
pub const DEFAULT_ASCEND_BLOCK_SIZE: usize = 128;
/// How long one graph may take to compile for Ascend.
pub const DEFAULT_COMPILE_TIMEOUT: Duration = Duration::from_hours(1);
/// How long one step may take on a device.
pub const DEFAULT_DEVICE_TIMEOUT: Duration = Duration::from_mins(1);
/// Most requests that wait, where nothing was asked for.
pub const DEFAULT_MAX_NUM_QUEUED_REQS: usize = 256;

/// Which device runs the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// The host's processor.
    #[default]
    Cpu,
    /// Accepts everything and returns zeros: measures all but the device.
    Null,
    /// Huawei Ascend through CANN.
    Ascend,
}

impl BackendKind {
    /// The name that `--backend` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Null => "null",
            Self::Ascend => "ascend",
        }
    }
}

/// The type that weights are held in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DTypeChoice {
    /// As the checkpoint has them. The CPU computes with them in f32, in which nothing is lost.
    #[default]
    Auto,
    /// Everything converted to f32.
    #[value(alias = "float32")]
    F32,
    /// Everything converted to f16.
    #[value(alias = "float16", alias = "half")]
    F16,
    /// Everything converted to bf16; the CPU, too, then rounds what it multiplies to bf16, which is
    /// faster.
    #[value(name = "bf16", alias = "bfloat16")]
    BF16,
}

impl DTypeChoice {
    /// The name that `--dtype` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }
}

/// How products are computed with fewer bits than the weights have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Quantization {
    /// Not at all; a checkpoint may hold quantised weights all the same.
    #[default]
    None,
    /// Weights to signed bytes with a scale for each output channel, activations to signed bytes
    /// with a scale for each token (W8A8). CPU backend only.
    Int8,
}

impl Quantization {
    /// The name that `--quantization` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Int8 => "int8",
        }
    }
}

/// Whether an engine gives embeddings, for which it needs graphs of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EmbeddingsChoice {
    /// Where one graph serves all sizes, and so is quickly compiled.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Everything that loading a model and starting an engine depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// A folder with safetensors and `config.json`, or a `.gguf` file.
    pub model: PathBuf,
    /// Which device runs it.
    pub backend: BackendKind,
    /// The type that weights are held in.
    pub dtype: DTypeChoice,
    /// How products are computed with fewer bits than that.
    pub quantization: Quantization,
    /// Threads of the CPU backend; `None`: one per core.
    pub threads: Option<usize>,
    /// Where compiled graphs are found and kept.
    pub graph_cache: GraphCacheConfig,
    /// Where prefixes outlive the process.
    pub prefix_cache: PrefixCacheConfig,
    /// Longest sequence, prompt and output together; `None`: the model's own limit, or as much of
    /// it as a default budget for the KV cache holds.
    pub max_model_len: Option<usize>,
    /// Most sequences in one step.
    pub max_num_seqs: usize,
    /// Most tokens in one step.
    pub max_num_batched_tokens: usize,
    /// Tokens in one KV block; `None`: as fits the backend.
    pub block_size: Option<usize>,
    /// Bytes of the KV cache; `None`: enough for `max_num_seqs` sequences, within a default budget.
    pub kv_cache_bytes: Option<u64>,
    /// Most requests that wait; one more is refused.
    pub max_num_queued_reqs: usize,
    /// Which of them runs when, and which work is not done twice.
    pub scheduling: SchedulingConfig,
    /// Whether there are graphs for embeddings.
    pub embeddings: EmbeddingsChoice,
    /// Guessing several tokens ahead; `None`: off.
    pub speculation: Option<SpeculationConfig>,
    /// Compile one graph per size instead of one for all, even where the backend needs only one.
    pub static_shapes: bool,
    /// What only the Ascend backend asks for.
    pub ascend: AscendConfig,
}

/// Settings of the Ascend backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AscendConfig {
    /// The chip to compile for; `None`: that of the device.
    pub soc: Option<String>,
    /// Which device runs the model.
    pub device: u32,
    /// How many graphs are compiled at once; `None`: by cores and memory.
    pub compile_jobs: Option<usize>,
    /// How long one graph may take to compile.
    pub compile_timeout: Duration,
    /// How long one step may take.
    pub device_timeout: Duration,
}

impl Default for AscendConfig {
    fn default() -> Self {
        Self {
            soc: None,
            device: 0,
            compile_jobs: None,
            compile_timeout: DEFAULT_COMPILE_TIMEOUT,
            device_timeout: DEFAULT_DEVICE_TIMEOUT,
        }
    }
}

impl EngineConfig {
    /// The configuration of a model with every setting at its default, and compiled graphs and
    /// prefixes in memory.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            backend: BackendKind::default(),
            dtype: DTypeChoice::default(),
            quantization: Quantization::default(),
            threads: None,
            graph_cache: GraphCacheConfig::default(),
            prefix_cache: PrefixCacheConfig::default(),
            max_model_len: None,
            max_num_seqs: DEFAULT_MAX_NUM_SEQS,
            max_num_batched_tokens: DEFAULT_MAX_NUM_BATCHED_TOKENS,
            block_size: None,
            kv_cache_bytes: None,
            max_num_queued_reqs: DEFAULT_MAX_NUM_QUEUED_REQS,
            scheduling: SchedulingConfig::default(),
            embeddings: EmbeddingsChoice::Off,
            speculation: None,
            static_shapes: false,
            ascend: AscendConfig::default(),
        }
    }

    /// Tokens in one KV block.
    pub fn block_size(&self) -> usize {
        self.block_size.unwrap_or(match self.backend {
            BackendKind::Cpu | BackendKind::Null => DEFAULT_BLOCK_SIZE,
            BackendKind::Ascend => DEFAULT_ASCEND_BLOCK_SIZE,
        })
    }
}

/// A text that nobody may see; its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text; not to be shown.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(...)")
    }
}

impl std::str::FromStr for Secret {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            Err("expected a key, got nothing")
        } else {
            Ok(Self::new(text))
        }
    }
}

/// The variables that belong to no flag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The folder that everything we keep lies in, by the order above; `None`: no place.
    pub cache_root: Option<PathBuf>,
    /// The folder of what a server must remember, unless `--state-dir` says otherwise: `cairn` in
    /// `XDG_STATE_HOME`, else `.local/state/cairn` in the home folder; `None`: no place.
    pub state_root: Option<PathBuf>,
    /// `VLLM_API_KEY`: a key that clients must send, unless flags say otherwise.
    pub vllm_api_key: Option<Secret>,
    /// `CAIRN_OFFLINE`: never fetch anything.
    pub offline: bool,
    /// `NO_COLOR`: write no colours.
    pub no_color: bool,
    /// `ASCEND_HOME_PATH`, then `ASCEND_TOOLKIT_HOME`: where CANN is installed.
    pub ascend_homes: Vec<PathBuf>,
    /// `ASCEND_CUSTOM_OPP_PATH`: packages of operators that come before CANN's own.
    pub ascend_operators: Vec<PathBuf>,
    /// `ASCEND_PROCESS_LOG_PATH`: where CANN writes its logs.
    pub ascend_log_path: Option<PathBuf>,
    /// `ASCEND_WORK_PATH`: where CANN writes logs and more, unless the one above is set.
    pub ascend_work_path: Option<PathBuf>,
    /// Variables that CANN's compiler gets to see, by name, of those that are set.
    pub ascend_compiler: Vec<(OsString, OsString)>,
    /// The user's home folder.
    pub home: Option<PathBuf>,
    /// `AWS_...`: how object stores are reached.
    pub remote_settings: RemoteSettings,
}

/// Variables that the compiler's programs are found and run with. Nothing that changes what it
/// makes of a graph, unless the cache's key sees it, too.
const COMPILER_VARIABLES: &[&str] = &[
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "LANG",
    "LC_ALL",
    "ASCEND_OPP_PATH",
    "ASCEND_AICPU_PATH",
    "ASCEND_CUSTOM_OPP_PATH",
    "ASCEND_GLOBAL_LOG_LEVEL",
    "TOOLCHAIN_HOME",
    "MAX_COMPILE_CORE_NUMBER",
    "TE_PARALLEL_COMPILER",
];
/// What the variables of a simulated toolkit begin with.
const SIMULATOR_PREFIX: &str = "CANN_SIM_";

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let mut environment =
            Self::from_lookup(|name| std::env::var_os(name), std::env::home_dir());
        let is_simulator = |name: &OsStr| name.to_string_lossy().starts_with(SIMULATOR_PREFIX);
        environment
            .ascend_compiler
            .extend(std::env::vars_os().filter(|(name, _)| is_simulator(name)));
        environment
    }

    /// An environment in which `lookup` gives the value of a variable, and `home` is the user's
    /// home folder.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Self {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        Self {
            vllm_api_key: lookup("VLLM_API_KEY")
                .and_then(|key| key.into_string().ok())
                .map(Secret::new),
            offline: lookup("CAIRN_OFFLINE").is_some_and(|value| is_yes(&value)),
            no_color: lookup("NO_COLOR").is_some(),
            ascend_homes: ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"]
                .into_iter()
                .filter_map(|name| lookup(name).map(PathBuf::from))
                .collect(),
            ascend_operators: lookup("ASCEND_CUSTOM_OPP_PATH")
                .map(|value| paths(&value))
                .unwrap_or_default(),
            ascend_log_path: lookup("ASCEND_PROCESS_LOG_PATH").map(PathBuf::from),
            ascend_work_path: lookup("ASCEND_WORK_PATH").map(PathBuf::from),
            ascend_compiler: COMPILER_VARIABLES
                .iter()
                .filter_map(|name| Some((OsString::from(name), lookup(name)?)))
                .collect(),
            home: home.clone().filter(|path| !path.as_os_str().is_empty()),
            remote_settings: RemoteSettings::from_lookup(lookup),
            state_root: xdg_root(lookup, home.as_ref(), "XDG_STATE_HOME", ".local/state"),
            cache_root: cache_root(lookup, home),
        }
    }

    /// Where compiled graphs are kept unless `--cache-dir` says otherwise.
    pub fn graphs_dir(&self) -> Option<PathBuf> {
        Some(self.cache_root.as_ref()?.join("graphs"))
    }

    /// Where fetched models are kept.
    pub fn models_dir(&self) -> Option<PathBuf> {
        Some(self.cache_root.as_ref()?.join("models"))
    }
}

/// What this process was started with, its own name first.
pub fn arguments() -> Vec<OsString> {
    std::env::args_os().collect()
}

/// A variable of this process as it is. For the command line, which knows the names of its flags'
/// variables; all else comes through [`Environment`] or through the flag that owns it.
pub fn variable(name: &OsStr) -> Option<OsString> {
    std::env::var_os(name)
}

/// `CAIRN_CACHE_DIR`, else `cairn` in `XDG_CACHE_HOME`, else `.cache/cairn` in the home folder.
///
/// The XDG Base Directory Specification says that a relative `XDG_CACHE_HOME` is invalid and to be
/// ignored. A relative `CAIRN_CACHE_DIR` is taken from the current folder, like a flag's value.
fn cache_root(lookup: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let own = lookup("CAIRN_CACHE_DIR").map(PathBuf::from);
    own.or_else(|| xdg_root(lookup, home.as_ref(), "XDG_CACHE_HOME", ".cache"))
}

/// Our folder in the base folder that `variable` names, else in `default` of the home folder.
fn xdg_root(
    lookup: impl Fn(&str) -> Option<OsString>,
    home: Option<&PathBuf>,
    variable: &str,
    default: &str,
) -> Option<PathBuf> {
    let named = lookup(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let usual = || home.filter(|path| path.is_absolute()).map(|path| path.join(default));
    Some(named.or_else(usual)?.join("cairn"))
}

/// The paths of a list with colons, without empty ones.
fn paths(list: &OsStr) -> Vec<PathBuf> {
    std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect()
}

/// Whether a switch is on: anything but `0`, `false`, `no` and `off`.
fn is_yes(value: &OsStr) -> bool {
    let value = value.to_string_lossy().to_ascii_lowercase();
    !matches!(value.as_str(), "0" | "false" | "no" | "off" | "n" | "f")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)], home: Option<&str>) -> Environment {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Environment::from_lookup(lookup, home.map(PathBuf::from))
    }

    fn root(variables: &[(&str, &str)], home: Option<&str>) -> Option<PathBuf> {
        environment(variables, home).cache_root
    }

    #[test]
    fn the_cache_lies_where_the_first_of_three_places_says() {
        let own = ("CAIRN_CACHE_DIR", "/own");
        let xdg = ("XDG_CACHE_HOME", "/xdg");
        assert_eq!(root(&[own, xdg], Some("/home/ada")), Some("/own".into()));
        assert_eq!(root(&[xdg], Some("/home/ada")), Some("/xdg/cairn".into()));
        assert_eq!(root(&[], Some("/home/ada")), Some("/home/ada/.cache/cairn".into()));
        assert_eq!(root(&[], None), None);
    }

    #[test]
    fn empty_and_relative_places_are_passed_over() {
        let variables = [("CAIRN_CACHE_DIR", ""), ("XDG_CACHE_HOME", "somewhere")];
        assert_eq!(root(&variables, Some("/home/ada")), Some("/home/ada/.cache/cairn".into()));
        assert_eq!(root(&variables, Some("")), None);
        assert_eq!(root(&[("CAIRN_CACHE_DIR", "here")], None), Some("here".into()));
    }

    #[test]
    fn what_a_server_remembers_lies_in_the_state_folder() {
        let state = |variables: &[_], home| environment(variables, home).state_root;
        let xdg = ("XDG_STATE_HOME", "/xdg");
        assert_eq!(state(&[xdg], Some("/home/ada")), Some("/xdg/cairn".into()));
        let usual = Some(PathBuf::from("/home/ada/.local/state/cairn"));
        assert_eq!(state(&[("XDG_STATE_HOME", "here")], Some("/home/ada")), usual);
        assert_eq!(state(&[], None), None);
    }

    #[test]
    fn models_and_graphs_are_neighbours() {
        let environment = environment(&[("CAIRN_CACHE_DIR", "/own")], None);
        assert_eq!(environment.models_dir(), Some("/own/models".into()));
        assert_eq!(environment.graphs_dir(), Some("/own/graphs".into()));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let environment = environment(&[("VLLM_API_KEY", "sk-1")], None);
        assert_eq!(environment.vllm_api_key, Some(Secret::new("sk-1")));
        assert!(!format!("{environment:?}").contains("sk-1"));
        assert!(" ".parse::<Secret>().is_err());
    }

    #[test]
    fn offline_is_a_switch() {
        for (value, expected) in [
            ("1", true),
            ("true", true),
            ("yes", true),
            ("0", false),
            ("False", false),
            ("", false),
        ] {
            let environment = environment(&[("CAIRN_OFFLINE", value)], None);
            assert_eq!(environment.offline, expected, "CAIRN_OFFLINE={value}");
        }
        assert!(!environment(&[], None).offline);
    }

    #[test]
    fn no_color_counts_only_when_it_says_something() {
        assert!(environment(&[("NO_COLOR", "0")], None).no_color);
        assert!(!environment(&[("NO_COLOR", "")], None).no_color);
    }

    #[test]
    fn the_compiler_sees_its_own_variables_only() {
        let variables = [
            ("PATH", "/bin"),
            ("PYTHONPATH", ""),
            ("ASCEND_OPP_PATH", "/opp"),
            ("TUNE_BANK_PATH", "/bank"),
            ("CAIRN_MODEL", "m"),
        ];
        let found = environment(&variables, None).ascend_compiler;
        let expected = [("PATH", "/bin"), ("ASCEND_OPP_PATH", "/opp")];
        assert_eq!(found, expected.map(|(name, value)| (name.into(), value.into())));
    }

    #[test]
    fn packages_of_operators_are_a_list_and_logs_have_two_places() {
        let variables = [
            ("ASCEND_CUSTOM_OPP_PATH", "/a::/b:"),
            ("ASCEND_PROCESS_LOG_PATH", "/log"),
            ("ASCEND_WORK_PATH", ""),
        ];
        let environment = environment(&variables, Some("/home/ada"));
        assert_eq!(environment.ascend_operators, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(environment.ascend_log_path, Some("/log".into()));
        assert_eq!(environment.ascend_work_path, None);
        assert_eq!(environment.home, Some("/home/ada".into()));
    }

    #[test]
    fn the_names_are_those_that_the_flags_take() {
        for kind in BackendKind::value_variants() {
            let value = kind.to_possible_value().expect("not skipped");
            assert_eq!(value.get_name(), kind.name());
        }
        for choice in DTypeChoice::value_variants() {
            let value = choice.to_possible_value().expect("not skipped");
            assert_eq!(value.get_name(), choice.name());
        }
        assert_eq!(DTypeChoice::from_str("bfloat16", false), Ok(DTypeChoice::BF16));
        assert_eq!(DTypeChoice::from_str("float32", false), Ok(DTypeChoice::F32));
    }
}
