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
template <bool int8>
CR_INLINE void step(const char* a, std::ptrdiff_t stride, const char* b, bool two) {
    // Activations come as a stream, which spares the panel its place in the first-level cache.
    _tile_loadd(6, b, kPanel * kUnit);
    _tile_stream_loadd(4, a, stride);
    CR_MULTIPLY(0, 4, 6);
    _tile_loadd(7, b + kTileBytes, kPanel * kUnit);
    CR_MULTIPLY(1, 4, 7);
    if (two) {
        _tile_stream_loadd(5, a + kTileRows * stride, stride);
        CR_MULTIPLY(2, 5, 6);
        CR_MULTIPLY(3, 5, 7);
    }
}

// `rows` rows times `units` units of a panel, from nothing or on top of the sums that are there. between() is
// called after each whole step: the multiplier of tiles works beside everything else that a core does.
template <bool int8, class Between>
CR_INLINE void multiply(Session& session, const char* a, std::ptrdiff_t stride, int rows, const char* panel,
                        int units, bool from_nothing, void* sums, std::ptrdiff_t sums_stride,
                        const Between& between) {
    const bool two = rows > kTileRows;
    char *upper = static_cast<char*>(sums), *lower = upper + kTileRows * sums_stride;
    session.use(rows);
    memory_barrier();
    if (from_nothing) {
        _tile_zero(0);
        _tile_zero(1);
        if (two) {
            _tile_zero(2);
            _tile_zero(3);
        }
    } else {
        _tile_loadd(0, upper, sums_stride);
        _tile_loadd(1, upper + kTileBytes, sums_stride);
        if (two) {
            _tile_loadd(2, lower, sums_stride);
            _tile_loadd(3, lower + kTileBytes, sums_stride);
        }
    }
    for (; units >= kTileUnits; units -= kTileUnits) {
        step<int8>(a, stride, panel, two);
        between();
        a += kTileBytes;
        panel += kTileUnits * kPanel * kUnit;
    }
    if (units > 0) {
        // The last, incomplete step, filled up with zeros.
        alignas(64) char left[2 * kTileRows * kTileBytes] = {}, right[kTileUnits * kPanel * kUnit] = {};
        for (int r = 0; r < rows; ++r)
            __builtin_memcpy(left + r * kTileBytes, a + r * stride, static_cast<std::size_t>(units) * kUnit);
        __builtin_memcpy(right, panel, static_cast<std::size_t>(units) * kPanel * kUnit);
        memory_barrier();
        step<int8>(left, kTileBytes, right, two);
    }
    _tile_stored(0, upper, sums_stride);
    _tile_stored(1, upper + kTileBytes, sums_stride);
    if (two) {
        _tile_stored(2, lower, sums_stride);
        _tile_stored(3, lower + kTileBytes, sums_stride);
    }
    memory_barrier();
}

template <bool int8>
void tile_amx(const TileArgs& t, int rows) {
    multiply<int8>(*t.session, t.a, t.a_stride, rows, t.panel, t.groups, true, t.c, t.c_stride * 4, [] {});
}

template <int R>
void tile_int8(const TileArgs& t) {
    tile_amx<true>(t, R);
}

