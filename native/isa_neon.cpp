// AArch64 with the dot-product extension (Armv8.2 and later: Graviton 2, Apple M1, ...).

#define CR_LANES 4
#define CR_VECTORS 4
#define CR_ROWS 6
#define CR_TILE_BF16 tile_bf16_widened
#define CR_TILE_INT8 tile_int8
#define CR_WEIGHT_OFFSET 0

#include <arm_neon.h>

#include "tiles.h"

namespace crossrank::CR_ISA {

// Half a panel at a time: R rows x 16 columns are 4 R <= 24 registers of sums. sdot wants both sides signed:
// flipping the top bit takes the 128 off the weights, so here the sums need no correction.
template <int R>
void tile_int8(const TileArgs& t) {
    const uint8x16_t top = vdupq_n_u8(0x80);
    for (int column = 0; column < kPanel; column += 16) {
        int32x4_t acc[R][4];
        for (auto& row : acc)
            for (auto& v : row) v = vdupq_n_s32(0);
        const char* b = t.panel + column * kUnit;
        for (int g = 0; g < t.groups; ++g, b += kPanel * kUnit) {
            int8x16_t w[4];
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v)
                w[v] = vreinterpretq_s8_u8(veorq_u8(load<uint8x16_t>(b + 16 * v), top));
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) {
                const int8x16_t a =
                    vreinterpretq_s8_s32(vdupq_n_s32(load<std::int32_t>(t.a + r * t.a_stride + 4 * g)));
#pragma GCC unroll 4
                for (int v = 0; v < 4; ++v) acc[r][v] = vdotq_s32(acc[r][v], w[v], a);
            }
            __builtin_prefetch(t.ahead + g * t.ahead_step, 0, 2);
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v)
                store(static_cast<std::int32_t*>(t.c) + r * t.c_stride + column + 4 * v, acc[r][v]);
    }
}

}  // namespace crossrank::CR_ISA

#include "table.h"

namespace crossrank {
extern const Kernels kNeonDotprod;
const Kernels kNeonDotprod = CR_KERNELS("neon_dotprod", true, false);
}  // namespace crossrank
