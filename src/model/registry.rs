//! The table of architectures.

use super::config::Architecture;
use super::io::GraphOutput;
use super::layers::{Layers, Residual};
use super::source::{Model, ModelError};
use super::{llama, mistral, qwen2, qwen3};
use crate::ir::Graph;

/// Adds one decoder layer to the graph.
type BuildLayer = fn(&mut Layers<'_>, usize, Residual) -> Result<Residual, ModelError>;

/// How the layers of each architecture are built.
const ARCHITECTURES: [(Architecture, BuildLayer); 4] = [
    (Architecture::Llama, llama::layer),
    (Architecture::Mistral, mistral::layer),
    (Architecture::Qwen2, qwen2::layer),
    (Architecture::Qwen3, qwen3::layer),
];

/// The graph of one step of a model.
pub(super) fn build(
    model: &Model,
    block_size: usize,
    output: GraphOutput,
) -> Result<Graph, ModelError> {
    let config = model.config();
    let (_, build_layer) = ARCHITECTURES
        .iter()
        .find(|(architecture, _)| *architecture == config.architecture)
        .expect("invariant: every architecture has a row");
    let (mut layers, mut x) = Layers::begin(model, block_size)?;
    for layer in 0..config.num_layers {
        x = build_layer(&mut layers, layer, x)?;
    }
    layers.finish(x, output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_has_a_row() {
        for architecture in Architecture::ALL {
            assert!(ARCHITECTURES.iter().any(|(row, _)| *row == architecture), "{architecture}");
        }
    }
}
