// AVX2 and FMA; compiled a second time with AVX-VNNI (CR_ISA is avx2 or avx_vnni).
#define CR_LANES 8
#define CR_VECTORS 2
#define CR_ROWS 6
#define CR_TILE_BF16 tile_bf16_widened
#define CR_TILE_INT8 tile_int8
#ifdef CR_AVX_VNNI
#define CR_WEIGHT_OFFSET 128
#else
#define CR_DOT_ROWS 4
#define CR_WEIGHT_OFFSET 0
#endif

#include <immintrin.h>

#include "tiles.h"

namespace crossrank::CR_ISA {

#ifdef CR_AVX_VNNI

// acc += w (unsigned) * a (signed), four bytes to a sum. As an instruction of its own, and not the intrinsic,
// so that the compiler keeps the sums in registers.
CR_INLINE void dot(__m256i& acc, __m256i w, __m256i a) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(w), "x"(a));
}

// Half a panel at a time: R rows x 16 columns are 2 R <= 12 registers of sums.
template <int R>
void tile_int8(const TileArgs& t) {
    for (int column = 0; column < kPanel; column += 16) {
        __m256i acc[R][2];
        for (auto& row : acc) row[0] = row[1] = _mm256_setzero_si256();
        const char* b = t.panel + column * kUnit;
        for (int g = 0; g < t.groups; ++g, b += kPanel * kUnit) {
            const __m256i w0 = load<__m256i>(b), w1 = load<__m256i>(b + 32);
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) {
                const __m256i a = _mm256_set1_epi32(load<std::int32_t>(t.a + r * t.a_stride + 4 * g));
                dot(acc[r][0], w0, a);
                dot(acc[r][1], w1, a);
            }
            __builtin_prefetch(t.ahead + g * t.ahead_step, 0, 2);
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < 2; ++v)
                store(static_cast<std::int32_t*>(t.c) + r * t.c_stride + column + 8 * v, acc[r][v]);
    }
}

#else

// vpmaddubsw multiplies unsigned with signed bytes and adds pairs in 16 bits, where 255 * 127 twice would
// saturate. With the weight's magnitude on one side, and its sign moved to the activation, a pair is at most
// 2 * 128 * 127 and exact. Half a panel at a time: R rows x 16 columns are 2 R <= 8 registers of sums, beside
// two of weights, two of their magnitudes, and the ones that widen a pair to 32 bits; a fifth row would not
// stay in registers.
template <int R>
void tile_int8(const TileArgs& t) {
    const __m256i ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi8(-128);
    for (int column = 0; column < kPanel; column += 16) {
        __m256i acc[R][2];
        for (auto& row : acc) row[0] = row[1] = _mm256_setzero_si256();
        const char* b = t.panel + column * kUnit;
        for (int g = 0; g < t.groups; ++g, b += kPanel * kUnit) {
            const __m256i w0 = _mm256_xor_si256(load<__m256i>(b), offset),
                          w1 = _mm256_xor_si256(load<__m256i>(b + 32), offset),
                          magnitude0 = _mm256_abs_epi8(w0), magnitude1 = _mm256_abs_epi8(w1);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                const __m256i a = _mm256_set1_epi32(load<std::int32_t>(t.a + r * t.a_stride + 4 * g)),
                              pairs0 = _mm256_maddubs_epi16(magnitude0, _mm256_sign_epi8(a, w0)),
                              pairs1 = _mm256_maddubs_epi16(magnitude1, _mm256_sign_epi8(a, w1));
                acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(pairs0, ones));
                acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(pairs1, ones));
            }
            __builtin_prefetch(t.ahead + g * t.ahead_step, 0, 2);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < 2; ++v)
                store(static_cast<std::int32_t*>(t.c) + r * t.c_stride + column + 8 * v, acc[r][v]);
    }
}

#endif

}  // namespace crossrank::CR_ISA

#include "table.h"

namespace crossrank {
#ifdef CR_AVX_VNNI
extern const Kernels kAvxVnni;
const Kernels kAvxVnni = CR_KERNELS("avx_vnni", true, false);
#else
extern const Kernels kAvx2;
const Kernels kAvx2 = CR_KERNELS("avx2", true, false);
#endif
}  // namespace crossrank
