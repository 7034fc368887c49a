//! Llama 1 to 3 and models of the same form, `SmolLM2` among them: Touvron et al. 2023, arXiv
//! 2302.13971; Transformers' `modeling_llama.py`.

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
        ..AttentionOptions::default()
    };
    layers.decoder_layer(layer, x, options)
}
