#include "model.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "platform.h"

namespace crossrank {
namespace {

const char* type_name(Type type) {
    switch (type) {
        case Type::f32:
            return "float32";
        case Type::f16:
            return "float16";
        case Type::bf16:
            return "bfloat16 (or uint16)";
        case Type::u8:
            return "uint8";
        case Type::other:
            return "of some other type";
    }
    return "?";
}

std::string describe(Type type, const std::vector<std::int64_t>& shape) {
    std::string s = "(";
    for (std::size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
    return s + ") " + type_name(type);
}

float word_to_float(std::uint32_t word) {
    float f;
    std::memcpy(&f, &word, sizeof f);
    return f;
}

// A memory-mapped file promises no alignment.
template <class T>
T element(const void* base, std::int64_t i) {
    T value;
    std::memcpy(&value, static_cast<const char*>(base) + i * static_cast<std::int64_t>(sizeof value),
                sizeof value);
    return value;
}

template <class Use>
void each_value(const Table& table, std::int64_t row, const Use& use) {
    const std::int64_t first = row * table.columns;
    switch (table.type) {
        case Type::f32:
            for (int i = 0; i < table.columns; ++i) use(i, element<float>(table.rows, first + i));
            break;
        case Type::f16:
            for (int i = 0; i < table.columns; ++i)
                use(i, half_to_float(element<std::uint16_t>(table.rows, first + i)));
            break;
        case Type::bf16:
            for (int i = 0; i < table.columns; ++i)
                use(i, word_to_float(std::uint32_t{element<std::uint16_t>(table.rows, first + i)} << 16));
            break;
        default:
            const auto* from = static_cast<const std::uint8_t*>(table.rows) + first / 2;
            for (int block = 0; block < table.columns / 32; ++block, from += 16) {
                const float scale = half_to_float(element<std::uint16_t>(table.scales, first / 32 + block));
                for (int i = 0; i < 16; ++i) {
                    use(32 * block + i, static_cast<float>((from[i] & 15) - 8) * scale);
                    use(32 * block + i + 16, static_cast<float>((from[i] >> 4) - 8) * scale);
                }
            }
    }
}

}  // namespace

float half_to_float(std::uint16_t half) {
    // Exponent and mantissa moved into place make a number 2^112 too small, subnormal or not; infinity and
    // NaN are set right afterwards.
    const std::uint32_t sign = (half & 0x8000u) << 16, rest = (half & 0x7fffu) << 13;
    float magnitude = word_to_float(rest) * 0x1p112f;
    if (rest >= 0x0f800000u) magnitude = word_to_float(rest | 0x7f800000u);
    std::uint32_t word;
    std::memcpy(&word, &magnitude, sizeof word);
    return word_to_float(word | sign);
}

void Table::read(std::int64_t row, float* to) const {
    if (file < 0) {
        each_value(*this, row, [to](int i, float value) { to[i] = value; });
        return;
    }
    // Not mapped: with each row the system would map the pages around it too, and in time all of the table.
    const std::size_t size = static_cast<std::size_t>(columns) * (type == Type::f32 ? 4 : 2);
    thread_local std::vector<char> bytes;
    bytes.resize(size);
    for (std::size_t done = 0; done < size;) {
        const std::int64_t place =
            start + row * static_cast<std::int64_t>(size) + static_cast<std::int64_t>(done);
        const std::ptrdiff_t got = read_at(file, bytes.data() + done, size - done, place);
        if (got <= 0)
            throw std::runtime_error("row " + std::to_string(row) +
                                     " of the word embeddings cannot be read: " +
                                     (got < 0 ? std::strerror(errno) : "the file has become shorter"));
        done += static_cast<std::size_t>(got);
    }
    each_value(Table{bytes.data(), nullptr, type, columns}, 0, [to](int i, float value) { to[i] = value; });
}

void Table::add(std::int64_t row, float* to) const {
    each_value(*this, row, [to](int i, float value) { to[i] += value; });
}

std::string describe(const Tensor& tensor) { return describe(tensor.type, tensor.shape); }

const Tensor& require(const Tensors& tensors, const std::string& name, Type type,
                      const std::vector<std::int64_t>& shape) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw std::invalid_argument("tensor '" + name + "' is missing");
    const Tensor& tensor = found->second;
    if (tensor.type != type || tensor.shape != shape)
        throw std::invalid_argument("tensor '" + name + "' is " + describe(tensor) + "; it must be " +
                                    describe(type, shape));
    return tensor;
}

Table require_table(const Tensors& tensors, const std::string& name, std::int64_t rows, int columns) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw std::invalid_argument("tensor '" + name + "' is missing");
    const Tensor& tensor = found->second;
    Table table{tensor.data, nullptr, tensor.type, columns};
    if (tensor.type == Type::u8) {
        if (columns % 32 != 0)
            throw std::invalid_argument("tensor '" + name +
                                        "' has 4-bit rows, whose length must be a multiple of 32");
        require(tensors, name, Type::u8, {rows, columns / 2});
        const Tensor& scales = require(tensors, name + ".scales", Type::f16, {rows, columns / 32});
        table.scales = scales.data;
    } else if (tensor.type == Type::other || tensor.shape != std::vector<std::int64_t>{rows, columns}) {
        throw std::invalid_argument("tensor '" + name + "' is " + describe(tensor) + "; it must be " +
                                    describe(Type::f32, {rows, columns}) + ", or the same in 16 or 4 bits");
    }
    return table;
}

