#include "model.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>
#include <stdexcept>

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
        const ssize_t got = pread(file, bytes.data() + done, size - done, static_cast<off_t>(place));
        if (got < 0 && errno == EINTR) continue;
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

void Config::check() const {
    const auto positive = [](const char* name, int value, int max) {
        if (value < 1 || value > max)
            throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                        "; it must be 1 to " + std::to_string(max));
    };
    positive("hidden_size", hidden, kMaxInputs);
    positive("num_hidden_layers", layers, 1000);
    positive("num_attention_heads", heads, hidden);
    positive("intermediate_size", intermediate, kMaxInputs);
    positive("vocab_size", vocabulary, 1 << 30);
    positive("max_position_embeddings", positions, 1 << 24);
    positive("type_vocab_size", segments, 1 << 16);
    if (hidden % heads != 0 || head_dim() % 2 != 0)
        throw std::invalid_argument("hidden_size " + std::to_string(hidden) + " does not divide into " +
                                    std::to_string(heads) + " heads of an even size");
    if (!bert && (padding_id < 0 || max_tokens() < 1))
        throw std::invalid_argument("pad_token_id " + std::to_string(padding_id) + " leaves no positions");
    // At 1 a norm of rows that are near to each other no longer tells them apart; 1e-30 is still one as fp32.
    if (!(epsilon >= 1e-30 && epsilon < 1)) {
        std::ostringstream value;
        value << epsilon;
        throw std::invalid_argument("layer_norm_eps is " + value.str() +
                                    "; it must be a small positive number, such as 1e-5");
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
    const auto norm = [&](const std::string& name) {
        return Norm{floats(name + ".gamma", hidden), floats(name + ".beta", hidden)};
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

    words = require_table(prepared, "embedding.words", config.vocabulary, hidden);
    positions = require_table(prepared, "embedding.positions", config.positions, hidden);
    segments = require_table(prepared, "embedding.segments", config.segments, hidden);
    embedding_norm = norm("embedding.norm");
    for (int i = 0; i < config.layers; ++i) {
        const std::string at = "layer." + std::to_string(i) + ".";
        Layer layer;
        layer.query = linear(at + "query", precision, hidden, hidden);
        layer.key = linear(at + "key", precision, hidden, hidden);
        layer.value = linear(at + "value", precision, hidden, hidden);
        layer.attention_output = linear(at + "attention_output", precision, hidden, hidden);
        layer.intermediate = linear(at + "intermediate", precision, config.intermediate, hidden);
        layer.output = linear(at + "output", precision, hidden, config.intermediate);
        layer.attention_norm = norm(at + "attention_norm");
        layer.output_norm = norm(at + "output_norm");
        layers.push_back(layer);
    }
    head = linear("head.dense", Precision::fp32, hidden, hidden);
    classifier = floats("head.classifier.weight", hidden);
    classifier_bias = *floats("head.classifier.bias", 1);
}

}  // namespace crossrank
