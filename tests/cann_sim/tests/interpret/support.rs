//! Small graphs and the numbers that go in and come out.

use ascendcl::ge::graph::{Attr, DataType, Desc, Edge, GeGraph, Input, Node};
use ascendcl::interpret::{Binding, KernelError, run};
use half::{bf16, f16};

/// A tensor with its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value {
    pub(crate) desc: Desc,
    pub(crate) bytes: Vec<u8>,
}

impl Value {
    pub(crate) fn floats(dtype: DataType, shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = match dtype {
            DataType::Float => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            DataType::Float16 => {
                values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
            }
            DataType::Bf16 => {
                values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
            }
            other => panic!("{other:?} is no floating-point type"),
        };
        Self::new(dtype, shape, bytes)
    }

    pub(crate) fn integers(dtype: DataType, shape: &[usize], values: &[i64]) -> Self {
        let size = dtype.size();
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()[..size].to_vec()).collect();
        Self::new(dtype, shape, bytes)
    }

    pub(crate) fn zeros(dtype: DataType, shape: &[usize]) -> Self {
        let desc = Desc { dtype, shape: shape.to_vec() };
        Self { bytes: vec![0; desc.num_bytes()], desc }
    }

    fn new(dtype: DataType, shape: &[usize], bytes: Vec<u8>) -> Self {
        let desc = Desc { dtype, shape: shape.to_vec() };
        assert_eq!(desc.num_bytes(), bytes.len(), "{desc:?}");
        Self { desc, bytes }
    }

    /// As f64, exactly.
    pub(crate) fn numbers(&self) -> Vec<f64> {
        let size = self.desc.dtype.size();
        self.bytes.chunks_exact(size).map(|item| number(self.desc.dtype, item)).collect()
    }
}

fn number(dtype: DataType, item: &[u8]) -> f64 {
    match dtype {
        DataType::Float => {
            f64::from(f32::from_le_bytes(item.try_into().expect("size of the type")))
        }
        DataType::Float16 => {
            f16::from_le_bytes(item.try_into().expect("size of the type")).to_f64()
        }
        DataType::Bf16 => bf16::from_le_bytes(item.try_into().expect("size of the type")).to_f64(),
        DataType::Int32 => {
            f64::from(i32::from_le_bytes(item.try_into().expect("size of the type")))
        }
        DataType::Int64 => i64::from_le_bytes(item.try_into().expect("size of the type")) as f64,
        DataType::Uint8 | DataType::Bool => f64::from(item[0]),
        DataType::Int8 => f64::from(item[0] as i8),
        other => panic!("no numbers of {other:?}"),
    }
}

/// f32 tensor.
pub(crate) fn f32s(shape: &[usize], values: &[f32]) -> Value {
    Value::floats(DataType::Float, shape, values)
}

/// int32 tensor.
pub(crate) fn i32s(shape: &[usize], values: &[i64]) -> Value {
    Value::integers(DataType::Int32, shape, values)
}

/// int64 tensor.
pub(crate) fn i64s(shape: &[usize], values: &[i64]) -> Value {
    Value::integers(DataType::Int64, shape, values)
}

/// The same numbers each time, between -1 and 1, exact in every floating-point type.
pub(crate) fn noise(seed: u64, dtype: DataType, shape: &[usize]) -> Value {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 40) % 129) as f32 / 64.0 - 1.0
        })
        .collect();
    Value::floats(dtype, shape, &values)
}

/// A graph in the making.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    graph: GeGraph,
}

impl Builder {
    pub(crate) fn node(
        &mut self,
        op: &str,
        inputs: &[(&str, Edge)],
        attrs: &[(&str, Attr)],
        outputs: &[(DataType, &[usize])],
    ) -> Vec<Edge> {
        let node = self.graph.nodes.len();
        self.graph.nodes.push(Node {
            name: format!("n{node}_{op}"),
            op: op.to_owned(),
            attrs: attrs.iter().map(|(name, attr)| ((*name).to_owned(), attr.clone())).collect(),
            inputs: inputs
                .iter()
                .map(|&(name, edge)| Input { name: name.to_owned(), edge })
                .collect(),
            output_names: (0..outputs.len()).map(|idx| format!("y{idx}")).collect(),
            outputs: outputs
                .iter()
                .map(|&(dtype, shape)| Desc { dtype, shape: shape.to_vec() })
                .collect(),
        });
        (0..outputs.len()).map(|output| Edge { node, output }).collect()
    }

