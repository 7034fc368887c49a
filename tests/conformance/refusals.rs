//! Valid graphs that the CPU backend cannot run: refused when compiling, with the place, never a
//! panic and never an artifact that does not load. A device may run them.

use cairn::backend::BackendError;
use cairn::backend::cpu::KernelSet;
use cairn::ir::{Builder, Constant, DType, Dim, Graph, Op, RopeStyle, Shape, ValueId, verify};

use super::backends::cpu;

/// A graph over `x: f32[s0, 12]`, which is gathered.
fn over_x(make: impl FnOnce(&mut Builder, ValueId, Dim) -> ValueId) -> Graph {
    let mut b = Builder::new("refused");
    let tokens = Dim::from(b.symbol("tokens", 1, 64));
    let ids = b.input("ids", DType::I32, Shape::new([tokens]));
    let table = b.weight("table", DType::F32, Shape::fixed(&[9, 12]));
    let x = b.op("x", Op::Gather { dtype: DType::F32 }, &[table, ids]).unwrap();
    let y = make(&mut b, x, tokens);
    b.finish(&[y])
}

fn ones(shape: &[usize]) -> Constant {
    Constant { shape: shape.to_vec(), values: vec![1.5; shape.iter().product()] }
}

/// Checks that every set of kernels refuses the graph, naming `what` and `place`, and that a device
/// compiles it or refuses it, too.
fn refused(graph: &Graph, what: &str, place: &str) {
    #[cfg(feature = "ascend")]
    super::ascend::compiles_or_refuses(graph);
    let graph = verify(graph.clone()).unwrap();
    for kernels in [KernelSet::Reference, KernelSet::Fast] {
        match cpu(kernels, 1).compile(&graph) {
            Err(error @ BackendError::Unsupported { .. }) => {
                let text = error.to_string();
                assert!(text.contains(what) && text.contains(place), "{text}");
            }
            other => panic!("{other:?}, expected {what} ({place})"),
        }
    }
}

#[test]
fn broadcasts_other_than_of_rows_and_scalars() {
    let what = "broadcasting other than of rows or scalars";
    for op in [Op::Add, Op::Mul] {
        let column = over_x(|b, x, tokens| {
            let column = b.op("column", Op::Slice { start: 0, len: 1 }, &[x]).unwrap();
            assert_eq!(b.ty(column).shape, Shape::new([tokens, 1_u64.into()]));
            b.op("sum", op.clone(), &[x, column]).unwrap()
        });
        refused(&column, what, "sum");
        let outer = over_x(|b, x, _| {
            let column = b.op("column", Op::Slice { start: 0, len: 1 }, &[x]).unwrap();
            let row = b.constant("row", ones(&[1, 5]));
            b.op("sum", op.clone(), &[row, column]).unwrap()
        });
        refused(&outer, what, "sum");
        let middle = over_x(|b, x, tokens| {
            let shape = Shape::new([tokens, 3_u64.into(), 4_u64.into()]);
            let x = b.op("x", Op::Reshape { shape }, &[x]).unwrap();
            let heads = b.constant("heads", ones(&[3, 1]));
            b.op("sum", op.clone(), &[x, heads]).unwrap()
        });
        refused(&middle, what, "sum");
    }
}

#[test]
fn types_that_are_not_f32() {
    let mut b = Builder::new("f32 input");
    let x = b.input("float", DType::F32, Shape::fixed(&[3]));
    let y = b.op("y", Op::Silu, &[x]).unwrap();
    refused(&b.finish(&[y]), "f32 inputs", "float");
    let state = over_x(|b, x, _| {
        b.state("half", DType::F16, Shape::fixed(&[2, 1, 1, 4]));
        x
    });
    refused(&state, "f16 states", "half");
}

#[test]
fn results_that_are_not_one_float_tensor() {
    let mut b = Builder::new("two");
    let c = b.constant("c", ones(&[2]));
    refused(&b.finish(&[c, c]), "2 results, exactly one", "");
    let mut b = Builder::new("echo");
    let ids = b.input("ids", DType::I32, Shape::fixed(&[2]));
    refused(&b.finish(&[ids]), "an input or a state as an operand", "ids");
    let matrix = over_x(|b, _, _| b.weight("matrix", DType::F32, Shape::fixed(&[2, 3])));
    refused(&matrix, "a matrix weight as an operand", "matrix");
}

