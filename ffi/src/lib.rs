//! The only crate of Cairn that talks to CANN, Huawei's toolkit for Ascend NPUs, and the only one
//! that is free to use `unsafe`. Nothing of CANN is needed to build it: the library is looked for
//! while the program runs.
//!
//! | Module | What |
//! | --- | --- |
//! | [`loader`] | finds and opens ACL: [`Acl`], [`LoadError`] |
//! | [`version`] | which CANN it is, and whether it is new enough |
//! | [`status`] | ACL's status codes, what they are called and what can be done: [`AclStatus`] |
//! | [`error`] | a call that failed, in CANN's own words: [`AclError`] |
//! | [`runtime`] | ACL, initialised: [`Runtime`] |
//! | [`device`], [`current`] | a device with a context, and the proof that it is current: [`Current`] |
//! | [`memory`] | [`DeviceBuffer`], [`DeviceSlice`], [`PinnedBuffer`] |
//! | [`stream`], [`event`] | work that the device does by itself: [`Stream`], [`Queue`], [`Event`] |
//! | [`model`], [`dataset`] | compiled models and what they work on: [`Model`], [`Dataset`] |
//!
//! ```text
//! sys      C as it is: types, numbers, a table of function pointers       (generated)
//! result   a function for each C function: statuses become results       (unsafe)
//! the modules above: owners that free in the right order and place        (safe)
//!
//! Acl <- Runtime <- Device <- buffers, streams, events, models, datasets  each holds what is left of it
//! ```
//!
//! What this crate deliberately does not do: it compiles nothing, knows no graphs, and starts no
//! processes. Collectives (HCCL) are looked for but not wrapped.

pub mod current;
pub mod dataset;
pub mod device;
pub mod error;
pub mod event;
pub mod loader;
pub mod memory;
pub mod model;
mod result;
pub mod runtime;
pub mod status;
pub mod stream;
mod sys;
pub mod version;

pub use current::{Current, MemoryInfo};
pub use dataset::Dataset;
pub use device::Device;
pub use error::{AclError, Origin};
pub use event::Event;
pub use loader::{Acl, Attempt, AttemptError, LoadError};
pub use memory::{DeviceBuffer, DeviceSlice, PinnedBuffer};
pub use model::{LoadOptions, Model, TensorInfo, workspace_sizes};
pub use runtime::Runtime;
pub use status::{AclStatus, StatusClass};
pub use stream::{Queue, Stream};
pub use version::{AclVersion, CannVersion};
