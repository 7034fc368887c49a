//! A case: a graph with weights, and steps with what they must give.
//!
//! Activations come in as rows of a weight, picked by an input of ids, because the CPU backend takes
//! no floating-point inputs.

use std::collections::HashMap;

use cairn::backend::{
    Backend, BackendError, Executable, Memory, Output, StateSpec, Step, Wanted, Weight,
};
use cairn::ir::{
    Builder, Constant, DType, Dim, Graph, Op, Shape, SymbolId, ValueId, Verified, verify,
};
use cairn::weights::Tensor;

/// How far a number may be from the definition's.
///
/// | Type of the op's rows | May be off by |
/// | --- | --- |
/// | f32 | 1e-6 (1 + size) for about 16 roundings, 1e-5 (1 + size) for sums of some hundred products |
/// | f16 | that of sums in f32, and 2^-11 size for each rounding: half of the last of 11 bits |
/// | bf16 | that of sums in f32, and 2^-8 size for each rounding: half of the last of 8 bits |
///
/// Between its operands and its results, a backend computes an op in f32 at least, so that a result
/// is rounded once, unless the op is made of two. Rows may also be kept in a wider type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tolerance {
    /// Rounding the definition's number to f32 gives the bits (but for the sign of zero).
    Exact,
    /// A few roundings of numbers of about the result's size or 1.
    Rounding,
    /// Sums of up to some hundred products, in any order.
    Sum,
    /// A sum, and that many roundings of the result to f16 or bf16.
    Narrow(DType, u8),
}

impl Tolerance {
    pub(crate) fn accepts(self, got: f32, expected: f64) -> bool {
        let of_sum = 1e-5 * (1.0 + expected.abs());
        let tolerance = match self {
            Self::Exact => return got == expected as f32,
            Self::Rounding => of_sum / 10.0,
            Self::Sum => of_sum,
            Self::Narrow(DType::BF16, roundings) => {
                of_sum + f64::from(roundings) / 256.0 * expected.abs()
            }
            Self::Narrow(_, roundings) => of_sum + f64::from(roundings) / 2048.0 * expected.abs(),
        };
        (f64::from(got) - expected).abs() <= tolerance
    }
}

/// One run and its result.
#[derive(Clone, Debug)]
pub(crate) struct CaseStep {
    pub(crate) symbols: Vec<u64>,
    pub(crate) inputs: Vec<Vec<i32>>,
    pub(crate) expected: Vec<f64>,
    /// How many of the last numbers are of tokens that belong to no sequence.
    pub(crate) num_padding: usize,
}

/// A graph, what it is run with, and what must come out.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Begins with the op's name.
    pub(crate) name: String,
    pub(crate) graph: Graph,
    /// By the name of a weight's part.
    pub(crate) tensors: HashMap<String, Vec<Tensor>>,
    /// One after the other: states stay.
    pub(crate) steps: Vec<CaseStep>,
    pub(crate) tolerance: Tolerance,
}

/// The weights of a graph, from tensors by the names of their parts.
pub(crate) fn weights_of(graph: &Graph, tensors: &HashMap<String, Vec<Tensor>>) -> Vec<Weight> {
    let of = |part: &cairn::ir::WeightPart| tensors[&part.name].clone();
    graph
        .weights()
        .map(|(_, parts)| Weight { parts: parts.iter().flat_map(of).collect() })
        .collect()
}

/// The states of a graph, with those sizes for its symbols.
pub(crate) fn states_of(graph: &Graph, symbols: &[u64]) -> Vec<StateSpec> {
    let spec = |id| {
        let ty = graph.ty(id);
        StateSpec { dtype: ty.dtype, shape: ty.shape.resolve(symbols).unwrap() }
    };
    graph.states().map(spec).collect()
}

/// A graph on a backend.
pub(crate) struct Loaded {
    executable: Box<dyn Executable>,
    memory: Box<dyn Memory>,
}

impl Loaded {
    /// Compiles and loads a graph, and places its weights and states.
    pub(crate) fn new(
        backend: &dyn Backend,
        graph: &Verified<Graph>,
        tensors: &HashMap<String, Vec<Tensor>>,
        symbols: &[u64],
    ) -> Result<Self, BackendError> {
        let (weights, states) = (weights_of(graph, tensors), states_of(graph, symbols));
        Self::of_weights(backend, graph, weights, &states)
    }

    /// The same with those weights and states.
    pub(crate) fn of_weights(
        backend: &dyn Backend,
        graph: &Verified<Graph>,
        weights: Vec<Weight>,
        states: &[StateSpec],
    ) -> Result<Self, BackendError> {
        let executable = backend.load(&backend.compile(graph)?.files())?;
        let memory = backend.place(weights, states)?;
        Ok(Self { executable, memory })
    }

    /// What lives on the device.
    pub(crate) fn memory(&mut self) -> &mut dyn Memory {
        self.memory.as_mut()
    }

    /// Another memory for the same graph; returns the last one.
    pub(crate) fn swap_memory(&mut self, memory: Box<dyn Memory>) -> Box<dyn Memory> {
        std::mem::replace(&mut self.memory, memory)
    }

