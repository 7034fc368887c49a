//! Graph to plan: which kernel each node becomes and what its operands are.
//!
//! Reshapes and slices become views and cost nothing. Every result gets a buffer of its own here;
//! `memory_plan` then lets buffers share slots.

use super::artifact::check_step;
use super::memory_plan::share_slots;
use super::plan::{
    Arithmetic, Attention, Binary, Bound, CacheKind, Call, Plan, Size, Slot, Source, Step, Target,
    TypeName, View,
};
use super::{KernelSet, NAME};
use crate::backend::BackendError;
use crate::ir::{DType, Dim, Graph, Node, Op, Shape, Symbol, ValueId, Verified};

/// Lowers a graph.
pub(super) fn lower(
    graph: &Verified<Graph>,
    kernels: KernelSet,
    arithmetic: Arithmetic,
) -> Result<Plan, BackendError> {
    let mut lowering = Lowering {
        arithmetic,
        graph,
        places: vec![None; graph.values().len()],
        plan: Plan {
            kernels,
            symbols: graph.symbols().iter().map(|s: &Symbol| (s.min, s.max)).collect(),
            inputs: Vec::new(),
            weights: Vec::new(),
            states: Vec::new(),
            constants: Vec::new(),
            slots: Vec::new(),
            steps: Vec::new(),
            output: View {
                source: Source::Slot(0),
                rows: Size::Fixed(0),
                columns: 0,
                offset: 0,
                stride: 0,
            },
        },
    };
    for node in graph.nodes() {
        lowering.node(node)?;
    }
    let &[output] = graph.outputs() else {
        return Err(unsupported(format!("{} results, exactly one", graph.outputs().len())));
    };
    lowering.plan.output = lowering.view(output)?;
    lowering.name_caches()?;
    Ok(share_slots(lowering.plan))
}

fn unsupported(what: String) -> BackendError {
    BackendError::Unsupported { backend: NAME, what }
}

/// Where a value lives.
#[derive(Clone, Copy)]
enum Place {
    Input(usize),
    Weight(usize),
    State(usize),
    View(View),
}

struct Lowering<'a> {
    arithmetic: Arithmetic,
    graph: &'a Graph,
    places: Vec<Option<Place>>,
    plan: Plan,
}

