//! The C ABI of `libascendcl.so`.