template <int R>
void tile_bf16(const TileArgs& t) {
    tile_amx<false>(t, R);
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

#include "linear.h"

namespace crossrank::CR_ISA {

constexpr int kBlockUnits = 256;                 // of a panel: 32 KiB, in the first-level cache
constexpr int kChunkRows = 256;                  // whose sums are kept from block to block
constexpr std::ptrdiff_t kChunkBytes = 1 << 20;  // of activations: half of the second-level cache

// Tiles multiply so fast that the caches cannot follow: 32 rows and a panel have as many bytes. So a block of
// the panel's inputs stays in the first-level cache while all rows pass by it, and where there are more
// inputs, sums wait in memory for the next block. What is done to finished sums is done between the products
// of the next rows, by units of the processor that would be idle.
template <bool int8>
void multiply_rows(const Linear& w, const Activations& x, int first, int last, const Output& out, int from,
                   int count) {
    const RowBlocks blocks(count, kDotRows);
    const int groups = w.groups();
    const std::ptrdiff_t panel_bytes = std::ptrdiff_t{groups} * kPanel * kUnit;
    const Finish finish_block = finish_for(w, out);
    const char* a = static_cast<const char*>(x.data) + from * x.stride;
    const std::ptrdiff_t steps = std::ptrdiff_t{blocks.count} * ceil_div(groups, kTileUnits);
    const std::ptrdiff_t ahead_step = round_up(ceil_div(panel_bytes, steps), 64);
    const bool whole = groups <= kBlockUnits;
    alignas(64) float kept[kChunkRows * kPanel];
    // One block's sums are finished while the next block's are made.
    const auto sums_of = [&](int block, int first_row) {
        return kept + (whole ? block % 2 * kDotRows : first_row) * kPanel;
    };
    Session session;

    // Sums that wait to be finished: rows [row, end) of the chunk in the panel from `column` on, some at a
    // time.
    int row = 0, end = 0, column = 0, some = 0, made = 0;
    const float* sums = nullptr;
    const auto finish_some = [&](int rows) {
        if (row == end) return;
        const int n = rows < end - row ? rows : end - row;
        finish_block(w, x, out, from + row, n, column, sums);
        row += n;
        sums += n * kPanel;
    };

    for (int p = first; p < last; ++p) {
        const char* panel = static_cast<const char*>(w.panels) + p * panel_bytes;
        const char* ahead = panel + panel_bytes;
        const char* ahead_end = p + 1 < last ? ahead + panel_bytes : ahead;
        for (int group = 0; group < groups; group += kBlockUnits) {
            const int units = groups - group < kBlockUnits ? groups - group : kBlockUnits;
            const bool complete = group + units == groups;
            int block_row = 0;
            for (int block = 0; block < blocks.count; ++block) {
                const int rows = blocks.size(block);
                float* block_sums = sums_of(made, block_row);
                multiply<int8>(session, a + block_row * x.stride + std::ptrdiff_t{group} * kUnit, x.stride,
                               rows, panel + std::ptrdiff_t{group} * kPanel * kUnit, units, group == 0,
                               block_sums, kPanel * 4, [&] {
                                   for (const char* e = ahead + ahead_step; ahead < e && ahead < ahead_end;
                                        ahead += 64)
                                       __builtin_prefetch(ahead, 0, 2);
                                   finish_some(some);
                               });
                if (complete) {
                    finish_some(kDotRows);
                    sums = block_sums;
                    row = block_row;
                    end = block_row + rows;
                    column = p * kPanel;
                    some = (rows * kTileUnits + units - 1) / units;
                }
                block_row += rows;
                ++made;
            }
        }
    }
    finish_some(kDotRows);
}

void linear_amx(const Linear& w, const Activations& x, int first, int last, const Output& out) {
    if (w.precision == Precision::fp32) return linear_by_tiles(w, x, first, last, out);
    const std::ptrdiff_t fitting = kChunkBytes / (std::ptrdiff_t{w.groups()} * kUnit) / kDotRows * kDotRows;
    const std::ptrdiff_t most = w.groups() <= kBlockUnits || fitting < kChunkRows ? fitting : kChunkRows;
    const int chunk = static_cast<int>(most < kDotRows ? kDotRows : most);
    const RowBlocks chunks(x.rows, chunk);
    for (int i = 0, from = 0; i < chunks.count; from += chunks.size(i++))
        (w.precision == Precision::int8 ? multiply_rows<true> : multiply_rows<false>)(w, x, first, last, out,
                                                                                      from, chunks.size(i));
}

}  // namespace crossrank::CR_ISA

#define CR_LINEAR linear_amx
#include "table.h"

namespace crossrank {
extern const Kernels kAmx;
const Kernels kAmx = CR_KERNELS("avx512_amx", true, true);
}  // namespace crossrank
