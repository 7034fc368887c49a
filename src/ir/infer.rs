//! Types of an op's results from the types of its operands.

use super::op::Op;
use super::shape::{Dim, Shape};
use super::{DType, ValueType};

/// Why operands do not fit an op. The caller adds the node's place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TypeError {
    /// Wrong number of operands.
    #[error("{op} takes {expected} operands, got {got}")]
    Arity {
        /// The op's name.
        op: &'static str,
        /// Operands it takes.
        expected: usize,
        /// Operands given.
        got: usize,
    },
    /// An operand's element type does not fit.
    #[error("dtype mismatch in {op}: {operand} must be {expected}, got {got}")]
    DType {
        /// The op's name.
        op: &'static str,
        /// Which operand.
        operand: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        got: DType,
    },
    /// An operand's shape does not fit.
    #[error("shape mismatch in {op}: {operand} must be {expected}, got {got}")]
    Shape {
        /// The op's name.
        op: &'static str,
        /// Which operand.
        operand: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        got: Shape,
    },
    /// An attribute is out of range.
    #[error("bad attribute in {op}: {message}")]
    Attribute {
        /// The op's name.
        op: &'static str,
        /// Which attribute, expected, got.
        message: String,
    },
}

/// The types of the results of `op`, which is not a source.
///
/// # Errors
/// When number, dtypes or shapes of the operands, or an attribute, do not fit the op.
pub fn infer(op: &Op, operands: &[&ValueType]) -> Result<Vec<ValueType>, TypeError> {
    let check = Check { op: op.name() };
    Ok(match op {
        Op::Input | Op::Weight { .. } | Op::State | Op::Constant(_) => {
            return Err(check.attribute("a source's type is given, not inferred"));
        }
        Op::Gather { dtype } => {
            let [table, ids] = check.arity(operands)?;
            check.rank("table", table, 2)?;
            check.i32("ids", ids)?;
            check.rank("ids", ids, 1)?;
            check.float_attribute(*dtype)?;
            if table.dtype == DType::I32 {
                return Err(check.dtype("table", "a weight or float type", table.dtype));
            }
            let (rows, columns) = (ids.shape.0[0], table.shape.0[1]);
            vec![ValueType { dtype: *dtype, shape: Shape::new([rows, columns]) }]
        }
        Op::Linear => {
            let [x, w] = check.arity(operands)?;
            check.float("x", x)?;
            check.rank("w", w, 2)?;
            if w.dtype == DType::I32 {
                return Err(check.dtype("w", "a weight type", w.dtype));
            }
            if x.shape.last() != Some(w.shape.0[1]) {
                let expected = format!("[.., {}]", w.shape.0[1]);
                return Err(check.shape("x", expected, &x.shape));
            }
            vec![ValueType { dtype: x.dtype, shape: x.shape.with_last(w.shape.0[0]) }]
        }
        Op::Add | Op::Mul => {
            let [a, b] = check.arity(operands)?;
            check.float("a", a)?;
            check.same_dtype("b", b, a)?;
            let shape = broadcast(&a.shape, &b.shape).ok_or_else(|| {
                check.shape("b", format!("broadcastable with {}", a.shape), &b.shape)
            })?;
            vec![ValueType { dtype: a.dtype, shape }]
        }
        Op::Silu => {
            let [x] = check.arity(operands)?;
            check.float("x", x)?;
            vec![x.clone()]
        }
        Op::SiluMul => {
            let [gate, up] = check.arity(operands)?;
            check.float("gate", gate)?;
            check.same("up", up, gate)?;
            vec![gate.clone()]
        }
        Op::RmsNorm { eps } => {
            let [x, w] = check.arity(operands)?;
            check.norm(*eps, x, w)?;
            vec![x.clone()]
        }
        Op::AddRmsNorm { eps } => {
            let [x, residual, w] = check.arity(operands)?;
            check.norm(*eps, x, w)?;
            check.same("residual", residual, x)?;
            vec![x.clone(), x.clone()]
        }
        Op::Slice { start, len } => {
            let [x] = check.arity(operands)?;
            check.float("x", x)?;
            let end = start.checked_add(*len);
            match (x.shape.last(), end) {
                (Some(Dim::Fixed(size)), Some(end)) if *len > 0 && end <= size => {}
                _ => {
                    let expected =
                        format!("at least {start} + {len} wide, and the slice not empty");
                    return Err(check.shape("x", expected, &x.shape));
                }
            }
            vec![ValueType { dtype: x.dtype, shape: x.shape.with_last(Dim::Fixed(*len)) }]
        }
        Op::Reshape { shape } => {
            let [x] = check.arity(operands)?;
            check.float("x", x)?;
            let (have, want) = (x.shape.size_class(), shape.size_class());
            if have != want || want.0.is_none() {
                return Err(check.shape("x", format!("of the size of {shape}"), &x.shape));
            }
            vec![ValueType { dtype: x.dtype, shape: shape.clone() }]
        }
        Op::Cast { dtype } => {
            let [x] = check.arity(operands)?;
            check.float("x", x)?;
            check.float_attribute(*dtype)?;
            vec![ValueType { dtype: *dtype, shape: x.shape.clone() }]
        }
        Op::Rope { style: _ } => {
            let [x, cos, sin] = check.arity(operands)?;
            check.float("x", x)?;
            check.rank("x", x, 3)?;
            let half = match x.shape.0[2] {
                Dim::Fixed(size) if size > 0 && size.is_multiple_of(2) => size / 2,
                Dim::Fixed(_) | Dim::Symbolic(_) => {
                    return Err(check.shape("x", "of an even head size".into(), &x.shape));
                }
            };
            let table = Shape::new([x.shape.0[0], Dim::Fixed(half)]);
            for (name, operand) in [("cos", cos), ("sin", sin)] {
                check.same_dtype(name, operand, x)?;
                if operand.shape != table {
                    return Err(check.shape(name, table.to_string(), &operand.shape));
                }
            }
            vec![x.clone()]
        }
        Op::KvWrite => {
            let [x, cache, slots] = check.arity(operands)?;
            check.float("x", x)?;
            check.rank("x", x, 3)?;
            check.float("cache", cache)?;
            check.rank("cache", cache, 4)?;
            check.i32("slots", slots)?;
            if cache.shape.0[2..] != x.shape.0[1..] {
                let expected = format!("[.., .., {}, {}]", x.shape.0[1], x.shape.0[2]);
                return Err(check.shape("cache", expected, &cache.shape));
            }
            if slots.shape.0 != x.shape.0[..1] {
                return Err(check.shape("slots", format!("[{}]", x.shape.0[0]), &slots.shape));
            }
            vec![cache.clone()]
        }
        Op::PagedAttention { scale, window } => {
            let [q, k_cache, v_cache, block_tables, query_ends, seq_lens] =
                check.arity(operands)?;
            if !(scale.is_finite() && *scale > 0.0) {
                return Err(check.attribute(&format!("scale must be above 0, got {scale}")));
            }
            if *window == Some(0) {
                return Err(check.attribute("window must be at least 1, got 0"));
            }
            check.float("q", q)?;
            check.rank("q", q, 3)?;
            check.float("k_cache", k_cache)?;
            check.rank("k_cache", k_cache, 4)?;
            check.same("v_cache", v_cache, k_cache)?;
            check.heads(q, k_cache)?;
            check.i32("block_tables", block_tables)?;
            check.rank("block_tables", block_tables, 2)?;
            let per_sequence = Shape::new([block_tables.shape.0[0]]);
            for (name, operand) in [("query_ends", query_ends), ("seq_lens", seq_lens)] {
                check.i32(name, operand)?;
                if operand.shape != per_sequence {
                    return Err(check.shape(name, per_sequence.to_string(), &operand.shape));
                }
            }
            vec![q.clone()]
        }
    })
}

