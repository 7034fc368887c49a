//! AVX2 and AVX-512.

#[allow(clippy::wildcard_imports, reason = "allowed by default where tests are built")]
use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in crate::fast) struct Avx2(());

/// Proof of AVX-512F, AVX2, FMA and F16C; with `DOTS` also of VNNI and BF16.
#[derive(Clone, Copy)]
pub(in crate::fast) struct Avx512<const DOTS: bool>(());

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

#[target_feature(enable = "avx512f,avx2,fma,f16c")]
pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

#[target_feature(enable = "avx512f,avx512vnni,avx512bf16,avx2,fma,f16c")]
pub(super) fn run_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true>(()))
}

/// Sixteen bytes in a register.
#[inline(always)]
fn bytes16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference is valid for 16 bytes, the load needs no alignment, and SSE2 is part
    // of every x86-64.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

impl<const DOTS: bool> Simd for Avx512<DOTS> {
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
    fn store_f32(self, vector: __m512, bytes: &mut [u8; 64]) {
        // SAFETY: the token proves AVX-512F; the reference is valid for 64 bytes and the store
        // needs no alignment.
        unsafe { _mm512_storeu_ps(bytes.as_mut_ptr().cast(), vector) }
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
    fn nibble<const J: usize>(self, words: &[u8; 64]) -> __m512 {
        // SAFETY: the token proves AVX-512F; the reference is valid for 64 bytes and the load needs
        // no alignment.
        unsafe {
            let words = _mm512_loadu_si512(words.as_ptr().cast());
            let shifted = match J {
                0 => words,
                1 => _mm512_srli_epi32::<4>(words),
                2 => _mm512_srli_epi32::<8>(words),
                3 => _mm512_srli_epi32::<12>(words),
                4 => _mm512_srli_epi32::<16>(words),
                5 => _mm512_srli_epi32::<20>(words),
                6 => _mm512_srli_epi32::<24>(words),
                _ => _mm512_srli_epi32::<28>(words),
            };
            // The shuffle looks at the low four bits of an index only, so it masks and converts.
            let numbers = _mm512_setr_ps(
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0,
                15.0,
            );
            _mm512_permutexvar_ps(shifted, numbers)
        }
    }

    #[inline(always)]
    fn bf16_pairs(self, words: &[u8; 64]) -> (__m512, __m512) {
        // SAFETY: the token proves AVX-512F; the reference is valid for 64 bytes and the load needs
        // no alignment.
        unsafe {
            let words = _mm512_loadu_si512(words.as_ptr().cast());
            let high = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(high))
        }
    }

    #[inline(always)]
    fn dot_bf16(self, a: &[u8; 64], b: u32, c: __m512) -> __m512 {
        if DOTS {
            // SAFETY: the token proves AVX-512F and AVX-512-BF16; the reference is valid for 64
            // bytes and the load needs no alignment; both types are 512 bits of any value.
            return unsafe {
                let a = _mm512_loadu_si512(a.as_ptr().cast());
                let b = _mm512_set1_epi32(b.cast_signed());
                let a = std::mem::transmute::<__m512i, __m512bh>(a);
                let b = std::mem::transmute::<__m512i, __m512bh>(b);
                _mm512_dpbf16_ps(c, a, b)
            };
        }
        let (low, high) = self.bf16_pairs(a);
        let c = self.mul_add(low, self.splat(f32::from_bits(b << 16)), c);
        self.mul_add(high, self.splat(f32::from_bits(b & 0xffff_0000)), c)
    }

    #[inline(always)]
    fn dot_i8(self, a: &[u8; 64], b: u32, c: __m512) -> __m512 {
        if DOTS {
            // SAFETY: the token proves AVX-512F and AVX-512-VNNI; the reference is valid for 64
            // bytes and the load needs no alignment.
            return unsafe {
                let a = _mm512_loadu_si512(a.as_ptr().cast());
                let b = _mm512_set1_epi32(b.cast_signed());
                _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(c), b, a))
            };
        }
        let (halves, _) = a.as_chunks::<32>();
        // SAFETY: the token proves AVX-512F and AVX2.
        unsafe {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(c)));
            let low = dot_i8_half(&halves[0], b, _mm512_castps512_ps256(c));
            let high = _mm256_castps_pd(dot_i8_half(&halves[1], b, high));
            _mm512_castpd_ps(_mm512_insertf64x4::<1>(
                _mm512_castps_pd(_mm512_castps256_ps512(low)),
                high,
            ))
        }
    }

    #[inline(always)]
    fn i32_to_f32(self, bits: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(bits)) }
    }
}

