//! An archive of entries, as it comes from somewhere else.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_graph_cache::fuzzing::archive(data));
