//! A GE graph for people, one line for each node:
//!
//! ```text
//! layout decode
//! input_0: int32[8] = Data index=0  // plain, input 0
//! n9_MatMulV2: bfloat16[8, 256] = MatMulV2(x1=n7_RmsNorm:0, x2=weight_3:0) transpose_x2=true
//! output = NetOutput(input0=n30_Cast:0, after n12_ScatterNdUpdate)  // result
//! ```
//!
//! What this module deliberately does not do: it does not read what it writes.

use std::fmt::{self, Display, Write};

use super::super::artifact::{IoTable, OutputRole, Role};
use super::super::dtype::GeDType;
use super::super::proto::{AttrDef, AttrValue, OpDef, TensorDef, TensorDescriptor};
use super::Lowered;

/// Bytes of a constant that are still printed.
const MAX_PRINTED_BYTES: usize = 64;

/// The graph, one line for each node.
pub fn text(lowered: &Lowered) -> String {
    let mut text = format!("layout {}\n", format!("{:?}", lowered.io.layout).to_lowercase());
    for graph in &lowered.model.graph {
        for node in &graph.op {
            writeln!(text, "{}", Line(node, &lowered.io)).expect("invariant: strings take all");
        }
    }
    text
}

struct Line<'a>(&'a OpDef, &'a IoTable);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(node, io) = *self;
        f.write_str(&node.name)?;
        for (idx, desc) in node.output_desc.iter().enumerate() {
            f.write_str(if idx == 0 { ": " } else { ", " })?;
            tensor(f, desc)?;
        }
        write!(f, " = {}", node.r#type)?;
        operands(f, node)?;
        // The maps of names are in the operands.
        for (name, value) in node.attr.iter().filter(|(name, _)| !name.starts_with('_')) {
            write!(f, " {name}=")?;
            attribute(f, value)?;
        }
        if let Some(input) = io.inputs.iter().find(|input| input.name == node.name) {
            write!(f, "  // {}", Purpose(input.role))?;
        }
        if node.r#type == "NetOutput" {
            let roles = io.outputs.iter().map(|output| match output.role {
                OutputRole::Result => "result",
                OutputRole::Argmax => "argmax",
                OutputRole::TopValues => "top values",
                OutputRole::TopIndices => "top indices",
            });
            write!(f, "  // {}", roles.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

fn operands(f: &mut fmt::Formatter<'_>, node: &OpDef) -> fmt::Result {
    if node.input.is_empty() {
        return Ok(());
    }
    let mut names = node.input_desc.iter().map(|desc| desc.name.as_str());
    let operands = node.input.iter().map(|edge| match edge.strip_suffix(":-1") {
        Some(producer) => format!("after {producer}"),
        None => format!("{}={edge}", names.next().unwrap_or("?")),
    });
    write!(f, "({})", operands.collect::<Vec<_>>().join(", "))
}

fn tensor(f: &mut fmt::Formatter<'_>, desc: &TensorDescriptor) -> fmt::Result {
    match GeDType::from_proto(desc.dtype) {
        Some(dtype) => write!(f, "{dtype}")?,
        None => write!(f, "dtype {}", desc.dtype)?,
    }
    write!(f, "{:?}", desc.shape.as_ref().map_or(&[][..], |shape| &shape.dim))
}

fn attribute(f: &mut fmt::Formatter<'_>, attr: &AttrDef) -> fmt::Result {
    match &attr.value {
        Some(AttrValue::I(value)) => write!(f, "{value}"),
        Some(AttrValue::F(value)) => write!(f, "{value:?}"),
        Some(AttrValue::B(value)) => write!(f, "{value}"),
        Some(AttrValue::S(value)) => write!(f, "{}", String::from_utf8_lossy(value)),
        Some(AttrValue::Dt(value)) => {
            match i32::try_from(*value).ok().and_then(GeDType::from_acl) {
                Some(dtype) => write!(f, "{dtype}"),
                None => write!(f, "dtype {value}"),
            }
        }
        Some(AttrValue::List(list)) => write!(f, "{:?}", list.i),
        Some(AttrValue::T(value)) => numbers(f, value),
        Some(AttrValue::Bt(value)) => write!(f, "{} bytes", value.len()),
        None => f.write_str("nothing"),
    }
}

/// The numbers of a constant, if they are few.
fn numbers(f: &mut fmt::Formatter<'_>, tensor: &TensorDef) -> fmt::Result {
    let dtype = tensor.desc.as_ref().and_then(|desc| GeDType::from_proto(desc.dtype));
    let numbers: Vec<String> = match dtype {
        _ if tensor.data.len() > MAX_PRINTED_BYTES => Vec::new(),
        Some(GeDType::I32) => each(&tensor.data, i32::from_le_bytes),
        Some(GeDType::I64) => each(&tensor.data, i64::from_le_bytes),
        Some(GeDType::F32) => each(&tensor.data, f32::from_le_bytes),
        _ => Vec::new(),
    };
    match numbers.as_slice() {
        [] => write!(f, "{} bytes", tensor.data.len()),
        numbers => write!(f, "[{}]", numbers.join(", ")),
    }
}

fn each<const N: usize, T: Display>(bytes: &[u8], number: fn([u8; N]) -> T) -> Vec<String> {
    let (numbers, _) = bytes.as_chunks();
    numbers.iter().map(|&bytes| number(bytes).to_string()).collect()
}

struct Purpose(Role);

impl Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Role::Plain { input } | Role::Ids { input, .. } => write!(f, "input {input}"),
            Role::Slots { input, block_size, dump_block } => {
                write!(f, "input {input}, slots of {dump_block} blocks of {block_size}")
            }
            Role::BlockTables { input, .. } => write!(f, "input {input}, block tables"),
            Role::QueryLengths { input } => write!(f, "input {input}, query lengths"),
            Role::KvLengths { input } => write!(f, "input {input}, KV lengths"),
            Role::CausalMask => f.write_str("causal mask"),
            Role::Weight { index } => write!(f, "weight {index}"),
            Role::State { index } => write!(f, "state {index}"),
        }
    }
}
