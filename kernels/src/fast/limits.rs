//! Reading and multiplying with nothing around it: see [`Roofline`](crate::Roofline).

#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]

use super::simd::{Detected, Kernel, LANES, Simd};
use super::words::{Bf16Products, F32Products, I8Products, Products};
use crate::operands::Arithmetic;

/// Sums side by side: enough to hide the latency of an instruction.
const SUMS: usize = 16;
/// Products of one call, for each sum.
pub(crate) const MULTIPLY_ROUNDS: usize = 20_000;

impl Arithmetic {
    /// Multiplications and additions of one round of [`multiply`].
    pub(crate) fn round_operations(self) -> f64 {
        (2 * SUMS * LANES * self.columns()) as f64
    }
}

/// The sum of all numbers.
pub(crate) fn read(values: &[[f32; LANES]]) -> f32 {
    Detected::best().dispatch(Read { values })
}

struct Read<'a> {
    values: &'a [[f32; LANES]],
}

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let one = s.splat(1.0);
        let mut sums = [s.splat(0.0); 8];
        let (chunks, _) = self.values.as_chunks::<8>();
        for chunk in chunks {
            for idx in 0..8 {
                sums[idx] = s.mul_add(s.load(&chunk[idx]), one, sums[idx]);
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += s.sum(sum);
        }
        total
    }
}

/// Multiplies and adds [`MULTIPLY_ROUNDS`] times.
pub(crate) fn multiply(arithmetic: Arithmetic, seed: u32) -> f32 {
    let isa = Detected::best();
    match arithmetic {
        Arithmetic::F32 => isa.dispatch(Multiply { seed, products: F32Products }),
        Arithmetic::Bf16 => isa.dispatch(Multiply { seed, products: Bf16Products }),
        Arithmetic::I8 => isa.dispatch(Multiply { seed, products: I8Products }),
    }
}

struct Multiply<P> {
    seed: u32,
    #[expect(dead_code, reason = "names the type")]
    products: P,
}

impl<P: Products> Kernel for Multiply<P> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        // Not known before it runs, so that nothing can be computed ahead.
        let w = std::hint::black_box([1_u8; 64]);
        let x = std::hint::black_box(self.seed);
        let mut sums = [s.splat(0.0); SUMS];
        for _ in 0..MULTIPLY_ROUNDS {
            for sum in &mut sums {
                *sum = P::add(s, &w, x, *sum);
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += s.sum(sum);
        }
        total
    }
}
