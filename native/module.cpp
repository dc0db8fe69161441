// crossrank._native: the encoder and its kernels for Python. Checks and converts arguments; computes nothing.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <thread>

#include "dispatch.h"
#include "encoder.h"
#include "pack.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace crossrank;

namespace {

using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
template <class T, class... Shape>
using ArrayOf = nb::ndarray<const T, Shape..., nb::c_contig, nb::device::cpu>;
using Matrix = ArrayOf<float, nb::ndim<2>>;
using Vector = ArrayOf<float, nb::ndim<1>>;

// The GIL is given back while one of these lives. Should the program end meanwhile, a daemon thread stops
// here for good: before 3.14, Python ends a thread that asks for the GIL then, by unwinding its stack, and
// neither a destructor (such as nb::gil_scoped_release's) nor a caller in nanobind lets that through.
class GilReleased {
  public:
    GilReleased() : state_(PyEval_SaveThread()) {}
    ~GilReleased() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
        }
    }
    GilReleased(const GilReleased&) = delete;
    GilReleased& operator=(const GilReleased&) = delete;

  private:
    PyThreadState* const state_;
};

Precision precision_of(const std::string& name) {
    if (name == "fp32") return Precision::fp32;
    if (name == "bf16") return Precision::bf16;
    if (name == "int8") return Precision::int8;
    throw std::invalid_argument("precision is '" + name + "'; it must be fp32, bf16 or int8");
}

const char* name_of(Precision precision) {
    return precision == Precision::fp32 ? "fp32" : precision == Precision::bf16 ? "bf16" : "int8";
}

Config config_of(const nb::dict& dict) {
    const auto integer = [&](const char* name, std::optional<int> otherwise = {}) {
        if (!dict.contains(name) || dict[name].is_none()) {
            if (otherwise) return *otherwise;
            throw std::invalid_argument(std::string("config has no ") + name);
        }
        int value = 0;
        if (!nb::try_cast(nb::handle(dict[name]), value))
            throw std::invalid_argument(std::string("config's ") + name + " is not an integer of 32 bits");
        return value;
    };
    const auto text = [&](const char* name, const char* otherwise) {
        std::string value = otherwise;
        if (dict.contains(name) && !nb::try_cast(nb::handle(dict[name]), value))
            throw std::invalid_argument(std::string("config's ") + name + " is not a string");
        return value;
    };
    const std::string type = text("model_type", "");
    if (type != "bert" && type != "roberta" && type != "xlm-roberta")
        throw std::invalid_argument("model_type is '" + type + "'; it must be bert, roberta or xlm-roberta");
    if (const std::string act = text("hidden_act", "gelu"); act != "gelu")
        throw std::invalid_argument("hidden_act is '" + act + "'; it must be gelu");
    if (const std::string kind = text("position_embedding_type", "absolute"); kind != "absolute")
        throw std::invalid_argument("position_embedding_type is '" + kind + "'; it must be absolute");

    Config config;
    config.bert = type == "bert";
    config.hidden = integer("hidden_size");
    config.layers = integer("num_hidden_layers");
    config.heads = integer("num_attention_heads");
    config.intermediate = integer("intermediate_size");
    config.vocabulary = integer("vocab_size");
    config.positions = integer("max_position_embeddings");
    config.segments = integer("type_vocab_size", 2);
    config.padding_id = integer("pad_token_id", config.bert ? 0 : 1);
    if (dict.contains("layer_norm_eps") && !nb::try_cast(nb::handle(dict["layer_norm_eps"]), config.epsilon))
        throw std::invalid_argument("config's layer_norm_eps is not a number");
    config.check();
    return config;
}

// The arrays of a dict, and references that keep them alive.
struct Arrays {
    Tensors tensors;
    std::vector<AnyArray> owners;

    explicit Arrays(const nb::dict& dict) {
        for (const auto& [key, value] : dict) {
            const std::string name = nb::cast<std::string>(key);
            AnyArray array;
            if (!nb::try_cast(value, array, false))
                throw std::invalid_argument("tensor '" + name +
                                            "' is not a contiguous array in the CPU's memory");
            Tensor tensor;
            tensor.data = array.data();
            const nb::dlpack::dtype type = array.dtype();
            if (type == nb::dtype<float>()) tensor.type = Type::f32;
            else if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) && type.bits == 16)
                tensor.type = Type::f16;
            else if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat) &&
                     type.bits == 16)
                tensor.type = Type::bf16;
            else if (type == nb::dtype<std::uint16_t>()) tensor.type = Type::bf16;
            else if (type == nb::dtype<std::uint8_t>()) tensor.type = Type::u8;
            else tensor.type = Type::other;  // position_ids and the like: no harm unless it is wanted
            for (std::size_t i = 0; i < array.ndim(); ++i)
                tensor.shape.push_back(static_cast<std::int64_t>(array.shape(i)));
            tensors.emplace(name, std::move(tensor));
            owners.push_back(std::move(array));
        }
    }
};

