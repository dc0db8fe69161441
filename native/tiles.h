// Register tiles: up to kRows rows of activations (kDotRows in bf16 and int8) times one panel of 32 outputs,
// over all K inputs, the sums staying in registers. These are the general versions, in plain C++ and compiler
// vectors; an instruction set with dot products puts its own in their place.
//
// Every tile accumulates over K in the same order for every row, so a row's result does not depend on
// which rows share its tile.
//
// Each instruction set has a source file, isa_*.cpp, which defines what it is made of and then includes these
// headers:
//
//     macro             meaning                                                          default
//     CR_ISA            the namespace of all its code (set by CMake)                     none
//     CR_AVX_VNNI       AVX-VNNI may be used (set by CMake)                              not defined
//     CR_AVX512_BF16    AVX-512 BF16 may be used (set by CMake)                          not defined
//     CR_LANES          floats of a vector: 4, 8 or 16                                   none
//     CR_VECTORS        vectors of a panel's row that a general tile takes at a time     none
//     CR_ROWS           maximum rows of a tile in fp32                                   none
//     CR_DOT_ROWS       maximum rows of a tile in bf16 and int8                          CR_ROWS
//     CR_TILE_BF16      the tile in bf16, a function template with the rows as argument  none
//     CR_TILE_INT8      the tile in int8, likewise                                       none
//     CR_WEIGHT_OFFSET  what int8 weights are above their value in that tile: 128 or 0   none
//     CR_SESSION        defined: there is a class Session of its own                     an empty one
//     CR_LINEAR         the function that computes a product                             linear_by_tiles
//     CR_PEAK           defined: there is a function peak_int8 of its own                one on a tile
//     CR_THREAD_ROWS    rows of a small model that are worth a thread (kernels.h)        12
#pragma once

#include "kernels.h"
#include "vec.h"

namespace crossrank::CR_ISA {

#ifndef CR_SESSION
// What a thread needs around its tiles: nothing, but for AMX.
struct Session {};
#endif

// rows x 32 sums. `a` is row-major with `a_stride` bytes from row to row, `c` has `c_stride` values.
// `ahead` is memory that will be wanted soon: one line is prefetched for each group, `ahead_step` bytes on.
struct TileArgs {
    const char* a;
    std::ptrdiff_t a_stride;
    const char* panel;
    int groups;
    void* c;
    std::ptrdiff_t c_stride;
    const char* ahead;
    std::ptrdiff_t ahead_step;
    Session* session;
};

using Tile = void (*)(const TileArgs&);

CR_INLINE float bf16_to_float(std::uint32_t upper) {
    upper <<= 16;
    float f;
    __builtin_memcpy(&f, &upper, 4);
    return f;
}

// The columns of a panel are taken kVectors vectors at a time, as many as the registers hold beside
// the other operands (CR_VECTORS).
constexpr int kVectors = CR_VECTORS;
constexpr int kStrip = kVectors * kLanes;
static_assert(kPanel % kStrip == 0);

template <int R>
void tile_fp32(const TileArgs& t) {
    for (int column = 0; column < kPanel; column += kStrip) {
        Vf acc[R][kVectors] = {};
        const char* b = t.panel + column * kUnit;
        for (int g = 0; g < t.groups; ++g) {
            Vf w[kVectors];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) w[v] = load<Vf>(b + 4 * kLanes * v);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                float value;
                __builtin_memcpy(&value, t.a + r * t.a_stride + 4 * g, 4);
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) acc[r][v] = fma(splat(value), w[v], acc[r][v]);
            }
            __builtin_prefetch(t.ahead + g * t.ahead_step, 0, 2);
            b += kPanel * kUnit;
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v)
                store(static_cast<float*>(t.c) + r * t.c_stride + column + v * kLanes, acc[r][v]);
    }
}

