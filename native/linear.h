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

// What turns the sums of one panel into a layer's outputs.
template <bool int8, Gelu gelu_kind, bool bf16>
class Finisher {
  public:
    Finisher() = default;
    CR_INLINE Finisher(const Linear& w, int column) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectorsOfPanel; ++v) {
            bias_[v] = load<Vf>(w.bias + column + v * kLanes);
            if constexpr (int8) scale_[v] = load<Vf>(w.scale + column + v * kLanes);
            if constexpr (gelu_kind == Gelu::coarse) {  // which takes numbers in a unit of its own
                bias_[v] *= 1 / kGeluUnit;
                scale_[v] = (int8 ? scale_[v] : splat(1.0f)) * (1 / kGeluUnit);
            }
        }
    }

    // One row of 32 sums; in int8, times `factor`, after the shift that the 128 added to the weights put in
    // is taken out.
    CR_INLINE void row(const float* sums, float factor, std::int32_t shift, bool add, char* to) const {
        Vf y[kVectorsOfPanel];
#pragma GCC unroll 8
        for (int v = 0; v < kVectorsOfPanel; ++v) {
            if constexpr (int8) {
                const Vi sum = load<Vi>(sums + v * kLanes) - (shift - Vi{});
                y[v] = fma(__builtin_convertvector(sum, Vf) * splat(factor), scale_[v], bias_[v]);
            } else if constexpr (gelu_kind == Gelu::coarse) {
                y[v] = fma(load<Vf>(sums + v * kLanes), scale_[v], bias_[v]);
            } else {
                y[v] = load<Vf>(sums + v * kLanes) + bias_[v];
            }
            if constexpr (gelu_kind == Gelu::fine) y[v] = gelu(y[v]);
            if constexpr (gelu_kind == Gelu::coarse) y[v] = gelu_coarse(y[v]);
            if constexpr (!bf16) {
                if (add) y[v] += load<Vf>(to + 4 * v * kLanes);
                store(to + 4 * v * kLanes, y[v]);
            }
        }
        if constexpr (bf16) {
#pragma GCC unroll 4
            for (int v = 0; v < kVectorsOfPanel; v += 2) store_bf16(to + 2 * v * kLanes, y[v], y[v + 1]);
        }
    }

  private:
    static constexpr int kVectorsOfPanel = kPanel / kLanes;
    Vf bias_[kVectorsOfPanel] = {}, scale_[kVectorsOfPanel] = {};
};

CR_INLINE std::int32_t shift_of(const Activations& x, int row) { return CR_WEIGHT_OFFSET * x.sum[row]; }

CR_INLINE char* place_of(const Output& out, int row, int column) {
    return static_cast<char*>(out.data) + row * out.stride + column * (out.bf16 ? 2 : 4);
}

// Sums (rows, 32) to their place: one column block of `out` from row `first` on.
template <bool int8, Gelu gelu_kind, bool bf16>
void finish(const Linear& w, const Activations& x, const Output& out, int first, int rows, int column,
            const float* sums) {
    const Finisher<int8, gelu_kind, bf16> finisher(w, column);
    char* to = place_of(out, first, column);
    for (int r = first; r < first + rows; ++r) {
        finisher.row(sums, int8 ? x.scale[r] : 1.0f, int8 ? shift_of(x, r) : 0, out.add, to);
        sums += kPanel;
        to += out.stride;
    }
}

using Finish = void (*)(const Linear&, const Activations&, const Output&, int, int, int, const float*);

template <bool int8, Gelu gelu_kind>
CR_INLINE Finish finish_for(const Output& out) {
    return out.bf16 ? finish<int8, gelu_kind, true> : finish<int8, gelu_kind, false>;
}

template <bool int8>
CR_INLINE Finish finish_for(const Output& out) {
    return out.gelu == Gelu::none   ? finish_for<int8, Gelu::none>(out)
           : out.gelu == Gelu::fine ? finish_for<int8, Gelu::fine>(out)
                                    : finish_for<int8, Gelu::coarse>(out);
}

constexpr Tile kTilesFp32[kRows] = CR_TILE_TABLE(tile_fp32, CR_ROWS);
constexpr Tile kTilesBf16[kDotRows] = CR_TILE_TABLE(CR_TILE_BF16, CR_DOT_ROWS);
constexpr Tile kTilesInt8[kDotRows] = CR_TILE_TABLE(CR_TILE_INT8, CR_DOT_ROWS);

CR_INLINE const Tile* tiles(Precision p) {
    return p == Precision::int8 ? kTilesInt8 : p == Precision::bf16 ? kTilesBf16 : kTilesFp32;
}
CR_INLINE int tile_rows(Precision p) { return p == Precision::fp32 ? kRows : kDotRows; }

CR_INLINE Finish finish_for(const Linear& w, const Output& out) {
    return w.precision == Precision::int8 ? finish_for<true>(out) : finish_for<false>(out);
}

// The panel is the outer loop: it stays in the second-level cache while all rows pass by it, and the next
// panel is fetched meanwhile.
inline void linear_by_tiles(const Linear& w, const Activations& x, int first, int last, const Output& out) {
    const Tile* tile = tiles(w.precision);
    const RowBlocks blocks(x.rows, tile_rows(w.precision));
    const std::ptrdiff_t panel_bytes = std::ptrdiff_t{w.groups()} * kPanel * kUnit;
    const Finish finish_block = finish_for(w, out);
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
            finish_block(w, x, out, row, rows, p * kPanel, sums);
            row += rows;
        }
    }
}

}  // namespace crossrank::CR_ISA