    pub(crate) fn run(
        &mut self,
        symbols: &[u64],
        inputs: &[Vec<i32>],
    ) -> Result<Vec<f32>, BackendError> {
        let inputs: Vec<&[i32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut output = vec![f32::NAN; 3];
        let step = Step { symbols, inputs: &inputs };
        self.executable.run(self.memory.as_mut(), &step, &mut output)?;
        Ok(output)
    }

    /// A run of whose result no more than `wanted` is needed.
    pub(crate) fn run_wanted(
        &mut self,
        symbols: &[u64],
        inputs: &[Vec<i32>],
        wanted: Wanted,
    ) -> Result<Output, BackendError> {
        let inputs: Vec<&[i32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut output = Output::default();
        let step = Step { symbols, inputs: &inputs };
        self.executable.run_wanted(self.memory.as_mut(), &step, wanted, &mut output)?;
        Ok(output)
    }

    /// A run that calls `meanwhile`.
    pub(crate) fn run_meanwhile(
        &mut self,
        symbols: &[u64],
        inputs: &[Vec<i32>],
        wanted: Wanted,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<Output, BackendError> {
        let inputs: Vec<&[i32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut output = Output::default();
        let step = Step { symbols, inputs: &inputs };
        let memory = self.memory.as_mut();
        self.executable.run_meanwhile(memory, &step, wanted, &mut output, meanwhile)?;
        Ok(output)
    }

    /// Another graph over the same weights and states: the next bucket.
    pub(crate) fn switch(
        &mut self,
        backend: &dyn Backend,
        graph: &Verified<Graph>,
    ) -> Result<(), BackendError> {
        self.executable = backend.load(&backend.compile(graph)?.files())?;
        Ok(())
    }
}

/// A graph with every symbol pinned.
pub(crate) fn bucket(graph: &Graph, symbols: &[u64]) -> Verified<Graph> {
    let bindings: Vec<(SymbolId, u64)> = (0..).map(SymbolId).zip(symbols.iter().copied()).collect();
    verify(graph.specialise(&bindings).unwrap()).unwrap()
}

/// Builds the graph of a case.
#[derive(Debug)]
pub(crate) struct CaseBuilder {
    name: String,
    builder: Builder,
    tensors: HashMap<String, Vec<Tensor>>,
}

impl CaseBuilder {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { builder: Builder::new(&name), name, tensors: HashMap::new() }
    }

    pub(crate) fn symbol(&mut self, name: &str) -> Dim {
        Dim::from(self.builder.symbol(name, 1, 1 << 16))
    }

    pub(crate) fn input(&mut self, name: &str, dims: &[Dim]) -> ValueId {
        self.builder.input(name, DType::I32, Shape::new(dims.iter().copied()))
    }

    pub(crate) fn state(&mut self, name: &str, dtype: DType, dims: &[Dim]) -> ValueId {
        self.builder.state(name, dtype, Shape::new(dims.iter().copied()))
    }

    /// A weight of some tensors, one after the other along the first axis.
    pub(crate) fn weight(&mut self, name: &str, tensors: Vec<Tensor>) -> ValueId {
        let mut shape = tensors[0].shape.clone();
        shape[0] = tensors.iter().map(|tensor| tensor.shape[0]).sum();
        let id = self.builder.weight(name, tensors[0].dtype, Shape::fixed(&shape));
        self.tensors.insert(name.to_owned(), tensors);
        id
    }

    /// An f32 weight.
    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> ValueId {
        self.floats_in(DType::F32, name, shape, values)
    }

    /// A weight of numbers that the type can hold.
    pub(crate) fn floats_in(
        &mut self,
        dtype: DType,
        name: &str,
        shape: &[usize],
        values: &[f32],
    ) -> ValueId {
        let tensor = Tensor::from_f32(name, shape.to_vec(), values.to_vec()).unwrap();
        let tensor = tensor.convert(dtype);
        assert_eq!(tensor.to_f32_vec(), values, "{name} is not rounded to {dtype}");
        self.weight(name, vec![tensor])
    }

    pub(crate) fn constant(&mut self, shape: &[usize], values: &[f32]) -> ValueId {
        let constant = Constant { shape: shape.to_vec(), values: values.to_vec() };
        self.builder.constant("constant", constant)
    }

    /// Rows of `values`, picked by `ids`: `[ids, columns]`.
    pub(crate) fn activation(
        &mut self,
        name: &str,
        values: &[f32],
        columns: usize,
        ids: ValueId,
    ) -> ValueId {
        self.activation_in(DType::F32, name, values, columns, ids)
    }

    /// The same of numbers that the type can hold.
    pub(crate) fn activation_in(
        &mut self,
        dtype: DType,
        name: &str,
        values: &[f32],
        columns: usize,
        ids: ValueId,
    ) -> ValueId {
        let table = self.floats_in(dtype, name, &[values.len() / columns, columns], values);
        self.op(Op::Gather { dtype }, &[table, ids])
    }

    pub(crate) fn op(&mut self, op: Op, operands: &[ValueId]) -> ValueId {
        self.results(op, operands)[0]
    }

    pub(crate) fn results(&mut self, op: Op, operands: &[ValueId]) -> Vec<ValueId> {
        let name = op.name();
        self.builder.multi(&[name, name], op, operands).unwrap()
    }

    /// `x` under another shape, after its first axis.
    pub(crate) fn reshape(&mut self, x: ValueId, dims: &[usize]) -> ValueId {
        let first = self.builder.ty(x).shape.0[0];
        let shape = std::iter::once(first).chain(dims.iter().map(|&dim| Dim::from(dim)));
        self.op(Op::Reshape { shape: Shape::new(shape) }, &[x])
    }

    pub(crate) fn finish(
        self,
        output: ValueId,
        tolerance: Tolerance,
        steps: Vec<CaseStep>,
    ) -> Case {
        let graph = self.builder.finish(&[output]);
        Case { name: self.name, graph, tensors: self.tensors, steps, tolerance }
    }
}
