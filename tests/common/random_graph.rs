//! Random graphs that keep every rule of the IR, for properties.
//!
//! A graph is a function of a list of [`Choices`], so a failing one shrinks like any list: fewer
//! and smaller numbers make a smaller and plainer graph.
//!
//! ```text
//! choices --> kind of node, operands, sizes, names --> Builder --> Graph
//!             (a node that does not fit is left out)
//! ```
//!
//! | [`Kind`] | What it makes |
//! | --- | --- |
//! | `Anything` | whatever `verify` accepts: any rank, float type and number of results, symbols anywhere |
//! | `Runnable` | what every backend should run: f32 `[tokens, ..]`, one result, inputs named by their role |
//!
//! What this deliberately does not do: it makes no data.
//!
//! The file is compiled into the crate's own tests and into integration tests: whoever includes it
//! has the IR in scope as `ir`.

use std::collections::HashSet;

use super::ir::{Builder, Constant, DType, Dim, Graph, Op, RopeStyle, Shape, ValueId, ValueType};

/// What a random graph may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Anything,
    Runnable,
}

/// Numbers that decide; zeros once they are used up.
#[derive(Clone, Debug)]
pub(crate) struct Choices<'a>(std::slice::Iter<'a, u32>);

impl<'a> Choices<'a> {
    pub(crate) fn new(numbers: &'a [u32]) -> Self {
        Self(numbers.iter())
    }

    fn is_empty(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.next().map_or(0, |&number| number as usize % n)
    }

    /// One of some things.
    pub(crate) fn one_of<T: Copy>(&mut self, things: &[T]) -> T {
        things[self.below(things.len())]
    }
}

const PLAIN: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const BLOCKS_OF_32: [DType; 5] = [DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1];
const BLOCKS_OF_256: [DType; 3] = [DType::Q4K, DType::Q5K, DType::Q6K];
const NAMES: [&str; 6] = ["x", "", "layers.0.q_proj", "a \"b\" \\", "ü\n\u{2028}", "%1, = ; (\t"];

/// A graph of that kind.
pub(crate) fn random_graph(kind: Kind, choices: &[u32]) -> Graph {
    let mut random = Random::new(kind, Choices::new(choices));
    random.gather();
    while !random.choices.is_empty() {
        // Whatever does not fit is left out.
        let _ = random.node();
    }
    random.finish()
}

struct Random<'a> {
    kind: Kind,
    /// Whether everything that nothing uses is returned, or only the last of it.
    returns_all: bool,
    choices: Choices<'a>,
    builder: Builder,
    tokens: Dim,
    blocks: Dim,
    /// `[tokens]`: ids and slots; `[seqs, width]`: block tables; `[seqs]`: ends and lengths.
    ids: ValueId,
    slots: ValueId,
    paging: [ValueId; 3],
    floats: Vec<ValueId>,
    used: HashSet<ValueId>,
    num_weights: usize,
}

impl<'a> Random<'a> {
    fn new(kind: Kind, mut choices: Choices<'a>) -> Self {
        let mut builder = Builder::new(choices.one_of(&NAMES));
        let returns_all = kind == Kind::Anything && choices.below(2) == 0;
        let mut dim = |name: &str, size: u64| match choices.below(3) {
            0 | 1 => Dim::from(builder.symbol(name, 1, size + 60)),
            _ => Dim::Fixed(size),
        };
        let [tokens, seqs, width, blocks] =
            [("tokens", 5), ("seqs", 3), ("width", 2), ("blocks", 7)].map(|(name, n)| dim(name, n));
        let mut input = |name: &str, dims: &[Dim]| {
            builder.input(name, DType::I32, Shape::new(dims.iter().copied()))
        };
        let (ids, slots) = (input("ids", &[tokens]), input("slots", &[tokens]));
        let paging = [
            input("block_tables", &[seqs, width]),
            input("query_ends", &[seqs]),
            input("seq_lens", &[seqs]),
        ];
        Self {
            kind,
            returns_all,
            choices,
            builder,
            tokens,
            blocks,
            ids,
            slots,
            paging,
            floats: Vec::new(),
            used: HashSet::new(),
            num_weights: 0,
        }
    }

