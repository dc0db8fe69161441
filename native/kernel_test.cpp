// The kernels of every instruction set of this machine against plain loops, the engine of each against the
// portable one, and threads that fail while others wait for them: a program without Python, for
// cross-compiled builds under an emulator and for the thread sanitizer.

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "engine.h"
#include "platform.h"
#include "prepare.h"
#include "sharing.h"

using namespace crossrank;

namespace {

int failures = 0;

void expect(bool good, const char* isa, const char* what, double got) {
    if (good) return;
    ++failures;
    std::printf("FAILED %s: %s (%g)\n", isa, what, got);
}

std::mt19937 generator(7);

std::vector<float> normal(std::size_t n) {
    std::normal_distribution<float> distribution;
    std::vector<float> v(n);
    for (float& x : v) x = distribution(generator);
    return v;
}

// The largest difference from the product in double precision, in units of sqrt(inputs).
double linear_error(const Kernels& kernels, Precision precision, int rows, int outputs, int inputs) {
    const auto n = [](int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); };
    const std::vector<float> x = normal(n(rows, inputs)), weight = normal(n(outputs, inputs));
    Linear w;
    w.precision = precision;
    w.outputs = outputs;
    w.inputs = inputs;
    const int padded = w.panel_count() * kPanel;
    const Buffer panels = allocate(n(w.panel_count(), w.groups()) * kPanel * kUnit);
    std::vector<float> scale(static_cast<std::size_t>(padded)), bias(static_cast<std::size_t>(padded), 0.25f);
    prepare_linear(weight.data(), outputs, inputs, precision, panels.get(), scale.data());
    w.panels = panels.get();
    w.scale = scale.data();
    w.bias = bias.data();

    Activations left;
    left.stride = round_up(std::ptrdiff_t{w.groups()} * kUnit, 64);
    left.rows = rows;
    const Buffer data = allocate(static_cast<std::size_t>(left.stride * rows));
    std::vector<float> row_scale(static_cast<std::size_t>(rows));
    std::vector<std::int32_t> row_sum(static_cast<std::size_t>(rows));
    for (int r = 0; r < rows; ++r) {
        const float* from = x.data() + n(r, inputs);
        char* to = static_cast<char*>(data.get()) + r * left.stride;
        const std::size_t i = static_cast<std::size_t>(r);
        if (precision == Precision::int8)
            kernels.quantise(from, inputs, reinterpret_cast<std::int8_t*>(to), &row_scale[i], &row_sum[i]);
        else if (precision == Precision::bf16)
            kernels.to_bf16(from, inputs, reinterpret_cast<std::uint16_t*>(to));
        else std::memcpy(to, from, static_cast<std::size_t>(inputs) * 4);
    }
    left.data = data.get();
    left.scale = row_scale.data();
    left.sum = row_sum.data();

    std::vector<float> result(n(rows, padded));
    Output out;
    out.data = result.data();
    out.stride = std::ptrdiff_t{padded} * 4;
    kernels.linear(w, left, 0, w.panel_count(), out);

    double worst = 0;
    for (int r = 0; r < rows; ++r)
        for (int o = 0; o < outputs; ++o) {
            double sum = 0.25;
            for (int k = 0; k < inputs; ++k)
                sum += static_cast<double>(x[n(r, inputs) + static_cast<std::size_t>(k)]) *
                       static_cast<double>(weight[n(o, inputs) + static_cast<std::size_t>(k)]);
            const double got = static_cast<double>(result[n(r, padded) + static_cast<std::size_t>(o)]);
            worst = std::fmax(worst, std::fabs(got - sum));
        }
    return worst / std::sqrt(inputs);
}

// What a case of attention has beside its sizes.
struct Kind {
    int window = -1;
    float slope = 0;
    bool causal = false;
    int heads = 1, before = 0;
};

