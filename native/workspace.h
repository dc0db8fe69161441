// The working memory of a group of pairs on its way through the model, for M rows (one for each token).
#pragma once

#include <cstddef>
#include <cstdint>

#include "model.h"

namespace crossrank {

// Rows of the intermediate layer that exist at a time: it is 4 or 8 times as wide as everything else, and
// would be most of the memory of a long pair.
constexpr int kIntermediateRows = 256;

// Places in one allocation. A stride is never a multiple of 4 KiB: rows would compete for the same few cache
// lines.
struct Workspace {
    // Bytes from row to row.
    std::ptrdiff_t row_stride, query_stride, key_stride, input_stride, wide_stride, wide_input_stride;
    float* x;                      // (M, hidden) the residual stream; in the end, what the head makes
    char* q;                       // (M, heads * head size) in the precision of attention
    char *k, *v;                   // (M, key-value heads * head size) the same
    std::ptrdiff_t next_keys = 0;  // bytes from k to the k of odd layers, and from v; 0: the same memory
    float* context;                // (M, heads * head size) the result of attention
    bool has_input;                // false: the left side of the next product is x
    char* input;                   // (M, the wider of both) left side of the next product, in its precision
    float* input_scale;            // (M)
    std::int32_t* input_sum;       // (M)
    char* wide;  // (min(M, 256), intermediate) fp32 in fp32, else bf16: half the memory traffic, and finer
                 // than int8
    char* wide_input;        // the same in int8
    float* wide_scale;       // (min(M, 256))
    std::int32_t* wide_sum;  // (min(M, 256))
    char* scratch;           // of attention, or one row, for each thread that shares this workspace
    std::size_t scratch_bytes;
    std::size_t size;

    // In `memory`, aligned to 64 bytes; null: only the sizes and strides are valid. With `shared` there is no
    // room for x, k and v, which the caller sets.
    Workspace(const Model& model, const Kernels& kernels, bool attention_bf16, std::ptrdiff_t rows,
              int threads, char* memory, bool shared = false);
};

}  // namespace crossrank
