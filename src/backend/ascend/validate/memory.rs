//! Changes in place: of what, and in which order with everybody else.
//!
//! An output that has the name of an input is the same memory. GE orders nothing by memory: only
//! edges order.
//!
//! ```text
//! RefData k --> ScatterNdUpdate --> attention     ordered by the data
//! RefData k --> ScatterNdUpdate
//!        `----> attention                         not ordered: reads before or after, by chance
//! ```
//!
//! What this module deliberately does not do: any order is enough; which one is meant is for the
//! graph's author.

use std::collections::{BTreeMap, HashMap};

use super::graph::{Graph, Node, Source};
use super::violation::{Rule, Violation};

/// Operators that also work in place on results of others.
const ON_RESULTS: [&str; 1] = ["ApplyRotaryPosEmb"];

/// Holds changes in place to their rules.
pub(super) fn check(graph: &Graph<'_>) -> Result<(), Violation> {
    for node in &graph.nodes {
        for (_, source) in node.in_place() {
            source_of_change(graph, node, source)?;
        }
    }
    changes_are_ordered(graph)
}

fn source_of_change(graph: &Graph<'_>, node: &Node<'_>, source: Source) -> Result<(), Violation> {
    let producer = &graph.nodes[source.node];
    let op_type = producer.op.r#type.as_str();
    let is_result =
        ON_RESULTS.contains(&node.op.r#type.as_str()) && !matches!(op_type, "Data" | "Const");
    let is_changed = producer.in_place().any(|(output, _)| output == source.output);
    node.ensure(op_type == "RefData" || is_changed || is_result, Rule::RefSource, || {
        format!("expected a RefData, got `{}`, {op_type}", producer.op.name)
    })
}

/// Who uses a memory.
#[derive(Default)]
struct Users {
    writers: Vec<usize>,
    all: Vec<usize>,
}

fn changes_are_ordered(graph: &Graph<'_>) -> Result<(), Violation> {
    for users in users(graph).values().filter(|users| !users.writers.is_empty()) {
        for &writer in &users.writers {
            let (before, after) = (reached(graph, writer, false), reached(graph, writer, true));
            let ordered = |user: usize| user == writer || before[user] || after[user];
            if let Some(&user) = users.all.iter().find(|&&user| !ordered(user)) {
                let user = graph.nodes[user].op;
                let detail = format!(
                    "expected an order with `{}`, {}, which uses the same memory",
                    user.name, user.r#type
                );
                return Err(Violation::of(graph.nodes[writer].op, Rule::RefOrder, detail));
            }
        }
    }
    Ok(())
}

/// The users of every memory, by the output that it was first.
fn users(graph: &Graph<'_>) -> BTreeMap<Source, Users> {
    let mut memory: HashMap<Source, Source> = HashMap::new();
    let mut users: BTreeMap<Source, Users> = BTreeMap::new();
    for &idx in &graph.order {
        let node = &graph.nodes[idx];
        for source in &node.sources {
            let first = memory.get(source).copied().unwrap_or(*source);
            users.entry(first).or_default().all.push(idx);
        }
        for (output, source) in node.in_place() {
            let first = memory.get(&source).copied().unwrap_or(source);
            memory.insert(Source { node: idx, output }, first);
            users.entry(first).or_default().writers.push(idx);
        }
        // It may be left out of the compiled graph: whoever reads it then reads the memory.
        if let ("Reshape", Some(source)) = (node.op.r#type.as_str(), node.source("x")) {
            let first = memory.get(&source).copied().unwrap_or(source);
            memory.insert(Source { node: idx, output: 0 }, first);
        }
    }
    users
}

/// Whether there is a path from that node to each node, or to that node from each.
fn reached(graph: &Graph<'_>, from: usize, forward: bool) -> Vec<bool> {
    let mut reached = vec![false; graph.nodes.len()];
    reached[from] = true;
    if forward {
        for &idx in &graph.order {
            reached[idx] |= graph.before(idx).any(|before| reached[before]);
        }
    } else {
        for &idx in graph.order.iter().rev() {
            if reached[idx] {
                graph.before(idx).for_each(|before| reached[before] = true);
            }
        }
    }
    reached
}