    fn input(&mut self, op: &str, desc: &Desc) -> Edge {
        let edge = self.node(op, &[], &[], &[(desc.dtype, &desc.shape)])[0];
        self.graph.inputs.push(edge.node);
        edge
    }

    pub(crate) fn data(&mut self, desc: &Desc) -> Edge {
        self.input("Data", desc)
    }

    pub(crate) fn ref_data(&mut self, desc: &Desc) -> Edge {
        self.input("RefData", desc)
    }

    pub(crate) fn constant(&mut self, value: &Value) -> Edge {
        let attrs = [("value", Attr::Tensor(value.desc.clone(), value.bytes.clone()))];
        self.node("Const", &[], &attrs, &[(value.desc.dtype, &value.desc.shape)])[0]
    }

    pub(crate) fn finish(mut self, outputs: &[Edge]) -> GeGraph {
        let inputs: Vec<(String, Edge)> =
            outputs.iter().enumerate().map(|(idx, edge)| (format!("input{idx}"), *edge)).collect();
        let inputs: Vec<_> = inputs.iter().map(|(name, edge)| (name.as_str(), *edge)).collect();
        self.node("NetOutput", &inputs, &[], &[]);
        self.graph.outputs = outputs.to_vec();
        self.graph
    }
}

/// Runs a graph on inputs that nobody may change.
pub(crate) fn run_graph(graph: &GeGraph, inputs: &[Value]) -> Result<Vec<Value>, KernelError> {
    let mut bindings: Vec<_> = inputs.iter().map(|value| Binding::Read(&value.bytes)).collect();
    run_bound(graph, &mut bindings)
}

/// Runs a graph.
pub(crate) fn run_bound(
    graph: &GeGraph,
    bindings: &mut [Binding<'_>],
) -> Result<Vec<Value>, KernelError> {
    let descs = graph.outputs.iter().map(|edge| &graph.nodes[edge.node].outputs[edge.output]);
    let mut outputs: Vec<Value> = descs.map(|desc| Value::zeros(desc.dtype, &desc.shape)).collect();
    let mut slices: Vec<&mut [u8]> =
        outputs.iter_mut().map(|value| value.bytes.as_mut_slice()).collect();
    run(graph, bindings, &mut slices)?;
    Ok(outputs)
}

/// Runs one operator.
pub(crate) fn run_op(
    op: &str,
    inputs: &[(&str, Value)],
    attrs: &[(&str, Attr)],
    outputs: &[(DataType, &[usize])],
) -> Result<Vec<Value>, KernelError> {
    let mut builder = Builder::default();
    let edges: Vec<_> =
        inputs.iter().map(|(name, value)| (*name, builder.data(&value.desc))).collect();
    let outputs = builder.node(op, &edges, attrs, outputs);
    let values: Vec<Value> = inputs.iter().map(|(_, value)| value.clone()).collect();
    run_graph(&builder.finish(&outputs), &values)
}

/// What an operator that must fail says.
pub(crate) fn complaint(
    op: &str,
    inputs: &[(&str, Value)],
    attrs: &[(&str, Attr)],
    outputs: &[(DataType, &[usize])],
) -> String {
    let error = run_op(op, inputs, attrs, outputs).expect_err("must fail");
    assert_eq!(error.op, op);
    error.what
}

/// Checks numbers against exact ones, to a fraction of the largest.
#[track_caller]
pub(crate) fn assert_close(got: &Value, expected: &[f64], tolerance: f64) {
    let got = got.numbers();
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(1e-30_f64, |most, x| most.max(x.abs()));
    for (idx, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs() / largest;
        assert!(error <= tolerance, "element {idx}: expected {expected}, got {got}");
    }
}

/// Half of a step between neighbours of that type, relative, and a little for the sums.
pub(crate) fn rounding(dtype: DataType) -> f64 {
    match dtype {
        DataType::Float => 2e-6,
        DataType::Float16 => 0.5 / 1024.0 + 2e-6,
        DataType::Bf16 => 0.5 / 128.0 + 2e-6,
        other => panic!("no rounding of {other:?}"),
    }
}

pub(crate) const FLOATS: [DataType; 3] = [DataType::Float, DataType::Float16, DataType::Bf16];