template <class T>
nb::ndarray<nb::numpy, T> new_array(std::vector<std::size_t> shape) {
    std::size_t size = 1;
    for (const std::size_t extent : shape) size *= extent;
    Buffer buffer = allocate(size * sizeof(T));
    void* data = buffer.get();
    nb::capsule owner(data, [](void* p) noexcept { FreeBuffer()(p); });
    (void)buffer.release();
    return nb::ndarray<nb::numpy, T>(data, shape.size(), shape.data(), owner);
}

template <class T>
nb::object hand_over(PackedTensor& packed) {
    std::vector<std::size_t> shape(packed.tensor.shape.begin(), packed.tensor.shape.end());
    void* data = packed.buffer.get();
    nb::capsule owner(data, [](void* p) noexcept { FreeBuffer()(p); });
    (void)packed.buffer.release();
    return nb::ndarray<nb::numpy, T>(data, shape.size(), shape.data(), owner).cast();
}

nb::dict pack_weights(const nb::dict& config_dict, const nb::dict& dict, const std::string& precision,
                      int threads) {
    const Config config = config_of(config_dict);
    const Arrays arrays(dict);
    if (threads < 1 || threads > 4096) throw std::invalid_argument("threads must be 1 to 4096");
    const Precision kind = precision_of(precision);
    std::vector<PackedTensor> packed;
    {
        const GilReleased released;
        ThreadPool pool(threads);
        packed = pack(config, kind, arrays.tensors, pool);
    }
    nb::dict out;
    for (PackedTensor& p : packed) {
        const nb::str name(p.name.c_str());
        if (!p.source.empty()) out[name] = dict[p.source.c_str()];
        else if (p.tensor.type == Type::f32) out[name] = hand_over<float>(p);
        else if (p.tensor.type == Type::u8) out[name] = hand_over<std::uint8_t>(p);
        else out[name] = hand_over<std::uint16_t>(p);
    }
    return out;
}