// Of queries that are the last of the keys' tokens, where there are fewer.
double attention_error(const Kernels& kernels, int queries, int keys, int dim, const Kind& kind = {}) {
    const auto n = [](int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); };
    const std::vector<float> q = normal(n(queries, kind.heads * dim)), k = normal(n(keys, dim)),
                             v = normal(n(keys, dim));
    std::vector<float> out(n(queries, kind.heads * dim));
    const Buffer scratch = allocate(kernels.attention_scratch(dim));
    Attention args;
    args.q = q.data();
    args.before = kind.before;
    args.k_before = k.data();
    args.v_before = v.data();
    args.k = k.data() + n(kind.before, dim);
    args.v = v.data() + n(kind.before, dim);
    args.kv_stride = std::ptrdiff_t{dim} * 4;
    args.q_stride = args.out_stride = args.kv_stride * kind.heads;
    args.q_rows = queries;
    args.kv_rows = keys;
    args.head_dim = dim;
    args.heads = kind.heads;
    args.first_query = std::max(0, keys - queries);
    args.window = kind.window;
    args.slope = kind.slope;
    args.causal = kind.causal;
    args.out = out.data();
    args.scratch = scratch.get();
    kernels.attention(args);

    double worst = 0;
    std::vector<double> expected(static_cast<std::size_t>(dim));
    for (int i = 0; i < queries * kind.heads; ++i) {
        double total = 0;
        std::fill(expected.begin(), expected.end(), 0.0);
        for (int j = 0; j < keys; ++j) {
            const int ahead = j - (args.first_query + i / kind.heads), distance = std::abs(ahead);
            if ((kind.window >= 0 && distance > kind.window) || (kind.causal && ahead > 0)) continue;
            double score = -static_cast<double>(kind.slope) * distance;
            for (int d = 0; d < dim; ++d)
                score += static_cast<double>(q[n(i, dim) + static_cast<std::size_t>(d)]) *
                         static_cast<double>(k[n(j, dim) + static_cast<std::size_t>(d)]);
            const double weight = std::exp2(score);
            total += weight;
            for (int d = 0; d < dim; ++d)
                expected[static_cast<std::size_t>(d)] +=
                    weight * static_cast<double>(v[n(j, dim) + static_cast<std::size_t>(d)]);
        }
        for (int d = 0; d < dim; ++d)
            worst = std::fmax(worst,
                              std::fabs(expected[static_cast<std::size_t>(d)] / total -
                                        static_cast<double>(out[n(i, dim) + static_cast<std::size_t>(d)])));
    }
    return worst;
}

// The largest difference of a match from plain loops in double precision.
double match_error(const Kernels& kernels, int query_rows, int document_rows, int size) {
    const std::size_t n = static_cast<std::size_t>(size), stride = n + 3;
    const std::vector<float> query = normal(kMatchRows * stride), weights = normal(n),
                             document = normal(static_cast<std::size_t>(document_rows) * stride + 1);
    float best[kMatchRows], weight[kMatchRows];
    Match args;
    args.query = query.data();
    args.document = document.data();
    args.query_rows = query_rows;
    args.document_rows = document_rows;
    args.stride = static_cast<std::ptrdiff_t>(stride * sizeof(float));
    args.n = size;
    args.weights = weights.data();
    args.best = best;
    args.weight = weight;
    kernels.match(args);
    const auto product = [n](const float* a, const float* b) {
        double sum = 0;
        for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
        return sum;
    };
    double worst = 0;
    for (int i = 0; i < query_rows; ++i) {
        const float* q = query.data() + static_cast<std::size_t>(i) * stride;
        double expected = -1;
        for (int j = 0; j < document_rows; ++j) {
            const float* d = document.data() + static_cast<std::size_t>(j) * stride;
            const double cosine = product(q, d) / std::sqrt(product(q, q) * product(d, d));
            expected = j ? std::fmax(expected, cosine) : cosine;
        }
        worst = std::fmax(worst, std::fabs(static_cast<double>(best[i]) - expected));
        worst = std::fmax(worst, std::fabs(static_cast<double>(weight[i]) - product(q, weights.data())) /
                                     std::sqrt(static_cast<double>(size)));
    }
    return worst;
}

