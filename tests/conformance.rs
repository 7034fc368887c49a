//! Every backend computes what every op says.
//!
//! ```text
//! cases: graph, weights, steps --run on--> backends --> output, or a refusal that is known
//! oracle: plain loops in f64 -----------------------------------------------------> expected
//! ```
//!
//! | Part | What it holds |
//! | --- | --- |
//! | `backends` | the backends, in every configuration, and what each may refuse |
//! | `case` | what a case is; how one is built, run and compared |
//! | `oracle` | the ops by their definitions: no kernel of the crate is asked |
//! | `cases` | the cases, by op |
//! | `ascend` | a device with static graphs, simulated, and what only such a device has |
//! | `refusals` | graphs that a backend may only refuse |
//! | `invariance` | a row's result does not depend on the rest of the batch, bit for bit |
//! | `wanted` | the largest logits are those of all |
//! | `logit_rows` | more rows of logits than sequences |
//! | `meanwhile` | what is done while the device works |
//! | `blocks` | blocks of the KV pool that are copied, read and written |
//! | `random` | random graphs: compile or are refused, and mean the same after the passes |
//! | `damage` | damaged artifacts are refused or run without a panic |
//! | `bad_steps` | inputs that do not fit the graph are errors |

#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "tests")]
// Expected numbers are compared bit for bit where the definition says so.
#![allow(clippy::float_cmp, reason = "tests")]

#[cfg(feature = "ascend")]
#[path = "conformance/ascend/mod.rs"]
mod ascend;
#[path = "conformance/backends.rs"]
mod backends;
#[path = "conformance/bad_steps.rs"]
mod bad_steps;
#[path = "conformance/blocks.rs"]
mod blocks;
#[path = "conformance/case.rs"]
mod case;
#[path = "conformance/cases/mod.rs"]
mod cases;
#[path = "conformance/damage.rs"]
mod damage;
#[path = "conformance/data.rs"]
mod data;
#[path = "conformance/invariance.rs"]
mod invariance;
#[path = "conformance/logit_rows.rs"]
mod logit_rows;
#[path = "conformance/meanwhile.rs"]
mod meanwhile;
#[path = "conformance/oracle.rs"]
mod oracle;
#[path = "conformance/random.rs"]
mod random;
#[path = "common/random_graph.rs"]
mod random_graph;
#[path = "conformance/refusals.rs"]
mod refusals;
#[cfg(feature = "ascend")]
#[path = "common/toolkit.rs"]
mod toolkit;
#[path = "conformance/wanted.rs"]
mod wanted;

// The name under which `random_graph` finds it.
use cairn::ir;
