// AVX-512 with AMX: products of whole tiles, 16 rows of 64 bytes, in int8 and bf16. All else is as in
// isa_avx512.cpp.
#define CR_LANES 16
#define CR_VECTORS 2
#define CR_ROWS 14
#define CR_DOT_ROWS 32
#define CR_TILE_BF16 tile_bf16
#define CR_TILE_INT8 tile_int8
#define CR_WEIGHT_OFFSET 128
#define CR_SESSION
#define CR_PEAK

#include <immintrin.h>

#include "vec.h"

namespace crossrank::CR_ISA {

constexpr int kTileRows = 16, kTileBytes = 64;  // of a row
constexpr int kTileUnits = kTileBytes / 4;      // groups of inputs (kernels.h: kUnit) in a row

// The compiler knows nothing of what tiles read and write in memory.
CR_INLINE void memory_barrier() { __asm__ volatile("" : : : "memory"); }

// The tile registers of this thread while it is in a kernel. Tiles 0 to 3 hold sums: rows 0-15 and 16-31
// times columns 0-15 and 16-31; 4 and 5 activations; 6 and 7 weights.
class Session {
  public:
    ~Session() {
        if (rows_) _tile_release();
    }

    // Tiles for `rows` rows of activations; setting them up costs as much as ten products.
    CR_INLINE void use(int rows) {
        if (rows != rows_) set_up(rows);
    }

  private:
    void set_up(int rows) {
        struct {
            std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
            std::uint16_t bytes[16] = {};
            std::uint8_t rows[16] = {};
        } layout;
        const int lower = rows < kTileRows ? rows : kTileRows, upper = rows - lower;
        for (int tile = 0; tile < 8; ++tile) {
            const int has = tile >= 6 ? kTileRows : tile == 2 || tile == 3 || tile == 5 ? upper : lower;
            layout.rows[tile] = static_cast<std::uint8_t>(has);
            layout.bytes[tile] = static_cast<std::uint16_t>(has ? kTileBytes : 0);
        }
        memory_barrier();
        _tile_loadconfig(&layout);
        rows_ = rows;
    }

    int rows_ = 0;
};

}  // namespace crossrank::CR_ISA

#include "tiles.h"

namespace crossrank::CR_ISA {

// sums += activations (signed) * weights (unsigned in int8), four int8 or two bf16 to a sum.
#define CR_MULTIPLY(sums, activations, weights)                   \
    if constexpr (int8) _tile_dpbsud(sums, activations, weights); \
    else _tile_dpbf16ps(sums, activations, weights)

// One step: 64 bytes of each row, 16 units of the panel.
template <bool int8, bool two>
CR_INLINE void step(const char* a, std::ptrdiff_t stride, const char* b) {
    _tile_loadd(6, b, kPanel * kUnit);
    _tile_loadd(4, a, stride);
    CR_MULTIPLY(0, 4, 6);
    _tile_loadd(7, b + kTileBytes, kPanel * kUnit);
    CR_MULTIPLY(1, 4, 7);
    if constexpr (two) {
        _tile_loadd(5, a + kTileRows * stride, stride);
        CR_MULTIPLY(2, 5, 6);
        CR_MULTIPLY(3, 5, 7);
    }
}

template <bool int8, int R>
CR_INLINE void tile_amx(const TileArgs& t) {
    constexpr bool two = R > kTileRows;
    t.session->use(R);
    memory_barrier();
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (two) {
        _tile_zero(2);
        _tile_zero(3);
    }
    const char* a = t.a;
    const char* b = t.panel;
    const char* ahead = t.ahead;
    int left = t.groups;
    for (; left >= kTileUnits; left -= kTileUnits) {
        step<int8, two>(a, t.a_stride, b);
        for (std::ptrdiff_t i = 0; i < kTileUnits * t.ahead_step; i += 64)
            __builtin_prefetch(ahead + i, 0, 2);
        ahead += kTileUnits * t.ahead_step;
        a += kTileBytes;
        b += kTileUnits * kPanel * kUnit;
    }
    if (left > 0) {
        // The last, incomplete step, filled up with zeros.
        alignas(64) char rows[R * kTileBytes] = {}, units[kTileUnits * kPanel * kUnit] = {};
        for (int r = 0; r < R; ++r)
            __builtin_memcpy(rows + r * kTileBytes, a + r * t.a_stride,
                             static_cast<std::size_t>(left) * kUnit);
        __builtin_memcpy(units, b, static_cast<std::size_t>(left) * kPanel * kUnit);
        memory_barrier();
        step<int8, two>(rows, kTileBytes, units);
    }
    char* c = static_cast<char*>(t.c);
    const std::ptrdiff_t stride = t.c_stride * 4;
    _tile_stored(0, c, stride);
    _tile_stored(1, c + 64, stride);
    if constexpr (two) {
        _tile_stored(2, c + kTileRows * stride, stride);
        _tile_stored(3, c + kTileRows * stride + 64, stride);
    }
}

template <int R>
void tile_int8(const TileArgs& t) {
    tile_amx<true, R>(t);
}

template <int R>
void tile_bf16(const TileArgs& t) {
    tile_amx<false, R>(t);
}

double peak_int8(std::int64_t repeats) {
    alignas(64) static const char operands[4 * kTileRows * kTileBytes] = {};
    Session session;
    session.use(2 * kTileRows);
    for (std::int64_t i = 0; i < repeats; ++i) {
        // From the first-level cache, as the tiles of a product are at best.
        constexpr bool int8 = true;
        _tile_loadd(4, operands, kTileBytes);
        _tile_loadd(5, operands + kTileRows * kTileBytes, kTileBytes);
        _tile_loadd(6, operands + 2 * kTileRows * kTileBytes, kTileBytes);
        _tile_loadd(7, operands + 3 * kTileRows * kTileBytes, kTileBytes);
        CR_MULTIPLY(0, 4, 6);
        CR_MULTIPLY(1, 4, 7);
        CR_MULTIPLY(2, 5, 6);
        CR_MULTIPLY(3, 5, 7);
    }
    return static_cast<double>(repeats) * 2 * kTileRows * kPanel * kTileBytes;
}

}  // namespace crossrank::CR_ISA

#include "table.h"

namespace crossrank {
extern const Kernels kAmx;
const Kernels kAmx = CR_KERNELS("avx512_amx", true, true);
}  // namespace crossrank