void test(const Kernels& kernels) {
    std::printf("%s\n", kernels.name);
    constexpr int kShapes[][3] = {{1, 1, 1}, {5, 33, 7}, {13, 64, 66}, {29, 70, 130}, {40, 96, 384}};
    for (const auto& [rows, outputs, inputs] : kShapes) {
        const double fp32 = linear_error(kernels, Precision::fp32, rows, outputs, inputs);
        const double bf16 = linear_error(kernels, Precision::bf16, rows, outputs, inputs);
        const double int8 = linear_error(kernels, Precision::int8, rows, outputs, inputs);
        expect(fp32 < 1e-5, kernels.name, "linear fp32", fp32);
        expect(bf16 < 0.03, kernels.name, "linear bf16", bf16);
        expect(int8 < 0.1, kernels.name, "linear int8", int8);
    }
    for (const auto& [queries, keys, dim] :
         {std::array{1, 1, 2}, std::array{7, 40, 32}, std::array{30, 600, 64}}) {
        const double error = attention_error(kernels, queries, keys, dim);
        expect(error < 2e-5, kernels.name, "attention", error);
    }
    for (const auto& [queries, keys, window] : {std::array{40, 40, 0}, std::array{150, 700, 20},
                                                std::array{600, 1500, 300}, std::array{9, 520, 40}}) {
        const double seen = attention_error(kernels, queries, keys, 32, {window}),
                     near = attention_error(kernels, queries, keys, 32, {-1, 0.1f}),
                     both = attention_error(kernels, queries, keys, 32, {window, 0.1f});
        expect(seen < 2e-5, kernels.name, "attention with a window", seen);
        expect(near < 2e-5, kernels.name, "attention with ALiBi", near);
        expect(both < 2e-5, kernels.name, "attention with both", both);
    }
    // Heads that share keys, of which the first are in a place of their own: none, some or all of a panel,
    // more than a block.
    for (const auto& [queries, keys, before] :
         {std::array{40, 40, 0}, std::array{20, 40, 13}, std::array{9, 100, 64}, std::array{3, 100, 96},
          std::array{150, 700, 517}, std::array{1, 1300, 1299}}) {
        const double causal = attention_error(kernels, queries, keys, 32, {-1, 0, true, 3, before}),
                     seen = attention_error(kernels, queries, keys, 32, {50, 0, true, 2, before});
        expect(causal < 2e-5, kernels.name, "causal attention", causal);
        expect(seen < 2e-5, kernels.name, "causal attention with a window", seen);
    }

    std::vector<float> x, y;
    for (float value = -6; value < 6; value += 0.001f) x.push_back(value);
    y.resize(x.size());
    kernels.activate(Activation::gelu, x.data(), static_cast<std::ptrdiff_t>(x.size()), y.data());
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double v = static_cast<double>(x[i]);
        worst =
            std::fmax(worst, std::fabs(static_cast<double>(y[i]) - v / 2 * std::erfc(-v / std::sqrt(2.0))));
    }
    expect(worst < 3e-6, kernels.name, "gelu", worst);

    for (float& value : x) value = (value - 6) * 8;
    kernels.exp2(x.data(), static_cast<std::ptrdiff_t>(x.size()), y.data());
    worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
        worst =
            std::fmax(worst, std::fabs(static_cast<double>(y[i]) / std::exp2(static_cast<double>(x[i])) - 1));
    expect(worst < 5e-7, kernels.name, "exp2", worst);

    for (const int size : {1, 5, 100, 1023}) {
        const std::size_t n = static_cast<std::size_t>(size);
        const std::vector<float> values = normal(n), gamma = normal(n), beta = normal(n);
        std::vector<float> out(n);
        kernels.layer_norm(values.data(), gamma.data(), beta.data(), 1e-5f, size, out.data());
        std::vector<float> by_rms(n);
        kernels.rms_norm(values.data(), gamma.data(), 1e-5f, size, by_rms.data());
        double mean = 0, variance = 0, square = 0;
        for (const float v : values) mean += static_cast<double>(v) / size;
        for (const float v : values) square += std::pow(static_cast<double>(v), 2) / size;
        for (const float v : values) variance += std::pow(static_cast<double>(v) - mean, 2) / size;
        worst = 0;
        double worst_rms = 0;
        for (std::size_t i = 0; i < n; ++i) {
            const double rms =
                static_cast<double>(values[i]) / std::sqrt(square + 1e-5) * static_cast<double>(gamma[i]);
            worst_rms = std::fmax(worst_rms, std::fabs(static_cast<double>(by_rms[i]) - rms));
            const double expected = (static_cast<double>(values[i]) - mean) / std::sqrt(variance + 1e-5) *
                                        static_cast<double>(gamma[i]) +
                                    static_cast<double>(beta[i]);
            worst = std::fmax(worst, std::fabs(static_cast<double>(out[i]) - expected));
        }
        for (const int rows : {0, 1, 2, 7}) {
            const double error = match_error(kernels, 1 + rows % kMatchRows, rows, size);
            expect(error < 1e-5, kernels.name, "match", error);
        }
        expect(worst < 1e-5, kernels.name, "layer_norm", worst);
        expect(worst_rms < 1e-5, kernels.name, "rms_norm", worst_rms);
    }
}