/// The four products of each lane's bytes, summed, by instructions of AVX2.
#[inline(always)]
fn dot_i8_half(a: &[u8; 32], b: u32, c: __m256) -> __m256 {
    let (quarters, _) = a.as_chunks::<16>();
    // SAFETY: called with a token of AVX2 in hand only.
    unsafe {
        let b = _mm256_cvtepu8_epi16(_mm_set1_epi32(b.cast_signed()));
        let low = _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes16(&quarters[0])), b);
        let high = _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes16(&quarters[1])), b);
        // Neighbours are added within halves of a register, so the quarters come out interleaved.
        let sums = _mm256_hadd_epi32(low, high);
        let sums = _mm256_permute4x64_epi64::<0b11_01_10_00>(sums);
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(c), sums))
    }
}

/// [`Simd::nibble`] of eight words.
#[inline(always)]
fn nibble_half<const J: usize>(words: &[u8; 32]) -> __m256 {
    // SAFETY: called with a token of AVX2 in hand only; the reference is valid for 32 bytes and the
    // load needs no alignment.
    unsafe {
        let words = _mm256_loadu_si256(words.as_ptr().cast());
        let shifted = _mm256_srl_epi32(words, _mm_cvtsi32_si128(4 * J as i32));
        _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(15)))
    }
}

/// [`Simd::bf16_pairs`] of eight words.
#[inline(always)]
fn bf16_pairs_half(words: &[u8; 32]) -> (__m256, __m256) {
    // SAFETY: called with a token of AVX2 in hand only; the reference is valid for 32 bytes and the
    // load needs no alignment.
    unsafe {
        let words = _mm256_loadu_si256(words.as_ptr().cast());
        let high = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
        (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)), _mm256_castsi256_ps(high))
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
    fn store_f32(self, vector: [__m256; 2], bytes: &mut [u8; 64]) {
        // SAFETY: the token proves AVX; both stores lie within the 64 bytes of the reference and
        // need no alignment.
        unsafe {
            _mm256_storeu_ps(bytes.as_mut_ptr().cast(), vector[0]);
            _mm256_storeu_ps(bytes[32..].as_mut_ptr().cast(), vector[1]);
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
            [_mm256_loadu_ps(bytes.as_ptr().cast()), _mm256_loadu_ps(bytes[32..].as_ptr().cast())]
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
    fn nibble<const J: usize>(self, words: &[u8; 64]) -> [__m256; 2] {
        let (halves, _) = words.as_chunks::<32>();
        [nibble_half::<J>(&halves[0]), nibble_half::<J>(&halves[1])]
    }

    #[inline(always)]
    fn bf16_pairs(self, words: &[u8; 64]) -> ([__m256; 2], [__m256; 2]) {
        let (halves, _) = words.as_chunks::<32>();
        let (a, b) = (bf16_pairs_half(&halves[0]), bf16_pairs_half(&halves[1]));
        ([a.0, b.0], [a.1, b.1])
    }

    #[inline(always)]
    fn dot_i8(self, a: &[u8; 64], b: u32, c: [__m256; 2]) -> [__m256; 2] {
        let (halves, _) = a.as_chunks::<32>();
        [dot_i8_half(&halves[0], b, c[0]), dot_i8_half(&halves[1], b, c[1])]
    }

    #[inline(always)]
    fn i32_to_f32(self, bits: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves AVX2.
        unsafe {
            [
                _mm256_cvtepi32_ps(_mm256_castps_si256(bits[0])),
                _mm256_cvtepi32_ps(_mm256_castps_si256(bits[1])),
            ]
        }
    }
}
