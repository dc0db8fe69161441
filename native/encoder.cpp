#include "encoder.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>

namespace crossrank {

struct Input {
    const std::int32_t* token_ids;
    const std::int32_t* offsets;
    const std::int32_t* segment_ids;  // may be null
    float* out;
};

struct Group {
    std::vector<std::int32_t> pairs;
    int tokens = 0;

    void add(std::int32_t pair, const std::int32_t* offsets) {
        pairs.push_back(pair);
        tokens += offsets[pair + 1] - offsets[pair];
    }
};

namespace {

// Tokens that one thread takes through a layer together: enough that reading the weights costs little beside
// using them, and few enough that their activations stay in the second-level cache. Those of a large model do
// not fit in any case, and its weights take longer to read.
constexpr int kSmallHidden = 512;
bool is_small(const Config& config) { return config.hidden <= kSmallHidden; }
int group_tokens(const Config& config) { return is_small(config) ? 256 : 512; }

// Tokens of a pair that are worth a thread of their own. With fewer, threads wait longer for each other than
// they work (a small model), or all read all weights where each could read a part (a large one).
int thread_tokens(const Config& config, const Kernels& kernels) {
    return is_small(config) ? kernels.thread_rows : 64;
}

// Rows of the intermediate layer that exist at a time: 4 or 8 times as wide as all else, it would be most of
// the memory of a long pair.
constexpr int kIntermediateRows = 256;

// Memory that an idle engine keeps for each thread.
constexpr std::size_t kKeptBytes = std::size_t{64} << 20;

constexpr int kQueryChunk = 512;  // queries of one attention task

// Values of rows that one member of a team goes through while the others wait, as that takes less than waking
// them for a phase of its own. (With twice as many, rows that lie in another core's cache made it slower.)
constexpr std::ptrdiff_t kAloneValues = std::ptrdiff_t{1} << 14;

// The working memory of a group, as places in one allocation. A stride is never a multiple of 4 KiB, or rows
// would compete for the same few cache lines.
struct Workspace {
    std::ptrdiff_t row_stride, head_stride, input_stride, wide_stride, wide_input_stride;  // bytes
    float* x;                      // (M, hidden) the residual stream
    char *q, *k, *v;               // (M, hidden) in the precision of attention
    std::ptrdiff_t next_keys = 0;  // bytes from k to the next layer's, and from v: 0, they are the same
    float* context;                // (M, hidden) what attention returns
    char* input;                   // (M, hidden) left side of the next product, in its precision
    float* input_scale;            // (M)
    std::int32_t* input_sum;
    char* wide;  // (min(M, 256), intermediate) bf16, or fp32 in fp32: half the memory traffic, and finer than
                 // int8
    char* wide_input;  // the same in int8
    float* wide_scale;
    std::int32_t* wide_sum;
    char* scratch;  // of attention, for each member of the team
    std::size_t scratch_bytes;
    std::size_t size;

