//! What this machine can do at most: how fast it reads memory, and how fast it multiplies.
//!
//! Both are measured with the vectors of the fast kernels and nothing else: a sum over a buffer that
//! is read from front to back, and products whose operands stay in registers.

use std::hint::black_box;
use std::time::Instant;

use crate::fast::{MULTIPLY_ROUNDS, multiply, read};
use crate::operands::Arithmetic;
use crate::pool::Pool;

const SAMPLES: usize = 5;
const MULTIPLY_TASKS: usize = 64;

/// The limits of a machine; medians of a few samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofline {
    /// Bytes read from memory in a second, by all threads.
    pub bytes_per_second: f64,
    /// Multiplications and additions of products in a second, by all threads.
    pub operations_per_second: f64,
}

impl Roofline {
    /// Measures it with the threads of a pool: reading so many bytes again and again, and multiplying
    /// as that arithmetic does. Takes some tenths of a second.
    pub fn measure(pool: &Pool, arithmetic: Arithmetic, bytes: usize) -> Self {
        let mut buffer = vec![[0.0_f32; 16]; (bytes / 64).max(pool.num_threads())];
        let part = buffer.len().div_ceil(pool.num_threads());
        // Each thread's part is where it was first written.
        pool.for_chunks(&mut buffer, part, |_, chunk| chunk.fill([1.0; 16]));
        let read_seconds = median(|| {
            pool.for_chunks(&mut buffer, part, |_, chunk| {
                black_box(read(chunk));
            });
        });
        let multiply_seconds = median(|| {
            pool.run(MULTIPLY_TASKS, &|task| {
                black_box(multiply(arithmetic, task as u32));
            });
        });
        let operations = (MULTIPLY_TASKS * MULTIPLY_ROUNDS) as f64 * arithmetic.round_operations();
        Self {
            bytes_per_second: (buffer.len() * 64) as f64 / read_seconds,
            operations_per_second: operations / multiply_seconds,
        }
    }
}

/// Seconds that something takes; it runs once before that.
fn median(mut f: impl FnMut()) -> f64 {
    f();
    let mut samples = [0.0; SAMPLES];
    for sample in &mut samples {
        let start = Instant::now();
        f();
        *sample = start.elapsed().as_secs_f64().max(1e-9);
    }
    samples.sort_by(f64::total_cmp);
    samples[SAMPLES / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_reads_and_multiplies() {
        let pool = Pool::new(2).unwrap();
        for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::I8] {
            let roofline = Roofline::measure(&pool, arithmetic, 1 << 20);
            assert!(roofline.bytes_per_second > 1e6, "{roofline:?}");
            assert!(roofline.operations_per_second > 1e6, "{roofline:?}");
        }
    }
}
