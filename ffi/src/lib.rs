//! The only crate of Cairn that talks to CANN, Huawei's toolkit for Ascend NPUs, and the only one
//! that is free to use `unsafe`. Nothing of CANN is needed to build it: the library is looked for
//! while the program runs.
//!
//! | Module | What |
//! | --- | --- |
//! | [`loader`] | finds and opens ACL, reads its version: [`Acl`], [`LoadError`] |
//! | [`status`] | ACL's status codes, what they are called and what can be done: [`AclStatus`] |
//!
//! This is all that exists: enough to say whether there is a CANN and which. Devices, memory,
//! streams and models are not wrapped yet.

pub mod loader;
pub mod status;

pub use loader::{Acl, AclVersion, Attempt, AttemptError, LoadError};
pub use status::{AclStatus, StatusClass};