/// The shape that two shapes broadcast to, as in numpy: aligned at the last axis, a missing axis
/// or one of size 1 is repeated. `None` when they do not fit; two symbols fit when they are equal.
pub fn broadcast(a: &Shape, b: &Shape) -> Option<Shape> {
    let rank = a.rank().max(b.rank());
    let one = Dim::Fixed(1);
    let at = |shape: &Shape, axis: usize| {
        let missing = rank - shape.rank();
        if axis < missing { one } else { shape.0[axis - missing] }
    };
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (x, y) if x == y => Some(x),
            (x, y) if y == one => Some(x),
            (x, y) if x == one => Some(y),
            _ => None,
        })
        .collect::<Option<Vec<_>>>()
        .map(Shape)
}

/// The checks' shared context: errors name the op.
struct Check {
    op: &'static str,
}

impl Check {
    fn arity<'a, const N: usize>(
        &self,
        operands: &[&'a ValueType],
    ) -> Result<[&'a ValueType; N], TypeError> {
        operands.try_into().map_err(|_| TypeError::Arity {
            op: self.op,
            expected: N,
            got: operands.len(),
        })
    }

    fn attribute(&self, message: &str) -> TypeError {
        TypeError::Attribute { op: self.op, message: message.to_owned() }
    }

    fn dtype(&self, operand: &'static str, expected: &str, got: DType) -> TypeError {
        TypeError::DType { op: self.op, operand, expected: expected.to_owned(), got }
    }

