// A linear layer on prepared weights: the loops around the tiles, and what is done to a finished tile.
#pragma once

#include "tiles.h"

namespace crossrank::CR_ISA {

// M rows in the fewest blocks of at most `max_rows`, whose sizes differ by at most one: 128 rows are two
// blocks of 12 and eight of 13, not nine of 14 and one of 2, because a small tile leaves the multipliers
// idle.
struct RowBlocks {
    int count, small, larger;  // `larger` of the blocks have small + 1 rows

    RowBlocks(int rows, int max_rows)
        : count(static_cast<int>(ceil_div(rows, max_rows))),
          small(count ? rows / count : 0),
          larger(count ? rows % count : 0) {}
    int size(int block) const { return small + (block < larger ? 1 : 0); }
};

// What is done to a product's sums. The frequent kinds are compiled each by itself.
enum class Finish { none, gelu, gelu_coarse, gated_gelu_coarse, gated_silu_coarse, other };

CR_INLINE Finish finish_of(const Output& out) {
    if (!out.activated) return Finish::none;
    const bool gated_coarse = out.gated && out.coarse && out.bf16;
    if (gated_coarse && out.activation == Activation::silu) return Finish::gated_silu_coarse;
    if (out.activation != Activation::gelu || (out.gated && !gated_coarse)) return Finish::other;
    return out.gated ? Finish::gated_gelu_coarse : out.coarse ? Finish::gelu_coarse : Finish::gelu;
}

CR_INLINE int column_of(const Output& out, int panel) { return panel * (out.gated ? kGates : kPanel); }

// What turns the sums of one panel into a layer's outputs.
template <bool int8, Finish kind, bool bf16>
class Finisher {
  public:
    Finisher() = default;
    CR_INLINE Finisher(const Linear& w, int panel, const Output& out)
        : add_(out.add), gated_(out.gated), coarse_(out.coarse), activation_(out.activation) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
            bias_[v] = load<Vf>(w.bias + panel * kPanel + v * kLanes);
            if constexpr (int8) scale_[v] = load<Vf>(w.scale + panel * kPanel + v * kLanes);
            if (in_gelu_unit(v)) {
                bias_[v] *= 1 / kGeluUnit;
                scale_[v] = (int8 ? scale_[v] : splat(1.0f)) * (1 / kGeluUnit);
            }
        }
    }

    // One row of 32 sums; in int8, times `factor`, after the shift that the 128 added to the weights put in
    // is taken out.
    CR_INLINE void row(const float* sums, float factor, std::int32_t shift, char* to) const {
        Vf y[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
            if constexpr (int8) {
                const Vi sum = load<Vi>(sums + v * kLanes) - (shift - Vi{});
                y[v] = fma(__builtin_convertvector(sum, Vf) * splat(factor), scale_[v], bias_[v]);
            } else if (in_gelu_unit(v)) {
                y[v] = fma(load<Vf>(sums + v * kLanes), scale_[v], bias_[v]);
            } else {
                y[v] = load<Vf>(sums + v * kLanes) + bias_[v];
            }
            if constexpr (kind == Finish::gelu) y[v] = gelu(y[v]);
            if (in_gelu_unit(v)) y[v] = gelu_coarse(y[v]);
        }
        if constexpr (kind == Finish::gated_silu_coarse)
#pragma GCC unroll 4
            for (int v = 0; v < kVectorsOfGates; ++v) y[v] = activated<true>(Activation::silu, y[v]);
        if constexpr (kind == Finish::gated_gelu_coarse || kind == Finish::gated_silu_coarse) {
            multiply_gates(y);
            put<kVectorsOfGates>(y, to);
        } else if constexpr (kind == Finish::other) {
            const int activated_vectors = gated_ ? kVectorsOfGates : kVectors;
            for (int v = 0; v < activated_vectors; ++v)
                y[v] = coarse_ ? activated<true>(activation_, y[v]) : activated<false>(activation_, y[v]);
            if (!gated_) return put<kVectors>(y, to);
            multiply_gates(y);
            put<kVectorsOfGates>(y, to);
        } else {
            put<kVectors>(y, to);
        }
    }

  private:
    static constexpr int kVectors = kPanel / kLanes, kVectorsOfGates = kGates / kLanes;

    // Which vectors gelu_coarse() takes, whose numbers are in a unit of its own.
    static constexpr bool in_gelu_unit(int v) {
        return kind == Finish::gelu_coarse || (kind == Finish::gated_gelu_coarse && v < kVectorsOfGates);
    }

    CR_INLINE static void multiply_gates(Vf* y) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectorsOfGates; ++v) y[v] *= y[kVectorsOfGates + v];
    }

    template <int n>
    CR_INLINE void put(const Vf* y, char* to) const {
        if constexpr (bf16) {
#pragma GCC unroll 4
            for (int v = 0; v + 1 < n; v += 2) store_bf16(to + 2 * v * kLanes, y[v], y[v + 1]);
            if constexpr (n % 2 != 0) store(to + 2 * (n - 1) * kLanes, to_bf16(y[n - 1]));
        } else {
#pragma GCC unroll 8
            for (int v = 0; v < n; ++v)
                store(to + 4 * v * kLanes, add_ ? y[v] + load<Vf>(to + 4 * v * kLanes) : y[v]);
        }
    }

    Vf bias_[kVectors] = {}, scale_[kVectors] = {};
    bool add_ = false, gated_ = false, coarse_ = false;
    Activation activation_ = Activation::gelu;
};