// A random model of two layers: XLM-RoBERTa's, one that has what that one has not, or a decoder.
enum class Family { roberta, modern, decoder };

struct RandomModel {
    Config config;
    std::map<std::string, std::vector<float>> values;
    Tensors tensors;

    void add(const std::string& name, std::vector<std::int64_t> shape, float scale, float offset = 0) {
        Tensor tensor{nullptr, Type::f32, std::move(shape)};
        std::vector<float>& v = values[name] = normal(static_cast<std::size_t>(tensor.size()));
        for (float& x : v) x = x * scale + offset;
        tensor.data = v.data();
        tensors[name] = tensor;
    }

    void linear(const std::string& name, int outputs, int inputs) {
        add(name + ".weight", {outputs, inputs}, 1.5f / std::sqrt(static_cast<float>(inputs)));
        if (!config.gated) add(name + ".bias", {outputs}, 0.1f);
    }

    void norm(const std::string& name, int size) {
        add(name + ".weight", {size}, 0.1f, 1.0f);
        if (!config.gated) add(name + ".bias", {size}, 0.1f);
    }

    explicit RandomModel(int hidden, Family family = Family::roberta) {
        const bool modern = family == Family::modern, decoder = family == Family::decoder;
        constexpr int kIntermediate = 200, kWords = 300, kPositions = 202;
        config.hidden = hidden;
        config.embedding = modern ? 64 : hidden;
        config.layers = 2;
        config.heads = config.key_value_heads = hidden / 32;
        config.head_size = 32;
        config.intermediate = kIntermediate;
        config.vocabulary = kWords;
        config.max_tokens = kPositions - 2;
        config.epsilon = 1e-5;
        if (decoder) {
            config.key_value_heads = 1;
            config.rotary.resize(1);
            for (int i = 0; i < 16; ++i) config.rotary[0].frequencies.push_back(std::pow(1e4, -i / 16.0));
            config.rotary_of_layer = {0, 0};
            config.norm_first = config.final_norm = config.gated = config.rms = config.head_norms = true;
            config.causal = true;
            config.embedding_norm = false;
            config.activation = Activation::silu;
            config.pooling = Pooling::last;
        } else if (modern) {
            config.rotary.resize(2);
            for (int i = 0; i < 16; ++i) {
                config.rotary[0].frequencies.push_back(std::pow(1e4, -i / 16.0));
                config.rotary[1].frequencies.push_back(std::pow(1e2, -i / 16.0));
            }
            config.rotary_of_layer = {1, 0};
            config.windows = {20, -1};
            config.norm_first = config.final_norm = config.gated = true;
            config.pooling = Pooling::mean;
            config.first_norm = false;
        } else {
            config.match_layer = 1;
            config.separator = 5 + 7 * 37;  // the eighth token that score() makes
            config.position_rows = kPositions;
            config.first_position = 2;
            config.padding_id = 1;
            config.segments = 1;
        }
        HeadStep step;
        step.inputs = step.outputs = hidden;
        config.head.push_back(step);
        step.kind = HeadStep::Kind::function;
        config.head.push_back(step);
        step.kind = HeadStep::Kind::dense;
        step.outputs = 1;
        config.head.push_back(step);

        add("embedding.words.weight", {kWords, config.embedding}, 1);
        if (modern) {
            linear("embedding.projection", hidden, config.embedding);
        } else if (!decoder) {
            add("embedding.positions.weight", {kPositions, hidden}, 1);
            add("embedding.segments.weight", {1, hidden}, 1);
        }
        norm("embedding.norm", config.embedding);
        for (int i = 0; i < config.layers; ++i) {
            const std::string at = "layer." + std::to_string(i) + ".";
            linear(at + "query", hidden, hidden);
            linear(at + "key", config.key_width(), hidden);
            linear(at + "value", config.key_width(), hidden);
            linear(at + "attention_output", hidden, hidden);
            norm(at + "query_norm", config.head_size);
            norm(at + "key_norm", config.head_size);
            norm(at + "attention_norm", hidden);
            linear(at + "intermediate", kIntermediate, hidden);
            if (config.gated) linear(at + "gate", kIntermediate, hidden);
            linear(at + "output", hidden, kIntermediate);
            norm(at + "output_norm", hidden);
        }
        norm("final_norm", hidden);
        add("match.query", {hidden}, 0.1f);
        add("match.factor", {1}, 0.1f, 8.0f);
        linear("head.0", hidden, hidden);
        linear("head.2", 1, hidden);
    }
};

