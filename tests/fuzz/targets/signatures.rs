//! `manifest.sig` and the file of trusted keys.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_graph_cache::fuzzing::signatures(data));
