//! Sixteen f32 lanes on every processor: one small vector type with an implementation per
//! instruction set, and the dispatch that picks it at run time.
//!
//! | Token | Needs | A vector is |
//! | --- | --- | --- |
//! | [`Portable`] | nothing | `[f32; 16]`, left to the compiler |
//! | `Avx2` | AVX2, FMA, F16C | two 256-bit registers |
//! | `Avx512` | AVX-512F, AVX2, FMA, F16C | one 512-bit register |
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

/// Number of lanes of a vector.
pub(super) const LANES: usize = 16;

/// A token for an instruction set, and the vector operations it offers.
pub(super) trait Simd: Copy + Send + Sync {
    /// Sixteen f32.
    type V: Copy;

    /// Whether there are registers for a tile of 4 x 4 accumulators.
    const IS_WIDE: bool;

    fn splat(self, value: f32) -> Self::V;
    fn load(self, values: &[f32; 16]) -> Self::V;
    fn store(self, vector: Self::V, values: &mut [f32; 16]);
    /// `a * b + c`, rounded once where the processor can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// Sixteen little-endian f32.
    fn load_f32(self, bytes: &[u8; 64]) -> Self::V;
    /// Sixteen little-endian bf16.
    fn load_bf16(self, bytes: &[u8; 32]) -> Self::V;
    /// Sixteen little-endian f16.
    fn load_f16(self, bytes: &[u8; 32]) -> Self::V;
    /// Sixteen signed bytes.
    fn load_i8(self, bytes: &[u8; 16]) -> Self::V;
    /// The low, then the high halves of sixteen bytes, 0 to 15 each.
    fn load_nibbles(self, bytes: &[u8; 16]) -> (Self::V, Self::V);
    /// One little-endian f16.
    fn f16(self, bytes: [u8; 2]) -> f32;
    /// Asks for the memory that begins `ahead` bytes after `value` and is as large, wherever that
    /// is: only a hint, it reads nothing.
    fn prefetch<T>(self, value: &T, ahead: usize);

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
        }
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
        }
    }
}

/// No special instructions: plain arrays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portable;

#[inline(always)]
fn map(f: impl Fn(usize) -> f32) -> [f32; 16] {
    let mut lanes = [0.0; 16];
    for (idx, lane) in lanes.iter_mut().enumerate() {
        *lane = f(idx);
    }
    lanes
}

