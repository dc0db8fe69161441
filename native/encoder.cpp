// The model, from top to bottom. Attention is in attention.h, products in linear.h, and what is done to a
// single row in rows.h. Comments give shapes; M is the number of rows.
#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace crossrank {
namespace {

constexpr int kQueryChunk = 512;  // queries of one task of attention
constexpr float kLog2e = 1.44269504f;

float activate(Activation function, float x) {
    switch (function) {
        case Activation::gelu:
            return x / 2 * (1 + std::erf(x * 0.707106781f));
        case Activation::gelu_tanh:
            return x / 2 * (1 + std::tanh(0.797884561f * (x + 0.044715f * x * x * x)));
        case Activation::relu:
            return x < 0 ? 0 : x;
        case Activation::silu:
            return x / (1 + std::exp(-x));
        case Activation::tanh:
            break;
    }
    return std::tanh(x);
}

template <class T>
T* at(T* base, std::ptrdiff_t bytes) {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(base) + bytes);
}

}  // namespace

Encoder::Encoder(const Call& call, const Group& group, Rows rows, const Workspace& workspace,
                 const Share& share)
    : call_(call),
      model_(call.model),
      kernels_(call.kernels),
      group_(group),
      rows_(rows),
      w_(workspace),
      share_(share),
      hidden_(call.model.config.hidden),
      precision_(call.model.precision) {
    int row = 0;
    for (const std::int32_t pair : group.pairs) {
        first_row_.push_back(row);
        row += call.offsets[pair + 1] - call.offsets[pair];
    }
    first_row_.push_back(row);
    for (std::size_t pair = 0; pair < group.pairs.size(); ++pair) {
        const int start = first_row_[pair], end = std::min(first_row_[pair + 1], rows.to);
        for (int first = std::max(start, rows.from); first < end; first += kQueryChunk)
            chunks_.push_back({static_cast<int>(pair), first - rows.from, std::min(kQueryChunk, end - first),
                               first - start});
        if (rows.from <= start && start < rows.to)
            firsts_.push_back({static_cast<int>(pair), static_cast<int>(firsts_.size()), 1, 0});
        if (rotary())
            for (int i = std::max(start, rows.from); i < end; ++i) position_.push_back(i - start);
    }
}

// x = norm(word + segment + position), (M, hidden); where a projection follows, context has what goes into
// it, (M, embedding).
void Encoder::embed(std::size_t pair) const {
    const Config& config = model_.config;
    const std::int32_t start = call_.offsets[group_.pairs[pair]];
    int position = config.first_position - 1;
    const int first = first_row_[pair] - rows_.from;  // the pair's first row among those of this encoder
    const int end = std::min(length(pair), rows_.to - first_row_[pair]);
    for (int i = 0; i < end; ++i) {
        const std::int32_t token = call_.token_ids[start + i];
        const bool counted = token != config.padding_id;
        if (counted) ++position;
        if (first + i < 0) continue;
        float* x = model_.projection.outputs ? at(w_.context, (first + i) * w_.row_stride) : row(first + i);
        model_.words.read(token, x);
        if (config.segments) model_.segments.add(call_.segment_ids ? call_.segment_ids[start + i] : 0, x);
        if (config.position_rows) model_.positions.add(counted ? position : config.first_position - 1, x);
        if (model_.embedding_norm)
            kernels_.layer_norm(x, model_.embedding_norm.gamma, model_.embedding_norm.beta,
                                static_cast<float>(config.epsilon), config.embedding, x);
        if (!model_.projection.outputs) first_input(first + i);
    }
}

void Encoder::embed() const {
    for (std::size_t pair = 0; pair < group_.pairs.size(); ++pair) embed(pair);
}

// The input of the first layer.
void Encoder::first_input(int r) const {
    if (model_.first_norm) normalise(model_.first_norm, r);
    else if (model_.config.norm_first && precision_ == Precision::fp32)
        std::memcpy(w_.input + r * w_.input_stride, row(r), static_cast<std::size_t>(hidden_) * 4);
    else set_input(row(r), r);
}

