//! Huawei Ascend through CANN: graphs are lowered to GE, compiled by `atc`, run through ACL.
//!
//! ```text
//! compile   Verified<Graph> --lower--> GE graph --validate--> .air --atc--> OM --om--> artifact
//! load      artifact --check IO table--> Executable, on the one device of this process (session)
//! run       Step --step--> staging --copy--> device --execute--> results --copy--> Output
//! ```
//!
//! | Module | What |
//! | --- | --- |
//! | [`target`] | the chip and the release of CANN that graphs are made for |
//! | [`lower`], [`ge_graph`](self), [`proto`], [`dtype`] | from the IR to the messages of an `.air` file |
//! | [`validate`] | GE's rules, and those that GE does not check |
//! | [`toolkit`], [`atc`], [`om`] | what is installed; the compiler as a child process; what it wrote |
//! | [`artifact`] | what the cache keeps |
//! | `kv_layout` | how the KV cache lies on the device |
//! | `session`, `memory`, `step`, `executable` | the device, what lies on it, and what runs there |
//! | [`logs`] | where CANN writes its own logs |
//! | [`hardware`] | questions that only a device can answer |
//! | `backend` | all of it together: [`AscendBackend`] |
//!
//! CANN is loaded at run time: building needs nothing of it.

pub mod artifact;
pub mod atc;
mod backend;
pub mod dtype;
mod executable;
mod ge_graph;
pub mod hardware;
mod kv_layout;
pub mod logs;
pub mod lower;
mod memory;
pub mod om;
pub mod proto;
mod session;
mod step;
pub mod target;
pub mod toolkit;
pub mod validate;

pub use backend::{AscendBackend, AscendOptions, OpenError, Purpose};
pub use lower::Lowered;
pub use target::CannRelease;

/// The backend's name, as in `--backend`.
pub(crate) const NAME: &str = "ascend";
