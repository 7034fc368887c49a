//! A simulated CANN toolkit: what `libascendcl.so` and `atc` do, without a device, written from
//! their published interface and as strict as the real ones.
//!
//! ```text
//!  .air --atc--> ge (decode, loader rules, inference) --> om (header, partitions) --.
//!                                                                                   v
//!  the program under test --C ABI--> acl (memory, streams, events, models) --> interpret
//! ```
//!
//! It shares no code with Cairn: what one of them gets wrong, the other one notices.

pub mod acl;
pub mod atc;
pub mod ge;
pub mod install;
pub mod interpret;
pub mod om;
