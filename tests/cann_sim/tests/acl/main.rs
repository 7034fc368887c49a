//! The C interface as a program sees it. The library's state is the process's: tests take turns.

#![expect(unsafe_code, reason = "calls C functions, which is what is tested")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[macro_use]
mod support;

mod library;
mod lifecycle;
mod memory;
mod models;
mod streams;
