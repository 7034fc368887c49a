//! The fast kernels: vector code for the processor found at start, on the threads of a pool.
//! `tests` holds each against the reference.
//!
//! | File | What |
//! | --- | --- |
//! | `simd` | sixteen lanes, per instruction set |
//! | `quants` | block formats taken apart |
//! | `format`, `packed`, `pack` | weights as products want them |
//! | `words` | activations as products want them, and single products |
//! | `tile` | the innermost loop |
//! | `linear` | matrix products |
//! | `attention` | paged attention |
//! | `limits` | what the machine could do at most |
//! | `rows` | elementwise functions, norms, rope |

mod attention;
mod format;
mod limits;
mod linear;
mod pack;
mod packed;
mod quants;
mod rows;
mod simd;
#[cfg(test)]
mod tests;
mod tile;
mod words;

use std::io;
use std::sync::{Arc, Mutex};

use crate::operands::{
    Arithmetic, AttentionArgs, Binary, Kernels, LinearWeight, Matrix, RopeArgs, WeightRows,
};
use crate::pool::Pool;
use crate::reference::Reference;
pub(crate) use limits::{MULTIPLY_ROUNDS, multiply, read};
pub use packed::Packed;
use simd::Detected;

/// The fast set, for one instruction set and the threads of a pool.
#[derive(Debug)]
pub struct Fast {
    isa: Detected,
    pool: Arc<Pool>,
    /// Of products with more than one token.
    scratch: Mutex<linear::Scratch>,
}

impl Fast {
    /// For the best instruction set of this processor.
    pub fn detect(pool: Arc<Pool>) -> Self {
        Self { isa: Detected::best(), pool, scratch: Mutex::default() }
    }
}

/// The instruction set that [`Fast::detect`] finds.
pub fn instructions() -> &'static str {
    Detected::best().name()
}

impl Kernels for Fast {
    fn pack(
        &self,
        weights: &[WeightRows<'_>],
        arithmetic: Arithmetic,
    ) -> io::Result<Option<Vec<Packed>>> {
        Packed::all(&self.pool, weights, arithmetic).map(Some)
    }

    fn gather(&self, table: WeightRows<'_>, ids: &[i32], target: &mut [f32]) {
        // A few rows of one weight: never worth more than the reference.
        Reference.gather(table, ids, target);
    }

    fn linear(&self, x: Matrix<'_>, weight: LinearWeight<'_>, target: &mut [f32]) {
        match weight.packed {
            Some(packed) => {
                linear::linear(self.isa, &self.pool, &self.scratch, x, packed, target);
            }
            None => Reference.linear(x, weight, target),
        }
    }

    fn binary(&self, function: Binary, a: Matrix<'_>, b: Matrix<'_>, target: &mut [f32]) {
        rows::binary(self.isa, &self.pool, function, a, b, target);
    }

    fn silu(&self, x: Matrix<'_>, target: &mut [f32]) {
        rows::silu(self.isa, &self.pool, x, target);
    }

    fn rms_norm(&self, x: Matrix<'_>, weight: &[f32], eps: f32, target: &mut [f32]) {
        rows::rms_norm(self.isa, &self.pool, x, weight, eps, target);
    }

    fn rope(&self, args: RopeArgs<'_>, target: &mut [f32]) {
        rows::rope(self.isa, &self.pool, args, target);
    }

    fn attention(&self, args: AttentionArgs<'_>, target: &mut [f32]) {
        attention::attention(self.isa, &self.pool, args, target);
    }
}
