//! The C interface as a program sees it. The library's state is the process's: tests take turns.

#![expect(unsafe_code, reason = "calls C functions, which is what is tested")]

#[macro_use]
mod support;

mod library;
mod lifecycle;
mod memory;
mod models;
mod streams;
