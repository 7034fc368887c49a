//! Writes the nodes of a graph, one op after the other.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`View`] | a value of the IR: a tensor of GE, seen under the shape that the IR says |
//! | [`Emitter`] | the graph so far, and the view of each value |
//!
//! A view is reshaped only when an operator takes it under a shape that it has not: most reshapes
//! of the IR meet another one and are never written.
//!
//! What this module deliberately does not do: it decides nothing that needs more than one op;
//! `plan` did.

use std::collections::BTreeMap;

use super::super::artifact::{InputSpec, IoTable, OutputRole, OutputSpec, Role};
use super::super::dtype::GeDType;
use super::super::ge_graph::{Attr, Call, GeGraph, TensorType, Value};
use super::super::kv_layout;
use super::plan::Plan;
use super::{Lowered, unsupported_at};
use crate::backend::BackendError;
use crate::ir::{Graph, Node, Op, ValueId};

/// Columns of the largest logits that are given beside all of them.
const MAX_TOP_K: u64 = 64;

/// A tensor of GE seen under another shape of as many elements.
#[derive(Clone, Debug)]
pub(super) struct View {
    base: Value,
    shape: Vec<u64>,
}

impl From<Value> for View {
    fn from(base: Value) -> Self {
        let shape = base.ty.shape.clone();
        Self { base, shape }
    }
}

/// The graph so far.
pub(super) struct Emitter<'a> {
    pub(super) graph: &'a Graph,
    pub(super) plan: &'a Plan,
    pub(super) ge: GeGraph,
    /// In the order of their indices.
    specs: Vec<InputSpec>,
    /// By value of the IR.
    views: Vec<Option<View>>,
    /// What the nodes are named after that are being written.
    place: String,
    /// By edge and shape, so that nothing is reshaped twice.
    reshaped: BTreeMap<(String, Vec<u64>), Value>,
    /// By sliced value and pieces.
    splits: BTreeMap<(ValueId, Vec<u64>), Vec<Value>>,
    /// By cosines or sines, and whether they are interleaved.
    pub(super) widened: BTreeMap<(ValueId, bool), Value>,
    /// By cache: what read it. Whoever writes it has to wait.
    pub(super) readers: BTreeMap<ValueId, Vec<Value>>,
    /// Caches that were written and are not read: the graph must not end before.
    pub(super) unread: Vec<Value>,
    pub(super) causal_mask: Option<Value>,
}

/// Writes the whole graph.
pub(super) fn emit(graph: &Graph, plan: &Plan) -> Result<Lowered, BackendError> {
    let mut emitter = Emitter {
        graph,
        plan,
        ge: GeGraph::default(),
        specs: Vec::new(),
        views: vec![None; graph.values().len()],
        place: String::new(),
        reshaped: BTreeMap::new(),
        splits: BTreeMap::new(),
        widened: BTreeMap::new(),
        readers: BTreeMap::new(),
        unread: Vec::new(),
        causal_mask: None,
    };
    emitter.inputs();
    for (idx, node) in graph.nodes().iter().enumerate() {
        if plan.is_live[idx] {
            emitter.place = format!("n{idx}");
            emitter.node(idx, node)?;
        }
    }
    "result".clone_into(&mut emitter.place);
    Ok(emitter.finish())
}