// The prepared weights of a random model, which a Model points into.
class Prepared {
  public:
    Prepared(const RandomModel& random, Precision precision) : random_(random), precision_(precision) {
        ThreadPool pool(1);
        prepared_ = prepare(random.config, precision, random.tensors, pool);
        for (const PreparedTensor& p : prepared_) tensors_[p.name] = p.tensor;
    }

    // With the table of words in a file, or in memory (-1).
    Model model(int words_file = -1) const {
        Model made(random_.config, precision_, tensors_);
        made.words.file = words_file;
        return made;
    }

  private:
    const RandomModel& random_;
    const Precision precision_;
    std::vector<PreparedTensor> prepared_;
    Tensors tensors_;
};

// With `shared`, the first half of each pair's tokens are a prefix, of which the first ones are the same for
// all.
std::vector<float> score(Engine& engine, const std::vector<int>& lengths, bool shared = false) {
    std::vector<std::int32_t> ids, offsets{0}, prefix_ids, prefix_offsets{0}, prefix_of;
    for (const int length : lengths) {
        const int before = shared ? length / 2 : 0;
        for (int i = 0; i < length; ++i)
            (i < before ? prefix_ids : ids).push_back(5 + (i * 37 + (i < 20 ? 0 : length)) % 290);
        offsets.push_back(static_cast<std::int32_t>(ids.size()));
        prefix_of.push_back(static_cast<std::int32_t>(prefix_of.size()));
        prefix_offsets.push_back(static_cast<std::int32_t>(prefix_ids.size()));
    }
    std::vector<float> logits(offsets.size() - 1);
    Pack pack;
    if (shared) {
        pack.prefix_ids = prefix_ids.data();
        pack.prefix_tokens = static_cast<std::int64_t>(prefix_ids.size());
        pack.prefix_offsets = prefix_offsets.data();
        pack.prefixes = static_cast<std::int64_t>(prefix_of.size());
        pack.prefix_of = prefix_of.data();
    }
    pack.token_ids = ids.data();
    pack.tokens = static_cast<std::int64_t>(ids.size());
    pack.offsets = offsets.data();
    pack.pairs = static_cast<std::int64_t>(logits.size());
    engine.logits(pack, logits.data());
    return logits;
}

constexpr std::pair<Precision, double> kPrecisions[] = {
    {Precision::fp32, 1e-4}, {Precision::bf16, 0.05}, {Precision::int8, 0.2}};

void test_engines(const RandomModel& random, const std::vector<std::vector<int>>& packs) {
    const Prepared exact(random, Precision::fp32);
    Engine reference(exact.model(), *available_kernels().back(), 1);
    for (const auto& [precision, limit] : kPrecisions) {
        const Prepared prepared(random, precision);
        for (const Kernels* kernels : available_kernels()) {
            Engine one(prepared.model(), *kernels, 1), two(prepared.model(), *kernels, 2),
                five(prepared.model(), *kernels, 5);
            for (const std::vector<int>& lengths : packs) {
                const std::vector<float> alone = score(one, lengths), expected = score(reference, lengths);
                double worst = 0;
                for (std::size_t i = 0; i < alone.size(); ++i)
                    worst = std::fmax(
                        worst, std::fabs(static_cast<double>(alone[i]) - static_cast<double>(expected[i])));
                expect(worst <= limit, kernels->name, "engine", worst);
                for (Engine* many : {&two, &five})
                    expect(score(*many, lengths) == alone, kernels->name, "threads change a logit",
                           many->threads());
                if (!random.config.causal) continue;
                for (Engine* engine : {&one, &two, &five})
                    for (int times = 0; times < 2; ++times)
                        expect(score(*engine, lengths, true) == alone, kernels->name,
                               "prefixes change a logit", engine->threads());
            }
        }
    }
}

// Calls side by side, with prefixes of which few have room.
void test_calls(const RandomModel& random) {
    const Prepared prepared(random, Precision::int8);
    Engine alone(prepared.model(), *available_kernels().front(), 1);
    Engine engine(prepared.model(), *available_kernels().front(), 2, std::size_t{30} << 10);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
        const std::vector<int> lengths{60 + thread % 2, 90, 120 + thread};
        threads.emplace_back([&engine, &wrong, lengths, expected = score(alone, lengths)] {
            for (int times = 0; times < 3; ++times) wrong += score(engine, lengths, true) != expected;
        });
    }
    for (std::thread& thread : threads) thread.join();
    expect(wrong == 0, "calls side by side", "change a logit", wrong);
    expect(engine.prefix_bytes() <= std::size_t{30} << 10, "prefixes", "exceed their room",
           static_cast<double>(engine.prefix_bytes()));
}

