//! GE's graphs: decoding an `.air` file, the loader's rules, and shapes and types of operators.
//!
//! | Module | What |
//! | --- | --- |
//! | [`graph`] | the decoded graph: nodes, edges, attributes |

pub mod graph;
