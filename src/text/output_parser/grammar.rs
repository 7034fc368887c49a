/// Which tool an answer must call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequiredTool {
    /// Any of them.
    Any,
    /// The one of this name.
    Named(String),
}