    // `own_keys`: with room for k and v.
    Workspace(const Model& model, const Kernels& kernels, bool attention_bf16, std::ptrdiff_t rows,
              int members, char* memory, bool own_keys = true) {
        const auto stride = [](std::ptrdiff_t values, std::ptrdiff_t bytes) {
            return round_up(round_up(values, kPanel) * bytes, 64) + 64;
        };
        const std::ptrdiff_t hidden = model.config.hidden,
                             wide_rows = std::min<std::ptrdiff_t>(rows, kIntermediateRows);
        const std::ptrdiff_t input_bytes = kUnit / inputs_per_unit(model.precision);
        row_stride = stride(hidden, 4);
        head_stride = stride(hidden, attention_bf16 ? 2 : 4);
        input_stride = stride(hidden, input_bytes);
        wide_stride = stride(model.config.intermediate, model.precision == Precision::fp32 ? 4 : 2);
        wide_input_stride = stride(model.config.intermediate, 1);
        scratch_bytes = static_cast<std::size_t>(
            round_up(static_cast<std::ptrdiff_t>(kernels.attention_scratch(model.config.head_dim())), 64));

        std::ptrdiff_t used = 0;
        const auto take = [&](std::ptrdiff_t bytes) {
            char* place = memory ? memory + used : nullptr;
            used += round_up(bytes, 64);
            return place;
        };
        x = reinterpret_cast<float*>(take(rows * row_stride));
        q = take(rows * head_stride);
        k = take(own_keys ? rows * head_stride : 0);
        v = take(own_keys ? rows * head_stride : 0);
        context = reinterpret_cast<float*>(take(rows * row_stride));
        input = take(model.precision == Precision::fp32 ? 0 : rows * input_stride);
        input_scale = reinterpret_cast<float*>(take(rows * 4));
        input_sum = reinterpret_cast<std::int32_t*>(take(rows * 4));
        wide = take(wide_rows * wide_stride);
        wide_input = take(model.precision == Precision::int8 ? wide_rows * wide_input_stride : 0);
        wide_scale = reinterpret_cast<float*>(take(wide_rows * 4));
        wide_sum = reinterpret_cast<std::int32_t*>(take(wide_rows * 4));
        scratch = take(members * static_cast<std::ptrdiff_t>(scratch_bytes));
        size = static_cast<std::size_t>(used);
    }
};

template <class T>
T* at(T* base, std::ptrdiff_t bytes) {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(base) + bytes);
}
template <class T>
const T* at(const T* base, std::ptrdiff_t bytes) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(base) + bytes);
}

// Rows of a group: one for each token.
struct Rows {
    int from, to;
};

// Rows of one group of pairs on their way through the model: all of them, by one thread or by a team that
// has such an object for each member; or some, by one thread, beside others that have the rest and meet it
// once a layer.
class Pass {
  public:
    Pass(const Model& model, const Kernels& kernels, bool attention_bf16, const Input& input,
         const Group& group, Team& team, const Workspace& workspace)
        : Pass(model, kernels, attention_bf16, input, group, team, workspace, {0, group.tokens}, nullptr) {}