void Encoder::run() {
    const int rows = rows_.to - rows_.from;
    const bool mean = model_.config.mean;
    const std::size_t last = model_.layers.size() - 1;
    if (model_.projection.outputs) {
        Activations embeddings;
        embeddings.data = w_.context;
        embeddings.stride = w_.row_stride;
        embeddings.rows = rows;
        Output x;
        x.data = w_.x;
        x.stride = w_.row_stride;
        share_.products({{model_.projection, embeddings, x}},
                        EachRow{rows, hidden_, [&](int r) { first_input(r); }});
    }
    for (std::size_t i = 0; i < last + (mean ? 1 : 0); ++i) {
        const Layer& layer = model_.layers[i];
        char* const own_keys = own(keys(i));
        share_.products({{layer.query, input(rows), heads(w_.q)},
                         {layer.key, input(rows), heads(own_keys)},
                         {layer.value, input(rows), heads(own(values(i)))}},
                        EachRow{rotary() ? rows : 0, hidden_, [&](int r) {
                                    const int position = position_[static_cast<std::size_t>(r)];
                                    rotate(i, w_.q + r * w_.head_stride, position);
                                    rotate(i, own_keys + r * w_.head_stride, position);
                                }});
        share_.meet();
        attend(i, chunks_, rows);
        rest_of_layer(i, rows);
    }
    if (mean) {
        pool();
        return classify(w_.context);
    }

    // The last layer: keys and values of every token, and the rest for the first token of each pair only.
    const Layer& layer = model_.layers[last];
    char* const own_keys = own(keys(last));
    const Once keep{[&] { keep_first_rows(); }};
    const Product key{layer.key, input(rows), heads(own_keys)},
        value{layer.value, input(rows), heads(own(values(last)))};
    if (rotary()) {
        share_.products({key, value}, EachRow{rows, hidden_, [&](int r) {
                                                  rotate(last, own_keys + r * w_.head_stride,
                                                         position_[static_cast<std::size_t>(r)]);
                                              }});
        share_.tasks(1, [](std::ptrdiff_t) {}, keep);
    } else {
        share_.products({key, value}, keep);
    }
    share_.meet();
    const int pairs = static_cast<int>(firsts_.size());
    if (pairs == 0) return;
    share_.products(
        {{layer.query, input(pairs), heads(w_.q)}},
        EachRow{rotary() ? pairs : 0, hidden_, [&](int r) { rotate(last, w_.q + r * w_.head_stride, 0); }});
    attend(last, firsts_, pairs);
    rest_of_layer(last, pairs);
    classify(w_.x);
}

// context = softmax(q k^T) v, head by head: (M, hidden)
void Encoder::attend(std::size_t layer, const std::vector<Chunk>& chunks, int rows) {
    const int heads_count = model_.config.heads, dim = model_.config.head_dim();
    const std::ptrdiff_t bytes = call_.attention_bf16 ? 2 : 4;
    const auto head_of_chunk = [&](std::ptrdiff_t task) {
        const Chunk& chunk = chunks[static_cast<std::size_t>(task / heads_count)];
        const std::ptrdiff_t head = task % heads_count;
        const std::size_t pair = static_cast<std::size_t>(chunk.pair);
        Attention args;
        args.bf16 = call_.attention_bf16;
        args.first_query = chunk.position;
        args.window = model_.config.window(layer);
        if (!model_.config.alibi.empty())
            args.slope = model_.config.alibi[static_cast<std::size_t>(head)] * kLog2e;
        args.q = w_.q + chunk.row * w_.head_stride + head * dim * bytes;
        args.k = keys(layer) + first_row_[pair] * w_.head_stride + head * dim * bytes;
        args.v = values(layer) + first_row_[pair] * w_.head_stride + head * dim * bytes;
        args.q_stride = args.kv_stride = w_.head_stride;
        args.q_rows = chunk.queries;
        args.kv_rows = length(pair);
        args.head_dim = dim;
        args.out = at(w_.context, chunk.row * w_.row_stride) + head * dim;
        args.out_stride = w_.row_stride;
        args.scratch = scratch();
        kernels_.attention(args);
    };
    // What attention returns has no outliers, and is not rotated.
    share_.tasks(static_cast<std::ptrdiff_t>(chunks.size()) * heads_count, head_of_chunk,
                 EachRow{precision_ == Precision::fp32 ? 0 : rows, hidden_,
                         [&](int r) { set_input(at(w_.context, r * w_.row_stride), r, false); }});
}

// From the result of attention to the input of the next layer:
// x = norm(x + context W^T), then x = norm(x + feed_forward(x)); or, with norm_first, x += context W^T, and
// x += feed_forward(norm(x)).
void Encoder::rest_of_layer(std::size_t layer, int rows) {
    Activations context = input(rows);
    if (precision_ == Precision::fp32) {
        context.data = w_.context;
        context.stride = w_.row_stride;
    }
    share_.products(
        {{model_.layers[layer].attention_output, context, residual(0)}},
        EachRow{rows, hidden_, [&](int r) { normalise(model_.layers[layer].attention_norm, r); }});
    for (int first = 0; first < rows; first += kIntermediateRows) {
        const bool last = first + kIntermediateRows >= rows;
        feed_forward(layer, first, std::min(kIntermediateRows, rows - first), last ? rows : 0);
    }
}