// What work() throws; "" if nothing.
template <class Work>
std::string error_of(const Work& work) {
    try {
        work();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "";
}

void expect_error(const std::string& got, const std::string& wanted, const char* what) {
    if (got.find(wanted) == std::string::npos)
        expect(false, ("'" + got + "' instead of '" + wanted + "'").c_str(), what, 0);
}

// A table of words that ends behind its first rows: the call fails, whoever reads them, and the next one does
// not if it wants the first rows only.
void test_read_errors(const RandomModel& random, const std::vector<int>& lengths) {
    std::FILE* file = std::tmpfile();
    const std::vector<float>& words = random.values.at("embedding.words.weight");
    const std::size_t kept = words.size() / 2;
    if (!file || std::fwrite(words.data(), sizeof(float), kept, file) != kept || std::fflush(file) != 0)
        return expect(false, "a file", "cannot be written", 0);
    for (const auto& [precision, limit] : kPrecisions) {
        const Prepared prepared(random, precision);
        for (const int threads : {1, 2, 3}) {
            Engine engine(prepared.model(descriptor_of(file)), *available_kernels().front(), threads);
            const std::string error = error_of([&] { score(engine, lengths); });
            expect_error(error, "the file has become shorter", "a table that ends");
            const std::vector<int> few{3};
            Engine whole(prepared.model(), *available_kernels().front(), 1);
            expect(score(engine, few) == score(whole, few), "a table that ends", "the next call", threads);
        }
    }
    std::fclose(file);
}

// Threads that go from phase to phase, or from meeting to meeting, one of which fails at some place: nobody
// waits on, and the error comes out.
void test_failures() {
    for (const int threads : {2, 3, 5})
        for (int failing = 0; failing < threads; ++failing)
            for (int place = 0; place < 6; ++place) {
                ThreadPool pool(threads);
                const auto fail_at = [&](int member, int now) {
                    if (member == failing && now == place) throw std::runtime_error("failed here");
                };
                Meeting meeting(threads);
                const std::string met = error_of([&] {
                    run_together(pool, threads, meeting, [&](int member) {
                        for (int round = 0; round < 6; ++round) {
                            fail_at(member, round);
                            meeting.meet();
                        }
                    });
                });
                expect_error(met, "failed here", "a meeting");

                // At even places between phases, at odd ones in a task.
                Team team(threads);
                const std::string worked = error_of([&] {
                    run_together(pool, threads, team, [&](int who) {
                        Member member(team);
                        for (int phase = 0; phase < 6; phase += 2) {
                            fail_at(who, phase);
                            member.phase(threads, [&](std::ptrdiff_t task) {
                                fail_at(static_cast<int>(task), phase + 1);
                            });
                        }
                    });
                });
                expect_error(worked, "failed here", "a team");
                int done = 0;
                pool.run(1, [&](std::ptrdiff_t, int) { ++done; });
                expect(done == 1, "a pool", "after a failure", done);
            }
}

}  // namespace

int main() {
    for (const Kernels* kernels : available_kernels()) test(*kernels);
    // Of a small model threads share the long pairs by rows; of a larger one the short ones by outputs, too.
    const RandomModel small(96), large(544);
    test_engines(small, {{190, 1, 60, 17, 33, 100, 64, 5}});
    test_engines(large, {{40}, {130}});
    const RandomModel small_modern(96, Family::modern), large_modern(544, Family::modern);
    test_engines(small_modern, {{190, 1, 60, 17, 33, 100, 64, 5}});
    test_engines(large_modern, {{40}, {130}});
    const RandomModel small_decoder(96, Family::decoder), large_decoder(544, Family::decoder);
    test_engines(small_decoder, {{190, 1, 60, 17, 33, 100, 64, 5}});
    test_engines(large_decoder, {{40}, {200}});
    test_calls(small_decoder);
    test_failures();
    test_read_errors(small, {190});
    test_read_errors(large, {40});
    test_read_errors(large, {195});
    std::printf(failures ? "%d failures\n" : "all good\n", failures);
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
