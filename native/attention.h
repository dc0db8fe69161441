// Attention of heads that share keys and values, within one pair: out = softmax(q k^T) v, with powers of two
// (kernels.h).
//
// Both products go through the tiles of the linear layers: keys (and values) are put into panels as
// weights are. Keys are taken 512 at a time and a running maximum and sum are kept for each row
// (Milakov and Gimelshein 2018), so the scores of a block of rows stay in the second-level cache however
// long the pair is. Blocks are counted from the pair's own first token: other pairs cannot change a sum.
//
// Where queries see only keys that are near to them, or none behind them, a block of queries goes to the
// panels of keys that one of them sees, and a key that a query does not see has the weight zero. That changes
// no sum either: panels are counted from the pair's first token, too. So it makes no difference whether the
// first keys are in a place of their own.
#pragma once

#include "linear.h"

namespace crossrank::CR_ISA {

constexpr int kKeys = 512;                                                   // keys of a block
constexpr int kQueries = CR_DOT_ROWS <= CR_ROWS ? 4 * kRows : 2 * kDotRows;  // queries of a block

// Offsets into the scratch memory.
struct AttentionScratch {
    std::ptrdiff_t keys, values, scores, weights, sums, mixed, size;
    std::ptrdiff_t keys_of_block, values_of_block;  // bytes; there are two blocks

    // Sized for fp32, which needs the most; bf16 uses part.
    explicit AttentionScratch(int head_dim)
        : keys_of_block(std::ptrdiff_t{kKeys} * round_up(head_dim, 2) * 4),          // 512 keys x head_dim
          values_of_block(std::ptrdiff_t{kKeys} * round_up(head_dim, kPanel) * 4) {  // head_dim x 512
        keys = 0;
        values = keys + 2 * keys_of_block;
        scores = values + 2 * values_of_block;
        weights = scores + std::ptrdiff_t{kQueries} * (kKeys + 16) * 4;
        sums = weights + std::ptrdiff_t{kQueries} * (kKeys + 32) * 2;
        mixed = sums + std::ptrdiff_t{kMostRows} * kPanel * 4;
        size = mixed + std::ptrdiff_t{kPanel} * round_up(head_dim, 2) * 4;  // a panel's keys, or values
    }
};

inline std::size_t attention_scratch(int head_dim) {
    return static_cast<std::size_t>(AttentionScratch(head_dim).size);
}

// Units of 16 keys, `stride` bytes apart, to 16 rows of a panel: a transposition of 32-bit units.
#if CR_LANES == 16
CR_INLINE void transpose_16(const char* const* keys, std::uint32_t* to) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = load<__m512i>(keys[i]);
    // 4 x 4 within each 128-bit lane: after this, b[4 i + j] holds unit 4 l + j of keys 4 i .. 4 i + 3 in
    // lane l
    for (int i = 0; i < 16; i += 4) {
        const __m512i low01 = _mm512_unpacklo_epi32(a[i], a[i + 1]),
                      low23 = _mm512_unpacklo_epi32(a[i + 2], a[i + 3]);
        const __m512i high01 = _mm512_unpackhi_epi32(a[i], a[i + 1]),
                      high23 = _mm512_unpackhi_epi32(a[i + 2], a[i + 3]);
        b[i] = _mm512_unpacklo_epi64(low01, low23);
        b[i + 1] = _mm512_unpackhi_epi64(low01, low23);
        b[i + 2] = _mm512_unpacklo_epi64(high01, high23);
        b[i + 3] = _mm512_unpackhi_epi64(high01, high23);
    }
    // 4 x 4 of lanes
    for (int j = 0; j < 4; ++j) {
        const __m512i even01 = _mm512_shuffle_i32x4(b[j], b[j + 4], 0x88),
                      odd01 = _mm512_shuffle_i32x4(b[j], b[j + 4], 0xdd);
        const __m512i even23 = _mm512_shuffle_i32x4(b[j + 8], b[j + 12], 0x88),
                      odd23 = _mm512_shuffle_i32x4(b[j + 8], b[j + 12], 0xdd);
        store(to + j * kPanel, _mm512_shuffle_i32x4(even01, even23, 0x88));
        store(to + (4 + j) * kPanel, _mm512_shuffle_i32x4(odd01, odd23, 0x88));
        store(to + (8 + j) * kPanel, _mm512_shuffle_i32x4(even01, even23, 0xdd));
        store(to + (12 + j) * kPanel, _mm512_shuffle_i32x4(odd01, odd23, 0xdd));
    }
}
#endif

