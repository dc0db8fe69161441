#include "workspace.h"

#include <algorithm>

namespace crossrank {

Workspace::Workspace(const Model& model, const Kernels& kernels, bool attention_bf16, std::ptrdiff_t rows,
                     int threads, char* memory, bool own_keys) {
    const auto stride = [](std::ptrdiff_t values, std::ptrdiff_t bytes) {
        return round_up(round_up(values, kPanel) * bytes, 64) + 64;
    };
    const std::ptrdiff_t hidden = model.config.hidden,
                         wide_rows = std::min<std::ptrdiff_t>(rows, kIntermediateRows);
    const std::ptrdiff_t input_bytes = kUnit / inputs_per_unit(model.precision);
    row_stride = stride(hidden, 4);
    head_stride = stride(hidden, attention_bf16 ? 2 : 4);
    input_stride = stride(hidden, input_bytes);
    wide_stride = stride(model.config.intermediate, model.precision == Precision::fp32 ? 4 : 2);
    wide_input_stride = stride(model.config.intermediate, 1);
    scratch_bytes = static_cast<std::size_t>(
        round_up(static_cast<std::ptrdiff_t>(kernels.attention_scratch(model.config.head_dim())), 64));

    std::ptrdiff_t used = 0;
    const auto take = [&](std::ptrdiff_t bytes) {
        char* place = memory ? memory + used : nullptr;
        used += round_up(bytes, 64);
        return place;
    };
    x = reinterpret_cast<float*>(take(rows * row_stride));
    q = take(rows * head_stride);
    k = take(own_keys ? rows * head_stride : 0);
    v = take(own_keys ? rows * head_stride : 0);
    context = reinterpret_cast<float*>(take(rows * row_stride));
    input = take(model.precision == Precision::fp32 ? 0 : rows * input_stride);
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
