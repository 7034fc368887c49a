//! The laws of broadcasting.

use proptest::prelude::*;

use super::config;
use crate::ir::infer::broadcast;
use crate::ir::{Dim, Shape, SymbolId};

/// Short shapes of few sizes, so that many of them fit each other.
fn shapes() -> impl Strategy<Value = Shape> {
    let dims = vec![
        Dim::Fixed(1),
        Dim::Fixed(1),
        Dim::Fixed(2),
        Dim::Fixed(3),
        Dim::Symbolic(SymbolId(0)),
        Dim::Symbolic(SymbolId(1)),
    ];
    proptest::collection::vec(proptest::sample::select(dims), 0..4).prop_map(Shape)
}

/// Numpy's rule, told by its manual: both are padded on the left with ones to the same rank; each
/// axis of the result is the only size but one that either has there.
fn numpy(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let padded = |shape: &[usize]| [vec![1; rank - shape.len()], shape.to_vec()].concat();
    let mut result = vec![1; rank];
    for shape in [padded(a), padded(b)] {
        for (axis, size) in shape.into_iter().enumerate().filter(|&(_, size)| size != 1) {
            if result[axis] != 1 && result[axis] != size {
                return None;
            }
            result[axis] = size;
        }
    }
    Some(result)
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn broadcasting_commutes(a in shapes(), b in shapes()) {
        prop_assert_eq!(broadcast(&a, &b), broadcast(&b, &a));
    }

    #[test]
    fn a_scalar_and_the_shape_itself_change_nothing(a in shapes()) {
        prop_assert_eq!(broadcast(&a, &Shape::default()), Some(a.clone()));
        prop_assert_eq!(broadcast(&a, &a), Some(a.clone()));
    }

    #[test]
    fn broadcasting_again_changes_nothing(a in shapes(), b in shapes()) {
        if let Some(both) = broadcast(&a, &b) {
            prop_assert_eq!(broadcast(&both, &a), Some(both.clone()));
            prop_assert_eq!(broadcast(&both, &b), Some(both.clone()));
        }
    }

    #[test]
    fn broadcasting_is_associative(a in shapes(), b in shapes(), c in shapes()) {
        let left = broadcast(&a, &b).and_then(|ab| broadcast(&ab, &c));
        let right = broadcast(&b, &c).and_then(|bc| broadcast(&a, &bc));
        prop_assert_eq!(left, right);
    }

    #[test]
    fn fixed_shapes_follow_numpy(
        a in proptest::collection::vec(1_usize..4, 0..5),
        b in proptest::collection::vec(1_usize..4, 0..5),
    ) {
        let got = broadcast(&Shape::fixed(&a), &Shape::fixed(&b));
        prop_assert_eq!(got, numpy(&a, &b).map(|dims| Shape::fixed(&dims)));
    }

    #[test]
    fn what_fits_with_symbols_fits_with_their_values(
        a in shapes(),
        b in shapes(),
        values in proptest::array::uniform2(1_u64..4),
    ) {
        if let Some(both) = broadcast(&a, &b) {
            let sizes = |shape: &Shape| shape.resolve(&values).unwrap();
            prop_assert_eq!(numpy(&sizes(&a), &sizes(&b)), Some(sizes(&both)));
        }
    }
}
