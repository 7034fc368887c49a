//! GE's graphs: decoding an `.air` file, the loader's rules, and shapes and types of operators.
//!
//! | Module | What |
//! | --- | --- |
//! | [`graph`] | the decoded graph: nodes, edges, attributes |
//! | [`proto`] | the messages of the file format |
//! | `load` | linking nodes by name |
//! | [`protos`] | the table of operators |
//! | `names`, `attrs` | inputs, outputs and attributes against the table |
//! | `sources` | `Data`, `RefData`, `Const` |
//! | [`infer`], `dtypes` | shapes and types of operators |
//! | `order`, `refs` | order of execution, tensors changed in place |
//! | [`prepare`] | all of it in a row |
//! | [`memory`] | device memory of a graph |
//! | [`version`] | toolkits and chips |
//! | [`error`] | why a graph is refused |

mod attrs;
mod dtypes;
pub mod error;
pub mod graph;
pub mod infer;
mod load;
pub mod memory;
mod names;
mod order;
pub mod prepare;
pub mod proto;
pub mod protos;
mod refs;
mod sources;
pub mod version;