// Keys (count, dim) as the weights of a linear layer with `count` outputs: panels of 32 keys. Keys beyond the
// last are scored too, as repetitions of it, and their scores not looked at.
inline void keys_to_panels(const char* k, std::ptrdiff_t stride, int count, int units,
                           std::uint32_t* panels) {
    for (int first = 0; first < count; first += kPanel, panels += units * kPanel) {
        const char* keys[kPanel];
        for (int n = 0; n < kPanel; ++n) keys[n] = k + (first + n < count ? first + n : count - 1) * stride;
        int u = 0;
#if CR_LANES == 16
        for (; u + 16 <= units; u += 16)
            for (int n = 0; n < kPanel; n += 16) {
                transpose_16(keys + n, panels + u * kPanel + n);
                for (int i = 0; i < 16; ++i) keys[n + i] += 16 * kUnit;
            }
#endif
        for (; u < units; ++u)
            for (int n = 0; n < kPanel; ++n, keys[n - 1] += kUnit)
                __builtin_memcpy(panels + u * kPanel + n, keys[n], kUnit);
    }
}

// Values (count, dim) as a layer with `count` inputs and `dim` outputs. A panel has room for 512 inputs.
inline void values_to_panels_fp32(const char* v, std::ptrdiff_t stride, int count, int dim, float* to) {
    for (int column = 0; column < dim; column += kPanel) {
        float* panels = to + std::ptrdiff_t{column} * kKeys;
        const int width = dim - column < kPanel ? dim - column : kPanel;
        for (int i = 0; i < count; ++i, panels += kPanel) {
            __builtin_memcpy(panels, v + i * stride + column * 4, static_cast<std::size_t>(width) * 4);
            for (int n = width; n < kPanel; ++n) panels[n] = 0;
        }
    }
}

inline void values_to_panels_bf16(const char* v, std::ptrdiff_t stride, int count, int dim,
                                  std::uint32_t* to) {
    for (int column = 0; column < dim; column += kPanel) {
        std::uint32_t* panels = to + std::ptrdiff_t{column} * (kKeys / 2);
        const int width = dim - column < kPanel ? dim - column : kPanel;
        for (int i = 0; i < count; i += 2, panels += kPanel) {
            const char* even = v + i * stride + column * 2;
            const char* odd = even + stride;
            std::uint16_t e[kPanel] = {}, o[kPanel] = {};  // for rows that are cut off
            if (width < kPanel || i + 1 == count) {
                __builtin_memcpy(e, even, static_cast<std::size_t>(width) * 2);
                if (i + 1 < count) __builtin_memcpy(o, odd, static_cast<std::size_t>(width) * 2);
                even = reinterpret_cast<const char*>(e);
                odd = reinterpret_cast<const char*>(o);
            }
            for (int n = 0; n < kPanel; n += kLanes) {
                const Vu low = widen(load<Vh>(even + 2 * n));
                const Vu high = widen(load<Vh>(odd + 2 * n));
                store(panels + n, low | high << 16);
            }
        }
    }
}

// One row of scores to weights 2^(score - maximum), in bf16 or in place. Returns their sum.
template <bool bf16>
CR_INLINE float weigh(float* scores, int count, float maximum, std::uint16_t* as_bf16) {
    const int whole = count / kLanes * kLanes;
    Vf total{};
    for (int i = 0; i < whole; i += kLanes) {
        const Vf w = exp2_nonpositive<bf16>(load<Vf>(scores + i) - maximum);
        total += w;
        if constexpr (bf16) store(as_bf16 + i, to_bf16(w));
        else store(scores + i, w);
    }
    if (whole < count) {
        // The scores' row has room for a whole vector; lanes beyond the last key weigh nothing.
        const Vf all = exp2_nonpositive<bf16>(load<Vf>(scores + whole) - maximum);
        const Vf w = kLane < count - whole ? all : Vf{};
        total += w;
        if constexpr (bf16) store(as_bf16 + whole, to_bf16(w));
        else store(scores + whole, w);
    } else if (bf16 && count % 2) {
        as_bf16[count] = 0;
    }
    return sum(total);
}

