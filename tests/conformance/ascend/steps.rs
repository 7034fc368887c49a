//! What one layout of a batch takes and another does not. The rest of bad steps is that of every
//! backend; here are the batches that only a device distinguishes.

use cairn::backend::BackendError;
use cairn::ir::DType;

use super::backend;
use crate::case::{Case, CaseStep, Loaded, bucket};
use crate::cases::attention::Attention;

/// The inputs of [`Attention`]'s graph.
const ENDS: usize = 4;
const LENS: usize = 5;

type Change<'a> = (&'a str, &'a dyn Fn(&mut CaseStep));

/// Runs changed steps of a case, each of which must be refused.
fn refused(case: &Case, changes: &[Change<'_>]) {
    let step = &case.steps[0];
    let graph = bucket(&case.graph, &step.symbols);
    let mut loaded = Loaded::new(backend().as_ref(), &graph, &case.tensors, &step.symbols).unwrap();
    for (what, change) in changes {
        loaded.run(&step.symbols, &step.inputs).unwrap();
        let mut bad = step.clone();
        change(&mut bad);
        let result = loaded.run(&bad.symbols, &bad.inputs);
        assert!(matches!(result, Err(BackendError::BadInput(_))), "{what}: {result:?}");
    }
}

#[test]
fn one_query_for_each_sequence_means_one() {
    let batch = Attention::on_device(DType::F16, (4, 2), 16).decode(&[130, 17, 3, 0]);
    refused(
        &batch.case(),
        &[
            ("two queries of one sequence", &|step| step.inputs[ENDS] = vec![2, 2, 3, 3]),
            ("a query of a sequence after an empty one", &|step| {
                step.inputs[ENDS] = vec![1, 1, 2, 3];
                step.inputs[LENS] = vec![130, 0, 3, 1];
            }),
            ("a sequence without a query", &|step| step.inputs[ENDS] = vec![1, 2, 2, 2]),
            ("more queries than sequences", &|step| step.inputs[ENDS] = vec![1, 2, 3, 5]),
            ("an empty sequence with a query", &|step| step.inputs[LENS][2] = 0),
        ],
    );
}

#[test]
fn one_sequence_means_no_more_queries_than_tokens() {
    let batch = Attention::on_device(DType::BF16, (4, 2), 64).prefill((6, 140), 2);
    refused(
        &batch.case(),
        &[
            ("more queries than tokens", &|step| step.inputs[ENDS] = vec![9]),
            ("less than no queries", &|step| step.inputs[ENDS] = vec![-1]),
            ("fewer keys than queries", &|step| step.inputs[LENS] = vec![5]),
            ("more keys than blocks", &|step| step.inputs[LENS] = vec![128 * 3 + 1]),
            ("a second sequence", &|step| {
                step.inputs[ENDS].push(7);
                step.inputs[LENS].push(1);
            }),
        ],
    );
}
