// The model, from top to bottom. Attention is in attention.h, products in linear.h, and what is done to a
// single row in rows.h. Comments give shapes; M is the number of rows.
#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

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
      query_width_(call.model.config.query_width()),
      precision_(call.model.precision) {
    int row = 0;
    for (const std::int32_t pair : group.pairs) {
        first_row_.push_back(row);
        row += call.offsets[pair + 1] - call.offsets[pair];
    }
    first_row_.push_back(row);
    for (std::size_t pair = 0; pair < group.pairs.size(); ++pair) {
        const int start = first_row_[pair], end = std::min(first_row_[pair + 1], rows.to),
                  to_position = before(pair).rows - start;
        for (int first = std::max(start, rows.from); first < end; first += kQueryChunk)
            chunks_.push_back({static_cast<int>(pair), first - rows.from, std::min(kQueryChunk, end - first),
                               first + to_position});
        const int pooled = pooled_row(pair);
        if (rows.from <= pooled && pooled < rows.to)
            pooled_.push_back(
                {static_cast<int>(pair), static_cast<int>(pooled_.size()), 1, pooled + to_position});
        if (rotary())
            for (int i = std::max(start, rows.from); i < end; ++i) position_.push_back(i + to_position);
        if (!call.out)
            for (int i = std::max(start, rows.from); i < end; ++i)
                kept_.push_back({before(pair).prefix, i + to_position});
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
        if (config.embedding_scale != 1)
            for (int c = 0; c < config.embedding; ++c) x[c] *= static_cast<float>(config.embedding_scale);
        if (config.segments) model_.segments.add(call_.segment_ids ? call_.segment_ids[start + i] : 0, x);
        if (config.position_rows) model_.positions.add(counted ? position : config.first_position - 1, x);
        if (model_.embedding_norm) norm_row(model_.embedding_norm, config.epsilon, config.embedding, x, x);
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
    else set_input(row(r), hidden_, r);
}

void Encoder::run() {
    const int rows = rows_.to - rows_.from;
    const bool mean = model_.config.pooling == Pooling::mean;
    const std::size_t last = model_.layers.size() - 1;
    const int rows_to_finish = rotary() || !call_.out ? rows : 0;
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
        share_.products({{layer.query, input(rows), queries()},
                         {layer.key, input(rows), keys_or_values(own(keys(i)))},
                         {layer.value, input(rows), keys_or_values(own(values(i)))}},
                        EachRow{rows_to_finish, query_width_, [&](int r) {
                                    if (rotary()) turn_query(i, r, position_[static_cast<std::size_t>(r)]);
                                    finish_key(i, r);
                                }});
        share_.meet();
        attend(i, chunks_, rows);
        rest_of_layer(i, rows);
        if (static_cast<int>(i) + 1 == model_.config.match_layer) match();
    }
    if (mean) {
        pool();
        return classify(w_.context);
    }

    // The last layer: keys and values of every token, and the rest for the pooled token of each pair only.
    const Layer& layer = model_.layers[last];
    const Product key{layer.key, input(rows), keys_or_values(own(keys(last)))},
        value{layer.value, input(rows), keys_or_values(own(values(last)))};
    const EachRow finish{rows_to_finish, hidden_, [&](int r) { finish_key(last, r); }};
    if (!call_.out) return share_.products({key, value}, finish);
    const Once keep{[&] { keep_pooled_rows(); }};
    if (rotary()) {
        share_.products({key, value}, finish);
        share_.tasks(1, [](std::ptrdiff_t) {}, keep);
    } else {
        share_.products({key, value}, keep);
    }
    share_.meet();
    const int pairs = static_cast<int>(pooled_.size());
    if (pairs == 0) return;
    share_.products({{layer.query, input(pairs), queries()}},
                    EachRow{rotary() ? pairs : 0, query_width_, [&](int r) {
                                turn_query(last, r, pooled_[static_cast<std::size_t>(r)].position);
                            }});
    attend(last, pooled_, pairs);
    rest_of_layer(last, pairs);
    classify(w_.x);
}