// bf16 without an instruction for it: both halves of each unit are widened to fp32.
template <int R>
void tile_bf16_widened(const TileArgs& t) {
    constexpr std::uint32_t kUpper = 0xffff0000;
    for (int column = 0; column < kPanel; column += kStrip) {
        Vf acc[R][kVectors] = {};
        const char* b = t.panel + column * kUnit;
        for (int g = 0; g < t.groups; ++g) {
            Vu w[kVectors];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) w[v] = load<Vu>(b + 4 * kLanes * v);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                std::uint32_t unit;
                __builtin_memcpy(&unit, t.a + r * t.a_stride + 4 * g, 4);
                const Vf even = splat(bf16_to_float(unit & 0xffff)), odd = splat(bf16_to_float(unit >> 16));
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) {
                    acc[r][v] = fma(even, reinterpret_cast<Vf>(w[v] << 16), acc[r][v]);
                    acc[r][v] = fma(odd, reinterpret_cast<Vf>(w[v] & kUpper), acc[r][v]);
                }
            }
            __builtin_prefetch(t.ahead + g * t.ahead_step, 0, 2);
            b += kPanel * kUnit;
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v)
                store(static_cast<float*>(t.c) + r * t.c_stride + column + v * kLanes, acc[r][v]);
    }
}

// int8 without an instruction for it.
template <int R>
void tile_int8_plain(const TileArgs& t) {
    for (int r = 0; r < R; ++r) {
        const auto* a = reinterpret_cast<const std::int8_t*>(t.a + r * t.a_stride);
        const auto* b = reinterpret_cast<const std::uint8_t*>(t.panel);
        std::int32_t acc[kPanel] = {};
        for (int g = 0; g < t.groups; ++g, a += 4, b += kPanel * kUnit)
            for (int n = 0; n < kPanel; ++n)
                acc[n] += a[0] * b[4 * n] + a[1] * b[4 * n + 1] + a[2] * b[4 * n + 2] + a[3] * b[4 * n + 3];
        __builtin_memcpy(static_cast<std::int32_t*>(t.c) + r * t.c_stride, acc, sizeof acc);
    }
}

// {tile<1>, ..., tile<n>}: written out, because std:: templates must not be instantiated here (the
// linker would share them with code for lesser processors).
#define CR_TILE_TABLE(tile, n) CR_TILE_TABLE_N(tile, n)
#define CR_TILE_TABLE_N(tile, n) CR_TILE_TABLE_M(tile, n)
#define CR_TILE_TABLE_M(tile, n) CR_TILES_##n(tile)
#define CR_TILES_4(tile) {tile<1>, tile<2>, tile<3>, tile<4>}
#define CR_TILES_6(tile) {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>}
#define CR_TILES_14(tile)                                               \
    {tile<1>, tile<2>, tile<3>,  tile<4>,  tile<5>,  tile<6>,  tile<7>, \
     tile<8>, tile<9>, tile<10>, tile<11>, tile<12>, tile<13>, tile<14>}
#define CR_TILES_32(tile)                                                            \
    {tile<1>,  tile<2>,  tile<3>,  tile<4>,  tile<5>,  tile<6>,  tile<7>,  tile<8>,  \
     tile<9>,  tile<10>, tile<11>, tile<12>, tile<13>, tile<14>, tile<15>, tile<16>, \
     tile<17>, tile<18>, tile<19>, tile<20>, tile<21>, tile<22>, tile<23>, tile<24>, \
     tile<25>, tile<26>, tile<27>, tile<28>, tile<29>, tile<30>, tile<31>, tile<32>}

constexpr int kRows = CR_ROWS;
#ifdef CR_DOT_ROWS
constexpr int kDotRows = CR_DOT_ROWS;
#else
constexpr int kDotRows = CR_ROWS;
#define CR_DOT_ROWS CR_ROWS
#endif
constexpr int kMostRows = kDotRows > kRows ? kDotRows : kRows;

}  // namespace crossrank::CR_ISA
