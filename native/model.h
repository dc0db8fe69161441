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

// Positions turn queries and keys: pair i of a head's values by position * frequencies[i], scaled by `scale`.
struct Rotary {
    std::vector<double> frequencies;
    double scale = 1;
};

// A step from the pooled vector to the logit.
struct HeadStep {
    enum class Kind { dense, function, norm };
    Kind kind = Kind::dense;
    int inputs = 0, outputs = 0;             // as many of both but in a dense step
    Activation function = Activation::tanh;  // of a function
    double epsilon = 0;                      // of a norm
};

// What the head gets.
enum class Pooling { first, mean, last };  // the first token, the mean of all, the last token

// What a model is made of: models/architecture.py has the same as a class, and says what each part means.
struct Config {
    int hidden = 0, layers = 0, intermediate = 0;
    int heads = 0, key_value_heads = 0;  // of which each serves as many heads of queries, in their order
    int head_size = 0;
    int vocabulary = 0, embedding = 0, max_tokens = 0;
    int position_rows = 0;       // of the table of positions; 0: there is none
    int first_position = 0;      // the row of the first token
    int padding_id = -1;         // a token that is not counted and has the row before; -1: there is none
    std::vector<float> alibi;    // a slope for each head, or empty
    std::vector<Rotary> rotary;  // the kinds that there are
    std::vector<int> rotary_of_layer;  // a kind for each layer, or empty
    std::vector<int> windows;          // for each layer, -1 being no limit; or empty
    int segments = 0;                  // 0: there are none
    bool embedding_norm = true, norm_first = false, first_norm = true, final_norm = false;
    bool rms = false;         // norms divide by the root of the mean square, and nothing else
    bool head_norms = false;  // queries and keys are normalised so, head by head, before they are turned
    bool causal = false;      // a token sees none behind itself
    double embedding_scale = 1;
    double epsilon = 1e-12;
    Activation activation = Activation::gelu;
    bool gated = false;
    Pooling pooling = Pooling::first;
    std::vector<HeadStep> head;
    int match_layer = 0;  // after which the match is computed, from 1; 0: the head's logit is all
    int separator = 0;    // the token between query and document

    int query_width() const { return heads * head_size; }
    int key_width() const { return key_value_heads * head_size; }
    // Values of the widest row but those of the intermediate layer.
    int width() const;
    int window(std::size_t layer) const { return windows.empty() ? -1 : windows[layer]; }
    // Throws std::invalid_argument where the numbers cannot be a model that runs here.
    void check() const;
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
    const float* gamma = nullptr;  // null: nothing is normalised
    const float* beta = nullptr;   // null: RMSNorm, else LayerNorm

    explicit operator bool() const { return gamma != nullptr; }
};

struct Layer {
    Linear query, key, value, attention_output;
    Norm query_norm, key_norm;  // of a head's values
    Linear intermediate;        // of a gated layer, the gate too (prepare.h)
    Linear output;
    // Of the sum that attention, or the feed-forward part, is added to: of what stays in the residual stream,
    // or, with norm_first, of what the next product gets.
    Norm attention_norm, output_norm;
};

// Cosines and sines of a position's angles, as the product of two turns: that of position / kStep * kStep and
// that of position % kStep. Two small tables, where one of all positions would be megabytes.
class Turns {
  public:
    static constexpr int kStep = 128;

    Turns(const Rotary& rotary, int positions);
    const float* coarse(int position) const { return row(position / kStep); }
    const float* fine(int position) const { return row(fine_ + position % kStep); }
    std::ptrdiff_t stride() const { return static_cast<std::ptrdiff_t>(stride_); }

  private:
    const float* row(int i) const {
        return rows_.data() + std::size_t{2} * stride_ * static_cast<std::size_t>(i);
    }

    std::size_t stride_;  // of the cosines, and of the sines after them
    int fine_;            // the first row of fine turns
    std::vector<float> rows_;
};

// One step of the head, with the steps behind it that are not products.
struct HeadPart {
    struct Step {
        HeadStep step;
        Norm norm;
    };
    Linear dense;  // fp32; without outputs in the first part
    std::vector<Step> steps;
};

struct Model {
    Config config;
    Precision precision = Precision::fp32;
    Table words, positions, segments;
    Norm embedding_norm;
    Linear projection;  // fp32, from an embedding to the hidden size; without outputs: there is none
    Norm first_norm;    // with norm_first, of the first layer's input
    std::vector<Layer> layers;
    Norm final_norm;           // of the last layer's result
    std::vector<Turns> turns;  // of each kind of rotary positions
    std::vector<HeadPart> head;
    const float* classifier = nullptr;  // (inputs of the last step)
    int classifier_inputs = 0;
    float classifier_bias = 0;
    // The match: each token of the query finds the most similar token of the document (architecture.py).
    const float* match_query = nullptr;  // (hidden)
    float match_factor = 0;

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
