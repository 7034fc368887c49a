//! Graph to text.

use std::fmt;

use crate::ir::{Dim, Graph, Node, Op, RopeStyle, Shape};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {}", quote(&self.name))?;
        for (idx, symbol) in self.symbols.iter().enumerate() {
            let (name, min, max) = (quote(&symbol.name), symbol.min, symbol.max);
            writeln!(f, "symbol s{idx} {name} {min}..={max}")?;
        }
        for node in &self.nodes {
            self.print_node(node, f)?;
        }
        write!(f, "return ")?;
        list(f, self.outputs.iter().map(|id| format!("%{}", id.0)))?;
        writeln!(f)
    }
}

impl Graph {
    fn print_node(&self, node: &Node, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(
            f,
            node.outputs.iter().map(|id| {
                let value = self.value(*id);
                format!("%{} {}: {}{}", id.0, quote(&value.name), value.ty.dtype, value.ty.shape)
            }),
        )?;
        write!(f, " = {}(", node.op.name())?;
        list(f, node.inputs.iter().map(|id| format!("%{}", id.0)))?;
        let attributes = attributes(&node.op);
        if !attributes.is_empty() {
            write!(f, "; ")?;
            list(f, attributes.into_iter())?;
        }
        writeln!(f, ")")
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = String>) -> fmt::Result {
    for (idx, item) in items.enumerate() {
        if idx > 0 {
            f.write_str(", ")?;
        }
        f.write_str(&item)?;
    }
    Ok(())
}

fn quote(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

fn attributes(op: &Op) -> Vec<String> {
    match op {
        Op::Input
        | Op::State
        | Op::Linear
        | Op::Add
        | Op::Mul
        | Op::Silu
        | Op::SiluMul
        | Op::KvWrite => Vec::new(),
        Op::Weight { parts } => {
            let rows = |dim: Dim| dim.to_string();
            parts.iter().map(|part| format!("{}={}", quote(&part.name), rows(part.rows))).collect()
        }
        Op::Constant(constant) => {
            let values: Vec<String> = constant.values.iter().map(|v| format!("{v:?}")).collect();
            vec![
                format!("shape={}", Shape::fixed(&constant.shape)),
                format!("values=[{}]", values.join(", ")),
            ]
        }
        Op::Gather { dtype } | Op::Cast { dtype } => vec![format!("dtype={dtype}")],
        Op::RmsNorm { eps } | Op::AddRmsNorm { eps } => vec![format!("eps={eps:?}")],
        Op::Slice { start, len } => vec![format!("start={start}"), format!("len={len}")],
        Op::Reshape { shape } => vec![format!("shape={shape}")],
        Op::Rope { style } => vec![format!(
            "style={}",
            match style {
                RopeStyle::Halves => "halves",
                RopeStyle::Interleaved => "interleaved",
            }
        )],
        Op::PagedAttention { scale, window } => {
            let mut attributes = vec![format!("scale={scale:?}")];
            if let Some(window) = window {
                attributes.push(format!("window={window}"));
            }
            attributes
        }
    }
}
