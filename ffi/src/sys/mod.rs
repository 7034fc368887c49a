//! CANN's C interface as Rust: types, numbers, and one table of functions for each library.
//!
//! ```text
//! include/acl_min.h --bindgen--> bindings.rs --function_types!--> functions::aclrtMalloc, a type
//!                                                                      |
//!                                     table.rs: Symbols { aclrtMalloc: functions::aclrtMalloc, .. }
//! ```
//!
//! The generated file is committed, so that building needs no libclang. After a change of the header:
//! `cargo test -p cairn-ffi --features bindgen` says where the new file is, to be copied over
//! `src/sys/bindings.rs`.
//!
//! What this module deliberately does not do: it calls nothing and checks nothing; nobody but
//! `result` and the loader uses it.

mod table;
#[cfg(test)]
mod tests;

pub(crate) use bindings::*;
pub(crate) use table::{HcclSymbols, Symbols, find};

/// Makes of every declared function the type of a pointer to it, of the same name, and writes down
/// the declarations for the tests.
macro_rules! function_types {
    ($(pub fn $name:ident($($parameter:ident: $type:ty),* $(,)?) $(-> $return:ty)?;)*) => {
        #[expect(unreachable_pub, reason = "as generated")]
        pub mod functions {
            use super::*;
            $(pub type $name = unsafe extern "C" fn($($parameter: $type),*) $(-> $return)?;)*
        }

        #[cfg(test)]
        pub(crate) const SIGNATURES: &[super::tests::Signature] = &[$(super::tests::Signature {
            name: stringify!($name),
            parameters: &[$((stringify!($parameter), stringify!($type))),*],
            returns: concat!($(stringify!($return))?),
        }),*];
    };
}

#[allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated from a C header, which has the documentation"
)]
mod bindings {
    #[cfg(not(feature = "bindgen"))]
    include!("bindings.rs");
    #[cfg(feature = "bindgen")]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}
