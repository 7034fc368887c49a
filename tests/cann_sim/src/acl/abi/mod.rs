//! The exported functions: names and parameters are those of CANN's headers, enumerations are their
//! integers, opaque structures are `void *`.
//!
//! What each asks of its caller is the header's: pointers are null or valid for what the function
//! reads or writes through them, until it returns; memory that a task uses stays valid until its
//! stream was waited for. Handles may be anything, and numbers too: they are checked.

#![expect(unsafe_code, reason = "exports C functions")]
#![expect(clippy::missing_safety_doc, reason = "the conditions are the headers', told above once")]

mod dataset;
mod desc;
mod device;
mod event;
mod memory;
mod model;
mod pointer;
mod stream;
mod system;

pub use dataset::*;
pub use desc::*;
pub use device::*;
pub use event::*;
pub use memory::*;
pub use model::*;
pub use stream::*;
pub use system::*;