    // `workspace` is for the rows, but for k and v, which are everybody's. `team` is this thread alone.
    Pass(const Model& model, const Kernels& kernels, bool attention_bf16, const Input& input,
         const Group& group, Team& team, const Workspace& workspace, Rows rows, Meeting* others)
        : model_(model),
          kernels_(kernels),
          attention_bf16_(attention_bf16),
          in_(input),
          group_(group),
          member_(team),
          others_(others),
          w_(workspace),
          hidden_(model.config.hidden),
          epsilon_(static_cast<float>(model.config.epsilon)),
          rows_(rows) {
        int row = 0;
        for (const std::int32_t pair : group.pairs) {
            first_row_.push_back(row);
            row += in_.offsets[pair + 1] - in_.offsets[pair];
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

    // Of the rows of one pair of the group. Reads the table of words, and can fail: it comes before run(), in
    // which threads wait for each other.
    void embed(std::size_t pair) const {
        const Config& config = model_.config;
        const std::int32_t start = in_.offsets[group_.pairs[pair]];
        // RoBERTa counts positions from padding_id + 1 and leaves out padding tokens, should a text hold one.
        int position = config.padding_id;
        const int first = first_row_[pair] - rows_.from;  // among the rows here
        const int end = std::min(length(pair), rows_.to - first_row_[pair]);
        for (int i = 0; i < end; ++i) {
            const std::int32_t token = in_.token_ids[start + i];
            const bool counted = config.bert || token != config.padding_id;
            if (counted && !config.bert) ++position;
            if (first + i < 0) continue;
            float* x = row(first + i);
            model_.words.read(token, x);
            model_.segments.add(in_.segment_ids ? in_.segment_ids[start + i] : 0, x);
            model_.positions.add(config.bert ? i : counted ? position : config.padding_id, x);
            normalise(model_.embedding_norm, first + i);
        }
    }

    void embed() const {
        for (std::size_t pair = 0; pair < group_.pairs.size(); ++pair) embed(pair);
    }

    // From embeddings to logits. Allocates nothing.
    void run(int rank) {
        const int rows = rows_.to - rows_.from;
        const std::size_t layers = model_.layers.size();
        for (std::size_t i = 0; i + 1 < layers; ++i) {
            const Layer& layer = model_.layers[i];
            products({{layer.query, left(rows), heads(w_.q)},
                      {layer.key, left(rows), heads(own(keys(i)))},
                      {layer.value, left(rows), heads(own(values(i)))}});
            meet_others();
            attend(rank, i, chunks_, rows);
            rest_of_layer(layer, rows);
        }

        // The last layer: keys and values of every token, all else for the first token of each pair only.
        const std::size_t last = layers - 1;
        const Layer& layer = model_.layers[last];
        products({{layer.key, left(rows), heads(own(keys(last)))},
                  {layer.value, left(rows), heads(own(values(last)))}},
                 1, 0, [&](int) { keep_first_rows(); });
        meet_others();
        const int pairs = static_cast<int>(firsts_.size());
        if (pairs == 0) return;
        products({{layer.query, left(pairs), heads(w_.q)}});
        attend(rank, last, firsts_, pairs);
        rest_of_layer(layer, pairs);
        classify(pairs);
    }

  private:
    struct Chunk {
        int pair, row, queries;  // `row` has the first of the queries
    };

    struct Product {
        const Linear& weights;
        Activations left;
        Output out;
    };

    int length(std::size_t pair) const { return first_row_[pair + 1] - first_row_[pair]; }

    // Keys and values of all rows of the group. Others may still read a layer's when the next ones are made.
    char* keys(std::size_t layer) const { return w_.k + (layer % 2 ? w_.next_keys : 0); }
    char* values(std::size_t layer) const { return w_.v + (layer % 2 ? w_.next_keys : 0); }
    char* own(char* of_all) const { return of_all + rows_.from * w_.head_stride; }

    void meet_others() const {
        if (others_) others_->meet();
    }

    // --- the parts of a layer ---

    void attend(int rank, std::size_t layer, const std::vector<Chunk>& chunks, int rows) {
        const int heads_count = model_.config.heads, dim = model_.config.head_dim();
        const std::ptrdiff_t bytes = attention_bf16_ ? 2 : 4;
        const auto head_of_chunk = [&](std::ptrdiff_t task) {
            const Chunk& chunk = chunks[static_cast<std::size_t>(task / heads_count)];
            const std::ptrdiff_t head = task % heads_count;
            const std::size_t pair = static_cast<std::size_t>(chunk.pair);
            Attention args;
            args.bf16 = attention_bf16_;
            args.q = w_.q + chunk.row * w_.head_stride + head * dim * bytes;
            args.k = keys(layer) + first_row_[pair] * w_.head_stride + head * dim * bytes;
            args.v = values(layer) + first_row_[pair] * w_.head_stride + head * dim * bytes;
            args.q_stride = args.kv_stride = w_.head_stride;
            args.q_rows = chunk.queries;
            args.kv_rows = length(pair);
            args.head_dim = dim;
            args.out = at(w_.context, chunk.row * w_.row_stride) + head * dim;
            args.out_stride = w_.row_stride;
            args.scratch = w_.scratch + static_cast<std::size_t>(rank) * w_.scratch_bytes;
            kernels_.attention(args);
        };
        phase(static_cast<std::ptrdiff_t>(chunks.size()) * heads_count, head_of_chunk,
              model_.precision == Precision::fp32 ? 0 : rows, hidden_,
              [&](int r) { prepare(at(w_.context, r * w_.row_stride), r, false); });
    }

    // From what attention returned to the input of the next layer.
    void rest_of_layer(const Layer& layer, int rows) {
        Activations context = left(rows);
        if (model_.precision == Precision::fp32) context.data = w_.context;
        products({{layer.attention_output, context, residual(0)}}, rows, hidden_,
                 [&](int r) { normalise(layer.attention_norm, r); });

        for (int first = 0; first < rows; first += kIntermediateRows) {
            const int count = std::min(kIntermediateRows, rows - first);
            Output wide;
            wide.data = w_.wide;
            wide.stride = w_.wide_stride;
            wide.bf16 = model_.precision != Precision::fp32;
            wide.gelu = model_.precision == Precision::fp32 ? Gelu::fine : Gelu::coarse;
            Activations wide_left;
            wide_left.data = w_.wide;
            wide_left.stride = w_.wide_stride;
            wide_left.rows = count;
            const bool int8 = model_.precision == Precision::int8;
            products({{layer.intermediate, left(count, first), wide}}, int8 ? count : 0,
                     model_.config.intermediate, [&](int r) {
                         kernels_.quantise_rotated_bf16(
                             reinterpret_cast<const std::uint16_t*>(w_.wide + r * w_.wide_stride),
                             model_.config.intermediate,
                             reinterpret_cast<std::int8_t*>(w_.wide_input + r * w_.wide_input_stride),
                             w_.wide_scale + r, w_.wide_sum + r);
                     });
            if (int8) {
                wide_left.data = w_.wide_input;
                wide_left.stride = w_.wide_input_stride;
                wide_left.scale = w_.wide_scale;
                wide_left.sum = w_.wide_sum;
            }
            const bool last = first + kIntermediateRows >= rows;
            products({{layer.output, wide_left, residual(first)}}, last ? rows : 0, hidden_,
                     [&](int r) { normalise(layer.output_norm, r); });
        }
    }

    // Rows of first tokens move to the front, pair by pair: none is overwritten before it is read.
    void keep_first_rows() const {
        for (std::size_t i = 0; i < firsts_.size(); ++i) {
            const std::ptrdiff_t to = static_cast<std::ptrdiff_t>(i),
                                 from = first_row_[static_cast<std::size_t>(firsts_[i].pair)] - rows_.from;
            if (to == from) continue;
            std::memcpy(at(w_.x, to * w_.row_stride), at(w_.x, from * w_.row_stride),
                        static_cast<std::size_t>(w_.row_stride));
            if (model_.precision == Precision::fp32) continue;
            std::memcpy(w_.input + to * w_.input_stride, w_.input + from * w_.input_stride,
                        static_cast<std::size_t>(w_.input_stride));
            w_.input_scale[to] = w_.input_scale[from];
            w_.input_sum[to] = w_.input_sum[from];
        }
    }

    // logit = classifier . tanh(dense x) + bias, in fp32
    void classify(int pairs) {
        Activations x;
        x.data = w_.x;
        x.stride = w_.row_stride;
        x.rows = pairs;
        Output out;
        out.data = w_.context;
        out.stride = w_.row_stride;
        products({{model_.head, x, out}}, pairs, hidden_, [&](int r) {
            const float* pooled = at(w_.context, r * w_.row_stride);
            double logit = model_.classifier_bias;
            for (int i = 0; i < hidden_; ++i)
                logit +=
                    static_cast<double>(model_.classifier[i]) * static_cast<double>(std::tanh(pooled[i]));
            const int pair = firsts_[static_cast<std::size_t>(r)].pair;
            in_.out[group_.pairs[static_cast<std::size_t>(pair)]] = static_cast<float>(logit);
        });
    }

    // --- what they are made of ---

    float* row(std::ptrdiff_t r) const { return at(w_.x, r * w_.row_stride); }

    // A row of the residual stream, and with it the next product's left side.
    void normalise(const Norm& norm, int r) const {
        kernels_.layer_norm(row(r), norm.gamma, norm.beta, epsilon_, hidden_, row(r));
        prepare(row(r), r);
    }

    // A row of fp32 values as row r of the next product's left side. In fp32 there is nothing to do. What
    // attention returns has no outliers, and is not rotated.
    void prepare(const float* values, std::ptrdiff_t r, bool rotated = true) const {
        char* to = w_.input + r * w_.input_stride;
        if (model_.precision == Precision::int8)
            (rotated ? kernels_.quantise_rotated : kernels_.quantise)(
                values, hidden_, reinterpret_cast<std::int8_t*>(to), w_.input_scale + r, w_.input_sum + r);
        else if (model_.precision == Precision::bf16)
            kernels_.to_bf16(values, hidden_, reinterpret_cast<std::uint16_t*>(to));
    }

    Activations left(int rows, std::ptrdiff_t first = 0) const {
        Activations a;
        a.rows = rows;
        if (model_.precision == Precision::fp32) {
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

    Output heads(char* to) const {
        Output out;
        out.data = to;
        out.stride = w_.head_stride;
        out.bf16 = attention_bf16_;
        return out;
    }

    // x += ..., from row `first` on
    Output residual(std::ptrdiff_t first) const {
        Output out;
        out.data = row(first);
        out.stride = w_.row_stride;
        out.add = true;
        return out;
    }

    // Tasks, and after them work(r) for each of `rows` rows of `width` values.
    template <class Task, class Work>
    void phase(std::ptrdiff_t tasks, const Task& task, int rows, int width, const Work& work) {
        if (member_.of() == 1 || std::ptrdiff_t{rows} * width <= kAloneValues)
            return member_.phase(tasks, task, [&] {
                for (int r = 0; r < rows; ++r) work(r);
            });
        constexpr int kRowsAtATime = 8;
        member_.phase(tasks, task);
        member_.phase(ceil_div(rows, kRowsAtATime), [&](std::ptrdiff_t i) {
            const int first = static_cast<int>(i) * kRowsAtATime;
            for (int r = first; r < std::min(rows, first + kRowsAtATime); ++r) work(r);
        });
    }

    void products(std::initializer_list<Product> list) {
        products(list, 0, 0, [](int) {});
    }

    // Products that do not depend on each other, in one phase. A team's tasks are a few panels each, and
    // where there are too few panels, some of the rows. What comes after them is as in phase().
    template <class Work>
    void products(std::initializer_list<Product> list, int rows_after, int width, const Work& work) {
        const std::ptrdiff_t wanted = member_.of() == 1 ? 1 : std::ptrdiff_t{4} * member_.of();
        std::ptrdiff_t panels = 0;
        for (const Product& p : list) panels += p.weights.panel_count();
        const std::ptrdiff_t together = std::max<std::ptrdiff_t>(1, panels / wanted);
        const int rows = list.begin()->left.rows;
        const std::ptrdiff_t parts =
            std::max<std::ptrdiff_t>(1, std::min<std::ptrdiff_t>(wanted / panels, rows / 56));
        const auto tasks_of = [&](const Product& p) {
            return member_.of() == 1 ? 1 : ceil_div(p.weights.panel_count(), together) * parts;
        };
        std::ptrdiff_t tasks = 0;
        for (const Product& p : list) tasks += tasks_of(p);
        const auto multiply = [&](std::ptrdiff_t task) {
            const Product* p = list.begin();
            for (; task >= tasks_of(*p); ++p) task -= tasks_of(*p);
            const int count = p->weights.panel_count();
            if (member_.of() == 1) return kernels_.linear(p->weights, p->left, 0, count, p->out);
            const int first = static_cast<int>(task / parts * together);
            const int last = std::min(count, first + static_cast<int>(together));
            const std::ptrdiff_t part = task % parts, from = rows * part / parts,
                                 to = rows * (part + 1) / parts;
            Activations a = p->left;
            a.data = static_cast<const char*>(a.data) + from * a.stride;
            if (a.scale) a.scale += from, a.sum += from;
            a.rows = static_cast<int>(to - from);
            Output out = p->out;
            out.data = static_cast<char*>(out.data) + from * out.stride;
            kernels_.linear(p->weights, a, first, last, out);
        };
        phase(tasks, multiply, rows_after, width, work);
    }

    const Model& model_;
    const Kernels& kernels_;
    const bool attention_bf16_;
    const Input& in_;
    const Group& group_;
    Member member_;
    Meeting* const others_;
    const Workspace& w_;
    const int hidden_;
    const float epsilon_;
    const Rows rows_;
    std::vector<std::int32_t> first_row_;  // of each pair in the group; and the number of rows
    std::vector<Chunk> chunks_;            // the queries that are attention's tasks
    std::vector<Chunk> firsts_;            // the same for the last layer
};

// Pairs, longest first, to groups of about equal size, as many as the threads or a multiple: each pair to the
// group that has the fewest tokens.
std::vector<Group> plan(const std::int32_t* offsets, const std::vector<std::int32_t>& pairs,
                        std::ptrdiff_t tokens, int threads, int group_tokens) {
    const std::ptrdiff_t round = std::ptrdiff_t{threads} * group_tokens;
    const std::ptrdiff_t rounds = std::max<std::ptrdiff_t>(1, (tokens + round / 2) / round);
    std::vector<Group> groups(std::min(static_cast<std::size_t>(rounds * threads), pairs.size()));
    const auto more = [&](std::size_t a, std::size_t b) { return groups[a].tokens > groups[b].tokens; };
    std::vector<std::size_t> heap(groups.size());
    std::iota(heap.begin(), heap.end(), std::size_t{0});  // all empty: a heap as it is
    for (const std::int32_t pair : pairs) {
        std::pop_heap(heap.begin(), heap.end(), more);
        groups[heap.back()].add(pair, offsets);
        std::push_heap(heap.begin(), heap.end(), more);
    }
    std::stable_sort(groups.begin(), groups.end(),
                     [](const Group& a, const Group& b) { return a.tokens > b.tokens; });
    return groups;
}

// Tokens of the busiest thread, when each takes the next group as it becomes free.
std::ptrdiff_t busiest(const std::vector<Group>& groups, int threads) {
    std::vector<std::ptrdiff_t> load(static_cast<std::size_t>(threads), 0);
    for (const Group& group : groups) *std::min_element(load.begin(), load.end()) += group.tokens;
    return *std::max_element(load.begin(), load.end());
}

// Counts a call while it lasts.
class Counted {
  public:
    explicit Counted(std::atomic<int>& calls) : calls_(calls), others_(calls.fetch_add(1)) {}
    ~Counted() { --calls_; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;

    bool others() const { return others_ > 0; }

  private:
    std::atomic<int>& calls_;
    const int others_;
};

}  // namespace

char* Arena::reserve(std::size_t bytes) {
    if (bytes > size_) {
        buffer_.reset();
        size_ = 0;
        void* p = nullptr;
        constexpr std::size_t kHuge = std::size_t{2} << 20;
        const std::size_t size = (bytes + kHuge - 1) / kHuge * kHuge;
        if (posix_memalign(&p, kHuge, size) != 0) throw std::bad_alloc();
        buffer_.reset(p);
        size_ = size;
#ifdef MADV_HUGEPAGE
        (void)madvise(p, size, MADV_HUGEPAGE);  // fewer misses of the address cache; no matter if refused
#endif
    }
    return static_cast<char*>(buffer_.get());
}

void Arena::trim(std::size_t bytes) {
    if (size_ > bytes) {
        buffer_.reset();
        size_ = 0;
    }
}

Encoder::Encoder(Model model, const Kernels& kernels, int threads)
    : model_(std::move(model)),
      kernels_(kernels),
      attention_bf16_(model_.precision != Precision::fp32 && kernels.native_bf16),
      threads_(threads),
      process_(getpid()) {
    if (threads < 1 || threads > 4096) throw std::invalid_argument("threads must be 1 to 4096");
    pool_ = std::make_unique<ThreadPool>(threads);
    arenas_.resize(static_cast<std::size_t>(threads));
}

Encoder::~Encoder() {
    // A fork has the pool but not its threads: there is nobody to join.
    if (getpid() != process_) (void)pool_.release();
}

void Encoder::check(const std::int32_t* token_ids, std::int64_t tokens, const std::int32_t* offsets,
                    std::int64_t pairs, const std::int32_t* segment_ids) const {
    const Config& config = model_.config;
    if (offsets[0] != 0 || offsets[pairs] != tokens)
        throw std::invalid_argument(
            "offsets go from " + std::to_string(offsets[0]) + " to " + std::to_string(offsets[pairs]) +
            "; they must go from 0 to the number of tokens, " + std::to_string(tokens));
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
        const std::int64_t length = std::int64_t{offsets[pair + 1]} - offsets[pair];
        if (length < 1 || length > config.max_tokens())
            throw std::invalid_argument("pair " + std::to_string(pair) + " has " + std::to_string(length) +
                                        " tokens; it must have 1 to " + std::to_string(config.max_tokens()));
    }
    for (std::int64_t pair = 0; pair < pairs; ++pair)
        for (std::int64_t i = offsets[pair]; i < offsets[pair + 1]; ++i) {
            const std::int32_t token = token_ids[i];
            if (token < 0 || token >= config.vocabulary)
                throw std::invalid_argument("pair " + std::to_string(pair) + " has the token id " +
                                            std::to_string(token) + "; the model has embeddings for 0 to " +
                                            std::to_string(config.vocabulary - 1));
            if (segment_ids && (segment_ids[i] < 0 || segment_ids[i] >= config.segments))
                throw std::invalid_argument(
                    "pair " + std::to_string(pair) + " has the segment id " + std::to_string(segment_ids[i]) +
                    "; the model has embeddings for 0 to " + std::to_string(config.segments - 1));
        }
}

void Encoder::by_outputs(const Input& input, const Group& group) {
    Team team(threads_);
    const auto workspace = [&](char* memory) {
        return Workspace(model_, kernels_, attention_bf16_, group.tokens, threads_, memory);
    };
    const Workspace memory = workspace(team_arena_.reserve(workspace(nullptr).size));
    std::vector<Pass> passes;
    passes.reserve(static_cast<std::size_t>(threads_));
    for (int i = 0; i < threads_; ++i)
        passes.emplace_back(model_, kernels_, attention_bf16_, input, group, team, memory);
    pool_->run(static_cast<std::ptrdiff_t>(group.pairs.size()),
               [&](std::ptrdiff_t pair, int) { passes[0].embed(static_cast<std::size_t>(pair)); });
    run_together(*pool_, threads_, team,
                 [&](int member) { passes[static_cast<std::size_t>(member)].run(member); });
}

void Encoder::by_rows(const Input& input, const Group& group, int members) {
    const auto workspace = [&](std::ptrdiff_t rows, char* memory) {
        return Workspace(model_, kernels_, attention_bf16_, rows, 1, memory, false);
    };
    const int most = static_cast<int>(ceil_div(group.tokens, members));
    const Workspace sizes = workspace(most, nullptr);
    const std::ptrdiff_t keys = group.tokens * sizes.head_stride,
                         size = static_cast<std::ptrdiff_t>(sizes.size);
    char* memory = team_arena_.reserve(static_cast<std::size_t>(4 * keys + members * size));
    const auto share = [&](std::ptrdiff_t i) { return static_cast<int>(group.tokens * i / members); };
    Team alone(1);
    Meeting all(members);
    std::vector<Workspace> workspaces;
    std::vector<Pass> passes;
    workspaces.reserve(static_cast<std::size_t>(members));
    passes.reserve(static_cast<std::size_t>(members));
    for (int i = 0; i < members; ++i) {
        const Rows rows{share(i), share(i + 1)};
        Workspace& own =
            workspaces.emplace_back(workspace(rows.to - rows.from, memory + 4 * keys + i * size));
        own.k = memory;
        own.v = memory + keys;
        own.next_keys = 2 * keys;
        passes.emplace_back(model_, kernels_, attention_bf16_, input, group, alone, own, rows, &all);
    }
    pool_->run(members,
               [&](std::ptrdiff_t member, int) { passes[static_cast<std::size_t>(member)].embed(); });
    run_together(*pool_, members, all, [&](int member) { passes[static_cast<std::size_t>(member)].run(0); });
}

void Encoder::logits(const std::int32_t* token_ids, std::int64_t tokens, const std::int32_t* offsets,
                     std::int64_t pairs, const std::int32_t* segment_ids, float* out) {
    if (getpid() != process_)
        throw std::runtime_error(
            "this engine was loaded before the process forked, and its threads stayed behind; "
            "load the model in the child process");
    check(token_ids, tokens, offsets, pairs, segment_ids);
    if (pairs == 0) return;
    // Beside another call that keeps the other threads busy, this one need not be spread over them.
    const Counted call(calls_);
    const int spread = call.others() ? 1 : threads_;

    const Input input{token_ids, offsets, segment_ids, out};
    const auto workspace = [&](std::ptrdiff_t rows, char* memory) {
        return Workspace(model_, kernels_, attention_bf16_, rows, 1, memory);
    };

    // Each thread takes groups of pairs by itself, as long as that keeps all of them busy. The longest pairs,
    // where they stand in the way of that, are for all threads together, who then have to wait for each
    // other.
    std::vector<std::int32_t> order(static_cast<std::size_t>(pairs));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        return offsets[a + 1] - offsets[a] > offsets[b + 1] - offsets[b];
    });
    const int of_group = group_tokens(model_.config);
    Group shared;
    std::vector<Group> groups = plan(offsets, order, tokens, spread, of_group);
    const int least = thread_tokens(model_.config, kernels_);
    const auto is_shared = [&](std::int32_t pair) {
        return !is_small(model_.config) || offsets[pair + 1] - offsets[pair] >= 2 * least;
    };
    while (spread > 1 && !order.empty() && is_shared(order.front())) {
        const std::ptrdiff_t rest = tokens - shared.tokens;
        if (busiest(groups, spread) * spread <= rest + rest / 4) break;
        shared.add(order.front(), offsets);
        order.erase(order.begin());
        groups = plan(offsets, order, tokens - shared.tokens, spread, of_group);
    }

    if (!shared.pairs.empty()) {
        const std::lock_guard<std::mutex> alone(team_);
        // Each thread takes some of the tokens, or, where they are few for a large model, some of the outputs
        // of every product.
        if (is_small(model_.config) || shared.tokens >= std::ptrdiff_t{threads_} * least)
            by_rows(input, shared, std::min(threads_, shared.tokens / least));
        else by_outputs(input, shared);
        team_arena_.trim(kKeptBytes);
    }
    if (!groups.empty()) {
        // Groups come largest first: none is larger than the first.
        const std::size_t bytes = workspace(groups[0].tokens, nullptr).size;
        pool_->run(static_cast<std::ptrdiff_t>(groups.size()), [&](std::ptrdiff_t i, int rank) {
            Team alone(1);
            const Group& group = groups[static_cast<std::size_t>(i)];
            Arena& arena = arenas_[static_cast<std::size_t>(rank)];
            const Workspace memory = workspace(group.tokens, arena.reserve(bytes));
            Pass pass(model_, kernels_, attention_bf16_, input, group, alone, memory);
            pass.embed();
            pass.run(0);
            arena.trim(kKeptBytes);
        });
    }
}

}  // namespace crossrank
