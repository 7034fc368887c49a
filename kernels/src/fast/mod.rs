//! The fast kernels: vector code for the processor found at start, on the threads of the pool that
//! runs the plan. `tests` holds each against the reference.
//!
//! | File | What |
//! | --- | --- |
//! | `simd` | sixteen lanes, per instruction set; the only `unsafe` of the backend |
//! | `decode` | weight formats as vectors |
//! | `linear` | matrix products by tiles of dot products |
//! | `attention` | paged attention |
//! | `rows` | elementwise functions, norms, rope |

mod attention;
mod decode;
mod linear;
mod rows;
mod simd;

use crate::operands::{AttentionArgs, Binary, Kernels, Matrix, RopeArgs, WeightRows};

use crate::reference::Reference;
use simd::Detected;

/// The fast set, for one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Fast {
    isa: Detected,
}

impl Fast {
    /// For the best instruction set of this processor.
    pub fn detect() -> Self {
        Self { isa: Detected::best() }
    }
}

/// The instruction set that [`Fast::detect`] finds.
pub fn instructions() -> &'static str {
    Detected::best().name()
}

impl Kernels for Fast {
    fn gather(&self, table: WeightRows<'_>, ids: &[i32], target: &mut [f32]) {
        // A few rows of one weight: never worth more than the reference.
        Reference.gather(table, ids, target);
    }

    fn linear(&self, x: Matrix<'_>, weight: WeightRows<'_>, target: &mut [f32]) {
        linear::linear(self.isa, x, weight, target);
    }

    fn binary(&self, function: Binary, a: Matrix<'_>, b: Matrix<'_>, target: &mut [f32]) {
        rows::binary(self.isa, function, a, b, target);
    }

    fn silu(&self, x: Matrix<'_>, target: &mut [f32]) {
        rows::silu(self.isa, x, target);
    }

    fn rms_norm(&self, x: Matrix<'_>, weight: &[f32], eps: f32, target: &mut [f32]) {
        rows::rms_norm(self.isa, x, weight, eps, target);
    }

    fn rope(&self, args: RopeArgs<'_>, target: &mut [f32]) {
        rows::rope(args, target);
    }

    fn attention(&self, args: AttentionArgs<'_>, target: &mut [f32]) {
        attention::attention(self.isa, args, target);
    }
}
