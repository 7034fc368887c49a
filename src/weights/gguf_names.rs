//! Names of tensors in GGUF files, and the names that Transformers' checkpoints give the same
//! tensors.
//!
//! | GGUF | Transformers |
//! | --- | --- |
//! | `token_embd.weight` | `model.embed_tokens.weight` |
//! | `blk.7.attn_q.weight` | `model.layers.7.self_attn.q_proj.weight` |
//! | `output_norm.weight` | `model.norm.weight` |
//! | `output.weight` | `lm_head.weight` |
//!
//! The names are those of the decoders that are named like Llama (Llama, Mistral, Qwen2, Qwen3). A
//! name that is in no table below keeps its own: `rope_freqs.weight`, for example, which
//! Transformers computes instead of storing.
//!
//! What this deliberately does not do: it only renames. Files of the architecture `llama` hold the
//! rows of q and k in another order than Transformers (pairs next to each other, for rope on
//! elements `2i` and `2i + 1`), and they are handed out in the order of the file.

use std::borrow::Cow;

/// Outside of the layers.
const MODEL: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// In layer `i`: after `blk.i.` and after `model.layers.i.`.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Transformers' name of the tensor that GGUF calls `name`, or `name` itself when it has none.
pub(super) fn transformers_name(name: &str) -> Cow<'_, str> {
    mapped(name).map_or(Cow::Borrowed(name), Cow::Owned)
}

fn mapped(name: &str) -> Option<String> {
    let (module, parameter) = name.rsplit_once('.')?;
    if !matches!(parameter, "weight" | "bias") {
        return None;
    }
    if let Some(layer_module) = module.strip_prefix("blk.") {
        let (layer, module) = layer_module.split_once('.')?;
        // Only the one spelling that is written, so that no two names become the same.
        let is_canonical = layer.parse::<u32>().is_ok_and(|idx| idx.to_string() == layer);
        let module = look_up(&LAYER, module).filter(|_| is_canonical)?;
        return Some(format!("model.layers.{layer}.{module}.{parameter}"));
    }
    Some(format!("{}.{parameter}", look_up(&MODEL, module)?))
}

fn look_up(table: &[(&str, &'static str)], key: &str) -> Option<&'static str> {
    table.iter().find(|(gguf, _)| *gguf == key).map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_become_those_of_transformers() {
        for (gguf, expected) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
            ("blk.12.attn_k.bias", "model.layers.12.self_attn.k_proj.bias"),
            ("blk.3.attn_q_norm.weight", "model.layers.3.self_attn.q_norm.weight"),
            ("blk.3.ffn_norm.weight", "model.layers.3.post_attention_layernorm.weight"),
        ] {
            assert_eq!(transformers_name(gguf), expected);
        }
    }

    #[test]
    fn other_names_stay_as_they_are() {
        for name in [
            "rope_freqs.weight",
            "blk.0.ffn_gate_inp.weight",
            "blk.00.attn_q.weight",
            "blk.+1.attn_q.weight",
            "blk.x.attn_q.weight",
            "blk.0.attn_q.scale",
            "token_embd",
            "",
            ".",
            "blk.",
        ] {
            assert_eq!(transformers_name(name), name);
        }
    }
}
