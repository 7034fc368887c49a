//! The table: who may import whom.

/// What a module may import, besides itself and all of `std` that is not guarded.
///
/// A row also holds for the modules inside, whose own rows add to it.
pub(crate) struct Row {
    pub(crate) module: &'static str,
    /// Modules and packages of ours; `*`: all.
    pub(crate) ours: &'static str,
    /// Crates of others, and guarded parts of `std`.
    pub(crate) others: &'static str,
    /// Exceptions to both.
    pub(crate) never: &'static str,
}

const fn row(module: &'static str, ours: &'static str, others: &'static str) -> Row {
    Row { module, ours, others, never: "" }
}

impl Row {
    const fn never(self, never: &'static str) -> Self {
        Self { never, ..self }
    }
}

/// Modules of the root package are named without it, other packages without `cairn-`.
pub(crate) const TABLE: &[Row] = &[
    row("", "engine::SamplingParams offline text::ChatMessage text::ToolCall", ""),
    row("ffi", "", "libloading thiserror std::io"),
    row("graph_cache", "", "fs_err libc serde serde_json sha2 thiserror tracing std::io std::os"),
    row("graph_cache::archive", "", "tar zstd"),
    row("graph_cache::atomic_write", "", "std::process"),
    row(
        "graph_cache::beat",
        "",
        "std::fs::Metadata std::fs::TryLockError std::process std::thread",
    ),
    row("graph_cache::conformance", "", "std::thread"),
    row("graph_cache::disk::content", "", "std::thread"),
    row("graph_cache::entry::codec", "", "bincode"),
    row("graph_cache::entry::manifest", "", "humantime"),
    row(
        "graph_cache::filesystem",
        "",
        "std::fs::DirBuilder std::fs::FileTimes std::fs::FileType std::fs::Metadata",
    ),
    row("graph_cache::fuzzing", "", "zstd"),
    row("graph_cache::gc", "", "std::fs::TryLockError"),
    row("graph_cache::lease", "", "std::thread"),
    row("graph_cache::lock", "", "std::process std::thread"),
    row(
        "graph_cache::remote",
        "",
        "futures_core getrandom humantime object_store reqwest rustls tokio std::thread",
    ),
    row("graph_cache::starts", "", "std::thread"),
    row("graph_cache::trust::signature", "", "ed25519_dalek getrandom"),
    row("graph_cache::verify", "", "std::thread"),
    row("kernels", "", "bytemuck half memmap2 thiserror std::io"),
    row("kernels::pool", "", "std::thread"),
    row("ir", "kernels::DType", "serde_json thiserror"),
    row(
        "weights",
        "ir::DType ir::Shape kernels",
        "bytemuck fs_err half rustc_hash serde serde_json thiserror std::io",
    ),
    row("weights::mmap", "", "memmap2 std::fs::Metadata"),
    row("weights::stamp", "", "std::fs::Metadata std::os"),
    row("model", "ir weights", "fs_err serde_json thiserror std::io"),
    row(
        "text",
        "",
        "fs_err minijinja minijinja_contrib serde serde_json thiserror tokenizers std::io",
    ),
    row("text::grammar", "", "llguidance std::thread"),
    row("backend", "ir weights::Bytes weights::Tensor weights::dequantise", "serde_json thiserror"),
    row("backend::compile", "graph_cache", "tracing")
        .never("backend::cpu backend::null backend::ascend"),
    row(
        "backend::cpu",
        "kernels",
        "serde serde_json std::env::consts std::thread::available_parallelism",
    )
    .never("backend::compile backend::null backend::ascend"),
    row("backend::null", "", "").never("backend::compile backend::cpu backend::ascend"),
    row(
        "backend::ascend",
        "ffi",
        "fs_err prost rustix serde serde_json tempfile tracing std::io std::os std::process \
         std::thread std::env::consts",
    )
    .never("backend::compile backend::cpu backend::null"),
    row(
        "engine",
        "ir model weights backend text",
        "rand_chacha rustc_hash thiserror tokio::sync tracing std::io::Error std::thread",
    )
    .never("backend::compile backend::cpu backend::null backend::ascend"),
    row(
        "batch",
        "boot::Hint boot::Usage boot::failure",
        "anyhow fs_err serde serde_json sha2 thiserror tokio std::fs::TryLockError std::io std::thread",
    ),
    row(
        "boot",
        "build_info config ir weights model text backend engine prefix_store telemetry graph_cache",
        "anyhow fs_err thiserror tracing std::thread",
    ),
    row("boot::ascend", "", "tempfile"),
    row("boot::events", "", "serde_json"),
    row(
        "boot::models",
        "",
        "rustix serde sha2 tempfile std::fs::TryLockError std::io std::process",
    ),
    row(
        "offline",
        "boot config engine text graph_cache::CacheMode",
        "anyhow::Error thiserror std::thread",
    ),
    row(
        "prefix_store",
        "engine weights graph_cache",
        "fs_err serde_json sha2 thiserror tracing std::thread",
    ),
    row("engine::kv_cache::chain", "", "sha2"),
    row(
        "server",
        "batch::Answered batch::Answers batch::NoAnswer engine text config telemetry",
        "axum base64 futures_core hyper hyper_util serde serde_json thiserror tokio tower tracing \
         utoipa std::io std::thread",
    ),
    row("server::batches", "batch", "anyhow fs_err tempfile"),
    row("server::page", "", "sha2"),
    row("server::cors", "", "tower_http"),
    row("server::net", "", "fs_err tokio_rustls std::net std::os::unix"),
    row(
        "server::access",
        "",
        "fs_err getrandom humantime sha2 strsim tempfile toml std::fs::TryLockError std::net std::os",
    ),
    row(
        "cli",
        "*",
        "anyhow clap fs_err indicatif rand rand_chacha rustix serde serde_json sha2 strsim \
         tempfile thiserror tokio toml tracing std::env::consts std::fs::TryLockError std::io std::net std::os \
         std::process std::thread",
    ),
    row("cli::bench::startup", "", "std::env::current_exe"),
    row("cli::doctor::cache", "", "std::fs::OpenOptions"),
    row("config", "graph_cache", "clap std::env"),
    row("telemetry", "", ""),
    row("telemetry::log", "config", "thiserror tracing_subscriber std::io"),
    row("telemetry::metrics", "", ""),
    row("telemetry::traces", "", "prost thiserror tokio tracing std::io"),
    row(
        "telemetry::events",
        "",
        "fs_err humantime serde serde_json tokio::sync tracing std::fs::TryLockError std::io",
    ),
    row("build_info", "", ""),
    row("main", "cli", "std::process"),
];