// x += activation(input W^T) V^T for `rows` rows from `first` on. After the last of them, the layer ends for
// all rows.
void Encoder::feed_forward(std::size_t layer, int first, int rows, int rows_to_normalise) {
    const Config& config = model_.config;
    const int width = config.intermediate;
    Output wide;
    wide.data = w_.wide;
    wide.stride = w_.wide_stride;
    wide.bf16 = precision_ != Precision::fp32;
    wide.activated = true;
    wide.activation = config.activation;
    wide.coarse = precision_ != Precision::fp32;
    wide.gated = config.gated;
    Activations wide_input;
    wide_input.data = w_.wide;
    wide_input.stride = w_.wide_stride;
    wide_input.rows = rows;
    const bool int8 = precision_ == Precision::int8;
    if (int8) {
        wide_input.data = w_.wide_input;
        wide_input.stride = w_.wide_input_stride;
        wide_input.scale = w_.wide_scale;
        wide_input.sum = w_.wide_sum;
    }
    share_.products({{model_.layers[layer].intermediate, input(rows, first), wide}},
                    EachRow{int8 ? rows : 0, width, [&](int r) {
                                kernels_.quantise_rotated_bf16(
                                    reinterpret_cast<const std::uint16_t*>(w_.wide + r * w_.wide_stride),
                                    width,
                                    reinterpret_cast<std::int8_t*>(w_.wide_input + r * w_.wide_input_stride),
                                    w_.wide_scale + r, w_.wide_sum + r);
                            }});
    share_.products({{model_.layers[layer].output, wide_input, residual(first)}},
                    EachRow{rows_to_normalise, hidden_, [&](int r) { end_layer(layer, r); }});
}

// Rows of first tokens move to the front, pair by pair: none is overwritten before it is read.
void Encoder::keep_first_rows() const {
    for (std::size_t i = 0; i < firsts_.size(); ++i) {
        const std::ptrdiff_t to = static_cast<std::ptrdiff_t>(i),
                             from = first_row_[static_cast<std::size_t>(firsts_[i].pair)] - rows_.from;
        if (to == from) continue;
        std::memcpy(row(to), row(from), static_cast<std::size_t>(w_.row_stride));
        if (!w_.has_input) continue;
        std::memcpy(w_.input + to * w_.input_stride, w_.input + from * w_.input_stride,
                    static_cast<std::size_t>(w_.input_stride));
        w_.input_scale[to] = w_.input_scale[from];
        w_.input_sum[to] = w_.input_sum[from];
    }
}

// The mean of each pair's tokens, to the first rows of context. A pair is its first token's thread's, which
// reads the rows of other threads behind its own: they meet before and after.
void Encoder::pool() {
    share_.meet();
    if (!firsts_.empty())
        share_.tasks(
            static_cast<std::ptrdiff_t>(firsts_.size()),
            [&](std::ptrdiff_t i) {
                const std::size_t pair = static_cast<std::size_t>(firsts_[static_cast<std::size_t>(i)].pair);
                float* const tokens = row(first_row_[pair] - rows_.from);
                float* const mean = at(w_.context, i * w_.row_stride);
                // A few columns at a time, whose sums are exact to more than fp32.
                constexpr int kColumns = 64;
                for (int first = 0; first < hidden_; first += kColumns) {
                    const int columns = std::min(kColumns, hidden_ - first);
                    double sums[kColumns] = {};
                    for (int t = 0; t < length(pair); ++t) {
                        const float* x = at(tokens, t * w_.row_stride) + first;
                        for (int c = 0; c < columns; ++c) sums[c] += static_cast<double>(x[c]);
                    }
                    for (int c = 0; c < columns; ++c)
                        mean[first + c] = static_cast<float>(sums[c] / length(pair));
                }
            },
            Once{[] {}});
    share_.meet();
}

// From pooled vectors, the first rows of `pooled`, to logits, in fp32.
void Encoder::classify(float* pooled) {
    const int pairs = static_cast<int>(firsts_.size());
    if (pairs == 0) return;
    float *values = pooled, *next = pooled == w_.x ? w_.context : w_.x;
    for (std::size_t i = 0; i < model_.head.size(); ++i) {
        const HeadPart& part = model_.head[i];
        const bool last = i + 1 == model_.head.size();
        if (i > 0) std::swap(values, next);
        const auto finish = [&](int r) {
            float* const row = at(values, r * w_.row_stride);
            finish_part(part, row);
            if (!last) return;
            double logit = static_cast<double>(model_.classifier_bias);
            for (int k = 0; k < model_.classifier_inputs; ++k)
                logit += static_cast<double>(model_.classifier[k]) * static_cast<double>(row[k]);
            const int pair = firsts_[static_cast<std::size_t>(r)].pair;
            call_.out[group_.pairs[static_cast<std::size_t>(pair)]] = static_cast<float>(logit);
        };
        if (i == 0) {  // without a product
            if (last || !part.steps.empty())
                share_.tasks(pairs, [&](std::ptrdiff_t r) { finish(static_cast<int>(r)); }, Once{[] {}});
            continue;
        }
        Activations in;
        in.data = next;
        in.stride = w_.row_stride;
        in.rows = pairs;
        Output out;
        out.data = values;
        out.stride = w_.row_stride;
        share_.products({{part.dense, in, out}}, EachRow{pairs, part.dense.outputs, finish});
    }
}