// Whole vectors: scores beyond the last key are those of the last key again (keys_to_panels).
CR_INLINE float maximum_of(const float* scores, int count) {
    static_assert(kPanel % kLanes == 0);
    constexpr int kAtOnce = 4;  // independent maxima: one would wait for itself
    Vf largest[kAtOnce];
    for (Vf& v : largest) v = load<Vf>(scores);
    int i = kLanes;
    for (; i + (kAtOnce - 1) * kLanes < count; i += kAtOnce * kLanes)
        for (int v = 0; v < kAtOnce; ++v) largest[v] = max(largest[v], load<Vf>(scores + i + v * kLanes));
    for (; i < count; i += kLanes) largest[0] = max(largest[0], load<Vf>(scores + i));
    return max_of(max(max(largest[0], largest[1]), max(largest[2], largest[3])));
}

// out = (out * rescale + sums) * inverse for `width` columns; in the first block of keys, out = sums *
// inverse.
CR_INLINE void collect(const float* sums, int width, bool first, float rescale, float inverse, float* out) {
    for (int n = 0; n < width; n += kLanes) {
        const std::ptrdiff_t m = width - n;
        Vf o = load<Vf>(sums + n);
        if (!first) o = fma(load_some(out + n, m), splat(rescale), o);
        store_some(out + n, o * inverse, m);
    }
}

// Keys and values of up to 512 tokens as panels; those of the two last blocks are kept. A pair's panels are
// made as they are wanted, each once for all queries unless the pair is longer than two blocks.
class KeyBlocks {
  public:
    KeyBlocks(const Attention& t, const AttentionScratch& layout)
        : t_(t),
          units_(static_cast<int>(ceil_div(t.head_dim, t.bf16 ? 2 : 1))),
          layout_(layout),
          scratch_(static_cast<char*>(t.scratch)) {}

    // The panels of keys [first, last), which are of one block; `first` is that of a panel.
    void want(int first, int last) {
        const int number = first / kKeys, from = number * kKeys;
        Made& made = made_[number % 2];
        if (made.number != number || first < made.first || first > made.last) made = {number, first, first};
        while (made.last < last) {
            // Of panels that are in both places there is one at most.
            const int start = made.last, whole = t_.before / kPanel * kPanel;
            int end = last;
            if (start < t_.before && last > t_.before) {
                end = start < whole ? whole : whole + kPanel;
                if (end > last) end = last;
            }
            make(start, end, start - from, number);
            made.last = end;
        }
    }

    // Of a key that is `place` keys behind its block's first one.
    const char* keys_at(int number, int place) const { return keys(number) + key_bytes(place); }
    // The panel of values from `column` on, likewise.
    const char* values_at(int number, int place, int column) const {
        return values(number) + std::ptrdiff_t{column} * (t_.bf16 ? kKeys / 2 : kKeys) * kUnit +
               value_bytes(place);
    }
    int units() const { return units_; }

  private:
    struct Made {
        int number = -1, first = 0, last = 0;
    };

    struct Rows {
        const char* first;
        std::ptrdiff_t stride;
    };

    // Keys or values [first, last); brought together, where they are in both places.
    Rows rows(const void* before, const void* own, int first, int last) const {
        const auto at = [&](int i) {
            return i < t_.before ? static_cast<const char*>(before) + i * t_.kv_stride
                                 : static_cast<const char*>(own) + (i - t_.before) * t_.kv_stride;
        };
        if (first >= t_.before || last <= t_.before) return {at(first), t_.kv_stride};
        char* const mixed = scratch_ + layout_.mixed;
        const std::ptrdiff_t bytes = std::ptrdiff_t{units_} * kUnit;
        for (int i = first; i < last; ++i)
            __builtin_memcpy(mixed + (i - first) * bytes, at(i), static_cast<std::size_t>(bytes));
        return {mixed, bytes};
    }

    void make(int first, int last, int place, int number) {
        const Rows k = rows(t_.k_before, t_.k, first, last);
        keys_to_panels(k.first, k.stride, last - first, units_,
                       reinterpret_cast<std::uint32_t*>(keys(number) + key_bytes(place)));
        const Rows v = rows(t_.v_before, t_.v, first, last);
        char* to = values(number) + value_bytes(place);
        if (t_.bf16)
            values_to_panels_bf16(v.first, v.stride, last - first, t_.head_dim,
                                  reinterpret_cast<std::uint32_t*>(to));
        else
            values_to_panels_fp32(v.first, v.stride, last - first, t_.head_dim, reinterpret_cast<float*>(to));
    }

