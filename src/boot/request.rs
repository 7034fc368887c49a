//! What a deployment asks for, as fields of a key: known before a graph is built.
//!
//! ```text
//! model's configuration + types of its tensors + sizes of the engine + backend --> request key
//! request key --cache--> the graphs that it needed the last time
//! ```
//!
//! Everything is in it that decides which graphs are built and what they are. Where the model lies,
//! its weights' values, ports, threads and the length of the queue decide nothing, and are not.
//!
//! What this module deliberately does not do: it finds no graph. Their own keys decide what is
//! loaded; where the two disagree, something is missing here, and the cache says so.

use std::fmt::Write as _;

use cairn_graph_cache::KeyFields;

use crate::backend::Backend;
use crate::build_info;
use crate::config::EngineConfig;
use crate::engine::EngineOptions;
use crate::ir::RopeStyle;
use crate::model::config::{RopeConfig, RopeScaling};
use crate::model::{Model, ModelConfig, Precision, WeightPolicy};

/// Raised when the fields of an unchanged request change, or their meaning does.
const REQUEST_SCHEMA: &str = "1";

/// The fields of a request's key.
pub(super) fn fields(
    config: &EngineConfig,
    model: &Model,
    options: &EngineOptions,
    backend: &dyn Backend,
) -> KeyFields {
    let fields = KeyFields::new()
        .text("request", REQUEST_SCHEMA)
        .text("cairn", build_info::VERSION)
        .text("backend", backend.name())
        .text("static_shapes", config.static_shapes.to_string());
    let fields = of_engine(fields, options);
    let fields = model_settings(model)
        .into_iter()
        .fold(fields, |fields, (name, value)| fields.text(&format!("model.{name}"), value))
        .bytes("model.tensors", tensors(model).as_bytes());
    let mut fingerprint = backend.fingerprint();
    fingerprint.sort_by(|(a, _), (b, _)| a.cmp(b));
    fingerprint
        .into_iter()
        .fold(fields, |fields, (name, value)| fields.text(&format!("backend.{name}"), value))
}

fn of_engine(fields: KeyFields, options: &EngineOptions) -> KeyFields {
    let EngineOptions {
        max_model_len,
        max_num_seqs,
        max_num_batched_tokens,
        block_size,
        num_blocks,
        has_embeddings,
        // Speculation changes how many rows a graph gives; the others are no part of any graph.
        speculation: _,
        max_num_queued_reqs: _,
        max_num_queued_tokens: _,
        policy: _,
        is_prefix_cache_on: _,
        request_timeout: _,
        long_prefill_token_threshold: _,
    } = options;
    let max_logits_per_seq = &options.max_logits_per_seq();
    [
        ("max_model_len", max_model_len),
        ("max_num_seqs", max_num_seqs),
        ("max_num_batched_tokens", max_num_batched_tokens),
        ("block_size", block_size),
        ("num_blocks", num_blocks),
        ("max_logits_per_seq", max_logits_per_seq),
    ]
    .into_iter()
    .fold(fields, |fields, (name, value)| fields.text(name, value.to_string()))
    .text("embeddings", has_embeddings.to_string())
}

/// What a model is computed with, by name, besides its weights. Taken apart in full, so that nobody adds a setting to models without deciding about it here.
pub(super) fn model_settings(model: &Model) -> Vec<(&'static str, String)> {
    let ModelConfig {
        architecture,
        vocab_size,
        hidden_size,
        intermediate_size,
        num_layers,
        num_attention_heads,
        num_kv_heads,
        head_dim,
        max_position_embeddings,
        rms_norm_eps,
        rope,
        tie_word_embeddings,
        attention_bias,
        attention_output_bias,
        mlp_bias,
        qk_norm,
        sliding_window,
        // Where a text ends is no matter of graphs.
        eos_token_ids: _,
        bos_token_id: _,
    } = model.config();
    let windows = sliding_window.iter().map(|window| window.unwrap_or(0));
    let windows: Vec<String> = windows.map(|window| window.to_string()).collect();
    vec![
        ("architecture", architecture.class_name().to_owned()),
        ("vocab_size", vocab_size.to_string()),
        ("hidden_size", hidden_size.to_string()),
        ("intermediate_size", intermediate_size.to_string()),
        ("num_layers", num_layers.to_string()),
        ("num_attention_heads", num_attention_heads.to_string()),
        ("num_kv_heads", num_kv_heads.to_string()),
        ("head_dim", head_dim.to_string()),
        ("max_position_embeddings", max_position_embeddings.to_string()),
        ("rms_norm_eps", rms_norm_eps.to_string()),
        ("rope", rope_text(rope)),
        ("tie_word_embeddings", tie_word_embeddings.to_string()),
        ("attention_bias", attention_bias.to_string()),
        ("attention_output_bias", attention_output_bias.to_string()),
        ("mlp_bias", mlp_bias.to_string()),
        ("qk_norm", qk_norm.to_string()),
        ("sliding_window", windows.join(" ")),
        ("precision", precision(model.precision())),
    ]
}

/// As in `halves theta 10000 llama3 8 1 4 8192`.
fn rope_text(rope: &RopeConfig) -> String {
    let RopeConfig { theta, scaling, style } = rope;
    let style = match style {
        RopeStyle::Halves => "halves",
        RopeStyle::Interleaved => "interleaved",
    };
    let scaling = match scaling {
        RopeScaling::None => "unscaled".to_owned(),
        RopeScaling::Linear { factor } => format!("linear {factor}"),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => format!(
            "llama3 {factor} {low_freq_factor} {high_freq_factor} \
             {original_max_position_embeddings}"
        ),
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
        } => format!(
            "yarn {factor} {original_max_position_embeddings} {beta_fast} {beta_slow} \
             {attention_factor} {truncate}"
        ),
        RopeScaling::FrequencyFactors(factors) => {
            let factors: Vec<String> = factors.iter().map(f32::to_string).collect();
            format!("factors {}", factors.join(" "))
        }
    };
    format!("{style} theta {theta} {scaling}")
}

/// As in `weights as stored, activations f32, KV cache f32`.
fn precision(precision: Precision) -> String {
    let Precision { weights, activations, kv_cache } = precision;
    let weights = match weights {
        WeightPolicy::AsStored => "as stored",
        WeightPolicy::F32 => "f32",
        WeightPolicy::F16 => "f16",
        WeightPolicy::BF16 => "bf16",
    };
    format!("weights {weights}, activations {activations}, KV cache {kv_cache}")
}

/// A line for each tensor of the checkpoint: name, type and shape.
fn tensors(model: &Model) -> String {
    let checkpoint = model.checkpoint();
    let mut text = String::new();
    for name in checkpoint.names() {
        // Writing to a string cannot fail.
        let _ = match checkpoint.tensor(name) {
            Ok(tensor) => writeln!(text, "{name} {} {:?}", tensor.dtype, tensor.shape),
            // No graph can use it.
            Err(_) => writeln!(text, "{name} unsupported"),
        };
    }
    text
}