impl Lowering<'_> {
    fn node(&mut self, node: &Node) -> Result<(), BackendError> {
        let output = node.outputs[0];
        let call = match &node.op {
            Op::Input => {
                self.bind(output, Place::Input(self.plan.inputs.len()));
                let bound = self.bound(output)?;
                self.plan.inputs.push(bound);
                return self.only_i32_inputs(output);
            }
            Op::Weight { .. } => {
                self.bind(output, Place::Weight(self.plan.weights.len()));
                let bound = self.bound(output)?;
                self.plan.weights.push(bound);
                return Ok(());
            }
            Op::State => {
                self.bind(output, Place::State(self.plan.states.len()));
                let bound = self.bound(output)?;
                self.plan.states.push(bound);
                return self.only_f32(output);
            }
            Op::Constant(constant) => {
                let idx = self.plan.constants.len();
                self.plan.constants.push(constant.values.clone());
                let view = self.dense_view(output, Source::Constant(idx))?;
                self.bind(output, Place::View(view));
                return Ok(());
            }
            Op::Slice { start, len } => {
                let view = self.view(node.inputs[0])?;
                let view = self.slice(node.inputs[0], view, *start as usize, *len as usize)?;
                self.bind(output, Place::View(view));
                return Ok(());
            }
            Op::Reshape { .. } => return self.reshape(node.inputs[0], output),
            Op::KvWrite => {
                let state = self.state(node.inputs[1])?;
                self.bind(output, Place::State(state));
                Call::KvWrite {
                    x: self.view(node.inputs[0])?,
                    state,
                    slots: self.input(node.inputs[2])?,
                    // Known when the graph was read to its end.
                    kind: CacheKind::Values,
                }
            }
            Op::Gather { .. } => {
                let ids = self.input(node.inputs[1])?;
                match self.place(node.inputs[0]) {
                    Place::Weight(table) => Call::Gather { table, ids },
                    Place::View(x) => Call::GatherRows { x, ids },
                    Place::Input(_) | Place::State(_) => {
                        return Err(self.unsupported_at(node, "a gather from an input or a state"));
                    }
                }
            }
            Op::Linear => Call::Linear {
                x: self.view(node.inputs[0])?,
                weight: self.weight(node.inputs[1])?,
                arithmetic: self.arithmetic,
            },
            Op::Add => self.binary(node, Binary::Add)?,
            Op::Mul => self.binary(node, Binary::Mul)?,
            Op::SiluMul => self.binary(node, Binary::SiluMul)?,
            Op::Silu => Call::Silu { x: self.view(node.inputs[0])? },
            Op::RmsNorm { eps } => Call::RmsNorm {
                x: self.view(node.inputs[0])?,
                weight: self.view(node.inputs[1])?,
                eps: *eps,
            },
            Op::AddRmsNorm { eps } => Call::AddRmsNorm {
                x: self.view(node.inputs[0])?,
                residual: self.view(node.inputs[1])?,
                weight: self.view(node.inputs[2])?,
                eps: *eps,
            },
            Op::Cast { dtype } => {
                Call::Round { x: self.view(node.inputs[0])?, dtype: TypeName(*dtype) }
            }
            Op::Rope { style } => Call::Rope {
                x: self.view(node.inputs[0])?,
                cos: self.view(node.inputs[1])?,
                sin: self.view(node.inputs[2])?,
                head_dim: self.last_axis(node.inputs[0])?,
                style: (*style).into(),
            },
            Op::PagedAttention { scale, window } => Call::Attention(Attention {
                q: self.view(node.inputs[0])?,
                k_state: self.state(node.inputs[1])?,
                v_state: self.state(node.inputs[2])?,
                block_tables: self.input(node.inputs[3])?,
                query_ends: self.input(node.inputs[4])?,
                seq_lens: self.input(node.inputs[5])?,
                head_dim: self.last_axis(node.inputs[0])?,
                scale: *scale,
                window: *window,
            }),
        };
        let targets = if matches!(call, Call::KvWrite { .. }) {
            Vec::new()
        } else {
            node.outputs.iter().map(|&id| self.target(id)).collect::<Result<_, _>>()?
        };
        let step = Step { call, targets };
        // What the op allows and the kernels do not, with the place.
        let written: Vec<usize> = self.plan.slots.iter().map(|slot| slot.columns).collect();
        check_step(&self.plan, &written, &step).map_err(|what| self.unsupported_at(node, &what))?;
        self.plan.steps.push(step);
        Ok(())
    }

    /// Says of each write to a cache what it holds, which only those who read it know.
    fn name_caches(&mut self) -> Result<(), BackendError> {
        let kinds: Vec<_> =
            (0..self.plan.states.len()).map(|state| self.plan.cache_kind(state)).collect();
        for step in &mut self.plan.steps {
            if let Call::KvWrite { state, kind, .. } = &mut step.call {
                *kind = kinds[*state].ok_or_else(|| {
                    unsupported(format!("state {state} as a cache of both keys and values"))
                })?;
            }
        }
        Ok(())
    }

    fn bind(&mut self, id: ValueId, place: Place) {
        self.places[id.0 as usize] = Some(place);
    }

    fn place(&self, id: ValueId) -> Place {
        self.places[id.0 as usize].expect("invariant: a verified graph defines values before use")
    }

    fn unsupported_at(&self, node: &Node, what: &str) -> BackendError {
        let name = node.outputs.first().map_or("", |&id| self.graph.value(id).name.as_str());
        unsupported(format!("{what} ({}, {name})", node.op.name()))
    }

    fn unsupported_value(&self, id: ValueId, what: &str) -> BackendError {
        unsupported(format!("{what} (value %{}, {})", id.0, self.graph.value(id).name))
    }

    fn only_f32(&self, id: ValueId) -> Result<(), BackendError> {
        match self.graph.ty(id).dtype {
            DType::F32 => Ok(()),
            other => Err(self.unsupported_value(id, &format!("{other} states"))),
        }
    }

    fn only_i32_inputs(&self, id: ValueId) -> Result<(), BackendError> {
        match self.graph.ty(id).dtype {
            DType::I32 => Ok(()),
            other => Err(self.unsupported_value(id, &format!("{other} inputs"))),
        }
    }

    fn size(&self, id: ValueId, dim: Dim) -> Result<Size, BackendError> {
        match dim {
            Dim::Fixed(size) => usize::try_from(size)
                .map(Size::Fixed)
                .map_err(|_| self.unsupported_value(id, &format!("an axis of {size}"))),
            Dim::Symbolic(symbol) => Ok(Size::Symbol(symbol.0 as usize)),
        }
    }

    fn bound(&self, id: ValueId) -> Result<Bound, BackendError> {
        let ty = self.graph.ty(id);
        let shape =
            ty.shape.dims().iter().map(|&dim| self.size(id, dim)).collect::<Result<_, _>>()?;
        Ok(Bound { dtype: TypeName(ty.dtype), shape })
    }

    /// Rows and columns of a value: the first axis, and all others flattened.
    fn matrix(&self, id: ValueId) -> Result<(Size, usize), BackendError> {
        let shape: &Shape = &self.graph.ty(id).shape;
        let (rows, rest) = match shape.dims() {
            [] | [Dim::Fixed(_)] => (Dim::Fixed(1), shape.dims()),
            [first, rest @ ..] => (*first, rest),
        };
        let columns = Shape(rest.to_vec())
            .as_fixed()
            .and_then(|dims| {
                dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))
            })
            .ok_or_else(|| self.unsupported_value(id, "a symbol beyond the first axis"))?;
        Ok((self.size(id, rows)?, columns))
    }

    fn last_axis(&self, id: ValueId) -> Result<usize, BackendError> {
        match self.graph.ty(id).shape.last() {
            Some(Dim::Fixed(size)) => Ok(size as usize),
            Some(Dim::Symbolic(_)) | None => {
                Err(self.unsupported_value(id, "a last axis that is not fixed"))
            }
        }
    }

    fn dense_view(&self, id: ValueId, source: Source) -> Result<View, BackendError> {
        let (rows, columns) = self.matrix(id)?;
        Ok(View { source, rows, columns, offset: 0, stride: columns })
    }

    /// A new buffer for a result: slots are one per buffer until they are shared.
    fn target(&mut self, id: ValueId) -> Result<Target, BackendError> {
        if !self.graph.ty(id).dtype.is_float() {
            return Err(self.unsupported_value(id, "a result that is not floating point"));
        }
        let (rows, columns) = self.matrix(id)?;
        let slot = self.plan.slots.len();
        self.plan.slots.push(Slot { rows, columns });
        let view = self.dense_view(id, Source::Slot(slot))?;
        self.bind(id, Place::View(view));
        Ok(Target { slot, rows, columns })
    }

    fn view(&self, id: ValueId) -> Result<View, BackendError> {
        match self.place(id) {
            Place::View(view) => Ok(view),
            Place::Weight(idx) if self.graph.ty(id).shape.rank() <= 1 => {
                self.dense_view(id, Source::Weight(idx))
            }
            Place::Weight(_) => Err(self.unsupported_value(id, "a matrix weight as an operand")),
            Place::Input(_) | Place::State(_) => {
                Err(self.unsupported_value(id, "an input or a state as an operand"))
            }
        }
    }

    fn input(&self, id: ValueId) -> Result<usize, BackendError> {
        match self.place(id) {
            Place::Input(idx) => Ok(idx),
            Place::Weight(_) | Place::State(_) | Place::View(_) => {
                Err(self.unsupported_value(id, "integers that are not an input"))
            }
        }
    }

    fn weight(&self, id: ValueId) -> Result<usize, BackendError> {
        match self.place(id) {
            Place::Weight(idx) => Ok(idx),
            Place::Input(_) | Place::State(_) | Place::View(_) => {
                Err(self.unsupported_value(id, "a computed weight"))
            }
        }
    }

    fn state(&self, id: ValueId) -> Result<usize, BackendError> {
        match self.place(id) {
            Place::State(idx) => Ok(idx),
            Place::Input(_) | Place::Weight(_) | Place::View(_) => {
                Err(self.unsupported_value(id, "a cache that is not a state"))
            }
        }
    }

    /// The view narrowed to some columns of the innermost axis.
    fn slice(
        &self,
        id: ValueId,
        view: View,
        start: usize,
        len: usize,
    ) -> Result<View, BackendError> {
        if self.graph.ty(id).shape.rank() > 2 {
            return Err(self.unsupported_value(id, "a slice of a tensor of rank 3 or more"));
        }
        Ok(View { columns: len, offset: view.offset + start, ..view })
    }

    /// A view under the new shape; rows that change need dense numbers first.
    fn reshape(&mut self, from: ValueId, to: ValueId) -> Result<(), BackendError> {
        let mut view = self.view(from)?;
        let (rows, columns) = self.matrix(to)?;
        if (rows, columns) != (view.rows, view.columns) {
            if view.stride != view.columns {
                let slot = self.plan.slots.len();
                self.plan.slots.push(Slot { rows: view.rows, columns: view.columns });
                let target = Target { slot, rows: view.rows, columns: view.columns };
                self.plan.steps.push(Step { call: Call::Copy { x: view }, targets: vec![target] });
                view = View { source: Source::Slot(slot), offset: 0, ..view };
            }
            view = View { rows, columns, stride: columns, ..view };
        }
        self.bind(to, Place::View(view));
        Ok(())
    }

    fn binary(&self, node: &Node, function: Binary) -> Result<Call, BackendError> {
        let (mut a, mut b) = (node.inputs[0], node.inputs[1]);
        let result = &self.graph.ty(node.outputs[0]).shape;
        if self.graph.ty(a).shape != *result {
            // Add and mul commute; silu_mul never gets here, its operands are alike.
            (a, b) = (b, a);
        }
        let shape = &self.graph.ty(b).shape;
        let is_suffix = result.dims().ends_with(shape.dims());
        let is_scalar = shape.dims().iter().all(|&dim| dim == Dim::Fixed(1));
        let is_row = matches!(shape.dims().split_first(), Some((Dim::Fixed(1), rest))
            if result.dims().ends_with(rest) && shape.rank() == result.rank());
        if self.graph.ty(a).shape != *result || !(is_suffix || is_scalar || is_row) {
            return Err(self.unsupported_at(node, "broadcasting other than of rows or scalars"));
        }
        let mut view = self.view(b)?;
        if shape != result {
            // Repeated operands are flattened to one row, which then repeats over the columns.
            let elements = shape.as_fixed().map(|dims| dims.iter().product::<usize>());
            match elements {
                Some(columns) if view.stride == view.columns || view.rows == Size::Fixed(1) => {
                    view = View { rows: Size::Fixed(1), columns, stride: columns, ..view };
                }
                Some(_) | None => return Err(self.unsupported_at(node, "broadcasting of a slice")),
            }
        }
        Ok(Call::Binary { function, a: self.view(a)?, b: view })
    }
}
