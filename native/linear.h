// A linear layer on packed weights: the loops around the tiles, and what is done to a finished tile.
#pragma once

#include "tiles.h"

namespace crossrank::CR_ISA {

// M rows in as few blocks of at most kRows as will do, their sizes differing by at most one: 128 rows are
// two blocks of 12 and eight of 13, not nine of 14 and one of 2, as a small tile leaves the multipliers idle.
struct RowBlocks {
    int count, small, larger;  // `larger` of the blocks have small + 1 rows

    explicit RowBlocks(int rows)
        : count(static_cast<int>(ceil_div(rows, kRows))),
          small(count ? rows / count : 0),
          larger(count ? rows % count : 0) {}
    int size(int block) const { return small + (block < larger ? 1 : 0); }
};

// One row of 32 sums to its place.
CR_INLINE void finish_row(const Linear& w, const Activations& x, const Output& out, int row, int column,
                          const void* sums) {
    Vf values[kPanel / kLanes];
    if (w.precision == Precision::int8) {
        const std::int32_t shift = CR_WEIGHT_OFFSET * x.sum[row];  // what the +128 of the weights put in
        const float scale = x.scale[row];
        for (int v = 0; v < kPanel / kLanes; ++v) {
            const Vi sum = load<Vi>(static_cast<const std::int32_t*>(sums) + v * kLanes) - shift;
            values[v] = fma(__builtin_convertvector(sum, Vf) * scale, load<Vf>(w.scale + column + v * kLanes),
                            load<Vf>(w.bias + column + v * kLanes));
        }
    } else {
        for (int v = 0; v < kPanel / kLanes; ++v)
            values[v] = load<Vf>(static_cast<const float*>(sums) + v * kLanes) +
                        load<Vf>(w.bias + column + v * kLanes);
    }
    if (out.gelu)
        for (Vf& v : values) v = gelu(v);
    if (out.residual) {
        const char* residual = reinterpret_cast<const char*>(out.residual) + row * out.residual_stride;
        for (int v = 0; v < kPanel / kLanes; ++v) values[v] += load<Vf>(residual + 4 * (column + v * kLanes));
    }
    char* to = static_cast<char*>(out.data) + row * out.stride;
    if (out.bf16)
        for (int v = 0; v < kPanel / kLanes; ++v) store(to + 2 * (column + v * kLanes), to_bf16(values[v]));
    else
        for (int v = 0; v < kPanel / kLanes; ++v) store(to + 4 * (column + v * kLanes), values[v]);
}

constexpr Tile kTilesFp32[kRows] = CR_TILE_TABLE(tile_fp32);
constexpr Tile kTilesBf16[kRows] = CR_TILE_TABLE(CR_TILE_BF16);
constexpr Tile kTilesInt8[kRows] = CR_TILE_TABLE(CR_TILE_INT8);

CR_INLINE const Tile* tiles(Precision p) {
    return p == Precision::int8 ? kTilesInt8 : p == Precision::bf16 ? kTilesBf16 : kTilesFp32;
}

// The panel is the outer loop: it stays in the second-level cache while all rows pass by it, and the next
// panel is fetched meanwhile.
void linear(const Linear& w, const Activations& x, int first, int last, const Output& out) {
    const Tile* tile = tiles(w.precision);
    const RowBlocks blocks(x.rows);
    const std::ptrdiff_t panel_bytes = std::ptrdiff_t{w.groups()} * kPanel * kUnit;
    alignas(64) float sums[kRows * kPanel];
    for (int p = first; p < last; ++p) {
        const char* panel = static_cast<const char*>(w.panels) + p * panel_bytes;
        int row = 0;
        for (int block = 0; block < blocks.count; ++block) {
            const int rows = blocks.size(block);
            const char* next =
                p + 1 < last ? panel + panel_bytes + block * (panel_bytes / blocks.count) : panel;
            tile[rows - 1]({static_cast<const char*>(x.data) + row * x.stride, x.stride, panel, w.groups(),
                            sums, kPanel, next, p + 1 < last ? ceil_div(kPanel * kUnit, blocks.count) : 0});
            for (int r = 0; r < rows; ++r) finish_row(w, x, out, row + r, p * kPanel, sums + r * kPanel);
            row += rows;
        }
    }
}

}  // namespace crossrank::CR_ISA
