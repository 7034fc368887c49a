//! Why GE, or the simulator in its place, refuses a graph.
//!
//! | Code | Who speaks |
//! | --- | --- |
//! | `E18888` | the graph library: the file cannot be linked into a graph |
//! | `E11019` | an input is not fed |
//! | `E13025` | a `Data` node is of no type |
//! | `E19999` | an assertion of the compiler |
//! | `EZ9999` | the shape function of an operator; the reason is only in the log |
//! | `E19998` | the simulator: GE would take it in silence and compute something else |

/// Why a graph is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeError {
    /// `E18888`: the graph library, while the file is loaded. Names no node, as the real one.
    #[error("E18888: {0}")]
    Load(String),
    /// `E11019`: an input is not fed.
    #[error("E11019: operator {node}'s input {index} is not linked")]
    NotLinked {
        /// Name of the node.
        node: String,
        /// The input's index.
        index: usize,
    },
    /// `E13025`: an input of the graph has a type that is none.
    #[error(
        "E13025: input tensor is invalid, data type DT_UNDEFINED of operator {index} is not supported"
    )]
    UndefinedInput {
        /// Its `index` attribute.
        index: i64,
    },
    /// `E19999`: an assertion of the compiler.
    #[error("E19999: {0}")]
    Internal(String),
    /// `EZ9999`: a shape function.
    #[error("EZ9999: Call InferShapeAndType for node:{node}({op}) failed: {reason}")]
    Infer {
        /// Name of the node.
        node: String,
        /// Its operator.
        op: String,
        /// What the real compiler writes only into its log.
        reason: String,
    },
    /// `E19998`: GE would take it, and the result would be wrong.
    #[error("E19998: simulator: {0}")]
    Strict(String),
    /// GE would read outside its memory and die.
    #[error("segmentation fault: {0}")]
    Crash(String),
}

impl GeError {
    /// The code, as in `E18888`; empty for a crash.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Load(_) => "E18888",
            Self::NotLinked { .. } => "E11019",
            Self::UndefinedInput { .. } => "E13025",
            Self::Internal(_) => "E19999",
            Self::Infer { .. } => "EZ9999",
            Self::Strict(_) => "E19998",
            Self::Crash(_) => "",
        }
    }
}
