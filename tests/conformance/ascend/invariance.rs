//! With one query for each sequence, a sequence's result has the same bits whatever else is in the
//! batch, as long as it runs in the same graph. Other sizes of a batch are other graphs, whose
//! kernels a device may choose differently.

use cairn::ir::DType;

use super::backend;
use crate::case::{Loaded, bucket};
use crate::cases::attention::{Attention, Piece};

#[test]
fn a_sequence_does_not_depend_on_the_others() {
    for (cache, heads, head_dim) in
        [(DType::F16, (4, 2), 64), (DType::BF16, (3, 1), 8), (DType::BF16, (4, 2), 128)]
    {
        let batch = Attention::on_device(cache, heads, head_dim).decode(&[130, 17, 1, 260, 0]);
        let (case, columns) = (batch.case(), heads.0 * head_dim);
        let step = &case.steps[0];
        let graph = bucket(&case.graph, &step.symbols);
        let mut loaded =
            Loaded::new(backend().as_ref(), &graph, &case.tensors, &step.symbols).unwrap();
        let bits = |row: &[f32]| row.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let together = loaded.run(&step.symbols, &step.inputs).unwrap();
        let piece = |sequence: usize| {
            let queries = batch.sequences[sequence].0;
            Piece { sequence, queries: 0..queries }
        };
        for sequence in 0..4 {
            let own = bits(&together[sequence * columns..][..columns]);
            // Alone, first and last of a full batch, and several times.
            for (others, at) in [
                ([sequence, 4, 4, 4, 4], 0),
                ([sequence, 3, 2, 1, 0], 0),
                ([1, 1, 0, 3, sequence], 4),
                ([sequence, sequence, sequence, 4, 4], 2),
            ] {
                let padding = others.iter().filter(|&&sequence| sequence == 4).count();
                let (_, mut inputs) = batch.pieces(&others.map(piece), padding, false);
                // The graph takes as many new keys and values as the first step had.
                inputs[..2].iter_mut().zip(&step.inputs).for_each(|(input, of_first)| {
                    assert_eq!(input.len(), of_first.len());
                });
                let got = loaded.run(&step.symbols, &inputs).unwrap();
                let got = bits(&got[at * columns..][..columns]);
                assert!(got == own, "{}: {others:?}", case.name);
            }
        }
    }
}
