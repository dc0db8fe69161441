#include "prepare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>

namespace crossrank {
namespace {

float read_value(const Tensor& tensor, std::int64_t i) {
    if (tensor.type == Type::f32) {
        float value;  // a memory-mapped file promises no alignment
        std::memcpy(&value, static_cast<const char*>(tensor.data) + 4 * i, 4);
        return value;
    }
    std::uint16_t half;
    std::memcpy(&half, static_cast<const char*>(tensor.data) + 2 * i, 2);
    if (tensor.type == Type::f16) return half_to_float(half);
    const std::uint32_t word = std::uint32_t{half} << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

void read_values(const Tensor& tensor, std::int64_t first, std::int64_t count, float* to) {
    if (tensor.type == Type::f32)
        std::memcpy(to, static_cast<const char*>(tensor.data) + 4 * first,
                    static_cast<std::size_t>(count) * 4);
    else
        for (std::int64_t i = 0; i < count; ++i) to[i] = read_value(tensor, first + i);
}

// Integers, because compilers vectorise their maximum: NaN and infinity are the largest magnitudes.
bool all_finite(const float* values, std::int64_t count) {
    std::uint32_t largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        std::uint32_t word;
        std::memcpy(&word, values + i, 4);
        largest = std::max(largest, word & 0x7fffffffu);
    }
    return largest < 0x7f800000u;
}

std::uint16_t to_bf16(float value) {
    std::uint32_t word;
    std::memcpy(&word, &value, 4);
    return static_cast<std::uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

// w H / b: the other side of the rotation (kernels.h).
void rotate(std::vector<float>& row) {
    const std::size_t block = static_cast<std::size_t>(rotation_block(static_cast<int>(row.size())));
    for (std::size_t apart = 1; apart < block; apart *= 2)
        for (std::size_t i = 0; i < row.size(); ++i)
            if (!(i & apart)) {
                const float a = row[i], b = row[i + apart];
                row[i] = a + b;
                row[i + apart] = a - b;
            }
    for (float& value : row) value /= static_cast<float>(block);
}

// Row n of a weight matrix to its place in the panels. Returns the scale (int8).
float prepare_row(const float* row, int inputs, Precision precision, int n, void* panels) {
    const std::ptrdiff_t unit = inputs_per_unit(precision), groups = ceil_div(inputs, unit);
    const std::ptrdiff_t first = (n / kPanel * groups * kPanel + n % kPanel) * unit;
    const auto place = [&](int k) { return first + (k / unit * kPanel) * unit + k % unit; };
    if (precision == Precision::fp32) {
        for (int k = 0; k < inputs; ++k) static_cast<float*>(panels)[place(k)] = row[k];
        return 0;
    }
    if (precision == Precision::bf16) {
        for (int k = 0; k < inputs; ++k) static_cast<std::uint16_t*>(panels)[place(k)] = to_bf16(row[k]);
        return 0;
    }
    float largest = 0;
    for (int k = 0; k < inputs; ++k) largest = std::max(largest, std::fabs(row[k]));
    const float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
    auto* to = static_cast<std::uint8_t*>(panels);
    for (std::ptrdiff_t k = inputs; k < groups * unit; ++k) to[place(static_cast<int>(k))] = 128;
    for (int k = 0; k < inputs; ++k)
        to[place(k)] = static_cast<std::uint8_t>(128 + static_cast<int>(std::nearbyint(row[k] * inverse)));
    return inverse > 0 ? largest / 127.0f : 0.0f;
}

std::int64_t panel_bytes(int outputs, int inputs, Precision precision) {
    return ceil_div(outputs, kPanel) * ceil_div(inputs, inputs_per_unit(precision)) * kPanel * kUnit;
}

// Collects the prepared tensors, and the work that fills them, which is done afterwards in parallel.
class Preparer {
  public:
    Preparer(const Config& config, const Tensors& checkpoint) : config_(config), checkpoint_(checkpoint) {}

    std::vector<PreparedTensor> prepared;
    std::vector<std::function<void()>> work;

    const Tensor& source(const std::string& name, const std::vector<std::int64_t>& shape) const {
        const auto found = checkpoint_.find(name);
        if (found == checkpoint_.end()) throw std::invalid_argument("tensor '" + name + "' is missing");
        const Tensor& tensor = found->second;
        if (tensor.type == Type::u8 || tensor.type == Type::other)
            require(checkpoint_, name, Type::f32, shape);
        return require(checkpoint_, name, tensor.type, shape);
    }

    float* floats(const std::string& name, std::int64_t size) {
        return static_cast<float*>(add(name, Type::f32, {size}, static_cast<std::size_t>(size) * 4));
    }

    float* copy(const std::string& to, const std::string& from, const std::vector<std::int64_t>& shape,
                std::int64_t padded = 0, float factor = 1) {
        const Tensor& tensor = source(from, shape);
        float* values = floats(to, std::max(padded, tensor.size()));
        read_values(tensor, 0, tensor.size(), values);
        if (!all_finite(values, tensor.size())) refuse(from);
        for (std::int64_t i = 0; i < tensor.size(); ++i) values[i] *= factor;
        return values;
    }

    void norm(const std::string& to, const std::string& from) {
        copy(to + ".gamma", from + ".weight", {config_.hidden});
        copy(to + ".beta", from + ".bias", {config_.hidden});
    }

    void table(const std::string& to, const std::string& from, std::int64_t rows) {
        const Table table = require_table(checkpoint_, from, rows, config_.hidden);
        const auto pass_on = [&](const std::string& name, const std::string& origin) {
            prepared.emplace_back();
            prepared.back().name = name;
            prepared.back().tensor = checkpoint_.at(origin);
            prepared.back().source = origin;
        };
        pass_on(to, from);
        if (table.scales) pass_on(to + ".scales", from + ".scales");
        const std::int64_t step = std::max<std::int64_t>(1, (1 << 20) / config_.hidden);
        for (std::int64_t row = 0; row < rows; row += step)
            work.push_back([table, from, row, end = std::min(rows, row + step)] {
                std::vector<float> values(static_cast<std::size_t>(table.columns));
                for (std::int64_t r = row; r < end; ++r) {
                    table.read(r, values.data());
                    if (!all_finite(values.data(), table.columns)) refuse(from);
                }
            });
    }

    void linear(const std::string& to, const std::string& from, int outputs, int inputs, Precision precision,
                float factor = 1, bool rotated = true) {
        const Tensor& weight = source(from + ".weight", {outputs, inputs});
        const int unit = inputs_per_unit(precision);
        void* panels = add(to + ".panels",
                           precision == Precision::int8   ? Type::u8
                           : precision == Precision::bf16 ? Type::bf16
                                                          : Type::f32,
                           {ceil_div(outputs, kPanel), ceil_div(inputs, unit), kPanel, unit},
                           static_cast<std::size_t>(panel_bytes(outputs, inputs, precision)));
        const std::int64_t padded = round_up(outputs, kPanel);
        copy(to + ".bias", from + ".bias", {outputs}, padded, factor);
        float* scale = precision == Precision::int8 ? floats(to + ".scale", padded) : nullptr;
        for (int n = 0; n < outputs; n += kPanel)
            work.push_back([=, &weight] {
                std::vector<float> row(static_cast<std::size_t>(inputs));
                for (int i = n; i < std::min(outputs, n + kPanel); ++i) {
                    read_values(weight, std::int64_t{i} * inputs, inputs, row.data());
                    if (!all_finite(row.data(), inputs)) refuse(from + ".weight");
                    for (int k = 0; k < inputs; ++k) row[static_cast<std::size_t>(k)] *= factor;
                    if (precision == Precision::int8 && rotated) rotate(row);
                    const float s = prepare_row(row.data(), inputs, precision, i, panels);
                    if (scale) scale[i] = s;
                }
            });
    }

    [[noreturn]] static void refuse(const std::string& name) {
        throw std::invalid_argument("tensor '" + name + "' holds NaN or infinity");
    }

  private:
    void* add(const std::string& name, Type type, std::vector<std::int64_t> shape, std::size_t bytes) {
        prepared.emplace_back();
        PreparedTensor& last = prepared.back();
        last.name = name;
        last.buffer = allocate(bytes);
        last.tensor = {last.buffer.get(), type, std::move(shape)};
        return last.buffer.get();
    }

    const Config& config_;
    const Tensors& checkpoint_;
};

}  // namespace

void prepare_linear(const float* weight, int outputs, int inputs, Precision precision, void* panels,
                    float* scale) {
    std::memset(panels, 0, static_cast<std::size_t>(panel_bytes(outputs, inputs, precision)));
    for (int n = 0; n < outputs; ++n) {
        const float s = prepare_row(weight + std::ptrdiff_t{n} * inputs, inputs, precision, n, panels);
        if (scale) scale[n] = s;
    }
}

std::vector<PreparedTensor> prepare(const Config& config, Precision precision, const Tensors& checkpoint,
                                    ThreadPool& pool) {
    config.check();
    Preparer preparer(config, checkpoint);
    const int hidden = config.hidden, intermediate = config.intermediate;
    const std::string root = config.bert ? "bert." : "roberta.";

    const std::string embeddings = root + "embeddings.";
    preparer.table("embedding.words", embeddings + "word_embeddings.weight", config.vocabulary);
    preparer.table("embedding.positions", embeddings + "position_embeddings.weight", config.positions);
    preparer.table("embedding.segments", embeddings + "token_type_embeddings.weight", config.segments);
    preparer.norm("embedding.norm", embeddings + "LayerNorm");

    for (int i = 0; i < config.layers; ++i) {
        const std::string to = "layer." + std::to_string(i) + ".";
        const std::string from = root + "encoder.layer." + std::to_string(i) + ".";
        const std::string self = from + "attention.self.";
        const float query_factor = 1.44269504f / std::sqrt(static_cast<float>(config.head_dim()));
        preparer.linear(to + "query", self + "query", hidden, hidden, precision, query_factor);
        preparer.linear(to + "key", self + "key", hidden, hidden, precision);
        preparer.linear(to + "value", self + "value", hidden, hidden, precision);
        preparer.linear(to + "attention_output", from + "attention.output.dense", hidden, hidden, precision,
                        1, false);
        preparer.norm(to + "attention_norm", from + "attention.output.LayerNorm");
        preparer.linear(to + "intermediate", from + "intermediate.dense", intermediate, hidden, precision);
        preparer.linear(to + "output", from + "output.dense", hidden, intermediate, precision);
        preparer.norm(to + "output_norm", from + "output.LayerNorm");
    }

    const std::string dense = config.bert ? "bert.pooler.dense" : "classifier.dense";
    const std::string classifier = config.bert ? "classifier" : "classifier.out_proj";
    preparer.linear("head.dense", dense, hidden, hidden, Precision::fp32);
    preparer.copy("head.classifier.weight", classifier + ".weight", {1, hidden});
    preparer.copy("head.classifier.bias", classifier + ".bias", {1});

    pool.run(static_cast<std::ptrdiff_t>(preparer.work.size()),
             [&](std::ptrdiff_t i, int) { preparer.work[static_cast<std::size_t>(i)](); });
    return std::move(preparer.prepared);
}

}  // namespace crossrank
