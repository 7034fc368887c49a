//! Mistral: Llama with a sliding window over the last tokens. Jiang et al. 2023, arXiv 2310.06825;
//! Transformers' `modeling_mistral.py`.

use super::layers::{AttentionOptions, Layers, Residual};
use super::source::ModelError;

pub(super) fn layer(
    layers: &mut Layers<'_>,
    layer: usize,
    x: Residual,
) -> Result<Residual, ModelError> {
    let window = layers.config().sliding_window[layer];
    let options = AttentionOptions { window, ..AttentionOptions::default() };
    layers.decoder_layer(layer, x, options)
}