#[test]
fn operands_that_must_be_bound_from_outside() {
    let computed = over_x(|b, x, _| b.op("y", Op::Linear, &[x, x]).unwrap());
    refused(&computed, "a computed weight", "x");
    let fixed = over_x(|b, x, _| {
        let w = b.constant("w", ones(&[2, 12]));
        b.op("y", Op::Linear, &[x, w]).unwrap()
    });
    refused(&fixed, "a computed weight", "w");
    let ids = over_x(|b, x, _| {
        let ids = b.weight("ids", DType::I32, Shape::fixed(&[2]));
        b.op("y", Op::Gather { dtype: DType::F32 }, &[x, ids]).unwrap()
    });
    refused(&ids, "integers that are not an input", "ids");
}

#[test]
fn shapes_beyond_rows_and_columns() {
    let deep = over_x(|b, x, tokens| {
        let shape = Shape::new([tokens, 3_u64.into(), 4_u64.into()]);
        let x = b.op("x", Op::Reshape { shape }, &[x]).unwrap();
        b.op("y", Op::Slice { start: 0, len: 2 }, &[x]).unwrap()
    });
    refused(&deep, "a slice of a tensor of rank 3", "x");
    let transposed = over_x(|b, x, tokens| {
        let shape = Shape::new([12_u64.into(), tokens]);
        b.op("turned", Op::Reshape { shape }, &[x]).unwrap()
    });
    refused(&transposed, "a symbol beyond the first axis", "turned");
    let per_head = over_x(|b, x, tokens| {
        let shape = Shape::new([tokens, 3_u64.into(), 4_u64.into()]);
        let x = b.op("x", Op::Reshape { shape }, &[x]).unwrap();
        let w = b.weight("w", DType::F32, Shape::fixed(&[2, 4]));
        b.op("y", Op::Linear, &[x, w]).unwrap()
    });
    refused(&per_head, "operands do not fit each other", "y");
}

#[test]
fn caches_of_a_symbolic_block_size() {
    let mut b = Builder::new("cache");
    let [tokens, size] = ["tokens", "size"].map(|name| Dim::from(b.symbol(name, 1, 64)));
    let ids = b.input("ids", DType::I32, Shape::new([tokens]));
    let table = b.weight("table", DType::F32, Shape::fixed(&[9, 4]));
    let x = b.op("x", Op::Gather { dtype: DType::F32 }, &[table, ids]).unwrap();
    let shape = Shape::new([tokens, 1_u64.into(), 4_u64.into()]);
    let x = b.op("x", Op::Reshape { shape }, &[x]).unwrap();
    let shape = Shape::new([7_u64.into(), size, 1_u64.into(), 4_u64.into()]);
    let state = b.state("state", DType::F32, shape);
    b.op("written", Op::KvWrite, &[x, state, ids]).unwrap();
    refused(&b.finish(&[x]), "the state is not a cache", "written");
}

#[test]
fn what_is_refused_in_one_shape_runs_in_another() {
    // The same ops, on rows: a check of the checks above.
    let graph = over_x(|b, x, tokens| {
        let row = b.constant("row", ones(&[12]));
        let x = b.op("sum", Op::Add, &[row, x]).unwrap();
        let shape = Shape::new([tokens, 3_u64.into(), 4_u64.into()]);
        let heads = b.op("heads", Op::Reshape { shape }, &[x]).unwrap();
        let angles = b.op("angles", Op::Slice { start: 0, len: 2 }, &[x]).unwrap();
        let rope = Op::Rope { style: RopeStyle::Halves };
        b.op("turned", rope, &[heads, angles, angles]).unwrap()
    });
    let backend = cpu(KernelSet::Fast, 1);
    backend.load(&backend.compile(&verify(graph).unwrap()).unwrap().files()).unwrap();
}