// context = softmax(q k^T) v, head by head: (M, heads * head size)
void Encoder::attend(std::size_t layer, const std::vector<Chunk>& chunks, int rows) {
    const Config& config = model_.config;
    const int dim = config.head_size, sharing = config.heads / config.key_value_heads;
    // Heads that share keys and values are one task, unless each of them has a slope.
    const int heads = config.alibi.empty() ? sharing : 1, tasks = config.heads / heads;
    const std::ptrdiff_t bytes = call_.attention_bf16 ? 2 : 4;
    const auto heads_of_chunk = [&](std::ptrdiff_t task) {
        const Chunk& chunk = chunks[static_cast<std::size_t>(task / tasks)];
        const std::ptrdiff_t head = task % tasks * heads, of_key_head = head / sharing * dim * bytes;
        const std::size_t pair = static_cast<std::size_t>(chunk.pair);
        const Before first = before(pair);
        Attention args;
        args.bf16 = call_.attention_bf16;
        args.first_query = chunk.position;
        args.window = config.window(layer);
        args.causal = config.causal;
        if (!config.alibi.empty()) args.slope = config.alibi[static_cast<std::size_t>(head)] * kLog2e;
        args.q = w_.q + chunk.row * w_.query_stride + head * dim * bytes;
        args.k = keys(layer) + first_row_[pair] * w_.key_stride + of_key_head;
        args.v = values(layer) + first_row_[pair] * w_.key_stride + of_key_head;
        args.q_stride = w_.query_stride;
        args.kv_stride = w_.key_stride;
        args.q_rows = chunk.queries;
        args.kv_rows = first.rows + length(pair);
        args.head_dim = dim;
        args.heads = heads;
        if (first.rows) {
            args.before = first.rows;
            args.k_before = first.prefix->key(layer, 0) + of_key_head;
            args.v_before = first.prefix->value(layer, 0) + of_key_head;
        }
        args.out = at(w_.context, chunk.row * w_.row_stride) + head * dim;
        args.out_stride = w_.row_stride;
        args.scratch = scratch();
        kernels_.attention(args);
    };
    // What attention returns has no outliers, and is not rotated.
    share_.tasks(static_cast<std::ptrdiff_t>(chunks.size()) * tasks, heads_of_chunk,
                 EachRow{precision_ == Precision::fp32 ? 0 : rows, query_width_, [&](int r) {
                             set_input(at(w_.context, r * w_.row_stride), query_width_, r, false);
                         }});
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

// Rows of pooled tokens move to the front, pair by pair: none is overwritten before it is read.
void Encoder::keep_pooled_rows() const {
    for (std::size_t i = 0; i < pooled_.size(); ++i) {
        const std::ptrdiff_t to = static_cast<std::ptrdiff_t>(i),
                             from = pooled_row(static_cast<std::size_t>(pooled_[i].pair)) - rows_.from;
        if (to == from) continue;
        std::memcpy(row(to), row(from), static_cast<std::size_t>(w_.row_stride));
        if (!w_.has_input) continue;
        std::memcpy(w_.input + to * w_.input_stride, w_.input + from * w_.input_stride,
                    static_cast<std::size_t>(w_.input_stride));
        w_.input_scale[to] = w_.input_scale[from];
        w_.input_sum[to] = w_.input_sum[from];
    }
}

// work(pair, i) for the i-th pair of this encoder's. A pair is its first token's thread's, which reads the
// rows of other threads behind its own: they meet before and after.
template <class Work>
void Encoder::each_pair(const Work& work) {
    share_.meet();
    if (!pooled_.empty())
        share_.tasks(
            static_cast<std::ptrdiff_t>(pooled_.size()),
            [&](std::ptrdiff_t i) {
                work(static_cast<std::size_t>(pooled_[static_cast<std::size_t>(i)].pair), i);
            },
            Once{[] {}});
    share_.meet();
}

// The mean of each pair's tokens, to the first rows of context.
void Encoder::pool() {
    each_pair([&](std::size_t pair, std::ptrdiff_t i) {
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
            for (int c = 0; c < columns; ++c) mean[first + c] = static_cast<float>(sums[c] / length(pair));
        }
    });
}

// The match of each pair to its place in `out`, where classify() adds the rest.
void Encoder::match() {
    each_pair([&](std::size_t pair, std::ptrdiff_t) { call_.out[group_.pairs[pair]] = matched(pair); });
}

float Encoder::matched(std::size_t pair) const {
    const std::int32_t* const tokens = call_.token_ids + call_.offsets[group_.pairs[pair]];
    const int end = length(pair) - 1;
    const int separator = static_cast<int>(
        std::find(tokens + std::min(1, end), tokens + end, model_.config.separator) - tokens);
    const int document = separator + 2;
    if (separator < 2 || document >= end) return 0;
    float* const states = row(first_row_[pair] - rows_.from);
    Match args;
    args.document = at(states, document * w_.row_stride);
    args.document_rows = end - document;
    args.stride = w_.row_stride;
    args.n = hidden_;
    args.weights = model_.match_query;
    float best[kMatchRows], weight[kMatchRows];
    args.best = best;
    args.weight = weight;
    // A softmax whose largest weight is known only in the end: what was summed up is rescaled when it
    // changes.
    double largest = -std::numeric_limits<double>::infinity(), weights = 0, sum = 0;
    for (int first = 1; first < separator; first += kMatchRows) {
        args.query = at(states, first * w_.row_stride);
        args.query_rows = std::min(kMatchRows, separator - first);
        kernels_.match(args);
        for (int i = 0; i < args.query_rows; ++i) {
            const double logit = static_cast<double>(weight[i]);
            if (logit > largest) {
                const double change = std::exp(largest - logit);
                weights *= change;
                sum *= change;
                largest = logit;
            }
            const double share = std::exp(logit - largest);
            weights += share;
            sum += share * static_cast<double>(best[i]);
        }
    }
    return static_cast<float>(static_cast<double>(model_.match_factor) * sum / weights);
}