    /// Returns what nothing uses, so that little is dead code.
    fn finish(mut self) -> Graph {
        let unused: Vec<ValueId> =
            self.floats.iter().copied().filter(|id| !self.used.contains(id)).collect();
        let outputs = match self.kind {
            Kind::Anything if self.returns_all => unused,
            Kind::Anything => unused[unused.len() - 1..].to_vec(),
            Kind::Runnable => vec![self.sum(&unused)],
        };
        self.builder.finish(&outputs)
    }

    /// Everything that is `[tokens, ..]`, projected to as many columns and added up.
    fn sum(&mut self, values: &[ValueId]) -> ValueId {
        let mut sum = None;
        for &x in values {
            let dims = self.ty(x).shape.0;
            let columns =
                dims.get(1..).and_then(|dims| dims.iter().map(|&dim| fixed(dim)).product());
            let Some(columns) = columns.filter(|_| dims[0] == self.tokens) else { continue };
            let shape = Shape::new([self.tokens, Dim::Fixed(columns)]);
            let w = self.weight(DType::F32, &[3, columns]);
            let x = self.add(Op::Reshape { shape }, &[x]);
            let y = x.and_then(|x| self.add(Op::Linear, &[x, w]));
            sum = match (sum, y) {
                (Some(sum), Some(y)) => self.add(Op::Add, &[sum, y]),
                (sum, y) => sum.or(y),
            };
        }
        sum.unwrap_or(self.floats[0])
    }

    /// One more node, and the sources that it needs; `None` where the choices do not fit.
    fn node(&mut self) -> Option<()> {
        match self.choices.below(18) {
            0 => self.gather(),
            1 => self.gather_rows(),
            2 | 3 => self.linear(),
            4 => self.projections(),
            5 | 6 => self.elementwise(),
            7 => self.broadcast(),
            8 => self.constants(),
            9 => self.silu_mul(),
            10 => self.norm(),
            11 => self.add_norm(),
            12 => self.slice(),
            13 => self.reshape(),
            14 => self.cast(),
            15 => self.rope(),
            16 => self.attention(),
            _ => self.source(),
        }
    }

    // Operands.

    fn any_float(&mut self) -> ValueId {
        // The newest first, so that chains grow.
        let back = self.choices.below(self.floats.len());
        self.floats[self.floats.len() - 1 - back]
    }

    fn ty(&self, id: ValueId) -> ValueType {
        self.builder.ty(id).clone()
    }

    fn last(&self, id: ValueId) -> Option<u64> {
        fixed(self.ty(id).shape.last()?)
    }

    /// Another value of the same type, or the value itself.
    fn like(&mut self, id: ValueId) -> ValueId {
        let ty = self.ty(id);
        let alike: Vec<ValueId> =
            self.floats.iter().copied().filter(|&other| *self.builder.ty(other) == ty).collect();
        self.choices.one_of(&alike)
    }