impl Emitter<'_> {
    /// The inputs in the order of their indices: inputs of the IR, the mask, weights, states.
    fn inputs(&mut self) {
        for (id, spec) in self.plan.inputs.clone() {
            let value = self.data(spec);
            self.define(id, value);
        }
        if self.plan.needs_causal_mask() {
            let (name, shape) = ("causal_mask".to_owned(), vec![2048, 2048]);
            let role = Role::CausalMask;
            let mask = self.data(InputSpec { name, dtype: GeDType::Bool, shape, role });
            self.causal_mask = Some(mask);
        }
        let is_used = |id: ValueId| self.plan.num_uses[id.0 as usize] > 0;
        let numbered = |ids: Vec<ValueId>| (0_u32..).zip(ids).filter(|&(_, id)| is_used(id));
        let weights = numbered(self.graph.weights().map(|(id, _)| id).collect());
        let states = numbered(self.graph.states().collect());
        for (index, id) in weights {
            let TensorType { dtype, shape } = self.plan.ty(id).clone();
            let (name, role) = (format!("weight_{index}"), Role::Weight { index });
            let value = self.data(InputSpec { name, dtype, shape, role });
            self.define(id, value);
        }
        for (index, id) in states {
            let ty = self.plan.ty(id);
            let shape = kv_layout::device_shape(&ty.shape)
                .expect("invariant: the plan refuses states that are no KV caches");
            let shape = shape.to_vec();
            let (name, role) = (format!("state_{index}"), Role::State { index });
            let value = self.data(InputSpec { name, dtype: ty.dtype, shape, role });
            self.define(id, value);
        }
    }

    fn data(&mut self, spec: InputSpec) -> Value {
        let ty = TensorType::new(spec.dtype, spec.shape.clone());
        let value = match spec.role {
            Role::State { .. } => self.ge.ref_data(&spec.name, ty),
            _ => self.ge.data(&spec.name, ty),
        };
        self.specs.push(spec);
        value
    }

    fn node(&mut self, idx: usize, node: &Node) -> Result<(), BackendError> {
        let view = match &node.op {
            // Written before all others.
            Op::Input | Op::Weight { .. } | Op::State => return Ok(()),
            Op::Constant(constant) => {
                let data = constant.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                self.ge.constant(self.plan.ty(node.outputs[0]).clone(), data).into()
            }
            Op::Gather { dtype: _ } => self.gather(node),
            Op::Linear => self.linear(node)?,
            Op::Add => self.binary("Add", node),
            Op::Mul => self.binary("Mul", node),
            Op::Silu => {
                let x = self.value(node.inputs[0]);
                self.swish(&x).into()
            }
            Op::SiluMul => self.silu_mul(idx, node),
            Op::RmsNorm { eps } => {
                let x = self.value(node.inputs[0]);
                self.rms_norm(node, &x, node.inputs[1], *eps)?
            }
            Op::AddRmsNorm { eps } => return self.add_rms_norm(node, *eps),
            Op::Slice { start, len } => match self.slice(node, (*start, *len)) {
                Some(view) => view,
                None => return Ok(()),
            },
            Op::Reshape { shape } => {
                if shape.rank() == 0 {
                    let what = "a reshape to a scalar".to_owned();
                    return Err(unsupported_at(self.graph, node, what));
                }
                self.seen_as_result(node, self.base(node.inputs[0]))
            }
            Op::Cast { dtype: _ } => {
                let x = self.base(node.inputs[0]);
                let cast = self.cast(&x, self.plan.ty(node.outputs[0]).dtype);
                self.seen_as_result(node, cast)
            }
            Op::Rope { style } => self.rope(node, *style)?,
            Op::KvWrite => self.kv_write(node),
            Op::PagedAttention { scale: _, window: _ } => self.attention(node),
        };
        self.define(node.outputs[0], view);
        Ok(())
    }

    pub(super) fn call(&mut self, op: &str) -> Call<'_> {
        self.ge.call(&self.place, op)
    }

    fn define(&mut self, id: ValueId, view: impl Into<View>) {
        self.views[id.0 as usize] = Some(view.into());
    }

    /// What a value of the IR has become, under whatever shape.
    pub(super) fn base(&self, id: ValueId) -> Value {
        self.view(id).base
    }

    fn view(&self, id: ValueId) -> View {
        let view = self.views[id.0 as usize].as_ref();
        view.expect("invariant: operands of live nodes are written before").clone()
    }

    /// A value under the shape that the IR says.
    pub(super) fn value(&mut self, id: ValueId) -> Value {
        let view = self.view(id);
        self.reshape(&view.base, view.shape)
    }

    /// A value under another shape.
    pub(super) fn value_as(&mut self, id: ValueId, shape: Vec<u64>) -> Value {
        self.reshape(&self.base(id), shape)
    }

    /// The result of a node: `base` under the shape that the IR says.
    pub(super) fn seen_as_result(&self, node: &Node, base: Value) -> View {
        View { base, shape: self.plan.ty(node.outputs[0]).shape.clone() }
    }

    pub(super) fn reshape(&mut self, x: &Value, shape: Vec<u64>) -> Value {
        if x.ty.shape == shape {
            return x.clone();
        }
        let key = (x.edge(), shape);
        if let Some(value) = self.reshaped.get(&key) {
            return value.clone();
        }
        let sizes = self.ge.sizes(&key.1);
        let ty = TensorType::new(x.ty.dtype, key.1.clone());
        let y = self.call("Reshape").input("x", x).input("shape", &sizes).one("y", ty);
        self.reshaped.insert(key, y.clone());
        y
    }

    pub(super) fn cast(&mut self, x: &Value, dtype: GeDType) -> Value {
        if x.ty.dtype == dtype {
            return x.clone();
        }
        let number = Attr::Int(dtype.acl().into());
        let ty = TensorType::new(dtype, x.ty.shape.clone());
        self.call("Cast").input("x", x).attr("dst_type", number).one("y", ty)
    }

    fn gather(&mut self, node: &Node) -> View {
        let result = self.plan.ty(node.outputs[0]);
        let (table, ids) = (self.value(node.inputs[0]), self.value(node.inputs[1]));
        let axis = self.ge.scalar(0);
        let call = self.call("GatherV2");
        let call = call.input("x", &table).input("indices", &ids).input("axis", &axis);
        let rows = call.one("y", TensorType::new(table.ty.dtype, result.shape.clone()));
        self.cast(&rows, result.dtype).into()
    }

    fn linear(&mut self, node: &Node) -> Result<View, BackendError> {
        let (x, w) = (self.plan.ty(node.inputs[0]), self.plan.ty(node.inputs[1]));
        if x.dtype != w.dtype {
            let what = format!(
                "linear of {} by weights in {}: both must have the same type",
                x.dtype, w.dtype
            );
            return Err(unsupported_at(self.graph, node, what));
        }
        let (columns, outer) = x.shape.split_last().expect("invariant: x has a last axis");
        let rows = outer.iter().product();
        let ty = TensorType::new(x.dtype, vec![rows, w.shape[0]]);
        let x = self.value_as(node.inputs[0], vec![rows, *columns]);
        let w = self.value(node.inputs[1]);
        let call = self.call("MatMulV2").input("x1", &x).input("x2", &w);
        let call = call.attr("transpose_x1", Attr::Bool(false));
        let y = call.attr("transpose_x2", Attr::Bool(true)).one("y", ty);
        Ok(self.seen_as_result(node, y))
    }

    fn binary(&mut self, op: &str, node: &Node) -> View {
        let (a, b) = (self.value(node.inputs[0]), self.value(node.inputs[1]));
        let ty = self.plan.ty(node.outputs[0]).clone();
        self.call(op).input("x1", &a).input("x2", &b).one("y", ty).into()
    }

    fn swish(&mut self, x: &Value) -> Value {
        self.call("Swish").input("x", x).attr("scale", Attr::Float(1.0)).one("y", x.ty.clone())
    }

    fn silu_mul(&mut self, idx: usize, node: &Node) -> View {
        let ty = self.plan.ty(node.outputs[0]).clone();
        if let Some(halved) = self.plan.slices.halved(idx) {
            // Swish of the first half times the second: gate, then up.
            let x = self.value(halved);
            return self
                .call("SwiGlu")
                .input("x", &x)
                .attr("dim", Attr::Int(-1))
                .one("y", ty)
                .into();
        }
        let (gate, up) = (self.value(node.inputs[0]), self.value(node.inputs[1]));
        let gate = self.swish(&gate);
        self.call("Mul").input("x1", &gate).input("x2", &up).one("y", ty).into()
    }

    fn rms_norm(
        &mut self,
        node: &Node,
        x: &Value,
        gamma: ValueId,
        eps: f32,
    ) -> Result<View, BackendError> {
        let gamma = self.value(gamma);
        if gamma.ty.dtype != x.ty.dtype && gamma.ty.dtype != GeDType::F32 {
            let what = format!(
                "{} of {} by weights in {}: they must have the same type or float",
                node.op.name(),
                x.ty.dtype,
                gamma.ty.dtype
            );
            return Err(unsupported_at(self.graph, node, what));
        }
        let call = self.call("RmsNorm").input("x", x).input("gamma", &gamma);
        let call = call.attr("epsilon", Attr::Float(eps)).output("y", x.ty.clone());
        Ok(call.output("rstd", rstd(&x.ty)).first().into())
    }

    fn add_rms_norm(&mut self, node: &Node, eps: f32) -> Result<(), BackendError> {
        let [x, residual, w] = [0, 1, 2].map(|idx| self.value(node.inputs[idx]));
        let ty = x.ty.clone();
        let (sum, normed) = if w.ty.dtype == ty.dtype {
            let call = self.call("AddRmsNorm").input("x1", &x).input("x2", &residual);
            let call = call.input("gamma", &w).attr("epsilon", Attr::Float(eps));
            let call = call.output("y", ty.clone()).output("rstd", rstd(&ty)).output("x", ty);
            let outputs: [Value; 3] = call.done().try_into().expect("invariant: of three outputs");
            let [normed, _, sum] = outputs;
            (sum, normed.into())
        } else {
            let sum = self.call("Add").input("x1", &x).input("x2", &residual).one("y", ty);
            let normed = self.rms_norm(node, &sum, node.inputs[2], eps)?;
            (sum, normed)
        };
        self.define(node.outputs[0], sum);
        self.define(node.outputs[1], normed);
        Ok(())
    }

    fn slice(&mut self, node: &Node, slice: (u64, u64)) -> Option<View> {
        let (base, result) = (node.inputs[0], node.outputs[0]);
        if !self.plan.slices.is_used(result) {
            return None;
        }
        let TensorType { dtype, shape } = self.plan.ty(base);
        let (&width, outer) = shape.split_last().expect("invariant: x has a last axis");
        let (pieces, piece) = self.plan.slices.pieces(base, width, slice);
        if pieces.len() == 1 {
            return Some(self.view(base));
        }
        let key = (base, pieces);
        if !self.splits.contains_key(&key) {
            let x = self.value(base);
            let sizes = key.1.iter().map(|&size| size as i64).collect();
            let call = self.call("SplitVD").input("x", &x).attr("size_splits", Attr::Ints(sizes));
            let call = call.attr("split_dim", Attr::Int(outer.len() as i64));
            let mut call = call.attr("num_split", Attr::Int(key.1.len() as i64));
            for (idx, &size) in key.1.iter().enumerate() {
                let shape = outer.iter().copied().chain([size]).collect();
                call = call.output(&format!("y{idx}"), TensorType::new(*dtype, shape));
            }
            let outputs = call.done();
            self.splits.insert(key.clone(), outputs);
        }
        Some(self.splits[&key][piece].clone().into())
    }

    /// The outputs: the result in f32, and of a matrix the largest of each row.
    fn finish(mut self) -> Lowered {
        let result = self.value(self.graph.outputs()[0]);
        let result = self.cast(&result, GeDType::F32);
        let mut outputs = vec![(OutputRole::Result, result.clone())];
        if let [rows, columns] = result.ty.shape[..] {
            let indices = |shape| TensorType::new(GeDType::I32, shape);
            let last = self.ge.scalar(-1);
            let call = self.call("ArgMaxV2").input("x", &result).input("dimension", &last);
            let argmax = call.attr("dtype", Attr::Type(GeDType::I32)).one("y", indices(vec![rows]));
            let k = columns.min(MAX_TOP_K);
            let count = self.ge.scalar(k as i32);
            let call = self.call("TopKV2").input("x", &result).input("k", &count);
            let call = call.attr("sorted", Attr::Bool(true)).attr("dim", Attr::Int(-1));
            let call = call.attr("largest", Attr::Bool(true));
            let call = call.output("values", TensorType::new(GeDType::F32, vec![rows, k]));
            let top = call.output("indices", indices(vec![rows, k])).done();
            outputs.push((OutputRole::Argmax, argmax));
            outputs.extend([OutputRole::TopValues, OutputRole::TopIndices].into_iter().zip(top));
        }
        let spec = |(role, value): &(OutputRole, Value)| {
            let TensorType { dtype, shape } = value.ty.clone();
            OutputSpec { dtype, shape, role: *role }
        };
        let io = IoTable {
            layout: self.plan.layout,
            num_tokens: self.plan.num_tokens,
            query_ends: self.plan.query_ends,
            inputs: self.specs,
            outputs: outputs.iter().map(spec).collect(),
        };
        let values: Vec<Value> = outputs.into_iter().map(|(_, value)| value).collect();
        Lowered { model: self.ge.finish(&values, &self.unread), io }
    }
}

/// The second output of norms: one number for each row.
fn rstd(x: &TensorType) -> TensorType {
    let mut shape = x.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = 1;
    }
    TensorType::new(GeDType::F32, shape)
}
