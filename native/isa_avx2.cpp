// AVX2 and FMA; compiled a second time with AVX-VNNI (CR_ISA is avx2 or avx_vnni).
#define CR_LANES 8
#define CR_VECTORS 2
#define CR_ROWS 6
#define CR_TILE_BF16 tile_bf16_widened
#define CR_TILE_INT8 tile_int8
#define CR_WEIGHT_OFFSET 128

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

// Widened to 16 bits, products added in pairs (vpmaddwd): exact, where the 8-bit form (vpmaddubsw) saturates.
// A vector of sums holds four columns, two halves to each, which are added at the end. A quarter of a panel
// at a time: R rows x 8 columns are 2 R <= 12 registers of sums.
template <int R>
void tile_int8(const TileArgs& t) {
    for (int column = 0; column < kPanel; column += 8) {
        __m256i acc[R][2];
        for (auto& row : acc) row[0] = row[1] = _mm256_setzero_si256();
        const char* b = t.panel + column * kUnit;
        for (int g = 0; g < t.groups; ++g, b += kPanel * kUnit) {
            const __m256i w0 = _mm256_cvtepu8_epi16(load<__m128i>(b));
            const __m256i w1 = _mm256_cvtepu8_epi16(load<__m128i>(b + 16));
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) {
                const __m256i a =
                    _mm256_cvtepi8_epi16(_mm_set1_epi32(load<std::int32_t>(t.a + r * t.a_stride + 4 * g)));
                acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(w0, a));
                acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(w1, a));
            }
            __builtin_prefetch(t.ahead + g * t.ahead_step, 0, 2);
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            // Pairs of lanes summed: columns 0 1 4 5 2 3 6 7, then put in order.
            const __m256i pairs = _mm256_hadd_epi32(acc[r][0], acc[r][1]);
            store(static_cast<std::int32_t*>(t.c) + r * t.c_stride + column,
                  _mm256_permute4x64_epi64(pairs, 0xd8));
        }
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
const Kernels kAvx2 = CR_KERNELS("avx2", false, false);
#endif
}  // namespace crossrank
