//! Makes graphs, node by node, inferring types as it goes.

use super::DType;
use super::graph::{Graph, Node, Value, ValueId, ValueType};
use super::infer::{TypeError, infer};
use super::op::{Constant, Op, WeightPart};
use super::shape::{Dim, Shape, Symbol, SymbolId};

/// A graph under construction.
///
/// ```
/// use cairn::ir::{Builder, DType, Op, Shape};
/// let mut b = Builder::new("double");
/// let tokens = b.symbol("num_tokens", 1, 64);
/// let x = b.input("x", DType::F32, Shape::new([tokens.into(), 8_u64.into()]));
/// let sum = b.op("sum", Op::Add, &[x, x])?;
/// let graph = b.finish(&[sum]);
/// assert_eq!(graph.ty(sum).shape.to_string(), "[s0, 8]");
/// # Ok::<(), cairn::ir::TypeError>(())
/// ```
#[derive(Debug, Default)]
pub struct Builder {
    graph: Graph,
}

impl Builder {
    /// An empty graph of that name.
    pub fn new(name: &str) -> Self {
        Self { graph: Graph { name: name.to_owned(), ..Graph::default() } }
    }

    /// An empty graph with the name and symbols of another: where a pass begins.
    pub(super) fn like(graph: &Graph) -> Self {
        Self {
            graph: Graph {
                name: graph.name.clone(),
                symbols: graph.symbols.clone(),
                ..Graph::default()
            },
        }
    }

    /// A new symbol with inclusive bounds.
    pub fn symbol(&mut self, name: &str, min: u64, max: u64) -> SymbolId {
        self.graph.symbols.push(Symbol { name: name.to_owned(), min, max });
        SymbolId(self.graph.symbols.len() as u32 - 1)
    }

    /// A tensor given for each run.
    pub fn input(&mut self, name: &str, dtype: DType, shape: Shape) -> ValueId {
        self.source(name, Op::Input, ValueType { dtype, shape })
    }

    /// A tensor that stays on the device and is changed in place.
    pub fn state(&mut self, name: &str, dtype: DType, shape: Shape) -> ValueId {
        self.source(name, Op::State, ValueType { dtype, shape })
    }

    /// A tensor of the checkpoint, under its name there.
    pub fn weight(&mut self, name: &str, dtype: DType, shape: Shape) -> ValueId {
        let rows = shape.0.first().copied().unwrap_or(Dim::Fixed(1));
        let parts = vec![WeightPart { name: name.to_owned(), rows }];
        self.source(name, Op::Weight { parts }, ValueType { dtype, shape })
    }

    /// A small tensor written into the graph.
    pub fn constant(&mut self, name: &str, constant: Constant) -> ValueId {
        let shape = Shape::fixed(&constant.shape);
        self.source(name, Op::Constant(constant), ValueType { dtype: DType::F32, shape })
    }

    /// A node without operands, of the given type.
    pub(super) fn source(&mut self, name: &str, op: Op, ty: ValueType) -> ValueId {
        let id = self.value(name, ty);
        self.graph.nodes.push(Node { op, inputs: Vec::new(), outputs: vec![id] });
        id
    }

    /// A node with one result.
    ///
    /// # Errors
    /// When the operands do not fit the op.
    pub fn op(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, TypeError> {
        Ok(self.multi(&[name], op, inputs)?[0])
    }

    /// A node with any number of results.
    ///
    /// # Errors
    /// When the operands do not fit the op.
    pub fn multi(
        &mut self,
        names: &[&str],
        op: Op,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, TypeError> {
        let operands: Vec<&ValueType> = inputs.iter().map(|&id| self.graph.ty(id)).collect();
        let types = infer(&op, &operands)?;
        let outputs: Vec<ValueId> = types
            .into_iter()
            .enumerate()
            .map(|(idx, ty)| self.value(names.get(idx).copied().unwrap_or_default(), ty))
            .collect();
        let (inputs, result) = (inputs.to_vec(), outputs.clone());
        self.graph.nodes.push(Node { op, inputs, outputs });
        Ok(result)
    }

    /// The type of a value made so far.
    pub fn ty(&self, id: ValueId) -> &ValueType {
        self.graph.ty(id)
    }

    /// The graph, returning those values.
    pub fn finish(mut self, outputs: &[ValueId]) -> Graph {
        self.graph.outputs = outputs.to_vec();
        self.graph
    }

    fn value(&mut self, name: &str, ty: ValueType) -> ValueId {
        self.graph.values.push(Value { name: name.to_owned(), ty });
        ValueId(self.graph.values.len() as u32 - 1)
    }
}