// The steps of a head that follow a product, on one row.
void Encoder::finish_part(const HeadPart& part, float* values) const {
    for (const HeadPart::Step& step : part.steps)
        if (step.step.kind == HeadStep::Kind::norm)
            kernels_.layer_norm(values, step.norm.gamma, step.norm.beta,
                                static_cast<float>(step.step.epsilon), step.step.outputs, values);
        else
            for (int i = 0; i < step.step.outputs; ++i) values[i] = activate(step.step.function, values[i]);
}

// --- single rows, and where they are ---

// The left side of the next product: a row of the residual stream normalised, which stays as it is with
// norm_first only.
void Encoder::normalise(const Norm& norm, int r) const {
    const auto to = [&](float* y) {
        kernels_.layer_norm(row(r), norm.gamma, norm.beta, static_cast<float>(model_.config.epsilon), hidden_,
                            y);
    };
    if (!model_.config.norm_first) {
        to(row(r));
        set_input(row(r), r);
    } else if (precision_ == Precision::fp32) {
        to(reinterpret_cast<float*>(w_.input + r * w_.input_stride));
    } else {
        float* const normalised = reinterpret_cast<float*>(scratch());
        to(normalised);
        set_input(normalised, r);
    }
}

// The norm that follows a layer's feed-forward part: after the last layer, that of the result.
void Encoder::end_layer(std::size_t layer, int r) const {
    if (model_.layers[layer].output_norm) normalise(model_.layers[layer].output_norm, r);
    if (layer + 1 == model_.layers.size() && model_.final_norm)
        kernels_.layer_norm(row(r), model_.final_norm.gamma, model_.final_norm.beta,
                            static_cast<float>(model_.config.epsilon), hidden_, row(r));
}

// One row of queries or keys, in place.
void Encoder::rotate(std::size_t layer, char* queries_or_keys, int position) const {
    const Config& config = model_.config;
    const Turns& turns = model_.turns[static_cast<std::size_t>(config.rotary_of_layer[layer])];
    Rotation rotation;
    rotation.bf16 = call_.attention_bf16;
    rotation.heads = config.heads;
    rotation.half = config.head_dim() / 2;
    rotation.coarse = turns.coarse(position);
    rotation.fine = turns.fine(position);
    rotation.stride = turns.stride();
    kernels_.rotate(rotation, queries_or_keys);
}

// Row r of the next product's left side, from fp32 values. In fp32 there is nothing to do: normalise() has.
void Encoder::set_input(const float* values, std::ptrdiff_t r, bool rotated) const {
    char* to = w_.input + r * w_.input_stride;
    if (precision_ == Precision::int8)
        (rotated ? kernels_.quantise_rotated : kernels_.quantise)(
            values, hidden_, reinterpret_cast<std::int8_t*>(to), w_.input_scale + r, w_.input_sum + r);
    else if (precision_ == Precision::bf16)
        kernels_.to_bf16(values, hidden_, reinterpret_cast<std::uint16_t*>(to));
}

float* Encoder::row(std::ptrdiff_t r) const { return at(w_.x, r * w_.row_stride); }

// The left side of the next product, from row `first` on.
Activations Encoder::input(int rows, std::ptrdiff_t first) const {
    Activations a;
    a.rows = rows;
    if (!w_.has_input) {
        a.data = row(first);
        a.stride = w_.row_stride;
    } else {
        a.data = w_.input + first * w_.input_stride;
        a.stride = w_.input_stride;
        a.scale = w_.input_scale + first;
        a.sum = w_.input_sum + first;
    }
    return a;
}

// Queries, keys or values.
Output Encoder::heads(char* to) const {
    Output out;
    out.data = to;
    out.stride = w_.head_stride;
    out.bf16 = call_.attention_bf16;
    return out;
}

// x += ..., from row `first` on.
Output Encoder::residual(std::ptrdiff_t first) const {
    Output out;
    out.data = row(first);
    out.stride = w_.row_stride;
    out.add = true;
    return out;
}

}  // namespace crossrank