// A descriptor of its own.
class File {
  public:
    explicit File(int descriptor) : descriptor_(descriptor < 0 ? -1 : dup(descriptor)) {
        if (descriptor >= 0 && descriptor_ < 0)
            throw std::runtime_error("dup: " + std::string(strerror(errno)));
    }
    ~File() {
        if (descriptor_ >= 0) close(descriptor_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    int descriptor() const { return descriptor_; }

  private:
    const int descriptor_;
};

class Engine {
  public:
    Engine(const nb::dict& config, const nb::dict& tensors, const std::string& precision, int threads,
           const std::string& isa, int words_file, std::int64_t words_start)
        : arrays_(tensors),
          words_(words_file),
          encoder_(model(config_of(config), precision_of(precision), words_start), find_kernels(isa),
                   threads) {}

    nb::ndarray<nb::numpy, float> logits(
        const ArrayOf<std::int32_t, nb::ndim<1>>& token_ids,
        const ArrayOf<std::int32_t, nb::ndim<1>>& offsets,
        const std::optional<ArrayOf<std::int32_t, nb::ndim<1>>>& segment_ids) {
        if (offsets.shape(0) == 0)
            throw std::invalid_argument("offsets is empty; it must have one more than the pairs");
        if (segment_ids && segment_ids->shape(0) != token_ids.shape(0))
            throw std::invalid_argument("segment_ids has " + std::to_string(segment_ids->shape(0)) +
                                        " elements; it must have " + std::to_string(token_ids.shape(0)) +
                                        ", as token_ids");
        for (const void* data :
             {static_cast<const void*>(token_ids.data()), static_cast<const void*>(offsets.data()),
              static_cast<const void*>(segment_ids ? segment_ids->data() : nullptr)})
            if (reinterpret_cast<std::uintptr_t>(data) % alignof(std::int32_t) != 0)
                throw std::invalid_argument("token_ids, offsets and segment_ids must be aligned to 4 bytes");
        const std::size_t pairs = offsets.shape(0) - 1;
        auto out = new_array<float>({pairs});
        {
            const GilReleased released;
            encoder_.logits(token_ids.data(), static_cast<std::int64_t>(token_ids.shape(0)), offsets.data(),
                            static_cast<std::int64_t>(pairs), segment_ids ? segment_ids->data() : nullptr,
                            out.data());
        }
        return out;
    }

    const char* isa() const { return encoder_.kernels().name; }
    const char* precision() const { return name_of(encoder_.model().precision); }
    int threads() const { return encoder_.threads(); }
    int max_tokens() const { return encoder_.model().config.max_tokens(); }

  private:
    Model model(const Config& config, Precision precision, std::int64_t words_start) const {
        Model made(config, precision, arrays_.tensors);
        if (words_.descriptor() >= 0 && made.words.type == Type::u8)
            throw std::invalid_argument("4-bit word embeddings are read from memory only");
        if (words_start < 0 || words_start > kMaxStart)
            throw std::invalid_argument("words_start is " + std::to_string(words_start) +
                                        "; it must be 0 to " + std::to_string(kMaxStart));
        made.words.file = words_.descriptor();
        made.words.start = words_start;
        return made;
    }

    // With the largest table that Config::check lets through, places in the file stay below 2^63.
    static constexpr std::int64_t kMaxStart = std::int64_t{1} << 62;

    Arrays arrays_;
    File words_;
    Encoder encoder_;
};

// --- kernels by themselves, for tests and benchmarks ---

// An extent as the kernels take it.
int extent(std::size_t value, std::ptrdiff_t most = std::ptrdiff_t{1} << 30) {
    if (value > static_cast<std::size_t>(most))
        throw std::invalid_argument("an array has " + std::to_string(value) + " values where at most " +
                                    std::to_string(most) + " fit");
    return static_cast<int>(value);
}

// A matrix product with all that belongs to it: packed weights, and activations in their precision.
class Product {
  public:
    Product(const float* x, int rows, const float* weight, int outputs, int inputs, const float* bias,
            Precision precision, const Kernels& kernels)
        : kernels_(kernels) {
        linear_.precision = precision;
        linear_.outputs = outputs;
        linear_.inputs = inputs;
        const std::size_t padded = static_cast<std::size_t>(round_up(outputs, kPanel));
        panels_ = allocate(static_cast<std::size_t>(linear_.panel_count()) *
                           static_cast<std::size_t>(linear_.groups()) * kPanel * kUnit);
        scale_.resize(padded);
        bias_.resize(padded);
        pack_linear(weight, outputs, inputs, precision, panels_.get(), scale_.data());
        if (bias) std::copy(bias, bias + outputs, bias_.begin());
        linear_.panels = panels_.get();
        linear_.scale = scale_.data();
        linear_.bias = bias_.data();

        left_.rows = rows;
        left_.stride = round_up(std::ptrdiff_t{linear_.groups()} * kUnit, 64) + 64;
        input_ = allocate(static_cast<std::size_t>(left_.stride * rows));
        left_scale_.resize(static_cast<std::size_t>(rows));
        left_sum_.resize(static_cast<std::size_t>(rows));
        for (int r = 0; r < rows; ++r) {
            const float* from = x + std::ptrdiff_t{r} * inputs;
            char* to = static_cast<char*>(input_.get()) + r * left_.stride;
            if (precision == Precision::int8)
                kernels.quantise(from, inputs, reinterpret_cast<std::int8_t*>(to),
                                 &left_scale_[static_cast<std::size_t>(r)],
                                 &left_sum_[static_cast<std::size_t>(r)]);
            else if (precision == Precision::bf16)
                kernels.to_bf16(from, inputs, reinterpret_cast<std::uint16_t*>(to));
            else std::memcpy(to, from, static_cast<std::size_t>(inputs) * 4);
        }
        left_.data = input_.get();
        left_.scale = left_scale_.data();
        left_.sum = left_sum_.data();

        out_.stride = static_cast<std::ptrdiff_t>(padded) * 4 + 64;
        result_ = allocate(static_cast<std::size_t>(out_.stride * std::max(rows, 1)));
        out_.data = result_.get();
    }

    void run() const { kernels_.linear(linear_, left_, 0, linear_.panel_count(), out_); }

    const float* row(std::ptrdiff_t r) const {
        return reinterpret_cast<const float*>(static_cast<const char*>(result_.get()) + r * out_.stride);
    }

    Output& out() { return out_; }

  private:
    const Kernels& kernels_;
    Linear linear_;
    Activations left_;
    Output out_;
    Buffer panels_, input_, result_;
    std::vector<float> scale_, bias_, left_scale_;
    std::vector<std::int32_t> left_sum_;
};

nb::ndarray<nb::numpy, float> linear(const Matrix& x, const Matrix& weight, const std::optional<Vector>& bias,
                                     const std::string& precision, bool gelu, const std::string& isa) {
    const std::size_t rows = x.shape(0), outputs = weight.shape(0), inputs = weight.shape(1);
    if (x.shape(1) != inputs || (bias && bias->shape(0) != outputs) || inputs == 0 || outputs == 0)
        throw std::invalid_argument("linear: x (M, K), weight (N, K), bias (N) do not fit together");
    Product product(x.data(), extent(rows), weight.data(), extent(outputs), extent(inputs, kMaxInputs),
                    bias ? bias->data() : nullptr, precision_of(precision), find_kernels(isa));
    if (gelu) product.out().gelu = precision == "fp32" ? Gelu::fine : Gelu::coarse;
    product.run();
    auto result = new_array<float>({rows, outputs});
    for (std::size_t r = 0; r < rows; ++r)
        std::memcpy(result.data() + r * outputs, product.row(static_cast<std::ptrdiff_t>(r)), outputs * 4);
    return result;
}

nb::ndarray<nb::numpy, float> attention(const Matrix& q, const Matrix& k, const Matrix& v, bool bf16,
                                        const std::string& isa) {
    const Kernels& kernels = find_kernels(isa);
    const std::size_t dim = q.shape(1), queries = q.shape(0), keys = k.shape(0);
    if (k.shape(1) != dim || v.shape(1) != dim || v.shape(0) != keys || keys == 0 || dim == 0 || dim % 2 != 0)
        throw std::invalid_argument(
            "attention: q (Q, D), k (K, D), v (K, D) do not fit together, or D is odd");
    std::vector<std::uint16_t> halves[3];
    const Matrix* sources[3] = {&q, &k, &v};
    const void* data[3];
    for (int i = 0; i < 3; ++i) {
        const std::size_t size = sources[i]->size();
        data[i] = sources[i]->data();
        if (!bf16) continue;
        halves[i].resize(size + 1);
        kernels.to_bf16(sources[i]->data(), extent(size), halves[i].data());
        data[i] = halves[i].data();
    }
    const Buffer scratch = allocate(kernels.attention_scratch(extent(dim, kMaxInputs)));
    auto out = new_array<float>({queries, dim});
    Attention args;
    args.bf16 = bf16;
    args.q = data[0];
    args.k = data[1];
    args.v = data[2];
    args.q_stride = args.kv_stride = static_cast<std::ptrdiff_t>(dim) * (bf16 ? 2 : 4);
    args.q_rows = extent(queries);
    args.kv_rows = extent(keys);
    args.head_dim = extent(dim);
    args.out = out.data();
    args.out_stride = static_cast<std::ptrdiff_t>(dim) * 4;
    args.scratch = scratch.get();
    kernels.attention(args);
    return out;
}

template <class Function>
double seconds_of(const Function& function) {
    const auto start = std::chrono::steady_clock::now();
    function();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

NB_MODULE(_native, m) {
    // An engine that is alive when the interpreter ends is no leak worth a message to the user.
    nb::set_leak_warnings(false);
    m.doc() = "CrossRank's encoder on the CPU.";

    nb::class_<Engine>(m, "Engine")
        .def(nb::init<const nb::dict&, const nb::dict&, const std::string&, int, const std::string&, int,
                      std::int64_t>(),
             "config"_a, "tensors"_a, "precision"_a, "threads"_a, "isa"_a = "", "words_file"_a = -1,
             "words_start"_a = 0,
             "An encoder on packed tensors, which it keeps and does not copy. words_file: a descriptor that "
             "embedding.words is read from, row by row, its bytes being there from words_start on.")
        .def("logits", &Engine::logits, "token_ids"_a.noconvert(), "offsets"_a.noconvert(),
             "segment_ids"_a.noconvert().none() = nb::none(),
             "int32 (T), int32 (B+1), int32 (T) -> float32 (B). Raises ValueError for a pack that is wrong.")
        .def_prop_ro("isa", &Engine::isa)
        .def_prop_ro("precision", &Engine::precision)
        .def_prop_ro("threads", &Engine::threads)
        .def_prop_ro("max_tokens", &Engine::max_tokens, "Tokens of the longest pair.");

    m.def("pack_weights", &pack_weights, "config"_a, "tensors"_a, "precision"_a, "threads"_a = 1,
          "A checkpoint's tensors, by their names in it, to packed ones. Raises ValueError that names the "
          "tensor.");
    m.def(
        "isas",
        [] {
            std::vector<std::string> names;
            for (const Kernels* k : available_kernels()) names.emplace_back(k->name);
            return names;
        },
        "Instruction sets that can be used here, best first.");
    m.def(
        "isa", [] { return default_kernels().name; },
        "The one in use: the best, or what CROSSRANK_ISA names.");
    m.def(
        "has_fast",
        [](const std::string& precision, const std::string& isa) {
            const Precision p = precision_of(precision);
            const Kernels& k = find_kernels(isa);
            return p == Precision::fp32 || (p == Precision::int8 ? k.native_int8 : k.native_bf16);
        },
        "precision"_a, "isa"_a = "", "Whether there is an instruction for dot products in that precision.");

    m.def("linear", &linear, "x"_a, "weight"_a, "bias"_a.none(), "precision"_a, "gelu"_a = false,
          "isa"_a = "", "x W^T + bias: (M, K), (N, K), (N) -> (M, N)");
    m.def("attention", &attention, "q"_a, "k"_a, "v"_a, "bf16"_a = false, "isa"_a = "",
          "softmax(ln 2 q k^T) v: (Q, D), (K, D), (K, D) -> (Q, D). The engine multiplies q by log2(e) "
          "before.");
    m.def(
        "layer_norm",
        [](const Vector& x, const Vector& gamma, const Vector& beta, float epsilon, const std::string& isa) {
            if (gamma.shape(0) != x.shape(0) || beta.shape(0) != x.shape(0) || x.shape(0) == 0)
                throw std::invalid_argument("layer_norm: x, gamma and beta must be of one length");
            auto y = new_array<float>({x.shape(0)});
            find_kernels(isa).layer_norm(x.data(), gamma.data(), beta.data(), epsilon, extent(x.shape(0)),
                                         y.data());
            return y;
        },
        "x"_a, "gamma"_a, "beta"_a, "epsilon"_a, "isa"_a = "");
    m.def(
        "quantise",
        [](const Vector& x, bool rotated, const std::string& isa) {
            const int n = extent(x.shape(0), kMaxInputs);
            auto q = new_array<std::int8_t>({static_cast<std::size_t>(round_up(n, 4))});
            float scale = 0;
            std::int32_t sum = 0;
            const Kernels& kernels = find_kernels(isa);
            (rotated ? kernels.quantise_rotated : kernels.quantise)(x.data(), n, q.data(), &scale, &sum);
            return nb::make_tuple(q, scale, sum);
        },
        "x"_a, "rotated"_a = false, "isa"_a = "", "-> int8 (N rounded up to 4), the scale, the sum");
    m.def(
        "gelu",
        [](const Vector& x, const std::string& isa) {
            auto y = new_array<float>({x.shape(0)});
            find_kernels(isa).gelu(x.data(), static_cast<std::ptrdiff_t>(x.shape(0)), y.data());
            return y;
        },
        "x"_a, "isa"_a = "");
    m.def(
        "exp2",
        [](const Vector& x, const std::string& isa) {
            auto y = new_array<float>({x.shape(0)});
            find_kernels(isa).exp2(x.data(), static_cast<std::ptrdiff_t>(x.shape(0)), y.data());
            return y;
        },
        "x"_a, "isa"_a = "", "For x <= 0.");

    m.def(
        "peak_int8",
        [](std::int64_t repeats, const std::string& isa) {
            const Kernels& kernels = find_kernels(isa);
            const GilReleased released;
            double multiplications = 0;
            const double seconds = seconds_of([&] { multiplications = kernels.peak_int8(repeats); });
            return 2 * multiplications / seconds;
        },
        "repeats"_a = 100000, "isa"_a = "",
        "int8 operations a second (two for a multiply-add) of one thread in one tile.");
    m.def(
        "time_linear",
        [](int rows, int outputs, int inputs, const std::string& precision, int repeats,
           const std::string& isa) {
            if (rows < 1 || outputs < 1 || inputs < 1 || inputs > kMaxInputs)
                throw std::invalid_argument("time_linear: sizes must be positive, and inputs at most " +
                                            std::to_string(kMaxInputs));
            const std::vector<float> x(static_cast<std::size_t>(rows) * static_cast<std::size_t>(inputs),
                                       0.5f);
            const std::vector<float> w(static_cast<std::size_t>(outputs) * static_cast<std::size_t>(inputs),
                                       0.5f);
            const Product product(x.data(), rows, w.data(), outputs, inputs, nullptr, precision_of(precision),
                                  find_kernels(isa));
            const GilReleased released;
            return seconds_of([&] {
                       for (int i = 0; i < repeats; ++i) product.run();
                   }) /
                   std::max(repeats, 1);
        },
        "rows"_a, "outputs"_a, "inputs"_a, "precision"_a, "repeats"_a = 10, "isa"_a = "",
        "Seconds of one product on one thread.");
}
