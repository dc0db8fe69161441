// Plain C++: four floats to a vector, which is SSE2 on any x86-64 and NEON on any AArch64.

#define CR_LANES 4
#define CR_VECTORS 2
#define CR_ROWS 6
#define CR_TILE_BF16 tile_bf16_widened
#define CR_TILE_INT8 tile_int8_plain
#define CR_WEIGHT_OFFSET 128

#include "table.h"

namespace crossrank {
extern const Kernels kPortable;
const Kernels kPortable = CR_KERNELS("portable", false, false);
}  // namespace crossrank