// From pooled vectors, the first rows of `pooled`, to logits, in fp32.
void Encoder::classify(float* pooled) {
    const int pairs = static_cast<int>(pooled_.size());
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
            const int pair = pooled_[static_cast<std::size_t>(r)].pair;
            float& to = call_.out[group_.pairs[static_cast<std::size_t>(pair)]];
            double logit = static_cast<double>(model_.classifier_bias);
            if (model_.config.match_layer) logit += static_cast<double>(to);
            for (int k = 0; k < model_.classifier_inputs; ++k)
                logit += static_cast<double>(model_.classifier[k]) * static_cast<double>(row[k]);
            to = static_cast<float>(logit);
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
            norm_row(step.norm, step.step.epsilon, step.step.outputs, values, values);
        else
            for (int i = 0; i < step.step.outputs; ++i) values[i] = activate(step.step.function, values[i]);
}

// --- single rows, and where they are ---

// The left side of the next product: a row of the residual stream normalised, which stays as it is with
// norm_first only.
void Encoder::normalise(const Norm& norm, int r) const {
    const auto to = [&](float* y) { norm_row(norm, model_.config.epsilon, hidden_, row(r), y); };
    if (!model_.config.norm_first) {
        to(row(r));
        set_input(row(r), hidden_, r);
    } else if (precision_ == Precision::fp32) {
        to(reinterpret_cast<float*>(w_.input + r * w_.input_stride));
    } else {
        float* const normalised = reinterpret_cast<float*>(scratch());
        to(normalised);
        set_input(normalised, hidden_, r);
    }
}

void Encoder::norm_row(const Norm& norm, double epsilon, int size, const float* x, float* y) const {
    if (norm.beta) kernels_.layer_norm(x, norm.gamma, norm.beta, static_cast<float>(epsilon), size, y);
    else kernels_.rms_norm(x, norm.gamma, static_cast<float>(epsilon), size, y);
}

// The norm that follows a layer's feed-forward part: after the last layer, that of the result.
void Encoder::end_layer(std::size_t layer, int r) const {
    if (model_.layers[layer].output_norm) normalise(model_.layers[layer].output_norm, r);
    if (layer + 1 == model_.layers.size() && model_.final_norm)
        norm_row(model_.final_norm, model_.config.epsilon, hidden_, row(r), row(r));
}

// One row of queries, of a token at that position.
void Encoder::turn_query(std::size_t layer, int r, int position) const {
    rotate(layer, model_.layers[layer].query_norm, w_.q + r * w_.query_stride, model_.config.heads, position);
}

// One row of keys; and the row of values, where both are kept.
void Encoder::finish_key(std::size_t layer, int r) const {
    char* const key = own(keys(layer)) + r * w_.key_stride;
    const std::size_t i = static_cast<std::size_t>(r);
    if (rotary())
        rotate(layer, model_.layers[layer].key_norm, key, model_.config.key_value_heads, position_[i]);
    if (call_.out) return;
    const std::size_t bytes = static_cast<std::size_t>(w_.key_stride);
    std::memcpy(kept_[i].prefix->key(layer, kept_[i].token), key, bytes);
    std::memcpy(kept_[i].prefix->value(layer, kept_[i].token), own(values(layer)) + r * w_.key_stride, bytes);
}

// One row of queries or keys, in place, normalised before where there is a norm.
void Encoder::rotate(std::size_t layer, const Norm& norm, char* queries_or_keys, int heads,
                     int position) const {
    const Config& config = model_.config;
    const Turns& turns = model_.turns[static_cast<std::size_t>(config.rotary_of_layer[layer])];
    Rotation rotation;
    rotation.bf16 = call_.attention_bf16;
    rotation.heads = heads;
    rotation.half = config.head_size / 2;
    rotation.gamma = norm.gamma;
    rotation.eps = static_cast<float>(config.epsilon);
    rotation.coarse = turns.coarse(position);
    rotation.fine = turns.fine(position);
    rotation.stride = turns.stride();
    kernels_.rotate(rotation, queries_or_keys);
}

// Row r of the next product's left side, from `width` fp32 values. In fp32 there is nothing to do:
// normalise() has.
void Encoder::set_input(const float* values, int width, std::ptrdiff_t r, bool rotated) const {
    char* to = w_.input + r * w_.input_stride;
    if (precision_ == Precision::int8)
        (rotated ? kernels_.quantise_rotated : kernels_.quantise)(
            values, width, reinterpret_cast<std::int8_t*>(to), w_.input_scale + r, w_.input_sum + r);
    else if (precision_ == Precision::bf16)
        kernels_.to_bf16(values, width, reinterpret_cast<std::uint16_t*>(to));
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

Output Encoder::queries() const {
    Output out;
    out.data = w_.q;
    out.stride = w_.query_stride;
    out.bf16 = call_.attention_bf16;
    return out;
}

Output Encoder::keys_or_values(char* to) const {
    Output out;
    out.data = to;
    out.stride = w_.key_stride;
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
