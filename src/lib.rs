//! Cairn: LLM inference for Huawei Ascend NPUs that restarts in seconds.
//!
//! The model runs as a **compiled graph**, and compiled graphs are kept in a **content-hashed cache
//! on disk that can be trusted**, so that a restart compiles nothing. On machines without an NPU the
//! same program runs on a CPU backend, through the same graph, cache, scheduler and API.
//!
//! # The house
//!
//! | Module | What it is for | May import |
//! | --- | --- | --- |
//! | [`ir`] | the graph: pure values, no IO | `kernels` (element types) |
//! | [`weights`] | checkpoints: safetensors, GGUF, dequantisation | `ir` types, `kernels` |
//! | [`model`] | config and architectures: what a checkpoint becomes | `ir`, `weights` |
//! | [`text`] | tokenizer, chat template, detokenizer | nothing |
//! | [`backend`] | devices; `compile` is the only way to an executable | `ir`, `weights`, `graph_cache`, `ffi`, `kernels` |
//! | [`engine`] | scheduler, KV blocks, sampler, the one engine thread | `ir`, `model`, `weights`, `backend`, `text` |
//! | [`prefix_store`] | KV blocks of prefixes on disk: the engine's, after a restart | `engine`, `weights`, `graph_cache` |
//! | [`boot`] | from a configuration to a running engine | `ir`, `weights`, `model`, `text`, `backend`, `engine`, `prefix_store`, `config`, `telemetry`, `build_info`, `graph_cache` |
//! | [`offline`] | [`Engine`]: the same engine as a library | `boot`, `config`, `engine`, `text`, `graph_cache` |
//! | [`server`] | HTTP and `OpenAI`'s JSON; nothing else knows them | `batch`, `engine`, `text`, `config`, `telemetry` |
//! | [`cli`] | one file per command; puts everything together | everything |
//!
//! `graph_cache`, `ffi` and `kernels` (element types and the CPU's arithmetic) are crates of their own
//! and import none of these. `tests/architecture.rs`
//! holds the table.
//!
//! # Two flows
//!
//! ```text
//! request   JSON -> template, tokens -> bounded channel -> engine thread: schedule -> SchedulerOutput
//!           -> runner fills a Step -> Executable::run -> logits -> sampler -> text deltas -> SSE
//!
//! compile   model::graph -> specialise(bucket) -> verify -> passes -> canonical bytes + fingerprint
//!           -> key -> hit: verify bytes, load
//!                  -> miss: compile once per key across threads and processes, put, load
//! ```

pub mod backend;
mod batch;
pub mod boot;
pub mod build_info;
pub mod cli;
pub mod config;
pub mod engine;
pub mod ir;
pub mod model;
pub mod offline;
pub mod prefix_store;
pub mod server;
pub mod telemetry;
pub mod text;
pub mod weights;

pub use engine::SamplingParams;
pub use offline::{Choice, Completion, Engine, EngineBuilder, TextStream};
pub use text::{ChatMessage, ToolCall};
