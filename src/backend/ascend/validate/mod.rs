//! Holds a graph of GE against the rules it must keep, before anything compiles it.
//!
//! GE finds some mistakes minutes later and without saying where, crashes on some, and takes others
//! for something else. What it does without a rule stands at each [`Rule`].
//!
//! ```text
//! ModelDef --graph::read--> Graph: every edge leads somewhere, every descriptor has a parameter
//!                             |--> attributes   types of attributes against the prototype
//!                             |--> boundary     Data, RefData, Const, NetOutput
//!                             |--> kernels      element types that go together; releases, chips
//!                             |--> memory       changes in place: of what, in which order
//!                             |--> shapes       what the operators make of their inputs
//!                             `--> attention    what its kernel can do
//! ```
//!
//! The prototypes are data: `op_protos.json`, read by `prototypes`.
//!
//! What this module deliberately does not do: it mends nothing, and it does not know whether the
//! graph computes what it should.

mod attention;
mod attributes;
mod boundary;
mod graph;
mod kernels;
mod memory;
mod prototypes;
mod shapes;
mod signature;
#[cfg(test)]
mod tests;
mod violation;

use prost::Message as _;

pub use violation::{Rule, Violation};

use super::proto::ModelDef;
use super::target::Target;

/// Holds a model against every [`Rule`].
///
/// # Errors
/// The first violation that is found.
pub fn validate(model: &ModelDef, target: &Target) -> Result<(), Violation> {
    let of_model = |rule, detail| Violation {
        node: model.name.clone(),
        op: "ModelDef".to_owned(),
        rule,
        detail,
    };
    model_size(model.encoded_len()).map_err(|detail| of_model(Rule::ModelSize, detail))?;
    let [def] = model.graph.as_slice() else {
        let detail = format!("expected one graph, got {}", model.graph.len());
        return Err(of_model(Rule::OneGraph, detail));
    };
    let graph = graph::read(def)?;
    attributes::check(&graph)?;
    boundary::check(&graph)?;
    kernels::check(&graph, *target)?;
    memory::check(&graph)?;
    shapes::check(&graph)?;
    attention::check(&graph, *target)
}

/// GE reads models through a signed 32-bit length.
fn model_size(bytes: usize) -> Result<(), String> {
    match i32::try_from(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("expected at most {} bytes, got {bytes}", i32::MAX)),
    }
}