    std::ptrdiff_t key_bytes(int place) const { return std::ptrdiff_t{place} * units_ * kUnit; }
    std::ptrdiff_t value_bytes(int place) const {
        return std::ptrdiff_t{place} / (t_.bf16 ? 2 : 1) * kPanel * kUnit;
    }
    char* keys(int number) const { return scratch_ + layout_.keys + number % 2 * layout_.keys_of_block; }
    char* values(int number) const {
        return scratch_ + layout_.values + number % 2 * layout_.values_of_block;
    }

    const Attention& t_;
    const int units_;
    const AttentionScratch& layout_;
    char* const scratch_;
    Made made_[2];
};

// What a query has come to, block by block.
struct Running {
    float maximum, total;
    float rescale;  // what `out` has so far is multiplied by
};

// Less than every score.
constexpr float kLeast = -1e30f;

// ALiBi: scores of keys that are `distance`, `distance` + 1, ... behind the query.
CR_INLINE void add_distances(float* scores, int count, int distance, float slope) {
    const Vi lane = kLane;
    for (int i = 0; i < count; i += kLanes) {
        const Vf away = abs(__builtin_convertvector(lane + (distance + i), Vf));
        store(scores + i, load<Vf>(scores + i) - away * slope);
    }
}

// One row of scores to weights, of which [from, to) of `count` are seen by the query.
template <bool bf16>
CR_INLINE void weigh_row(float* scores, int from, int to, int count, bool first_block, std::uint16_t* as_bf16,
                         Running* row) {
    // Whole vectors: what they have beside the keys that are seen weighs next to nothing, and then nothing.
    const int start = from / kLanes * kLanes;
    int end = to;
    if (first_block) *row = {kLeast, 0, 0};
    if (from > 0 || to < count) {
        end = static_cast<int>(round_up(to, kLanes));
        for (int i = start; i < from; ++i) scores[i] = kLeast;
        for (int i = to; i < end; ++i) scores[i] = kLeast;
    }
    if (from < to) {
        const float block_maximum = maximum_of(scores + start, end - start);
        if (first_block) {
            row->maximum = block_maximum;
        } else {
            const float m = block_maximum > row->maximum ? block_maximum : row->maximum;
            row->rescale = exp2_nonpositive<false>(splat(row->maximum - m))[0];
            row->maximum = m;
        }
        const float block_total = weigh<bf16>(scores + start, end - start, row->maximum, as_bf16 + start);
        row->total = row->total * row->rescale + block_total;
    } else if (!first_block) {
        row->rescale = 1;
    }
    if (from == 0 && to == count) return;
    const int whole = static_cast<int>(round_up(count, 2));
    if constexpr (bf16) {
        for (int i = 0; i < from; ++i) as_bf16[i] = 0;
        for (int i = to; i < whole; ++i) as_bf16[i] = 0;
    } else {
        for (int i = 0; i < from; ++i) scores[i] = 0;
        for (int i = to; i < count; ++i) scores[i] = 0;
    }
}

// work(first row, rows, panel) for each block of rows with each panel. Panel by panel, which stays in the
// first-level cache; but block by block where tiles would have to be set up anew for each block's rows.
template <class Work>
CR_INLINE void each_tile(const RowBlocks& blocks, int panels, const Work& work) {
    if (CR_DOT_ROWS == CR_ROWS || blocks.larger == 0) {
        for (int p = 0; p < panels; ++p)
            for (int block = 0, row = 0; block < blocks.count; row += blocks.size(block++))
                work(row, blocks.size(block), p);
    } else {
        for (int block = 0, row = 0; block < blocks.count; row += blocks.size(block++))
            for (int p = 0; p < panels; ++p) work(row, blocks.size(block), p);
    }
}

