//! The arena: nodes in topological order, values by id.

use super::DType;
use super::op::{Op, WeightPart};
use super::shape::{Dim, Shape, Symbol, SymbolId};

/// Index of a [`Value`] in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Index of a [`Node`] in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Element type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ValueType {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: Shape,
}

/// A tensor that flows through the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// For people: never part of canonical bytes.
    pub name: String,
    /// Element type and shape.
    pub ty: ValueType,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<ValueId>,
    /// The values it defines.
    pub outputs: Vec<ValueId>,
}

/// A computation: symbols, nodes in topological order, and the values it returns.
///
/// Anyone may read a graph; only the builder, the parser and [`Graph::specialise`] make one, and
/// only [`verify`](super::verify()) says that it keeps the rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    pub(super) name: String,
    pub(super) symbols: Vec<Symbol>,
    pub(super) values: Vec<Value>,
    pub(super) nodes: Vec<Node>,
    pub(super) outputs: Vec<ValueId>,
}

impl Graph {
    /// For people: never part of canonical bytes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The symbols, by [`SymbolId`].
    pub fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    /// The values, by [`ValueId`].
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The nodes, by [`NodeId`], every operand defined before its use.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The values that the graph returns, in order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// A value.
    ///
    /// # Panics
    /// When the id is not of this graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The type of a value.
    ///
    /// # Panics
    /// When the id is not of this graph.
    pub fn ty(&self, id: ValueId) -> &ValueType {
        &self.value(id).ty
    }

    /// The inputs, in binding order.
    pub fn inputs(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.defined_by(|op| matches!(op, Op::Input))
    }

    /// The states, in binding order.
    pub fn states(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.defined_by(|op| matches!(op, Op::State))
    }

    /// The weights with their parts, in binding order.
    pub fn weights(&self) -> impl Iterator<Item = (ValueId, &[WeightPart])> + '_ {
        self.nodes.iter().filter_map(|node| {
            if let Op::Weight { parts } = &node.op {
                Some((*node.outputs.first()?, parts.as_slice()))
            } else {
                None
            }
        })
    }

    fn defined_by(&self, wanted: fn(&Op) -> bool) -> impl Iterator<Item = ValueId> + '_ {
        self.nodes
            .iter()
            .filter(move |node| wanted(&node.op))
            .filter_map(|node| node.outputs.first().copied())
    }

    /// For each value, the node that defines it.
    pub fn definitions(&self) -> Vec<Option<NodeId>> {
        let mut definitions = vec![None; self.values.len()];
        for (idx, node) in self.nodes.iter().enumerate() {
            for output in &node.outputs {
                if let Some(slot) = definitions.get_mut(output.0 as usize) {
                    *slot = Some(NodeId(idx as u32));
                }
            }
        }
        definitions
    }

    /// For each value, how often it is used; being returned counts as a use.
    pub fn use_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.values.len()];
        let operands = self.nodes.iter().flat_map(|node| &node.inputs);
        for id in operands.chain(&self.outputs) {
            if let Some(count) = counts.get_mut(id.0 as usize) {
                *count += 1;
            }
        }
        counts
    }

    /// The same graph with some symbols given a value: one bucket of it. The symbols stay in the
    /// table, pinned to their value, so that ids keep their meaning.
    ///
    /// # Errors
    /// When a symbol does not exist or the value is outside its bounds.
    pub fn specialise(&self, bindings: &[(SymbolId, u64)]) -> Result<Self, SpecialiseError> {
        let mut value_of = vec![None; self.symbols.len()];
        let mut graph = self.clone();
        for &(id, value) in bindings {
            let symbol =
                graph.symbols.get_mut(id.0 as usize).ok_or(SpecialiseError::UnknownSymbol(id))?;
            if !(symbol.min..=symbol.max).contains(&value) {
                return Err(SpecialiseError::OutOfBounds {
                    name: symbol.name.clone(),
                    value,
                    min: symbol.min,
                    max: symbol.max,
                });
            }
            (symbol.min, symbol.max) = (value, value);
            value_of[id.0 as usize] = Some(value);
        }
        let pin = |dim: &mut Dim| {
            if let Dim::Symbolic(id) = *dim
                && let Some(Some(value)) = value_of.get(id.0 as usize)
            {
                *dim = Dim::Fixed(*value);
            }
        };
        for value in &mut graph.values {
            value.ty.shape.0.iter_mut().for_each(pin);
        }
        for node in &mut graph.nodes {
            if let Op::Reshape { shape } = &mut node.op {
                shape.0.iter_mut().for_each(pin);
            } else if let Op::Weight { parts } = &mut node.op {
                for part in parts {
                    pin(&mut part.rows);
                }
            }
        }
        Ok(graph)
    }
}

/// Why a graph could not be specialised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecialiseError {
    /// No such symbol.
    #[error("the graph has no symbol {0}")]
    UnknownSymbol(SymbolId),
    /// The value is outside the symbol's bounds.
    #[error("symbol `{name}` cannot be {value}: its bounds are {min} to {max}")]
    OutOfBounds {
        /// The symbol's name.
        name: String,
        /// The value asked for.
        value: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
}