CR_INLINE std::int32_t shift_of(const Activations& x, int row) { return CR_WEIGHT_OFFSET * x.sum[row]; }

CR_INLINE char* place_of(const Output& out, int row, int panel) {
    return static_cast<char*>(out.data) + row * out.stride + column_of(out, panel) * (out.bf16 ? 2 : 4);
}

// Sums (rows, 32) to their place: one panel's columns of `out` from row `first` on.
template <bool int8, Finish kind, bool bf16>
void finish(const Linear& w, const Activations& x, const Output& out, int first, int rows, int panel,
            const float* sums) {
    const Finisher<int8, kind, bf16> finisher(w, panel, out);
    char* to = place_of(out, first, panel);
    for (int r = first; r < first + rows; ++r) {
        finisher.row(sums, int8 ? x.scale[r] : 1.0f, int8 ? shift_of(x, r) : 0, to);
        sums += kPanel;
        to += out.stride;
    }
}

using FinishRows = void (*)(const Linear&, const Activations&, const Output&, int, int, int, const float*);

template <bool int8, Finish kind>
CR_INLINE FinishRows finish_for(const Output& out) {
    return out.bf16 ? finish<int8, kind, true> : finish<int8, kind, false>;
}

template <bool int8>
CR_INLINE FinishRows finish_for(const Output& out) {
    switch (finish_of(out)) {
        case Finish::none:
            return finish_for<int8, Finish::none>(out);
        case Finish::gelu:
            return finish_for<int8, Finish::gelu>(out);
        case Finish::gelu_coarse:
            return finish_for<int8, Finish::gelu_coarse>(out);
        case Finish::gated_gelu_coarse:
            return finish<int8, Finish::gated_gelu_coarse, true>;
        case Finish::gated_silu_coarse:
            return finish<int8, Finish::gated_silu_coarse, true>;
        case Finish::other:
            break;
    }
    return finish_for<int8, Finish::other>(out);
}

constexpr Tile kTilesFp32[kRows] = CR_TILE_TABLE(tile_fp32, CR_ROWS);
constexpr Tile kTilesBf16[kDotRows] = CR_TILE_TABLE(CR_TILE_BF16, CR_DOT_ROWS);
constexpr Tile kTilesInt8[kDotRows] = CR_TILE_TABLE(CR_TILE_INT8, CR_DOT_ROWS);

CR_INLINE const Tile* tiles(Precision p) {
    return p == Precision::int8 ? kTilesInt8 : p == Precision::bf16 ? kTilesBf16 : kTilesFp32;
}
CR_INLINE int tile_rows(Precision p) { return p == Precision::fp32 ? kRows : kDotRows; }

CR_INLINE FinishRows finish_for(const Linear& w, const Output& out) {
    return w.precision == Precision::int8 ? finish_for<true>(out) : finish_for<false>(out);
}

// The panel is the outer loop: it stays in the second-level cache while all rows pass by it, and the next
// panel is fetched meanwhile.
inline void linear_by_tiles(const Linear& w, const Activations& x, int first, int last, const Output& out) {
    const Tile* tile = tiles(w.precision);
    const RowBlocks blocks(x.rows, tile_rows(w.precision));
    const std::ptrdiff_t panel_bytes = std::ptrdiff_t{w.groups()} * kPanel * kUnit;
    const FinishRows finish_block = finish_for(w, out);
    alignas(64) float sums[kMostRows * kPanel];
    Session session;
    for (int p = first; p < last; ++p) {
        const char* panel = static_cast<const char*>(w.panels) + p * panel_bytes;
        int row = 0;
        for (int block = 0; block < blocks.count; ++block) {
            const int rows = blocks.size(block);
            const char* next =
                p + 1 < last ? panel + panel_bytes + block * (panel_bytes / blocks.count) : panel;
            tile[rows - 1]({static_cast<const char*>(x.data) + row * x.stride, x.stride, panel, w.groups(),
                            sums, kPanel, next, p + 1 < last ? ceil_div(kPanel * kUnit, blocks.count) : 0,
                            &session});
            finish_block(w, x, out, row, rows, p, sums);
            row += rows;
        }
    }
}

}  // namespace crossrank::CR_ISA
