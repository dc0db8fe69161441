// A model as the encoder uses it: its sizes, and pointers into tensors that others keep alive.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels.h"

namespace crossrank {

enum class Type { f32, f16, bf16, u8, other };  // bf16 also arrives as raw 16-bit words

struct Tensor {
    const void* data = nullptr;
    Type type = Type::f32;
    std::vector<std::int64_t> shape;

    std::int64_t size() const {
        std::int64_t n = 1;
        for (const std::int64_t extent : shape) n *= extent;
        return n;
    }
};

using Tensors = std::map<std::string, Tensor>;

// The models that run here, by the values of config.json. The Python module exports these lists.
struct ModelType {
    const char *type, *name;
};
constexpr ModelType kModelTypes[] = {
    {"bert", "BERT"}, {"roberta", "RoBERTa"}, {"xlm-roberta", "XLM-RoBERTa"}};
constexpr const char* kActivations[] = {"gelu"};
constexpr const char* kPositionTypes[] = {"absolute"};

// config.json of a Hugging Face checkpoint, as far as it matters.
struct Config {
    bool bert = false;  // else RoBERTa or XLM-RoBERTa, which are alike
    int hidden = 0, layers = 0, heads = 0, intermediate = 0;
    int vocabulary = 0, positions = 0, segments = 0;
    int padding_id = 0;  // RoBERTa counts positions from padding_id + 1
    double epsilon = 1e-12;

    int head_dim() const { return hidden / heads; }
    // Throws std::invalid_argument where the numbers cannot be a model that runs here.
    void check() const;
    // Tokens of the longest pair.
    int max_tokens() const { return bert ? positions : positions - padding_id - 1; }
};

// A table read row by row: fp32, fp16, bf16, or 4 bits with a scale for each block of 32 values. In a
// 4-bit block of 16 bytes the low halves are values 0-15 and the high halves values 16-31;
// value = (half - 8) * scale.
struct Table {
    const void* rows = nullptr;
    const void* scales = nullptr;  // fp16 (rows, columns / 32): 4-bit only
    Type type = Type::f32;
    int columns = 0;
    int file = -1;  // open; it has the rows, from `start` on, and they are read from it. -1: from memory
    std::int64_t start = 0;

    // Throws std::runtime_error where the file cannot be read.
    void read(std::int64_t row, float* to) const;
    void add(std::int64_t row, float* to) const;  // to += row
};

struct Norm {
    const float *gamma = nullptr, *beta = nullptr;
};

struct Layer {
    Linear query, key, value, attention_output, intermediate, output;
    Norm attention_norm, output_norm;
};

struct Model {
    Config config;
    Precision precision = Precision::fp32;
    Table words, positions, segments;
    Norm embedding_norm;
    std::vector<Layer> layers;
    Linear head;                        // fp32: pooler (BERT) or classifier.dense
    const float* classifier = nullptr;  // (hidden)
    float classifier_bias = 0;

    // From prepared tensors (prepare.h); checks that every one is there with its type and shape.
    Model(const Config& config, Precision precision, const Tensors& prepared);
};

float half_to_float(std::uint16_t half);

// "(3, 4) float32", for messages.
std::string describe(const Tensor& tensor);

// The tensor of that name, type and shape; throws std::invalid_argument that says what is wrong.
const Tensor& require(const Tensors& tensors, const std::string& name, Type type,
                      const std::vector<std::int64_t>& shape);

Table require_table(const Tensors& tensors, const std::string& name, std::int64_t rows, int columns);

}  // namespace crossrank
