#include "workspace.h"

#include <algorithm>

namespace crossrank {

Workspace::Workspace(const Model& model, const Kernels& kernels, bool attention_bf16, std::ptrdiff_t rows,
                     int threads, char* memory, bool shared) {
    const auto stride = [](std::ptrdiff_t values, std::ptrdiff_t bytes) {
        return round_up(round_up(values, kPanel) * bytes, 64) + 64;
    };
    const std::ptrdiff_t hidden = model.config.hidden, query_width = model.config.query_width(),
                         wide_rows = std::min<std::ptrdiff_t>(rows, kIntermediateRows);
    const std::ptrdiff_t input_bytes = kUnit / inputs_per_unit(model.precision);
    row_stride = stride(model.config.width(), 4);
    query_stride = stride(query_width, attention_bf16 ? 2 : 4);
    key_stride = stride(model.config.key_width(), attention_bf16 ? 2 : 4);
    input_stride = stride(std::max(hidden, query_width), input_bytes);
    wide_stride = stride(model.config.intermediate, model.precision == Precision::fp32 ? 4 : 2);
    wide_input_stride = stride(model.config.intermediate, 1);
    scratch_bytes = static_cast<std::size_t>(
        std::max(round_up(static_cast<std::ptrdiff_t>(kernels.attention_scratch(model.config.head_size)), 64),
                 row_stride));
    has_input = model.precision != Precision::fp32 || model.config.norm_first;

    std::ptrdiff_t used = 0;
    const auto take = [&](std::ptrdiff_t bytes) {
        char* place = memory ? memory + used : nullptr;
        used += round_up(bytes, 64);
        return place;
    };
    x = reinterpret_cast<float*>(take(shared ? 0 : rows * row_stride));
    q = take(rows * query_stride);
    k = take(shared ? 0 : rows * key_stride);
    v = take(shared ? 0 : rows * key_stride);
    context = reinterpret_cast<float*>(take(rows * row_stride));
    input = take(has_input ? rows * input_stride : 0);
    input_scale = reinterpret_cast<float*>(take(rows * 4));
    input_sum = reinterpret_cast<std::int32_t*>(take(rows * 4));
    wide = take(wide_rows * wide_stride);
    wide_input = take(model.precision == Precision::int8 ? wide_rows * wide_input_stride : 0);
    wide_scale = reinterpret_cast<float*>(take(wide_rows * 4));
    wide_sum = reinterpret_cast<std::int32_t*>(take(wide_rows * 4));
    scratch = take(threads * static_cast<std::ptrdiff_t>(scratch_bytes));
    size = static_cast<std::size_t>(used);
}

}  // namespace crossrank
