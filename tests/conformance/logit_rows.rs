//! A model gives logits of as many rows as there are tokens, however few sequences they are of, in
//! any order and any of them twice.

use std::path::Path;

use cairn::backend::{StateSpec, Weight};
use cairn::ir::DType;
use cairn::model::{Model, Precision, WeightPolicy};

use super::backends::{Configuration, configurations};
use super::case::{Loaded, bucket};

const NUM_TOKENS: usize = 8;
const BLOCK_SIZE: usize = 128;
const NUM_BLOCKS: usize = 3;
/// Tokens of the first sequence; those of the second one follow.
const FIRST: i32 = 5;

/// The model's logits of those rows, for steps of one sequence or of two.
fn logits(
    configuration: &Configuration,
    golden: &str,
    ends: &[i32],
    rows: &[i32],
) -> Vec<Vec<f32>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(golden);
    let precision = if configuration.leaves_padding {
        Precision::uniform(DType::BF16)
    } else {
        WeightPolicy::AsStored.into()
    };
    let model = Model::open(&folder, precision).unwrap();
    let sizes = [NUM_TOKENS, ends.len(), 1, rows.len(), NUM_BLOCKS, NUM_TOKENS];
    let symbols = sizes.map(|size| size as u64);
    let graph = bucket(&model.graph(BLOCK_SIZE).unwrap(), &symbols);
    let tensors = model.tensors(&graph, NUM_TOKENS).unwrap();
    let weights = tensors.into_iter().map(|parts| Weight { parts }).collect();
    let state = |id| {
        let ty = graph.ty(id);
        StateSpec { dtype: ty.dtype, shape: ty.shape.as_fixed().unwrap() }
    };
    let states: Vec<_> = graph.states().map(state).collect();
    let mut loaded =
        Loaded::of_weights(configuration.backend.as_ref(), &graph, weights, &states).unwrap();

    let starts = std::iter::once(&0).chain(ends);
    let lens: Vec<i32> = ends.iter().zip(starts).map(|(end, start)| end - start).collect();
    let positions: Vec<i32> = lens.iter().flat_map(|&len| 0..len).collect();
    let slots = (1..).zip(&lens).flat_map(|(block, &len)| {
        (0..len).map(move |position| block * BLOCK_SIZE as i32 + position)
    });
    let inputs = [
        (10..10 + NUM_TOKENS as i32).collect(),
        positions,
        slots.collect(),
        (1..=ends.len() as i32).collect(),
        ends.to_vec(),
        lens,
        rows.to_vec(),
    ];
    let output = loaded.run(&symbols, &inputs).unwrap();
    let vocab_size = model.config().vocab_size;
    assert_eq!(output.len(), rows.len() * vocab_size);
    output.chunks(vocab_size).map(<[f32]>::to_vec).collect()
}

#[test]
fn every_token_has_a_row_of_logits() {
    for configuration in configurations().iter().filter(|of| of.only.is_empty()) {
        for (golden, ends) in [("llama-bf16", &[8][..]), ("qwen3-wide", &[FIRST, 8])] {
            if configuration.leaves_padding && ends.len() > 1 {
                // A device takes heads of that size one sequence at a time.
                continue;
            }
            let name = format!("{golden} on {}", configuration.name);
            let all: Vec<i32> = (0..NUM_TOKENS as i32).collect();
            let expected = logits(configuration, golden, ends, &all);
            if !configuration.computes_nothing {
                let are_different = |a: &Vec<f32>, b: &Vec<f32>| a != b;
                assert!(expected.is_sorted_by(are_different), "{name}: rows are alike");
            }
            let mixed = [7, 0, 3, 3, 6, 1, 7, 5];
            let got = logits(configuration, golden, ends, &mixed);
            for (row, got) in mixed.into_iter().zip(got) {
                assert!(got == expected[row as usize], "{name}: row {row}");
            }
        }
    }
}
