//! The check of the processor.
//!
//! What this module deliberately does not do: it measures nothing; `cairn bench` does.

use std::thread;

use super::check::Check;

const CPU: &str = "cpu";

/// The processor, as the CPU backend sees it.
pub(super) fn cpu() -> Check {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let found = format!("{}, {threads} threads", std::env::consts::ARCH);
    match vector_instructions() {
        Some(names) => Check::ok(CPU, format!("{found}, {names}")),
        None => {
            Check::warning(CPU, format!("{found}, no vector instructions that are made use of"))
                .remedy("the cpu backend will be slow: on x86_64 it uses AVX2, FMA and F16C")
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn vector_instructions() -> Option<&'static str> {
    let is_avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    match (is_avx2, is_x86_feature_detected!("avx512f")) {
        (true, true) => Some("AVX-512"),
        (true, false) => Some("AVX2, FMA, F16C"),
        (false, _) => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_instructions() -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named() {
        assert!(cpu().found.contains(std::env::consts::ARCH));
    }
}
