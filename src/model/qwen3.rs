//! Qwen3: a norm over each head of q and k before rope. Yang et al. 2025, arXiv 2505.09388;
//! Transformers' `modeling_qwen3.py`.

use super::layers::{AttentionOptions, Layers, Residual};
use super::source::ModelError;

pub(super) fn layer(
    layers: &mut Layers<'_>,
    layer: usize,
    x: Residual,
) -> Result<Residual, ModelError> {
    let config = layers.config();
    let options = AttentionOptions {
        has_bias: config.attention_bias,
        has_output_bias: config.attention_output_bias,
        has_qk_norm: config.qk_norm,
        window: config.sliding_window[layer],
    };
    layers.decoder_layer(layer, x, options)
}
