//! Sixteen f32 lanes on every processor: one small vector type with an implementation per
//! instruction set, and the dispatch that picks it at run time.
//!
//! | Token | Needs | A vector is |
//! | --- | --- | --- |
//! | [`Portable`] | nothing | `[f32; 16]`, left to the compiler |
//! | `Avx2` | AVX2, FMA, F16C | two 256-bit registers |
//! | `Avx512` | AVX-512F, AVX2, FMA, F16C; maybe VNNI and BF16 | one 512-bit register |
//!
//! A token proves that the processor has the instructions: only [`dispatch`] makes one, after
//! asking the processor. Every method takes the token, so the unsafe blocks below rest on it alone.
//! The lane count is the same everywhere, and so is the order in which lanes are summed.

#![expect(unsafe_code, reason = "vector instructions are chosen at run time; see the module's doc")]
#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "one SAFETY argument, the token, covers the few intrinsics of a method"
)]

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use portable::Portable;

/// Number of lanes of a vector.
pub(super) const LANES: usize = 16;

/// A token for an instruction set, and the vector operations it offers.
pub(super) trait Simd: Copy + Send + Sync {
    /// Sixteen f32.
    type V: Copy;

    /// Whether there are registers for a tile of 12 x 2 accumulators.
    const IS_WIDE: bool;

    fn splat(self, value: f32) -> Self::V;
    fn load(self, values: &[f32; 16]) -> Self::V;
    fn store(self, vector: Self::V, values: &mut [f32; 16]);
    /// Sixteen little-endian f32.
    fn store_f32(self, vector: Self::V, bytes: &mut [u8; 64]);
    /// `a * b + c`, rounded once where the processor can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// Sixteen little-endian f32.
    fn load_f32(self, bytes: &[u8; 64]) -> Self::V;
    /// Sixteen little-endian f16.
    fn load_f16(self, bytes: &[u8; 32]) -> Self::V;
    /// Sixteen signed bytes.
    fn load_i8(self, bytes: &[u8; 16]) -> Self::V;
    /// Nibble `J` (0 to 7, the lowest first) of each of sixteen little-endian words, 0 to 15.
    fn nibble<const J: usize>(self, words: &[u8; 64]) -> Self::V;
    /// The low, then the high bf16 of each of sixteen little-endian words.
    fn bf16_pairs(self, words: &[u8; 64]) -> (Self::V, Self::V);

    /// `c + a.low * b.low + a.high * b.high` for each lane's pair of bf16; `a` are sixteen
    /// little-endian words. How often it is rounded is the processor's affair.
    #[inline(always)]
    fn dot_bf16(self, a: &[u8; 64], b: u32, c: Self::V) -> Self::V {
        let (low, high) = self.bf16_pairs(a);
        let c = self.mul_add(low, self.splat(f32::from_bits(b << 16)), c);
        self.mul_add(high, self.splat(f32::from_bits(b & 0xffff_0000)), c)
    }

    /// `c` plus the four products of signed bytes of `a` and unsigned bytes of `b` for each lane; `a`
    /// are sixteen little-endian words. The lanes of `c` and of the result hold the bits of an i32.
    fn dot_i8(self, a: &[u8; 64], b: u32, c: Self::V) -> Self::V;
    /// The number whose i32 each lane holds the bits of.
    fn i32_to_f32(self, bits: Self::V) -> Self::V;

    /// The sum of all lanes: 16 to 8 to 4 to 2 to 1, each lane with the one half the width away.
    #[inline(always)]
    fn sum(self, vector: Self::V) -> f32 {
        let mut lanes = [0.0; 16];
        self.store(vector, &mut lanes);
        let mut width = 8;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// A computation that is generic over the instruction set. `run` must be `#[inline(always)]`, and so
/// must everything it calls that uses vectors.
pub(super) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl Isa {
    /// All that this processor has, the best one last.
    pub(super) fn available() -> Vec<Self> {
        let mut available = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            available.push(Self::Avx2);
            if is_x86_feature_detected!("avx512f") {
                available.push(Self::Avx512);
                if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bf16")
                {
                    available.push(Self::Avx512Bf16);
                }
            }
        }
        available
    }
}

/// An instruction set that the processor was asked for: holding one is the proof.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detected(Isa);

impl Detected {
    /// The best instruction set of this processor.
    pub(super) fn best() -> Self {
        Self(*Isa::available().last().expect("invariant: the portable one is always there"))
    }

    /// Its name, for people and keys.
    pub(super) fn name(self) -> &'static str {
        match self.0 {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => "avx512-vnni-bf16",
        }
    }

    /// Whether there are registers for high tiles.
    pub(super) fn is_wide(self) -> bool {
        struct IsWide;
        impl Kernel for IsWide {
            type Output = bool;

            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> bool {
                S::IS_WIDE
            }
        }
        self.dispatch(IsWide)
    }

    /// Every instruction set of this processor.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        Isa::available().into_iter().map(Self).collect()
    }

    /// Runs a kernel with the instructions of this set.
    pub(super) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Isa::Portable => kernel.run(Portable),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Detected` of this kind exists only if `available` found the features that
            // `run_avx2` is compiled for.
            Isa::Avx2 => unsafe { x86::run_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, for the features of `run_avx512`.
            Isa::Avx512 => unsafe { x86::run_avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, for the features of `run_avx512_bf16`.
            Isa::Avx512Bf16 => unsafe { x86::run_avx512_bf16(kernel) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation on fixed operands, as plain numbers.
    struct EveryOp;

    impl Kernel for EveryOp {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut result = Vec::new();
            let mut keep = |v: S::V| {
                let mut lanes = [0.0; 16];
                s.store(v, &mut lanes);
                result.extend(lanes);
            };
            let mut floats = [0.0; 16];
            let mut bytes = [0_u8; 64];
            for (idx, value) in floats.iter_mut().enumerate() {
                *value = idx as f32 * 0.5 - 3.0;
            }
            for (idx, byte) in bytes.iter_mut().enumerate() {
                // Bounded exponents, so that no pattern is infinite or not a number.
                *byte = (idx as u8).wrapping_mul(37) & 0xbb;
            }
            let a = s.load(&floats);
            keep(s.mul_add(a, s.splat(2.0), a));
            keep(s.mul(a, a));
            keep(s.load_f32(&bytes));
            keep(s.load_f16(bytes[..32].try_into().unwrap()));
            keep(s.load_i8(bytes[..16].try_into().unwrap()));
            keep(s.nibble::<0>(&bytes));
            keep(s.nibble::<5>(&bytes));
            let (low, high) = s.bf16_pairs(&bytes);
            keep(low);
            keep(high);
            let start = s.load(&std::array::from_fn(|idx| f32::from_bits(idx as u32 * 99)));
            keep(s.i32_to_f32(s.dot_i8(&bytes, 0xff80_0137, start)));
            result.push(s.sum(a));
            result
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let expected = EveryOp.run(Portable);
        for isa in Detected::all() {
            let got = isa.dispatch(EveryOp);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&expected), "{isa:?}");
        }
    }
}
