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
#define CR_THREAD_ROWS 32

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

// One step: 64 bytes of each row, 16 units of the panel. between() is called after each product of tiles,
// which goes on beside whatever else a core does.
template <bool int8, class Between>
CR_INLINE void step(const char* a, std::ptrdiff_t stride, const char* b, bool two, Between& between) {
    // Activations come as a stream, which spares the panel its place in the first-level cache.
    _tile_loadd(6, b, kPanel * kUnit);
    _tile_stream_loadd(4, a, stride);
    CR_MULTIPLY(0, 4, 6);
    between();
    _tile_loadd(7, b + kTileBytes, kPanel * kUnit);
    CR_MULTIPLY(1, 4, 7);
    between();
    if (two) {
        _tile_stream_loadd(5, a + kTileRows * stride, stride);
        CR_MULTIPLY(2, 5, 6);
        between();
        CR_MULTIPLY(3, 5, 7);
        between();
    }
}

// `rows` rows times `units` units of a panel, from nothing or on top of the sums that are there.
template <bool int8, class Between>
CR_INLINE void multiply(Session& session, const char* a, std::ptrdiff_t stride, int rows, const char* panel,
                        int units, bool from_nothing, void* sums, std::ptrdiff_t sums_stride,
                        Between& between) {
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
        step<int8>(a, stride, panel, two, between);
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
        step<int8>(left, kTileBytes, right, two, between);
    }
    _tile_stored(0, upper, sums_stride);
    _tile_stored(1, upper + kTileBytes, sums_stride);
    if (two) {
        _tile_stored(2, lower, sums_stride);
        _tile_stored(3, lower + kTileBytes, sums_stride);
    }
    memory_barrier();
}

struct Nothing {
    CR_INLINE void operator()() {}
};

