//! Huawei Ascend through CANN: graphs are lowered to GE, compiled by `atc`, run through ACL.
//!
//! CANN is loaded at run time: building needs nothing of it.

pub mod artifact;
pub mod dtype;
pub mod proto;
pub mod target;

use std::path::PathBuf;

use cairn_ffi::loader::{Acl, LoadError};

/// The backend's name, as in `--backend`.
pub(crate) const NAME: &str = "ascend";

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