    fn shape(&self, operand: &'static str, expected: String, got: &Shape) -> TypeError {
        TypeError::Shape { op: self.op, operand, expected, got: got.clone() }
    }

    fn float(&self, name: &'static str, operand: &ValueType) -> Result<(), TypeError> {
        if operand.dtype.is_float() {
            return Ok(());
        }
        Err(self.dtype(name, "f32, f16 or bf16", operand.dtype))
    }

    fn float_attribute(&self, dtype: DType) -> Result<(), TypeError> {
        if dtype.is_float() {
            return Ok(());
        }
        Err(self.attribute(&format!("dtype must be f32, f16 or bf16, got {dtype}")))
    }

    fn i32(&self, name: &'static str, operand: &ValueType) -> Result<(), TypeError> {
        if operand.dtype == DType::I32 {
            return Ok(());
        }
        Err(self.dtype(name, "i32", operand.dtype))
    }

    fn rank(&self, name: &'static str, operand: &ValueType, rank: usize) -> Result<(), TypeError> {
        if operand.shape.rank() == rank {
            return Ok(());
        }
        Err(self.shape(name, format!("of rank {rank}"), &operand.shape))
    }

    fn same_dtype(
        &self,
        name: &'static str,
        operand: &ValueType,
        like: &ValueType,
    ) -> Result<(), TypeError> {
        if operand.dtype == like.dtype {
            return Ok(());
        }
        Err(self.dtype(name, like.dtype.name(), operand.dtype))
    }

    fn same(
        &self,
        name: &'static str,
        operand: &ValueType,
        like: &ValueType,
    ) -> Result<(), TypeError> {
        self.same_dtype(name, operand, like)?;
        if operand.shape == like.shape {
            return Ok(());
        }
        Err(self.shape(name, like.shape.to_string(), &operand.shape))
    }

    fn norm(&self, eps: f32, x: &ValueType, w: &ValueType) -> Result<(), TypeError> {
        if !(eps.is_finite() && eps > 0.0) {
            return Err(self.attribute(&format!("eps must be above 0, got {eps}")));
        }
        self.float("x", x)?;
        self.float("w", w)?;
        match x.shape.last() {
            Some(last) if w.shape.0 == [last] => Ok(()),
            Some(last) => Err(self.shape("w", format!("[{last}]"), &w.shape)),
            None => Err(self.shape("x", "of rank 1 or more".into(), &x.shape)),
        }
    }

    /// Query heads must be whole groups of KV heads of the same size.
    fn heads(&self, q: &ValueType, cache: &ValueType) -> Result<(), TypeError> {
        match (q.shape.0[1], cache.shape.0[2]) {
            (Dim::Fixed(heads), Dim::Fixed(groups))
                if groups > 0
                    && heads.is_multiple_of(groups)
                    && q.shape.0[2] == cache.shape.0[3] =>
            {
                Ok(())
            }
            _ => {
                let expected = format!("[.., .., a divisor of {}, {}]", q.shape.0[1], q.shape.0[2]);
                Err(self.shape("k_cache", expected, &cache.shape))
            }
        }
    }
}