int Config::width() const {
    int most = std::max({hidden, embedding, query_width()});
    for (const HeadStep& step : head)
        if (step.kind == HeadStep::Kind::dense && step.outputs > 1) most = std::max(most, step.outputs);
    return most;
}

void Config::check() const {
    const auto positive = [](const char* name, int value, int max) {
        if (value < 1 || value > max)
            throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                        "; it must be 1 to " + std::to_string(max));
    };
    const auto small_positive = [](const char* name, double value) {
        // At 1 a norm of rows that are near to each other no longer tells them apart; 1e-30 is still one as
        // fp32.
        if (value >= 1e-30 && value < 1) return;
        std::ostringstream text;
        text << value;
        throw std::invalid_argument(std::string(name) + " is " + text.str() +
                                    "; it must be a small positive number, such as 1e-5");
    };
    const auto one_for_each = [](const char* name, std::size_t size, const char* what, int count) {
        if (size != 0 && size != static_cast<std::size_t>(count))
            throw std::invalid_argument(std::string(name) + " has " + std::to_string(size) +
                                        " values; it must have one for each of " + std::to_string(count) +
                                        " " + what);
    };
    positive("hidden", hidden, kMaxInputs);
    positive("layers", layers, 1000);
    positive("heads", heads, kMaxInputs);
    positive("key_value_heads", key_value_heads, heads);
    positive("head_size", head_size, kMaxInputs / heads);
    positive("intermediate", intermediate, kMaxInputs);
    positive("vocabulary", vocabulary, 1 << 30);
    positive("embedding", embedding, kMaxInputs);
    positive("max_tokens", max_tokens, 1 << 24);
    if (head_size % 2 != 0)
        throw std::invalid_argument("head_size is " + std::to_string(head_size) + "; it must be even");
    if (heads % key_value_heads != 0)
        throw std::invalid_argument(std::to_string(heads) + " heads do not divide among " +
                                    std::to_string(key_value_heads) + " heads of keys and values");
    if (segments < 0 || segments > 1 << 16)
        throw std::invalid_argument("segments is " + std::to_string(segments) + "; it must be 0 to 65536");
    if (position_rows != 0) {
        positive("position_rows", position_rows, 1 << 24);
        if (first_position < (padding_id >= 0 ? 1 : 0) || first_position > position_rows - max_tokens)
            throw std::invalid_argument("first_position " + std::to_string(first_position) + " and " +
                                        std::to_string(position_rows) + " positions leave no room for " +
                                        std::to_string(max_tokens) + " tokens");
    }
    one_for_each("alibi", alibi.size(), "heads", heads);
    for (const float slope : alibi)
        if (!(slope >= 0 && slope < 1e6f))
            throw std::invalid_argument("alibi has the slope " + std::to_string(slope));
    one_for_each("rotary_of_layer", rotary_of_layer.size(), "layers", layers);
    for (const int kind : rotary_of_layer)
        if (kind < 0 || static_cast<std::size_t>(kind) >= rotary.size())
            throw std::invalid_argument("rotary_of_layer has the index " + std::to_string(kind) +
                                        ", but rotary has " + std::to_string(rotary.size()) + " kinds");
    for (const Rotary& kind : rotary)
        if (kind.frequencies.size() != static_cast<std::size_t>(head_size / 2))
            throw std::invalid_argument("rotary has " + std::to_string(kind.frequencies.size()) +
                                        " frequencies; it must have " + std::to_string(head_size / 2));
    if (head_norms && rotary_of_layer.empty())
        throw std::invalid_argument("head_norms are for rotary positions, and there are none");
    if (!(std::fabs(embedding_scale) < 1e6))
        throw std::invalid_argument("embedding_scale is " + std::to_string(embedding_scale));
    one_for_each("windows", windows.size(), "layers", layers);
    small_positive("epsilon", epsilon);

    int width = hidden;
    for (const HeadStep& step : head) {
        if (step.inputs != width)
            throw std::invalid_argument("a step of the head takes " + std::to_string(step.inputs) +
                                        " values; it must take " + std::to_string(width));
        positive("a step of the head: outputs", step.outputs, kMaxInputs);
        if (step.kind == HeadStep::Kind::norm) small_positive("epsilon of the head", step.epsilon);
        width = step.outputs;
    }
    if (match_layer < 0 || match_layer >= layers || (match_layer != 0 && causal))
        throw std::invalid_argument("match_layer is " + std::to_string(match_layer) +
                                    "; it must be 0, or 1 to " + std::to_string(layers - 1) +
                                    " of a model whose attention is not causal");
    if (head.empty() || head.back().kind != HeadStep::Kind::dense || width != 1)
        throw std::invalid_argument("the head does not end in a dense step with one output");
}

