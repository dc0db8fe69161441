// The model, from top to bottom. Attention is in attention.h, products in linear.h, and what is done to a
// single row in rows.h. Comments give shapes; M is the number of rows.
#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace crossrank {
namespace {

constexpr int kQueryChunk = 512;  // queries of one task of attention

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
            chunks_.push_back(
                {static_cast<int>(pair), first - rows.from, std::min(kQueryChunk, end - first)});
        if (rows.from <= start && start < rows.to)
            firsts_.push_back({static_cast<int>(pair), static_cast<int>(firsts_.size()), 1});
    }
}

// x = norm(word + segment + position), (M, hidden)
void Encoder::embed(std::size_t pair) const {
    const Config& config = model_.config;
    const std::int32_t start = call_.offsets[group_.pairs[pair]];
    // RoBERTa counts positions from padding_id + 1 and skips padding tokens, should a text hold one.
    int position = config.padding_id;
    const int first = first_row_[pair] - rows_.from;  // the pair's first row among those of this encoder
    const int end = std::min(length(pair), rows_.to - first_row_[pair]);
    for (int i = 0; i < end; ++i) {
        const std::int32_t token = call_.token_ids[start + i];
        const bool counted = config.bert || token != config.padding_id;
        if (counted && !config.bert) ++position;
        if (first + i < 0) continue;
        float* x = row(first + i);
        model_.words.read(token, x);
        model_.segments.add(call_.segment_ids ? call_.segment_ids[start + i] : 0, x);
        model_.positions.add(config.bert ? i : counted ? position : config.padding_id, x);
        normalise(model_.embedding_norm, first + i);
    }
}

void Encoder::embed() const {
    for (std::size_t pair = 0; pair < group_.pairs.size(); ++pair) embed(pair);
}

void Encoder::run() {
    const int rows = rows_.to - rows_.from;
    const std::size_t last = model_.layers.size() - 1;
    for (std::size_t i = 0; i < last; ++i) {
        const Layer& layer = model_.layers[i];
        share_.products({{layer.query, input(rows), heads(w_.q)},
                         {layer.key, input(rows), heads(own(keys(i)))},
                         {layer.value, input(rows), heads(own(values(i)))}});
        share_.meet();
        attend(i, chunks_, rows);
        rest_of_layer(layer, rows);
    }

    // The last layer: keys and values of every token, and the rest for the first token of each pair only.
    const Layer& layer = model_.layers[last];
    share_.products({{layer.key, input(rows), heads(own(keys(last)))},
                     {layer.value, input(rows), heads(own(values(last)))}},
                    Once{[&] { keep_first_rows(); }});
    share_.meet();
    const int pairs = static_cast<int>(firsts_.size());
    if (pairs == 0) return;
    share_.products({{layer.query, input(pairs), heads(w_.q)}});
    attend(last, firsts_, pairs);
    rest_of_layer(layer, pairs);
    classify(pairs);
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
        args.q = w_.q + chunk.row * w_.head_stride + head * dim * bytes;
        args.k = keys(layer) + first_row_[pair] * w_.head_stride + head * dim * bytes;
        args.v = values(layer) + first_row_[pair] * w_.head_stride + head * dim * bytes;
        args.q_stride = args.kv_stride = w_.head_stride;
        args.q_rows = chunk.queries;
        args.kv_rows = length(pair);
        args.head_dim = dim;
        args.out = at(w_.context, chunk.row * w_.row_stride) + head * dim;
        args.out_stride = w_.row_stride;
        args.scratch = w_.scratch + static_cast<std::size_t>(share_.rank()) * w_.scratch_bytes;
        kernels_.attention(args);
    };
    // What attention returns has no outliers, and is not rotated.
    share_.tasks(static_cast<std::ptrdiff_t>(chunks.size()) * heads_count, head_of_chunk,
                 EachRow{precision_ == Precision::fp32 ? 0 : rows, hidden_,
                         [&](int r) { set_input(at(w_.context, r * w_.row_stride), r, false); }});
}

