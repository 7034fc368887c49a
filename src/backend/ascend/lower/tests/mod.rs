//! What becomes of a decoder layer, of small graphs, of random ones, and what is refused.
//!
//! | Part | What it says |
//! | --- | --- |
//! | `decoder` | what a layer becomes in each layout, and by its options |
//! | `small` | what single ops become |
//! | `refusals` | every rule that a graph can break, with its place |
//! | `random` | random graphs: written so that they load, or refused |

mod decoder;
mod layer;
mod random;
mod refusals;
mod small;

use std::collections::HashSet;

use super::super::proto::{AttrValue, OpDef};
use super::super::target::{CannRelease, Target};
use super::super::validate::validate;
use super::{Lowered, lower, text};
use crate::backend::BackendError;
use crate::ir::{Builder, DType, Graph, Op, Shape, SymbolId, TypeError, ValueId, verify};

/// A target with the packed layout, and one without.
fn targets() -> [Target; 2] {
    let soc = "Ascend910B3".parse().unwrap();
    [CannRelease { major: 9, minor: 0 }, CannRelease::OLDEST].map(|cann| Target { soc, cann })
}

fn refusal(graph: Graph, target: &Target) -> String {
    match lower(&verify(graph).unwrap(), target) {
        Err(BackendError::Unsupported { what, .. }) => what,
        Err(other) => panic!("{other}"),
        Ok(lowered) => panic!("not refused:\n{}", text(&lowered)),
    }
}

fn accepted(graph: Graph, target: &Target) -> Lowered {
    let lowered = lower(&verify(graph).unwrap(), target).unwrap();
    check(&lowered, target);
    lowered
}

fn pinned(graph: &Graph, sizes: &[u64]) -> Graph {
    let bindings: Vec<_> = (0..).map(SymbolId).zip(sizes.iter().copied()).collect();
    graph.specialise(&bindings).unwrap()
}

fn nodes(lowered: &Lowered) -> &[OpDef] {
    &lowered.model.graph[0].op
}

fn kinds(lowered: &Lowered) -> Vec<&str> {
    let given = ["Data", "RefData", "Const", "NetOutput"];
    nodes(lowered)
        .iter()
        .map(|node| node.r#type.as_str())
        .filter(|op| !given.contains(op))
        .collect()
}

fn node<'a>(lowered: &'a Lowered, op: &str) -> &'a OpDef {
    nodes(lowered).iter().find(|node| node.r#type == op).unwrap_or_else(|| panic!("no {op}"))
}

fn dims(node: &OpDef, output: usize) -> &[i64] {
    &node.output_desc[output].shape.as_ref().unwrap().dim
}

/// What the loader wants of every graph, and that the table says the same as the graph.
fn check(lowered: &Lowered, target: &Target) {
    if let Err(violation) = validate(&lowered.model, target) {
        panic!("{violation}\n{}", text(lowered));
    }
    let nodes = nodes(lowered);
    let mut known = HashSet::new();
    for node in nodes {
        let (mut data, mut is_ordering) = (0, false);
        for edge in &node.input {
            let (producer, output) = edge.rsplit_once(':').unwrap();
            let producer =
                nodes.iter().find(|node| node.name == producer && known.contains(producer));
            let producer = producer.unwrap_or_else(|| panic!("{edge} of {}", node.name));
            if output == "-1" {
                is_ordering = true;
                continue;
            }
            assert!(!is_ordering, "{}: {edge} after an ordering edge", node.name);
            let (given, taken) =
                (&producer.output_desc[output.parse::<usize>().unwrap()], &node.input_desc[data]);
            assert_eq!((given.dtype, &given.shape), (taken.dtype, &taken.shape));
            data += 1;
        }
        let is_input = ["Data", "RefData"].contains(&node.r#type.as_str());
        assert_eq!(node.input_desc.len(), if is_input { 1 } else { data }, "{}", node.name);
        assert!(known.insert(node.name.as_str()), "two nodes {}", node.name);
    }
    let inputs = nodes.iter().filter(|node| node.attr.contains_key("index"));
    for (idx, (node, spec)) in inputs.zip(&lowered.io.inputs).enumerate() {
        assert_eq!(node.attr["index"].value, Some(AttrValue::I(idx as i64)));
        assert_eq!(node.name, spec.name);
        assert_eq!(node.output_desc[0].dtype, spec.dtype.proto());
        let shape: Vec<i64> = spec.shape.iter().map(|&dim| dim as i64).collect();
        assert_eq!(dims(node, 0), shape);
        let is_used = nodes
            .iter()
            .flat_map(|node| &node.input)
            .any(|edge| edge.rsplit_once(':').is_some_and(|(producer, _)| producer == node.name));
        assert!(is_used, "nothing uses {}", node.name);
    }
    let output = nodes.last().unwrap();
    assert_eq!(output.r#type, "NetOutput");
    assert_eq!(output.input_desc.len(), lowered.io.outputs.len());
    for (desc, spec) in output.input_desc.iter().zip(&lowered.io.outputs) {
        assert_eq!(desc.dtype, spec.dtype.proto());
    }
}

/// A graph over the weight `x: f32[dims]`.
fn over_x(
    dims: &[usize],
    make: impl FnOnce(&mut Builder, ValueId) -> Result<ValueId, TypeError>,
) -> Graph {
    let mut b = Builder::new("over x");
    let x = b.weight("x", DType::F32, Shape::fixed(dims));
    let y = make(&mut b, x).unwrap();
    b.finish(&[y])
}

fn shaped(dims: &[usize]) -> Op {
    Op::Reshape { shape: Shape::fixed(dims) }
}

fn kinds_over_x(
    dims: &[usize],
    make: impl FnOnce(&mut Builder, ValueId) -> Result<ValueId, TypeError>,
) -> Vec<String> {
    let lowered = accepted(over_x(dims, make), &targets()[0]);
    let largest = ["ArgMaxV2", "TopKV2"];
    let kinds = kinds(&lowered);
    kinds.into_iter().filter(|op| !largest.contains(op)).map(str::to_owned).collect()
}
