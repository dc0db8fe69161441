// The table of this instruction set's kernels. Included last.
#pragma once

#include "attention.h"
#include "linear.h"
#include "match.h"
#include "rows.h"

namespace crossrank::CR_ISA {

#ifndef CR_LINEAR
#define CR_LINEAR linear_by_tiles
#endif

#ifndef CR_THREAD_ROWS
#define CR_THREAD_ROWS 12
#endif

#ifndef CR_PEAK
inline double peak_int8(std::int64_t repeats) {
    constexpr int kGroups = 64;  // 14 rows x 256 bytes and a panel of 8 KiB: in the first-level cache
    alignas(64) static const char a[kRows * (kGroups * kUnit + 64)] = {};
    alignas(64) static const char panel[kGroups * kPanel * kUnit] = {};
    alignas(64) std::int32_t sums[kRows * kPanel];
    for (std::int64_t i = 0; i < repeats; ++i) {
        kTilesInt8[kRows - 1]({a, kGroups * kUnit + 64, panel, kGroups, sums, kPanel, panel, 0, nullptr});
        __asm__ volatile("" : : "r"(sums) : "memory");  // or the compiler drops them as unused
    }
    return static_cast<double>(repeats) * kRows * kPanel * kGroups * kUnit;
}
#endif

}  // namespace crossrank::CR_ISA

#define CR_KERNELS(label, has_int8, has_bf16) \
    {label,                                   \
     has_int8,                                \
     has_bf16,                                \
     CR_THREAD_ROWS,                          \
     CR_ISA::CR_LINEAR,                       \
     CR_ISA::attention,                       \
     CR_ISA::attention_scratch,               \
     CR_ISA::layer_norm,                      \
     CR_ISA::rms_norm,                        \
     CR_ISA::quantise,                        \
     CR_ISA::quantise_rotated,                \
     CR_ISA::quantise_rotated_bf16,           \
     CR_ISA::to_bf16,                         \
     CR_ISA::rotate,                          \
     CR_ISA::match,                           \
     CR_ISA::activate,                        \
     CR_ISA::exp2,                            \
     CR_ISA::peak_int8}
