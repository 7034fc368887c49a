//! `manifest.json`: what an entry says of itself.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_graph_cache::fuzzing::manifest(data));