// From the result of attention to the input of the next layer:
// x = norm(x + context W^T), then x = norm(x + feed_forward(x)).
void Encoder::rest_of_layer(const Layer& layer, int rows) {
    Activations context = input(rows);
    if (precision_ == Precision::fp32) context.data = w_.context;
    share_.products({{layer.attention_output, context, residual(0)}},
                    EachRow{rows, hidden_, [&](int r) { normalise(layer.attention_norm, r); }});
    for (int first = 0; first < rows; first += kIntermediateRows) {
        const bool last = first + kIntermediateRows >= rows;
        feed_forward(layer, first, std::min(kIntermediateRows, rows - first), last ? rows : 0);
    }
}

// x += gelu(x W^T) V^T for `rows` rows from `first` on. After the last of them, all rows are normalised.
void Encoder::feed_forward(const Layer& layer, int first, int rows, int rows_to_normalise) {
    const int width = model_.config.intermediate;
    Output wide;
    wide.data = w_.wide;
    wide.stride = w_.wide_stride;
    wide.bf16 = precision_ != Precision::fp32;
    wide.gelu = precision_ == Precision::fp32 ? Gelu::fine : Gelu::coarse;
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
    share_.products({{layer.intermediate, input(rows, first), wide}},
                    EachRow{int8 ? rows : 0, width, [&](int r) {
                                kernels_.quantise_rotated_bf16(
                                    reinterpret_cast<const std::uint16_t*>(w_.wide + r * w_.wide_stride),
                                    width,
                                    reinterpret_cast<std::int8_t*>(w_.wide_input + r * w_.wide_input_stride),
                                    w_.wide_scale + r, w_.wide_sum + r);
                            }});
    share_.products({{layer.output, wide_input, residual(first)}},
                    EachRow{rows_to_normalise, hidden_, [&](int r) { normalise(layer.output_norm, r); }});
}

// Rows of first tokens move to the front, pair by pair: none is overwritten before it is read.
void Encoder::keep_first_rows() const {
    for (std::size_t i = 0; i < firsts_.size(); ++i) {
        const std::ptrdiff_t to = static_cast<std::ptrdiff_t>(i),
                             from = first_row_[static_cast<std::size_t>(firsts_[i].pair)] - rows_.from;
        if (to == from) continue;
        std::memcpy(row(to), row(from), static_cast<std::size_t>(w_.row_stride));
        if (precision_ == Precision::fp32) continue;
        std::memcpy(w_.input + to * w_.input_stride, w_.input + from * w_.input_stride,
                    static_cast<std::size_t>(w_.input_stride));
        w_.input_scale[to] = w_.input_scale[from];
        w_.input_sum[to] = w_.input_sum[from];
    }
}

// logit = classifier . tanh(dense x) + bias, in fp32
void Encoder::classify(int pairs) {
    Activations x;
    x.data = w_.x;
    x.stride = w_.row_stride;
    x.rows = pairs;
    Output out;
    out.data = w_.context;
    out.stride = w_.row_stride;
    share_.products({{model_.head, x, out}},
                    EachRow{pairs, hidden_, [&](int r) {
                                const float* pooled = at(w_.context, r * w_.row_stride);
                                double logit = model_.classifier_bias;
                                for (int i = 0; i < hidden_; ++i)
                                    logit += static_cast<double>(model_.classifier[i]) *
                                             static_cast<double>(std::tanh(pooled[i]));
                                const int pair = firsts_[static_cast<std::size_t>(r)].pair;
                                call_.out[group_.pairs[static_cast<std::size_t>(pair)]] =
                                    static_cast<float>(logit);
                            }});
}

// --- single rows, and where they are ---

// A row of the residual stream, and with it the left side of the next product.
void Encoder::normalise(const Norm& norm, int r) const {
    kernels_.layer_norm(row(r), norm.gamma, norm.beta, static_cast<float>(model_.config.epsilon), hidden_,
                        row(r));
    set_input(row(r), r);
}

// Row r of the next product's left side, from fp32 values. In fp32 there is nothing to do.
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
    if (precision_ == Precision::fp32) {
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