inline void attention(const Attention& t) {
    const Precision precision = t.bf16 ? Precision::bf16 : Precision::fp32;
    const Tile* tile = tiles(precision);
    const int value_bytes = t.bf16 ? 2 : 4;
    const AttentionScratch layout(t.head_dim);
    Session session;
    char* scratch = static_cast<char*>(t.scratch);
    float* scores = reinterpret_cast<float*>(scratch + layout.scores);
    constexpr std::ptrdiff_t kScores = kKeys + 16, kWeights = kKeys + 32;  // not a power of two: cache sets
    auto* weights = reinterpret_cast<std::uint16_t*>(scratch + layout.weights);
    float* sums = reinterpret_cast<float*>(scratch + layout.sums);
    KeyBlocks key_blocks(t, layout);
    const bool limited = t.causal || t.window >= 0;
    const int ahead = t.causal ? 0 : t.window;  // of keys behind a query, how many it sees

    const std::ptrdiff_t query_blocks = ceil_div(t.q_rows, kQueries);
    for (std::ptrdiff_t i = 0; i < query_blocks * t.heads; ++i) {
        const int first_query = static_cast<int>(i / t.heads) * kQueries,
                  head = static_cast<int>(i % t.heads);
        const int queries = t.q_rows - first_query < kQueries ? t.q_rows - first_query : kQueries;
        const RowBlocks blocks(queries, tile_rows(precision));
        const char* q = static_cast<const char*>(t.q) + first_query * t.q_stride +
                        std::ptrdiff_t{head} * t.head_dim * value_bytes;
        char* out = reinterpret_cast<char*>(t.out) + first_query * t.out_stride +
                    std::ptrdiff_t{head} * t.head_dim * 4;
        const int position = t.first_query + first_query;
        Running running[kQueries];

        // Keys that one of the queries sees, in whole panels.
        int first_seen = 0, end_seen = t.kv_rows;
        if (t.window >= 0 && position > t.window) first_seen = (position - t.window) / kPanel * kPanel;
        if (limited) {
            const std::ptrdiff_t end = round_up(std::ptrdiff_t{position} + queries + ahead, kPanel);
            if (end < end_seen) end_seen = static_cast<int>(end);
        }
        for (int first_key = first_seen, end_key; first_key < end_seen; first_key = end_key) {
            const int number = first_key / kKeys, place = first_key % kKeys;
            end_key = (number + 1) * kKeys < end_seen ? (number + 1) * kKeys : end_seen;
            const int count = end_key - first_key;
            const int panels = static_cast<int>(ceil_div(count, kPanel));
            const int weight_units = static_cast<int>(ceil_div(count, inputs_per_unit(precision)));
            const bool first = first_key == first_seen, last = end_key == end_seen;
            key_blocks.want(first_key, end_key);

            // scores: (queries, count)
            each_tile(blocks, panels, [&](int row, int rows, int p) {
                const char* panel = key_blocks.keys_at(number, place + p * kPanel);
                tile[rows - 1]({q + row * t.q_stride, t.q_stride, panel, key_blocks.units(),
                                scores + row * kScores + p * kPanel, kScores, panel, 0, &session});
            });

            for (int r = 0; r < queries; ++r) {
                float* row = scores + r * kScores;
                int from = 0, to = count;
                if (limited) {
                    const int query = position + r - first_key;  // counted from the first of these keys
                    if (t.window >= 0 && query > t.window) from = query - t.window;
                    if (from > count) from = count;
                    if (query + ahead < count - 1) to = query + ahead + 1;
                    if (to < from) to = from;
                }
                if (t.slope != 0) add_distances(row, count, first_key - (position + r), t.slope);
                if (t.bf16) weigh_row<true>(row, from, to, count, first, weights + r * kWeights, running + r);
                else weigh_row<false>(row, from, to, count, first, weights, running + r);
            }

            // out = out * rescale + weights values, and / total after the last block
            const char* left =
                t.bf16 ? reinterpret_cast<const char*>(weights) : reinterpret_cast<const char*>(scores);
            const std::ptrdiff_t left_stride = (t.bf16 ? kWeights : kScores) * value_bytes;
            const int columns = static_cast<int>(ceil_div(t.head_dim, kPanel));
            each_tile(blocks, columns, [&](int row, int rows, int p) {
                const int column = p * kPanel, rest = t.head_dim - column;
                const char* panel = key_blocks.values_at(number, place, column);
                tile[rows - 1]({left + row * left_stride, left_stride, panel, weight_units, sums, kPanel,
                                panel, 0, &session});
                for (int r = row; r < row + rows; ++r)
                    collect(sums + (r - row) * kPanel, rest < kPanel ? rest : kPanel, first,
                            running[r].rescale, last ? 1.0f / running[r].total : 1.0f,
                            reinterpret_cast<float*>(out + r * t.out_stride) + column);
            });
        }
    }
}

}  // namespace crossrank::CR_ISA
