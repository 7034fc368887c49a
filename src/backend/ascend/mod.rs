//! Huawei Ascend through CANN. What exists so far: CANN's runtime is found, opened and asked for
//! its version, so that `--backend ascend` says what is there and what is missing. Graphs are not
//! lowered to GE yet.
//!
//! CANN is loaded at run time: building needs nothing of it.

use std::path::PathBuf;

use cairn_ffi::loader::{Acl, LoadError};

/// Opens CANN's runtime in the toolkits at `homes`, in that order, then wherever the system's
/// loader looks; returns a line that says which version was found and where.
///
/// # Errors
/// When no library works, with every path that was tried.
pub fn probe(homes: &[PathBuf]) -> Result<String, LoadError> {
    let acl = Acl::load(homes)?;
    let paths: Vec<String> = acl.paths().iter().map(|path| path.display().to_string()).collect();
    Ok(format!("CANN runtime {} at {}", acl.version(), paths.join(", ")))
}