Turns::Turns(const Rotary& rotary, int positions)
    : stride_(static_cast<std::size_t>(round_up(static_cast<std::ptrdiff_t>(rotary.frequencies.size()), 16))),
      fine_(static_cast<int>(ceil_div(positions, kStep))) {
    rows_.resize(2 * stride_ * static_cast<std::size_t>(fine_ + kStep));
    for (int i = 0; i < fine_ + kStep; ++i) {
        const double position = i < fine_ ? static_cast<double>(i * kStep) : i - fine_,
                     scale = i < fine_ ? rotary.scale : 1;
        float* to = rows_.data() + 2 * stride_ * static_cast<std::size_t>(i);
        for (std::size_t pair = 0; pair < rotary.frequencies.size(); ++pair) {
            const double angle = position * rotary.frequencies[pair];
            to[pair] = static_cast<float>(scale * std::cos(angle));
            to[stride_ + pair] = static_cast<float>(scale * std::sin(angle));
        }
    }
}

Model::Model(const Config& c, Precision p, const Tensors& prepared) : config(c), precision(p) {
    config.check();
    const int hidden = config.hidden;
    const auto floats = [&](const std::string& name, std::int64_t size) {
        const void* data = require(prepared, name, Type::f32, {size}).data;
        if (reinterpret_cast<std::uintptr_t>(data) % alignof(float) != 0)
            throw std::invalid_argument("tensor '" + name + "' is not aligned to 4 bytes");
        return static_cast<const float*>(data);
    };
    const auto layer_norm = [&](const std::string& name, int size) {
        return Norm{floats(name + ".gamma", size), floats(name + ".beta", size)};
    };
    const auto norm = [&](const std::string& name, int size) {
        return config.rms ? Norm{floats(name + ".gamma", size)} : layer_norm(name, size);
    };
    const auto linear = [&](const std::string& name, Precision as, int outputs, int inputs) {
        Linear w;
        w.precision = as;
        w.outputs = outputs;
        w.inputs = inputs;
        const std::int64_t padded = round_up(outputs, kPanel);
        const Type type = as == Precision::int8 ? Type::u8 : as == Precision::bf16 ? Type::bf16 : Type::f32;
        w.panels = require(prepared, name + ".panels", type,
                           {w.panel_count(), w.groups(), kPanel, inputs_per_unit(as)})
                       .data;
        if (as == Precision::int8) w.scale = floats(name + ".scale", padded);
        w.bias = floats(name + ".bias", padded);
        return w;
    };

    words = require_table(prepared, "embedding.words", config.vocabulary, config.embedding);
    if (config.position_rows)
        positions = require_table(prepared, "embedding.positions", config.position_rows, config.embedding);
    if (config.segments)
        segments = require_table(prepared, "embedding.segments", config.segments, config.embedding);
    if (config.embedding_norm) embedding_norm = norm("embedding.norm", config.embedding);
    if (config.embedding != hidden)
        projection = linear("embedding.projection", Precision::fp32, hidden, config.embedding);
    for (int i = 0; i < config.layers; ++i) {
        const std::string at = "layer." + std::to_string(i) + ".";
        Layer layer;
        layer.query = linear(at + "query", precision, config.query_width(), hidden);
        layer.key = linear(at + "key", precision, config.key_width(), hidden);
        layer.value = linear(at + "value", precision, config.key_width(), hidden);
        layer.attention_output = linear(at + "attention_output", precision, hidden, config.query_width());
        if (config.head_norms) {
            layer.query_norm.gamma = floats(at + "query_norm.gamma", config.head_size);
            layer.key_norm.gamma = floats(at + "key_norm.gamma", config.head_size);
        }
        layer.intermediate =
            linear(at + "intermediate", precision,
                   config.gated ? static_cast<int>(gated_outputs(config.intermediate)) : config.intermediate,
                   hidden);
        layer.output = linear(at + "output", precision, hidden, config.intermediate);
        if (!config.norm_first) {
            layer.attention_norm = norm(at + "attention_norm", hidden);
            layer.output_norm = norm(at + "output_norm", hidden);
        } else {
            // A block normalises its input, which is what the block before it has left.
            if (i > 0 || config.first_norm)
                (i > 0 ? layers.back().output_norm : first_norm) = norm(at + "attention_norm", hidden);
            layer.attention_norm = norm(at + "output_norm", hidden);
        }
        layers.push_back(layer);
    }
    if (config.final_norm) final_norm = norm("final_norm", hidden);
    for (const Rotary& kind : config.rotary) turns.emplace_back(kind, config.max_tokens);

    if (config.match_layer) {
        match_query = floats("match.query", hidden);
        match_factor = *floats("match.factor", 1);
    }

    head.emplace_back();
    for (std::size_t i = 0; i < config.head.size(); ++i) {
        const HeadStep& step = config.head[i];
        const std::string at = "head." + std::to_string(i);
        if (i + 1 == config.head.size()) {
            classifier = floats(at + ".weight", step.inputs);
            classifier_inputs = step.inputs;
            classifier_bias = *floats(at + ".bias", 1);
        } else if (step.kind == HeadStep::Kind::dense) {
            head.push_back({linear(at, Precision::fp32, step.outputs, step.inputs), {}});
        } else {
            head.back().steps.push_back(
                {step, step.kind == HeadStep::Kind::norm ? layer_norm(at, step.inputs) : Norm{}});
        }
    }
}

}  // namespace crossrank
