//! Rewrites that keep a graph's meaning. Each pass walks a graph once and builds a new one.
//!
//! | Pass | What it does |
//! | --- | --- |
//! | `order` | puts independent nodes into one order, whatever order they were built in |
//! | `fold` | computes what is known at compile time; drops what changes nothing |
//! | `fuse_elementwise` | add + norm, silu + mul become one op |
//! | `fuse_linear` | projections of the same input (q, k, v; gate, up) become one with a fused weight |
//! | `dead_code` | drops what nothing uses; inputs and states stay, they are the signature |

mod dead_code;
mod fold;
mod fuse_elementwise;
mod fuse_linear;
mod order;
mod rewrite;

use dead_code::dead_code;
use fold::fold;
use fuse_elementwise::fuse_elementwise;
use fuse_linear::fuse_linear;
use order::order;

use super::{Graph, Verified, VerifyError, verify};

/// Runs every pass in order, and verifies the result again.
///
/// # Errors
/// When the rewritten graph breaks a rule: a bug in a pass, reported instead of miscompiled.
pub fn optimise(graph: &Verified<Graph>) -> Result<Verified<Graph>, VerifyError> {
    let graph = order(graph);
    let graph = fold(&graph);
    // What is dead must not count as a use when ops are joined.
    let graph = dead_code(&graph);
    let graph = fuse_elementwise(&graph);
    let graph = fuse_linear(&graph);
    // Joining ops has moved some.
    verify(order(&dead_code(&graph)))
}