impl Simd for Portable {
    type V = [f32; 16];
    const IS_WIDE: bool = cfg!(target_arch = "aarch64");

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 16] {
        [value; 16]
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> [f32; 16] {
        *values
    }

    #[inline(always)]
    fn store(self, vector: [f32; 16], values: &mut [f32; 16]) {
        *values = vector;
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        // Without the instruction, a fused multiply-add is a slow function call.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            map(|idx| a[idx].mul_add(b[idx], c[idx]))
        } else {
            map(|idx| a[idx] * b[idx] + c[idx])
        }
    }

    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map(|idx| a[idx] * b[idx])
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 64]) -> [f32; 16] {
        let words = bytes.as_chunks::<4>().0;
        map(|idx| f32::from_le_bytes(words[idx]))
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; 32]) -> [f32; 16] {
        let words = bytes.as_chunks::<2>().0;
        map(|idx| f32::from_bits(u32::from(u16::from_le_bytes(words[idx])) << 16))
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 32]) -> [f32; 16] {
        let words = bytes.as_chunks::<2>().0;
        map(|idx| half::f16::from_le_bytes(words[idx]).to_f32())
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8; 16]) -> [f32; 16] {
        map(|idx| f32::from(bytes[idx].cast_signed()))
    }

    #[inline(always)]
    fn load_nibbles(self, bytes: &[u8; 16]) -> ([f32; 16], [f32; 16]) {
        (map(|idx| f32::from(bytes[idx] & 15)), map(|idx| f32::from(bytes[idx] >> 4)))
    }

    #[inline(always)]
    fn f16(self, bytes: [u8; 2]) -> f32 {
        half::f16::from_le_bytes(bytes).to_f32()
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &T, _: usize) {}
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(clippy::wildcard_imports, reason = "allowed by default where tests are built")]
    use std::arch::x86_64::*;

    use super::{Kernel, Simd};

    /// Proof of AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    /// Proof of AVX-512F, AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2(()))
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512(()))
    }

    /// One f16 by F16C.
    #[inline(always)]
    fn f16(bytes: [u8; 2]) -> f32 {
        let bits = i32::from(u16::from_le_bytes(bytes));
        // SAFETY: called with a token in hand only; both tokens prove F16C and SSE2.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))) }
    }

    /// One hint per cache line.
    #[inline(always)]
    fn prefetch<T>(value: &T, ahead: usize) {
        let start = std::ptr::from_ref(value).cast::<i8>();
        for line in (0..size_of::<T>()).step_by(64) {
            // SAFETY: a prefetch reads nothing and faults on no address; SSE is part of every
            // x86-64, and the address is computed without claiming that it is in bounds.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(ahead + line)) }
        }
    }

    /// Sixteen bytes in a register.
    #[inline(always)]
    fn bytes16(bytes: &[u8; 16]) -> __m128i {
        // SAFETY: the reference is valid for 16 bytes, the load needs no alignment, and SSE2 is part
        // of every x86-64.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    /// The low, then the high halves of sixteen bytes.
    #[inline(always)]
    fn nibbles(bytes: &[u8; 16]) -> (__m128i, __m128i) {
        let bytes = bytes16(bytes);
        // SAFETY: SSE2 is part of every x86-64.
        unsafe {
            let mask = _mm_set1_epi8(15);
            (_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask))
        }
    }

    impl Simd for Avx512 {
        type V = __m512;
        const IS_WIDE: bool = true;

        #[inline(always)]
        fn splat(self, value: f32) -> __m512 {
            // SAFETY: the token proves AVX-512F.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        fn load(self, values: &[f32; 16]) -> __m512 {
            // SAFETY: the token proves AVX-512F; the reference is valid for 64 bytes and the load
            // needs no alignment.
            unsafe { _mm512_loadu_ps(values.as_ptr()) }
        }

        #[inline(always)]
        fn store(self, vector: __m512, values: &mut [f32; 16]) {
            // SAFETY: the token proves AVX-512F; the reference is valid for 64 bytes and the store
            // needs no alignment.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), vector) }
        }

        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the token proves AVX-512F.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: the token proves AVX-512F.
            unsafe { _mm512_mul_ps(a, b) }
        }

        #[inline(always)]
        fn load_f32(self, bytes: &[u8; 64]) -> __m512 {
            // SAFETY: the token proves AVX-512F; the reference is valid for 64 bytes and the load
            // needs no alignment.
            unsafe { _mm512_loadu_ps(bytes.as_ptr().cast()) }
        }

        #[inline(always)]
        fn load_bf16(self, bytes: &[u8; 32]) -> __m512 {
            // SAFETY: the token proves AVX-512F and AVX2; the reference is valid for 32 bytes and
            // the load needs no alignment.
            unsafe {
                let words = _mm256_loadu_si256(bytes.as_ptr().cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words)))
            }
        }

        #[inline(always)]
        fn load_f16(self, bytes: &[u8; 32]) -> __m512 {
            // SAFETY: as in `load_bf16`.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }
        }

        #[inline(always)]
        fn load_i8(self, bytes: &[u8; 16]) -> __m512 {
            // SAFETY: the token proves AVX-512F.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes16(bytes))) }
        }

        #[inline(always)]
        fn load_nibbles(self, bytes: &[u8; 16]) -> (__m512, __m512) {
            let (low, high) = nibbles(bytes);
            // SAFETY: the token proves AVX-512F.
            unsafe {
                (
                    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(low)),
                    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(high)),
                )
            }
        }

        #[inline(always)]
        fn f16(self, bytes: [u8; 2]) -> f32 {
            f16(bytes)
        }

        #[inline(always)]
        fn prefetch<T>(self, value: &T, ahead: usize) {
            prefetch(value, ahead);
        }
    }

    impl Simd for Avx2 {
        type V = [__m256; 2];
        const IS_WIDE: bool = false;

        #[inline(always)]
        fn splat(self, value: f32) -> [__m256; 2] {
            // SAFETY: the token proves AVX2, which includes AVX.
            unsafe { [_mm256_set1_ps(value); 2] }
        }

        #[inline(always)]
        fn load(self, values: &[f32; 16]) -> [__m256; 2] {
            // SAFETY: the token proves AVX; both loads lie within the 64 bytes of the reference and
            // need no alignment.
            unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values[8..].as_ptr())] }
        }

        #[inline(always)]
        fn store(self, vector: [__m256; 2], values: &mut [f32; 16]) {
            // SAFETY: the token proves AVX; both stores lie within the 64 bytes of the reference and
            // need no alignment.
            unsafe {
                _mm256_storeu_ps(values.as_mut_ptr(), vector[0]);
                _mm256_storeu_ps(values[8..].as_mut_ptr(), vector[1]);
            }
        }

        #[inline(always)]
        fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: the token proves FMA.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }

        #[inline(always)]
        fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: the token proves AVX.
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }

        #[inline(always)]
        fn load_f32(self, bytes: &[u8; 64]) -> [__m256; 2] {
            // SAFETY: the token proves AVX; both loads lie within the 64 bytes of the reference and
            // need no alignment.
            unsafe {
                [
                    _mm256_loadu_ps(bytes.as_ptr().cast()),
                    _mm256_loadu_ps(bytes[32..].as_ptr().cast()),
                ]
            }
        }

        #[inline(always)]
        fn load_bf16(self, bytes: &[u8; 32]) -> [__m256; 2] {
            let (halves, _) = bytes.as_chunks::<16>();
            // SAFETY: the token proves AVX2.
            unsafe {
                let widen = |half| _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half));
                [
                    _mm256_castsi256_ps(widen(bytes16(&halves[0]))),
                    _mm256_castsi256_ps(widen(bytes16(&halves[1]))),
                ]
            }
        }

        #[inline(always)]
        fn load_f16(self, bytes: &[u8; 32]) -> [__m256; 2] {
            let (halves, _) = bytes.as_chunks::<16>();
            // SAFETY: the token proves F16C.
            unsafe { [_mm256_cvtph_ps(bytes16(&halves[0])), _mm256_cvtph_ps(bytes16(&halves[1]))] }
        }

        #[inline(always)]
        fn load_i8(self, bytes: &[u8; 16]) -> [__m256; 2] {
            let bytes = bytes16(bytes);
            // SAFETY: the token proves AVX2.
            unsafe {
                let high = _mm_unpackhi_epi64(bytes, bytes);
                [
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
                ]
            }
        }

        #[inline(always)]
        fn load_nibbles(self, bytes: &[u8; 16]) -> ([__m256; 2], [__m256; 2]) {
            let (low, high) = nibbles(bytes);
            // SAFETY: the token proves AVX2.
            let widen = |bytes: __m128i| unsafe {
                [
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes))),
                ]
            };
            (widen(low), widen(high))
        }

        #[inline(always)]
        fn f16(self, bytes: [u8; 2]) -> f32 {
            f16(bytes)
        }

        #[inline(always)]
        fn prefetch<T>(self, value: &T, ahead: usize) {
            prefetch(value, ahead);
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
            keep(s.load_bf16(bytes[..32].try_into().unwrap()));
            keep(s.load_f16(bytes[..32].try_into().unwrap()));
            keep(s.load_i8(bytes[..16].try_into().unwrap()));
            let (low, high) = s.load_nibbles(bytes[..16].try_into().unwrap());
            keep(low);
            keep(high);
            result.push(s.f16([0x12, 0x3c]));
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
