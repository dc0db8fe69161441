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

    // What a norm multiplies by.
    void gain(const std::string& name, std::int64_t size, float factor = 1) {
        copy(name + ".gamma", name + ".weight", {size}, 0, factor);
    }

    // A bias that is not there is zero.
    void bias(const std::string& name, std::int64_t size, std::int64_t padded, float factor = 1) {
        if (checkpoint_.count(name)) copy(name, name, {size}, padded, factor);
        else floats(name, padded);
    }

    void norm(const std::string& name, std::int64_t size) {
        if (config_.rms) gain(name, size);
        else layer_norm(name, size);
    }

    void layer_norm(const std::string& name, std::int64_t size) {
        gain(name, size);
        if (checkpoint_.count(name + ".bias")) copy(name + ".beta", name + ".bias", {size});
        else floats(name + ".beta", size);
    }

    void table(const std::string& to, std::int64_t rows) {
        const std::string from = to + ".weight";
        const Table table = require_table(checkpoint_, from, rows, config_.embedding);
        const auto pass_on = [&](const std::string& name, const std::string& origin) {
            prepared.emplace_back();
            prepared.back().name = name;
            prepared.back().tensor = checkpoint_.at(origin);
            prepared.back().source = origin;
        };
        pass_on(to, from);
        if (table.scales) pass_on(to + ".scales", from + ".scales");
        const std::int64_t step = std::max<std::int64_t>(1, (1 << 20) / config_.embedding);
        for (std::int64_t row = 0; row < rows; row += step)
            work.push_back([table, from, row, end = std::min(rows, row + step)] {
                std::vector<float> values(static_cast<std::size_t>(table.columns));
                for (std::int64_t r = row; r < end; ++r) {
                    table.read(r, values.data());
                    if (!all_finite(values.data(), table.columns)) refuse(from);
                }
            });
    }

    void linear(const std::string& name, int outputs, int inputs, Precision precision, float factor = 1,
                bool rotated = true) {
        const Matrix to = matrix(name, outputs, inputs, precision);
        bias(name + ".bias", outputs, round_up(outputs, kPanel), factor);
        rows(name + ".weight", outputs, to, factor, rotated, [](int row) { return row; });
    }

    // A gate and what it is for: 16 rows of one and 16 rows of the other in turn.
    void gated(const std::string& gate, const std::string& name, int outputs, int inputs,
               Precision precision) {
        const Matrix to = matrix(name, static_cast<int>(gated_outputs(outputs)), inputs, precision);
        float* const biases = floats(name + ".bias", round_up(gated_outputs(outputs), kPanel));
        for (const bool second : {false, true}) {
            const std::string& from = second ? name : gate;
            const auto place = [second](int row) {
                return row / kGates * kPanel + row % kGates + (second ? kGates : 0);
            };
            if (checkpoint_.count(from + ".bias")) {
                const Tensor& tensor = source(from + ".bias", {outputs});
                std::vector<float> values(static_cast<std::size_t>(outputs));
                read_values(tensor, 0, outputs, values.data());
                if (!all_finite(values.data(), outputs)) refuse(from + ".bias");
                for (int i = 0; i < outputs; ++i) biases[place(i)] = values[static_cast<std::size_t>(i)];
            }
            rows(from + ".weight", outputs, to, 1, true, place);
        }
    }

    [[noreturn]] static void refuse(const std::string& name) {
        throw std::invalid_argument("tensor '" + name + "' holds NaN or infinity");
    }

  private:
    // A prepared matrix, to be filled.
    struct Matrix {
        void* panels;
        float* scale;  // int8 only
        int inputs;
        Precision precision;
    };

    Matrix matrix(const std::string& name, int outputs, int inputs, Precision precision) {
        const int unit = inputs_per_unit(precision);
        void* panels = add(name + ".panels",
                           precision == Precision::int8   ? Type::u8
                           : precision == Precision::bf16 ? Type::bf16
                                                          : Type::f32,
                           {ceil_div(outputs, kPanel), ceil_div(inputs, unit), kPanel, unit},
                           static_cast<std::size_t>(panel_bytes(outputs, inputs, precision)));
        float* scale =
            precision == Precision::int8 ? floats(name + ".scale", round_up(outputs, kPanel)) : nullptr;
        return {panels, scale, inputs, precision};
    }

    // The rows of a checkpoint's matrix to their places in a prepared one.
    template <class Place>
    void rows(const std::string& from, int count, const Matrix& to, float factor, bool rotated,
              const Place& place) {
        const Tensor& weight = source(from, {count, to.inputs});
        for (int n = 0; n < count; n += kPanel)
            work.push_back([=, &weight] {
                std::vector<float> row(static_cast<std::size_t>(to.inputs));
                for (int i = n; i < std::min(count, n + kPanel); ++i) {
                    read_values(weight, std::int64_t{i} * to.inputs, to.inputs, row.data());
                    if (!all_finite(row.data(), to.inputs)) refuse(from);
                    for (float& value : row) value *= factor;
                    if (to.precision == Precision::int8 && rotated) rotate(row);
                    const float s = prepare_row(row.data(), to.inputs, to.precision, place(i), to.panels);
                    if (to.scale) to.scale[place(i)] = s;
                }
            });
    }

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
    const int hidden = config.hidden, intermediate = config.intermediate, embedding = config.embedding;
    preparer.table("embedding.words", config.vocabulary);
    if (config.position_rows) preparer.table("embedding.positions", config.position_rows);
    if (config.segments) preparer.table("embedding.segments", config.segments);
    if (config.embedding_norm) preparer.norm("embedding.norm", embedding);
    if (embedding != hidden) preparer.linear("embedding.projection", hidden, embedding, Precision::fp32);

    for (int i = 0; i < config.layers; ++i) {
        const std::string at = "layer." + std::to_string(i) + ".";
        const float query_factor = 1.44269504f / std::sqrt(static_cast<float>(config.head_size));
        const int query_width = config.query_width(), key_width = config.key_width();
        preparer.linear(at + "query", query_width, hidden, precision, config.head_norms ? 1 : query_factor);
        preparer.linear(at + "key", key_width, hidden, precision);
        preparer.linear(at + "value", key_width, hidden, precision);
        preparer.linear(at + "attention_output", hidden, query_width, precision, 1, false);
        if (config.head_norms) {
            preparer.gain(at + "query_norm", config.head_size, query_factor);
            preparer.gain(at + "key_norm", config.head_size);
        }
        if (i > 0 || !config.norm_first || config.first_norm) preparer.norm(at + "attention_norm", hidden);
        if (config.gated) preparer.gated(at + "gate", at + "intermediate", intermediate, hidden, precision);
        else preparer.linear(at + "intermediate", intermediate, hidden, precision);
        preparer.linear(at + "output", hidden, intermediate, precision);
        preparer.norm(at + "output_norm", hidden);
    }
    if (config.final_norm) preparer.norm("final_norm", hidden);
    if (config.match_layer) {
        preparer.copy("match.query", "match.query", {hidden});
        preparer.copy("match.factor", "match.factor", {1});
    }

    for (std::size_t i = 0; i < config.head.size(); ++i) {
        const HeadStep& step = config.head[i];
        const std::string at = "head." + std::to_string(i);
        if (i + 1 == config.head.size()) {
            preparer.copy(at + ".weight", at + ".weight", {1, step.inputs});
            preparer.bias(at + ".bias", 1, 1);
        } else if (step.kind == HeadStep::Kind::dense) {
            preparer.linear(at, step.outputs, step.inputs, Precision::fp32);
        } else if (step.kind == HeadStep::Kind::norm) {
            preparer.layer_norm(at, step.inputs);
        }
    }

    pool.run(static_cast<std::ptrdiff_t>(preparer.work.size()),
             [&](std::ptrdiff_t i, int) { preparer.work[static_cast<std::size_t>(i)](); });
    return std::move(preparer.prepared);
}

}  // namespace crossrank
