//! `record.bin`: what stands before every entry.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_graph_cache::fuzzing::record(data));
