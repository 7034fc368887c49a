//! Whether bf16 stays bf16: a compiler that is told nothing computes in f16, and one that inserts
//! casts to f32 gives other results.
//!
//! ```text
//! a[id] + b[id] --times the identity--> y       bf16     f16        f32
//! 1e30 + 0                                      1e30     infinite   1e30
//! 1e-30 + 0                                     1e-30    0          1e-30
//! 256 + 1                                       256      257        257
//! ```

use super::lab::finished;
use super::numbers::{Matrix, from_bf16, to_bf16};
use super::{Answer, Lab, No};
use crate::backend::{Executable as _, Step};
use crate::ir::{Builder, DType, Graph, Op, Shape, TypeError};

const WIDTH: usize = 64;
/// `a` and `b` of each row.
const ROWS: [[f32; 2]; 4] = [[1e30, 0.0], [1e-30, 0.0], [256.0, 1.0], [1.0, 0.007_812_5]];

pub(super) fn is_kept(lab: &Lab<'_>) -> Answer {
    lab.session()?;
    let graph = finished(graph())?;
    let mut executable = lab.load(&graph)?;
    let [a, b] = [0, 1].map(|side| Matrix::new(ROWS.len(), WIDTH, |row, _| ROWS[row][side]));
    let identity = Matrix::new(WIDTH, WIDTH, |row, column| if row == column { 1.0 } else { 0.0 });
    let tensors = [a.tensor("a"), b.tensor("b"), identity.tensor("identity")];
    let mut memory = lab.place(&graph, &tensors)?;
    let mut output = Vec::new();
    let step = Step { symbols: &[], inputs: &[&[0, 1, 2, 3]] };
    executable.run(&mut memory, &step, &mut output)?;
    for ([a, b], row) in ROWS.iter().zip(output.chunks_exact(WIDTH)) {
        let rounded = |value: f32| from_bf16(to_bf16(value));
        let expected = rounded(rounded(*a) + rounded(*b));
        if let Some(got) = row.iter().find(|got| got.to_bits() != expected.to_bits()) {
            let what = format!("{a} + {b} gave {got}, in bf16 it is {expected}");
            return Err(No::Fails(what));
        }
    }
    Ok("1e30 and 1e-30 were kept, and 256 + 1 was rounded to 256".to_owned())
}

fn graph() -> Result<Graph, TypeError> {
    let dtype = DType::BF16;
    let mut graph = Builder::new("sums");
    let ids = graph.input("ids", DType::I32, Shape::fixed(&[ROWS.len()]));
    let mut side = |name: &str| {
        let table = graph.weight(name, dtype, Shape::fixed(&[ROWS.len(), WIDTH]));
        graph.op(name, Op::Gather { dtype }, &[table, ids])
    };
    let (a, b) = (side("a")?, side("b")?);
    let sum = graph.op("sum", Op::Add, &[a, b])?;
    let identity = graph.weight("identity", dtype, Shape::fixed(&[WIDTH, WIDTH]));
    let y = graph.op("y", Op::Linear, &[sum, identity])?;
    let y = graph.op("y", Op::Cast { dtype: DType::F32 }, &[y])?;
    Ok(graph.finish(&[y]))
}