template <bool int8>
void tile_amx(const TileArgs& t, int rows) {
    Nothing nothing;
    multiply<int8>(*t.session, t.a, t.a_stride, rows, t.panel, t.groups, true, t.c, t.c_stride * 4, nothing);
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
constexpr int kMostChunkRows = 1024;             // where a block has all of a panel's inputs
constexpr std::ptrdiff_t kChunkBytes = 1 << 20;  // of activations: half of the second-level cache

// What a core does between the products of tiles, by units that would be idle: finished sums go to their
// place, a row at a time, and the next panel is fetched. A few instructions at a time, or the products would
// have to wait for them.
template <bool int8, Finish kind, bool bf16>
class Meanwhile {
  public:
    struct Row {
        float factor;
        std::int32_t shift;
    };

    // `rows` are those of the chunk that begins with row `from` of `out`. (They are not a member: an object
    // that something points into cannot live in registers.)
    Meanwhile(const Linear& w, const Output& out, const Row* rows, int from)
        : w_(w), out_(out), rows_(rows), from_(from), stride_(out.stride) {}

    // `rows` rows of sums from row `row` of the chunk on, of a panel.
    void finish(const float* sums, int row, int rows, int panel) {
        finisher_ = Finisher<int8, kind, bf16>(w_, panel, out_);
        sums_ = sums;
        end_ = sums + rows * kPanel;
        row_ = rows_ + (int8 ? row : 0);
        to_ = place_of(out_, from_ + row, panel);
    }

    // What there is to finish is spread over `times` calls.
    void spread(int times) {
        rate_ = times ? static_cast<int>(((end_ - sums_) / kPanel * kWhole + times - 1) / times) : 0;
        credit_ = 0;
    }

    // Memory from `first` to `last`, fetched within `times` calls.
    void fetch(const char* first, const char* last, int times) {
        ahead_ = first;
        ahead_end_ = last;
        lines_ = times ? static_cast<int>(ceil_div(last - first, std::ptrdiff_t{64} * times)) : 0;
    }

    CR_INLINE void operator()() {
        if (ahead_ < ahead_end_)
            for (int i = lines_; i > 0; --i, ahead_ += 64) __builtin_prefetch(ahead_, 0, 2);
        for (credit_ += rate_; credit_ >= kWhole && sums_ < end_; credit_ -= kWhole) row();
    }

    void finish_rest() {
        while (sums_ < end_) row();
    }

  private:
    static constexpr int kWhole = 1 << 16;  // a row of credit

    CR_INLINE void row() {
        finisher_.row(sums_, row_->factor, row_->shift, to_);
        sums_ += kPanel;
        to_ += stride_;
        if constexpr (int8) ++row_;
    }

    const Linear& w_;
    const Output& out_;
    const Row* const rows_;
    const int from_;
    const std::ptrdiff_t stride_;

    Finisher<int8, kind, bf16> finisher_;
    const float *sums_ = nullptr, *end_ = nullptr;
    const Row* row_ = nullptr;
    char* to_ = nullptr;
    int credit_ = 0, rate_ = 0, lines_ = 0;
    const char *ahead_ = nullptr, *ahead_end_ = nullptr;
};

// Tiles multiply so fast that the caches cannot follow: 32 rows and a panel have as many bytes. So a block of
// the panel's inputs stays in the first-level cache while all rows pass by it, and where there are more
// inputs, sums wait in memory for the next block.
template <bool int8, Finish kind, bool bf16_out>
void multiply_rows(const Linear& w, const Activations& x, int first, int last, const Output& out, int from,
                   int count) {
    const RowBlocks blocks(count, kDotRows);
    const int groups = w.groups();
    const std::ptrdiff_t panel_bytes = std::ptrdiff_t{groups} * kPanel * kUnit;
    const char* a = static_cast<const char*>(x.data) + from * x.stride;
    const bool whole = groups <= kBlockUnits;
    alignas(64) float kept[kChunkRows * kPanel];
    // One block's sums are finished while the next block's are made.
    const auto sums_of = [&](int block, int first_row) {
        return kept + (whole ? block % 2 * kDotRows : first_row) * kPanel;
    };
    const auto products = [&](int rows, int units) {
        return (rows > kTileRows ? 4 : 2) * (units / kTileUnits);
    };
    using Doing = Meanwhile<int8, kind, bf16_out>;
    typename Doing::Row scales[int8 ? kMostChunkRows : 1];
    if constexpr (int8)
        for (int r = 0; r < count; ++r) scales[r] = {x.scale[from + r], shift_of(x, from + r)};
    else scales[0] = {1.0f, 0};
    Doing meanwhile(w, out, scales, from);
    Session session;
    int made = 0;
    for (int p = first; p < last; ++p) {
        const char* panel = static_cast<const char*>(w.panels) + p * panel_bytes;
        if (p + 1 < last)
            meanwhile.fetch(panel + panel_bytes, panel + 2 * panel_bytes,
                            blocks.count * products(blocks.small, groups));
        for (int group = 0; group < groups; group += kBlockUnits) {
            const int units = groups - group < kBlockUnits ? groups - group : kBlockUnits;
            int block_row = 0;
            for (int block = 0; block < blocks.count; ++block) {
                const int rows = blocks.size(block);
                float* sums = sums_of(made++, block_row);
                meanwhile.spread(products(rows, units));
                multiply<int8>(session, a + block_row * x.stride + std::ptrdiff_t{group} * kUnit, x.stride,
                               rows, panel + std::ptrdiff_t{group} * kPanel * kUnit, units, group == 0, sums,
                               kPanel * 4, meanwhile);
                if (group + units == groups) {
                    meanwhile.finish_rest();
                    meanwhile.finish(sums, block_row, rows, p);
                }
                block_row += rows;
            }
        }
    }
    meanwhile.finish_rest();
}

using MultiplyRows = void (*)(const Linear&, const Activations&, int, int, const Output&, int, int);

template <bool int8, Finish kind>
MultiplyRows multiply_rows_for(const Output& out) {
    return out.bf16 ? multiply_rows<int8, kind, true> : multiply_rows<int8, kind, false>;
}

template <bool int8>
MultiplyRows multiply_rows_for(const Output& out) {
    switch (finish_of(out)) {
        case Finish::none:
            return multiply_rows_for<int8, Finish::none>(out);
        case Finish::gelu_coarse:
            return multiply_rows_for<int8, Finish::gelu_coarse>(out);
        case Finish::gated_gelu_coarse:
            return multiply_rows<int8, Finish::gated_gelu_coarse, true>;
        case Finish::gated_silu_coarse:
            return multiply_rows<int8, Finish::gated_silu_coarse, true>;
        default:  // exact to fp32 is for products in fp32, which are not made here
            return multiply_rows_for<int8, Finish::other>(out);
    }
}

void linear_amx(const Linear& w, const Activations& x, int first, int last, const Output& out) {
    if (w.precision == Precision::fp32) return linear_by_tiles(w, x, first, last, out);
    const MultiplyRows multiply =
        w.precision == Precision::int8 ? multiply_rows_for<true>(out) : multiply_rows_for<false>(out);
    const int limit = w.groups() <= kBlockUnits ? kMostChunkRows : kChunkRows;
    const std::ptrdiff_t fitting = kChunkBytes / (std::ptrdiff_t{w.groups()} * kUnit) / kDotRows * kDotRows;
    const int chunk = fitting < kDotRows ? kDotRows : fitting < limit ? static_cast<int>(fitting) : limit;
    const RowBlocks chunks(x.rows, chunk);
    for (int i = 0, from = 0; i < chunks.count; from += chunks.size(i++))
        multiply(w, x, first, last, out, from, chunks.size(i));
}

}  // namespace crossrank::CR_ISA

#define CR_LINEAR linear_amx
#include "table.h"

namespace crossrank {
extern const Kernels kAmx;
const Kernels kAmx = CR_KERNELS("avx512_amx", true, true);
}  // namespace crossrank
