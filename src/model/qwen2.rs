//! Qwen2 and Qwen2.5: a bias on q, k and v, and in some models a sliding window in the upper
//! layers. Yang et al. 2024, arXiv 2407.10671; Transformers' `modeling_qwen2.py`.

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
        window: config.sliding_window[layer],
        ..AttentionOptions::default()
    };
    layers.decoder_layer(layer, x, options)
}