    fn name(&mut self) -> &'static str {
        self.choices.one_of(&NAMES)
    }

    fn weight(&mut self, dtype: DType, dims: &[u64]) -> ValueId {
        self.weight_of(dtype, Shape::new(dims.iter().copied().map(Dim::Fixed)))
    }

    /// No two weights have the same name, so that tensors can be bound by it.
    fn weight_of(&mut self, dtype: DType, shape: Shape) -> ValueId {
        self.num_weights += 1;
        let name = format!("{}{}", self.name(), self.num_weights);
        self.builder.weight(&name, dtype, shape)
    }

    /// A matrix of any type that fits its rows.
    fn matrix(&mut self, rows: u64, columns: u64) -> ValueId {
        let mut dtypes = PLAIN.to_vec();
        if columns.is_multiple_of(32) {
            dtypes.extend(BLOCKS_OF_32);
        }
        if columns.is_multiple_of(256) {
            dtypes.extend(BLOCKS_OF_256);
        }
        let dtype = self.choices.one_of(&dtypes);
        self.weight(dtype, &[rows, columns])
    }

    /// Adds a node whose results may be operands of others.
    fn add(&mut self, op: Op, operands: &[ValueId]) -> Option<ValueId> {
        let name = self.name();
        let made = self.builder.multi(&[name, name], op, operands).ok()?;
        self.used.extend(operands);
        self.floats.extend(&made);
        made.first().copied()
    }

    // Nodes.

    fn gather(&mut self) -> Option<()> {
        let rows = self.choices.one_of(&[9, 1, 40]);
        let columns = self.choices.one_of(&[8, 1, 2, 6, 12, 32, 64, 256]);
        let table = self.matrix(rows, columns);
        let dtype = match self.kind {
            Kind::Anything => self.choices.one_of(&PLAIN),
            Kind::Runnable => DType::F32,
        };
        self.add(Op::Gather { dtype }, &[table, self.ids]).map(drop)
    }

    fn gather_rows(&mut self) -> Option<()> {
        let x = self.any_float();
        let dtype = self.ty(x).dtype;
        self.add(Op::Gather { dtype }, &[x, self.ids]).map(drop)
    }

    fn linear(&mut self) -> Option<()> {
        let x = self.any_float();
        if self.kind == Kind::Runnable && self.ty(x).shape.rank() != 2 {
            return None;
        }
        let rows = self.choices.one_of(&[8, 1, 3, 5, 32]);
        let w = self.matrix(rows, self.last(x)?);
        self.add(Op::Linear, &[x, w]).map(drop)
    }

    /// Several projections of one value, as fusing looks for; sometimes by the same weight.
    fn projections(&mut self) -> Option<()> {
        let x = self.any_float();
        if self.kind == Kind::Runnable && self.ty(x).shape.rank() != 2 {
            return None;
        }
        let columns = self.last(x)?;
        let mut w = self.matrix(4, columns);
        for _ in 0..2 + self.choices.below(2) {
            self.add(Op::Linear, &[x, w])?;
            if self.choices.below(4) > 0 {
                let rows = self.choices.one_of(&[4, 2, 7]);
                let dtype = self.ty(w).dtype;
                w = self.weight(dtype, &[rows, columns]);
            }
        }
        self.add(Op::Linear, &[x, w]).map(drop)
    }

    fn elementwise(&mut self) -> Option<()> {
        let a = self.any_float();
        let b = self.like(a);
        let op = self.choices.below(3);
        match op {
            0 => self.add(Op::Add, &[a, b]),
            1 => self.add(Op::Mul, &[a, b]),
            _ => self.add(Op::Silu, &[a]),
        }
        .map(drop)
    }

    /// With a row, a scalar, or (in any order) whatever there is.
    fn broadcast(&mut self) -> Option<()> {
        let a = self.any_float();
        let b = match self.choices.below(3) {
            0 => {
                let dtype = self.ty(a).dtype;
                let columns = self.last(a)?;
                self.weight(dtype, &[columns])
            }
            1 => self.constant(),
            _ => self.any_float(),
        };
        let op = self.choices.one_of(&[0, 1]);
        let operands = if self.choices.below(2) == 0 { [a, b] } else { [b, a] };
        self.add(if op == 0 { Op::Add } else { Op::Mul }, &operands).map(drop)
    }

    /// Arithmetic that can be done when compiling.
    fn constants(&mut self) -> Option<()> {
        let (a, b) = (self.constant(), self.constant());
        let sum = self.add(Op::Add, &[a, b]);
        let c = if self.choices.below(2) == 0 { self.add(Op::Silu, &[sum?])? } else { sum? };
        let x = self.any_float();
        self.add(Op::Mul, &[x, c]).map(drop)
    }

    fn constant(&mut self) -> ValueId {
        let shape: Vec<usize> = match self.choices.below(4) {
            0 => vec![],
            1 => vec![1],
            2 => vec![self.choices.one_of(&[8, 1, 2, 6, 12, 32])],
            _ => vec![self.choices.one_of(&[5, 1, 2]), self.choices.one_of(&[8, 1, 6])],
        };
        let size = shape.iter().product();
        // The neutral elements of multiplication and addition are what folding looks for.
        let values = match self.choices.below(4) {
            0 => vec![1.0; size],
            1 => vec![-0.0; size],
            _ => (0..size).map(|idx| 0.25 * (idx % 7) as f32 - 0.5).collect(),
        };
        let name = self.name();
        self.builder.constant(name, Constant { shape, values })
    }

    fn silu_mul(&mut self) -> Option<()> {
        let gate = self.any_float();
        let up = self.like(gate);
        if self.choices.below(2) == 0 {
            return self.add(Op::SiluMul, &[gate, up]).map(drop);
        }
        let activation = self.add(Op::Silu, &[gate])?;
        let operands = if self.choices.below(2) == 0 { [activation, up] } else { [up, activation] };
        self.add(Op::Mul, &operands).map(drop)
    }

    fn norm(&mut self) -> Option<()> {
        let x = self.any_float();
        let w = self.norm_weight(x)?;
        let eps = self.choices.one_of(&[1e-5, 1e-6]);
        self.add(Op::RmsNorm { eps }, &[x, w]).map(drop)
    }

    fn norm_weight(&mut self, x: ValueId) -> Option<ValueId> {
        let columns = self.last(x)?;
        let dtype = self.choices.one_of(&PLAIN);
        Some(self.weight(dtype, &[columns]))
    }

    fn add_norm(&mut self) -> Option<()> {
        let x = self.any_float();
        let residual = self.like(x);
        let w = self.norm_weight(x)?;
        let eps = self.choices.one_of(&[1e-5, 1e-6]);
        if self.choices.below(2) == 0 {
            return self.add(Op::AddRmsNorm { eps }, &[x, residual, w]).map(drop);
        }
        let sum = self.add(Op::Add, &[x, residual])?;
        self.add(Op::RmsNorm { eps }, &[sum, w]).map(drop)
    }

    fn slice(&mut self) -> Option<()> {
        let x = self.any_float();
        let columns = self.last(x)?;
        if self.kind == Kind::Runnable && self.ty(x).shape.rank() > 2 {
            return None;
        }
        let start = self.choices.below(columns as usize) as u64;
        let len = 1 + self.choices.below((columns - start) as usize) as u64;
        self.add(Op::Slice { start, len }, &[x]).map(drop)
    }

    fn reshape(&mut self) -> Option<()> {
        let x = self.any_float();
        let mut dims = self.ty(x).shape.0;
        match self.choices.below(4) {
            0 => {
                let last = fixed(dims.pop()?)?;
                let parts = self.choices.one_of(&[2, 1, 3, 4]);
                dims.extend([Dim::Fixed(parts), Dim::Fixed(last / parts)]);
            }
            1 if dims.len() > 1 => {
                let (last, before) = (fixed(dims.pop()?)?, fixed(dims.pop()?));
                if self.kind == Kind::Runnable && dims.is_empty() {
                    return None;
                }
                dims.push(Dim::Fixed(last * before?));
            }
            2 if self.kind == Kind::Anything => dims.reverse(),
            // The shape it has already.
            _ => {}
        }
        self.add(Op::Reshape { shape: Shape(dims) }, &[x]).map(drop)
    }

    fn cast(&mut self) -> Option<()> {
        let mut x = self.any_float();
        let dtype = self.choices.one_of(&PLAIN);
        if self.kind == Kind::Anything {
            return self.add(Op::Cast { dtype }, &[x]).map(drop);
        }
        // Rounded values are taken back at once: only casts round on every backend.
        let name = self.name();
        x = self.builder.op(name, Op::Cast { dtype }, &[x]).ok()?;
        self.add(Op::Cast { dtype: DType::F32 }, &[x]).map(drop)
    }

    /// A value of the step's tokens as `[tokens, heads, head size]`.
    fn heads(&mut self) -> Option<ValueId> {
        let x = self.any_float();
        let dims = self.ty(x).shape.0;
        if dims.first() != Some(&self.tokens) || dims.len() < 2 {
            return None;
        }
        if dims.len() == 3 {
            return Some(x);
        }
        let columns = fixed(dims[1])?;
        let heads = self.choices.one_of(&[1, 2, 3, 4]);
        let shape = Shape::new([self.tokens, Dim::Fixed(heads), Dim::Fixed(columns / heads)]);
        self.add(Op::Reshape { shape }, &[x])
    }

    fn rope(&mut self) -> Option<()> {
        let x = self.heads()?;
        if self.ty(x).dtype != DType::F32 {
            return None;
        }
        let half = (self.last(x)? / 2).max(1);
        let table = |random: &mut Self| {
            let table = random.weight(DType::F32, &[11, half]);
            random.add(Op::Gather { dtype: DType::F32 }, &[table, random.ids])
        };
        let (cos, sin) = (table(self)?, table(self)?);
        let style = self.choices.one_of(&[RopeStyle::Halves, RopeStyle::Interleaved]);
        self.add(Op::Rope { style }, &[x, cos, sin]).map(drop)
    }

    /// Attention over two new states, which this step's rows may be written to.
    fn attention(&mut self) -> Option<()> {
        let q = self.heads()?;
        let shape = self.ty(q).shape;
        let (heads, head_dim) = (fixed(shape.0[1])?, shape.0[2]);
        let groups = if heads.is_multiple_of(2) { self.choices.one_of(&[heads, 1, 2]) } else { 1 };
        let block_size = self.choices.one_of(&[3, 1, 16]);
        let shape = [self.blocks, Dim::Fixed(block_size), Dim::Fixed(groups), head_dim];
        let mut cache = || {
            let name = self.choices.one_of(&NAMES);
            self.builder.state(name, DType::F32, Shape::new(shape))
        };
        let mut caches = [cache(), cache()];
        if groups == heads {
            for cache in &mut caches {
                let x = if self.choices.below(2) == 0 { q } else { self.like(q) };
                let name = self.name();
                *cache = self.builder.op(name, Op::KvWrite, &[x, *cache, self.slots]).ok()?;
            }
        }
        let op = Op::PagedAttention {
            scale: self.choices.one_of(&[0.5, 1.0, 0.125]),
            window: self.choices.one_of(&[None, Some(1), Some(3), Some(1000)]),
        };
        let [tables, ends, lens] = self.paging;
        self.add(op, &[q, caches[0], caches[1], tables, ends, lens]).map(drop)
    }

    /// A tensor from outside, of any shape.
    fn source(&mut self) -> Option<()> {
        if self.kind == Kind::Runnable {
            return None;
        }
        let dims = [self.tokens, self.blocks, Dim::Fixed(1), Dim::Fixed(6), Dim::Fixed(8)];
        let rank = self.choices.below(5);
        let shape = Shape::new((0..rank).map(|_| self.choices.one_of(&dims)));
        let dtype = self.choices.one_of(&PLAIN);
        let name = self.name();
        let id = match self.choices.below(3) {
            0 => self.builder.input(name, dtype, shape),
            1 => self.weight_of(dtype, shape),
            _ => self.constant(),
        };
        self.floats.push(id);
        Some(())
    }
}

fn fixed(dim: Dim) -> Option<u64> {
    match dim {
        Dim::Fixed(size) => Some(size),
        Dim::Symbolic(_) => None,
    }
}
