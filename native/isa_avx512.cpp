// AVX-512 (F, BW, DQ, VL) with VNNI; compiled a second time with BF16 (CR_ISA is avx512_vnni or avx512_bf16).
#define CR_LANES 16
#define CR_VECTORS 2
#define CR_ROWS 14
#ifdef CR_AVX512_BF16
#define CR_TILE_BF16 tile_bf16
#else
#define CR_TILE_BF16 tile_bf16_widened
#endif
#define CR_TILE_INT8 tile_int8
#define CR_WEIGHT_OFFSET 128

#include <immintrin.h>

#include "tiles.h"

namespace crossrank::CR_ISA {

// 14 rows x 32 columns are 28 registers of sums; two hold the weights and one a broadcast activation.
//
// The dot products are inline assembly because GCC (12, at least) moves the sums to the stack and back around
// the intrinsics, which halves the speed.
struct Int8Dot {
    // acc += w (unsigned) * a (signed), four bytes to a sum
    CR_INLINE static void add(__m512i& acc, __m512i w, __m512i a) {
        __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(a));
    }
};

struct Bf16Dot {
    // acc += w * a, two bf16 to an fp32 sum
    CR_INLINE static void add(__m512i& acc, __m512i w, __m512i a) {
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w), "v"(a));
    }
};

template <class Dot, int R>
CR_INLINE void tile_dot(const TileArgs& t) {
    __m512i acc[R][2];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_si512();
    const char* a = t.a;
    const char* b = t.panel;
    const char* ahead = t.ahead;
    const std::ptrdiff_t stride = t.a_stride, step = t.ahead_step;
    for (int g = t.groups; g > 0; --g) {
        const __m512i w0 = load<__m512i>(b), w1 = load<__m512i>(b + 64);
        const char* row = a;
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const __m512i x = _mm512_set1_epi32(load<std::int32_t>(row));
            // One pointer that walks down the rows, and the compiler not to see through it: it would keep an
            // offset for each row, and has too few general registers for that.
            row += stride;
            __asm__("" : "+r"(row));
            Dot::add(acc[r][0], w0, x);
            Dot::add(acc[r][1], w1, x);
        }
        __builtin_prefetch(ahead, 0, 2);
        ahead += step;
        a += kUnit;
        b += kPanel * kUnit;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
        std::int32_t* c = static_cast<std::int32_t*>(t.c) + r * t.c_stride;
        store(c, acc[r][0]);
        store(c + 16, acc[r][1]);
    }
}

template <int R>
void tile_int8(const TileArgs& t) {
    tile_dot<Int8Dot, R>(t);
}

#ifdef CR_AVX512_BF16
template <int R>
void tile_bf16(const TileArgs& t) {
    tile_dot<Bf16Dot, R>(t);
}
#endif

}  // namespace crossrank::CR_ISA

#include "table.h"

namespace crossrank {
#ifdef CR_AVX512_BF16
extern const Kernels kAvx512Bf16;
const Kernels kAvx512Bf16 = CR_KERNELS("avx512_bf16", true, true);
#else
extern const Kernels kAvx512Vnni;
const Kernels kAvx512Vnni = CR_KERNELS("avx512_vnni", true, false);
#endif
}  // namespace crossrank
