//! Graphs that keep every rule, written by hand.

use std::collections::BTreeMap;

use GeDType::{BF16, Bool, F32, I32, I64};

use super::super::super::dtype::GeDType;
use super::super::super::proto::{
    AttrDef, AttrValue, GraphDef, ListType, ListValue, ModelDef, OpDef, ShapeDef, TensorDef,
    TensorDescriptor,
};

type Attrs<'a> = &'a [(&'a str, AttrValue)];
type Outputs<'a> = &'a [(&'a str, GeDType, &'a [i64])];

#[derive(Default)]
pub(super) struct Sample {
    nodes: Vec<OpDef>,
    num_inputs: i64,
}

pub(super) fn desc(dtype: GeDType, dim: &[i64]) -> TensorDescriptor {
    TensorDescriptor {
        dtype: dtype.proto(),
        shape: Some(ShapeDef { dim: dim.to_vec() }),
        layout: "ND".to_owned(),
        device_type: "NPU".to_owned(),
        ..TensorDescriptor::default()
    }
}

pub(super) fn attr(value: AttrValue) -> AttrDef {
    AttrDef { value: Some(value) }
}

pub(super) fn ints(i: &[i64]) -> AttrValue {
    let val_type = ListType::Int as i32;
    AttrValue::List(ListValue { i: i.to_vec(), val_type, ..ListValue::default() })
}

fn texts(s: &[&str]) -> AttrValue {
    let s = s.iter().map(|text| text.as_bytes().to_vec()).collect();
    let val_type = ListType::String as i32;
    AttrValue::List(ListValue { s, val_type, ..ListValue::default() })
}

/// Writes the name maps.
pub(super) fn name(op: &mut OpDef, side: &str, names: &[&str]) {
    let indices: Vec<i64> = (0..names.len() as i64).collect();
    op.attr.insert(format!("_{side}_name_key"), attr(texts(names)));
    op.attr.insert(format!("_{side}_name_value"), attr(ints(&indices)));
}

impl Sample {
    fn push(
        &mut self,
        node: &str,
        op_type: &str,
        attrs: Attrs<'_>,
        names: [&[&str]; 2],
        descs: [Vec<TensorDescriptor>; 2],
        edges: &[&str],
    ) {
        let [input_desc, output_desc] = descs;
        let mut op = OpDef {
            name: node.to_owned(),
            r#type: op_type.to_owned(),
            input: edges.iter().map(|&edge| edge.to_owned()).collect(),
            attr: BTreeMap::new(),
            input_desc,
            output_desc,
        };
        op.attr.extend(attrs.iter().map(|(key, value)| ((*key).to_owned(), attr(value.clone()))));
        name(&mut op, "input", names[0]);
        name(&mut op, "output", names[1]);
        self.nodes.push(op);
    }

    pub(super) fn input(&mut self, op_type: &str, node: &str, dtype: GeDType, dims: &[i64]) {
        let index = AttrValue::I(self.num_inputs);
        self.num_inputs += 1;
        let descs = [vec![desc(dtype, dims)], vec![desc(dtype, dims)]];
        self.push(node, op_type, &[("index", index)], [&["x"], &["y"]], descs, &[]);
    }

    pub(super) fn data(&mut self, node: &str, dtype: GeDType, dims: &[i64]) {
        self.input("Data", node, dtype, dims);
    }

    pub(super) fn constant(&mut self, node: &str, dims: &[i64], values: &[i32]) {
        let desc = desc(I32, dims);
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let value = AttrValue::T(TensorDef { desc: Some(desc.clone()), data });
        self.push(node, "Const", &[("value", value)], [&[], &["y"]], [vec![], vec![desc]], &[]);
    }

    /// A node; its inputs are described as their producers describe them.
    pub(super) fn node(
        &mut self,
        node: &str,
        op_type: &str,
        inputs: &[(&str, &str)],
        attrs: Attrs<'_>,
        outputs: Outputs<'_>,
    ) {
        let described = inputs.iter().map(|(_, edge)| self.described(edge)).collect();
        let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
        let edges: Vec<&str> = inputs.iter().map(|(_, edge)| *edge).collect();
        let outs: Vec<&str> = outputs.iter().map(|(name, _, _)| *name).collect();
        let descs = outputs.iter().map(|&(_, dtype, dims)| desc(dtype, dims)).collect();
        self.push(node, op_type, attrs, [&names, &outs], [described, descs], &edges);
    }

    fn described(&self, edge: &str) -> TensorDescriptor {
        let (producer, output) = edge.rsplit_once(':').unwrap();
        let producer = self.nodes.iter().find(|op| op.name == producer).unwrap();
        producer.output_desc[output.parse::<usize>().unwrap()].clone()
    }

    pub(super) fn finish(mut self, outputs: &[&str]) -> ModelDef {
        let names: Vec<String> = (0..outputs.len()).map(|idx| format!("input{idx}")).collect();
        let inputs: Vec<_> =
            names.iter().map(String::as_str).zip(outputs.iter().copied()).collect();
        self.node("out", "NetOutput", &inputs, &[], &[]);
        let graph = GraphDef { name: "step".to_owned(), op: self.nodes, ..GraphDef::default() };
        ModelDef {
            name: "sample".to_owned(),
            version: 1,
            graph: vec![graph],
            ..ModelDef::default()
        }
    }

    fn reshape(&mut self, node: &str, from: &str, dtype: GeDType, dims: &[i64]) {
        let shape = format!("{node}_shape");
        let values: Vec<i32> = dims.iter().map(|&dim| dim as i32).collect();
        self.constant(&shape, &[dims.len() as i64], &values);
        let inputs = [("x", from), ("shape", &format!("{shape}:0"))];
        self.node(node, "Reshape", &inputs, &[], &[("y", dtype, dims)]);
    }

    fn linear(&mut self, node: &str, x: &str, w: &str, dims: &[i64]) {
        let attrs = [("transpose_x2", AttrValue::B(true))];
        self.node(node, "MatMulV2", &[("x1", x), ("x2", w)], &attrs, &[("y", BF16, dims)]);
    }

    fn gather(&mut self, node: &str, table: &str, rows: &str, dims: &[i64]) {
        let inputs = [("x", table), ("indices", rows), ("axis", "zero:0")];
        self.node(node, "GatherV2", &inputs, &[], &[("y", BF16, dims)]);
    }
}

/// One layer of a decoder and the head: two sequences, hidden 128, two heads of 64, one KV head.
pub(super) fn decoder() -> ModelDef {
    let mut g = Sample::default();
    g.data("ids", I32, &[2]);
    g.data("positions", I32, &[2]);
    g.data("slots", I32, &[2, 2]);
    g.data("tables", I32, &[2, 4]);
    g.data("kv_lens", I64, &[2]);
    for (name, dims) in [
        ("embed", &[32, 128][..]),
        ("gamma", &[128]),
        ("w_qkv", &[256, 128]),
        ("w_o", &[128, 128]),
        ("w_gate_up", &[192, 128]),
        ("w_down", &[128, 96]),
        ("cos_table", &[16, 64]),
        ("sin_table", &[16, 64]),
    ] {
        g.data(name, BF16, dims);
    }
    g.input("RefData", "k_cache", BF16, &[9, 128, 64]);
    g.input("RefData", "v_cache", BF16, &[9, 128, 64]);
    g.constant("zero", &[], &[0]);

    g.gather("x", "embed:0", "ids:0", &[2, 128]);
    let outputs = [("y", BF16, &[2, 128][..]), ("rstd", F32, &[2, 1])];
    let epsilon = [("epsilon", AttrValue::F(1e-6))];
    g.node("norm", "RmsNorm", &[("x", "x:0"), ("gamma", "gamma:0")], &epsilon, &outputs);
    g.linear("qkv", "norm:0", "w_qkv:0", &[2, 256]);
    let parts = [("y0", BF16, &[2, 128][..]), ("y1", BF16, &[2, 64]), ("y2", BF16, &[2, 64])];
    let attrs = [
        ("size_splits", ints(&[128, 64, 64])),
        ("split_dim", AttrValue::I(1)),
        ("num_split", AttrValue::I(3)),
    ];
    g.node("split", "SplitVD", &[("x", "qkv:0")], &attrs, &parts);
    for table in ["cos", "sin"] {
        g.gather(&format!("{table}_rows"), &format!("{table}_table:0"), "positions:0", &[2, 64]);
        g.reshape(table, &format!("{table}_rows:0"), BF16, &[1, 2, 1, 64]);
    }
    for (name, from, dims, flat) in [
        ("q", "split:0", [1, 2, 2, 64], &[2, 1, 128][..]),
        ("k", "split:1", [1, 2, 1, 64], &[2, 64]),
    ] {
        let (heads, rope) = (format!("{name}_heads"), format!("{name}_rope"));
        g.reshape(&heads, from, BF16, &dims);
        let inputs = [("x", &*format!("{heads}:0")), ("r1", "cos:0"), ("r2", "sin:0")];
        g.node(&rope, "RotaryMul", &inputs, &[], &[("y", BF16, &dims)]);
        g.reshape(&format!("{name}_flat"), &format!("{rope}:0"), BF16, flat);
    }
    for (node, cache, rows) in
        [("k_new", "k_cache:0", "k_flat:0"), ("v_new", "v_cache:0", "split:2")]
    {
        let inputs = [("var", cache), ("indices", "slots:0"), ("updates", rows)];
        g.node(node, "ScatterNdUpdate", &inputs, &[], &[("var", BF16, &[9, 128, 64])]);
    }
    let inputs = [
        ("query", "q_flat:0"),
        ("key0", "k_new:0"),
        ("value0", "v_new:0"),
        ("actual_seq_lengths_kv", "kv_lens:0"),
        ("block_table", "tables:0"),
    ];
    let attrs = [
        ("num_heads", AttrValue::I(2)),
        ("num_key_value_heads", AttrValue::I(1)),
        ("scale", AttrValue::F(0.125)),
        ("input_layout", AttrValue::S(b"BSH".to_vec())),
        ("block_size", AttrValue::I(128)),
    ];
    let outputs = [("attention_out", BF16, &[2, 1, 128][..]), ("softmax_lse", F32, &[0])];
    g.node("attn", "FusedInferAttentionScore", &inputs, &attrs, &outputs);
    g.reshape("attn_flat", "attn:0", BF16, &[2, 128]);
    g.linear("o", "attn_flat:0", "w_o:0", &[2, 128]);
    let inputs = [("x1", "o:0"), ("x2", "x:0"), ("gamma", "gamma:0")];
    let outputs = [("y", BF16, &[2, 128][..]), ("rstd", F32, &[2, 1]), ("x", BF16, &[2, 128])];
    g.node("norm_2", "AddRmsNorm", &inputs, &epsilon, &outputs);
    g.linear("gate_up", "norm_2:0", "w_gate_up:0", &[2, 192]);
    g.node("act", "SwiGlu", &[("x", "gate_up:0")], &[], &[("y", BF16, &[2, 96])]);
    g.linear("down", "act:0", "w_down:0", &[2, 128]);
    g.node("sum", "Add", &[("x1", "down:0"), ("x2", "norm_2:2")], &[], &[("y", BF16, &[2, 128])]);
    g.linear("head", "sum:0", "embed:0", &[2, 32]);
    let dst_type = [("dst_type", AttrValue::I(F32.acl().into()))];
    g.node("logits", "Cast", &[("x", "head:0")], &dst_type, &[("y", F32, &[2, 32])]);
    g.constant("last", &[], &[-1]);
    let dtype = [("dtype", AttrValue::Dt(I32.acl().into()))];
    let inputs = [("x", "logits:0"), ("dimension", "last:0")];
    g.node("argmax", "ArgMaxV2", &inputs, &dtype, &[("y", I32, &[2])]);
    g.constant("four", &[], &[4]);
    let outputs = [("values", F32, &[2, 4][..]), ("indices", I32, &[2, 4])];
    g.node("top", "TopKV2", &[("x", "logits:0"), ("k", "four:0")], &[], &outputs);
    g.finish(&["logits:0", "argmax:0", "top:0", "top:1"])
}

/// An attention alone, as it is in a graph.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    pub(super) layout: &'static str,
    pub(super) dtype: GeDType,
    pub(super) query: Vec<i64>,
    pub(super) num_heads: i64,
    pub(super) num_kv_heads: i64,
    pub(super) cache: Vec<i64>,
    pub(super) block_size: i64,
    pub(super) tables: Option<(GeDType, Vec<i64>)>,
    pub(super) q_lens: Option<Vec<i64>>,
    pub(super) kv_lens: Option<Vec<i64>>,
    pub(super) sparse_mode: i64,
    pub(super) mask: Option<(GeDType, Vec<i64>)>,
    pub(super) result: Option<Vec<i64>>,
}

impl Attention {
    /// One query for each of three sequences.
    pub(super) fn decode() -> Self {
        Self {
            layout: "BSH",
            dtype: GeDType::F16,
            query: vec![3, 1, 256],
            num_heads: 4,
            num_kv_heads: 2,
            cache: vec![8, 128, 128],
            block_size: 128,
            tables: Some((I32, vec![3, 5])),
            q_lens: None,
            kv_lens: Some(vec![3]),
            sparse_mode: 0,
            mask: None,
            result: None,
        }
    }

    /// Sixteen queries of one sequence.
    pub(super) fn prefill() -> Self {
        Self {
            query: vec![1, 16, 256],
            tables: Some((I32, vec![1, 5])),
            q_lens: Some(vec![1]),
            kv_lens: Some(vec![1]),
            sparse_mode: 3,
            mask: Some((Bool, vec![2048, 2048])),
            ..Self::decode()
        }
    }

    /// Twenty queries of three sequences.
    pub(super) fn packed() -> Self {
        Self {
            layout: "TND",
            dtype: BF16,
            query: vec![20, 4, 128],
            cache: vec![8, 128, 256],
            tables: Some((I32, vec![3, 5])),
            q_lens: Some(vec![3]),
            kv_lens: Some(vec![3]),
            ..Self::prefill()
        }
    }

    pub(super) fn model(&self) -> ModelDef {
        let mut g = Sample::default();
        let mut inputs = vec![("query", "q:0"), ("key0", "k:0"), ("value0", "v:0")];
        g.data("q", self.dtype, &self.query);
        g.input("RefData", "k", self.dtype, &self.cache);
        g.input("RefData", "v", self.dtype, &self.cache);
        let lens = |dims: &Option<Vec<i64>>| dims.clone().map(|dims| (I64, dims));
        for (name, edge, tensor) in [
            ("atten_mask", "mask:0", self.mask.clone()),
            ("actual_seq_lengths", "q_lens:0", lens(&self.q_lens)),
            ("actual_seq_lengths_kv", "kv_lens:0", lens(&self.kv_lens)),
            ("block_table", "tables:0", self.tables.clone()),
        ] {
            if let Some((dtype, dims)) = tensor {
                g.data(edge.trim_end_matches(":0"), dtype, &dims);
                inputs.push((name, edge));
            }
        }
        let attrs = [
            ("num_heads", AttrValue::I(self.num_heads)),
            ("num_key_value_heads", AttrValue::I(self.num_kv_heads)),
            ("input_layout", AttrValue::S(self.layout.into())),
            ("sparse_mode", AttrValue::I(self.sparse_mode)),
            ("block_size", AttrValue::I(self.block_size)),
        ];
        let result = self.result.as_ref().unwrap_or(&self.query);
        let outputs = [("attention_out", self.dtype, &result[..]), ("softmax_lse", F32, &[0])];
        g.node("attn", "FusedInferAttentionScore", &inputs, &attrs, &outputs);
        g.finish(&["attn:0"])
    }
}
