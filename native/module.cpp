// crossrank._native: the engine for Python. Checks and converts arguments; computes nothing.

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <utility>

#include "bindings.h"
#include "dispatch.h"
#include "engine.h"
#include "map_guard.h"
#include "platform.h"
#include "prepare.h"

using namespace crossrank;

namespace {

using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

const char* name_of(Precision precision) {
    return precision == Precision::fp32 ? "fp32" : precision == Precision::bf16 ? "bf16" : "int8";
}

// A value of the dict that Architecture.flat() makes.
template <class T>
T value_of(const nb::dict& dict, const char* name, const char* type) {
    if (!dict.contains(name)) throw std::invalid_argument(std::string("the architecture has no ") + name);
    T value{};
    if (!nb::try_cast(nb::handle(dict[name]), value))
        throw std::invalid_argument(std::string("the architecture's ") + name + " is not " + type);
    return value;
}

int integer(const nb::dict& dict, const char* name) {
    return value_of<int>(dict, name, "an integer of 32 bits");
}

template <class T>
T one_of(const nb::dict& dict, const char* name, std::initializer_list<std::pair<const char*, T>> known) {
    const std::string value = value_of<std::string>(dict, name, "a string");
    std::string all;
    for (const auto& [text, meaning] : known) {
        if (value == text) return meaning;
        all += (all.empty() ? "" : ", ") + std::string(text);
    }
    throw std::invalid_argument(std::string(name) + " is '" + value + "'; supported: " + all);
}

Activation activation_of(const nb::dict& dict, const char* name) {
    return one_of<Activation>(dict, name,
                              {{"gelu", Activation::gelu},
                               {"gelu_tanh", Activation::gelu_tanh},
                               {"relu", Activation::relu},
                               {"silu", Activation::silu},
                               {"tanh", Activation::tanh}});
}

std::vector<HeadStep> head_of(const nb::dict& dict, int width) {
    using Kind = HeadStep::Kind;
    std::vector<HeadStep> steps;
    for (const nb::dict& given : value_of<std::vector<nb::dict>>(dict, "head", "a list of objects")) {
        HeadStep step;
        step.kind = one_of<Kind>(
            given, "kind", {{"Dense", Kind::dense}, {"Function", Kind::function}, {"HeadNorm", Kind::norm}});
        step.inputs = step.outputs = width;
        if (step.kind == Kind::function) {
            step.function = activation_of(given, "name");
        } else if (step.kind == Kind::norm) {
            step.inputs = step.outputs = integer(given, "size");
            step.epsilon = value_of<double>(given, "epsilon", "a number");
        } else {
            step.inputs = integer(given, "inputs");
            step.outputs = integer(given, "outputs");
        }
        width = step.outputs;
        steps.push_back(step);
    }
    return steps;
}

Config config_of(const nb::dict& dict) {
    constexpr const char *kIntegers = "a list of integers of 32 bits", *kNumbers = "a list of numbers",
                         *kFlag = "a truth value";
    Config config;
    config.hidden = integer(dict, "hidden");
    config.layers = integer(dict, "layers");
    config.heads = integer(dict, "heads");
    config.key_value_heads = integer(dict, "key_value_heads");
    config.head_size = integer(dict, "head_size");
    config.intermediate = integer(dict, "intermediate");
    config.vocabulary = integer(dict, "vocabulary");
    config.embedding = integer(dict, "embedding");
    config.max_tokens = integer(dict, "max_tokens");
    config.position_rows = integer(dict, "position_rows");
    config.first_position = integer(dict, "first_position");
    config.padding_id = integer(dict, "padding_id");
    config.segments = integer(dict, "segments");
    config.alibi = value_of<std::vector<float>>(dict, "alibi", kNumbers);
    const auto frequencies =
        value_of<std::vector<std::vector<double>>>(dict, "rotary", "a list of lists of numbers");
    const auto scales = value_of<std::vector<double>>(dict, "rotary_scale", kNumbers);
    if (scales.size() != frequencies.size())
        throw std::invalid_argument("rotary and rotary_scale are not of one length");
    for (std::size_t i = 0; i < scales.size(); ++i) config.rotary.push_back({frequencies[i], scales[i]});
    config.rotary_of_layer = value_of<std::vector<int>>(dict, "rotary_of_layer", kIntegers);
    config.windows = value_of<std::vector<int>>(dict, "windows", kIntegers);
    config.embedding_norm = value_of<bool>(dict, "embedding_norm", kFlag);
    config.norm_first = value_of<bool>(dict, "norm_first", kFlag);
    config.first_norm = value_of<bool>(dict, "first_norm", kFlag);
    config.final_norm = value_of<bool>(dict, "final_norm", kFlag);
    config.rms = one_of<bool>(dict, "norm", {{"layer", false}, {"rms", true}});
    config.head_norms = value_of<bool>(dict, "head_norms", kFlag);
    config.causal = value_of<bool>(dict, "causal", kFlag);
    config.embedding_scale = value_of<double>(dict, "embedding_scale", "a number");
    config.epsilon = value_of<double>(dict, "epsilon", "a number");
    config.activation = activation_of(dict, "activation");
    config.gated = value_of<bool>(dict, "gated", kFlag);
    config.pooling = one_of<Pooling>(
        dict, "pooling", {{"first", Pooling::first}, {"mean", Pooling::mean}, {"last", Pooling::last}});
    config.head = head_of(dict, config.hidden);
    config.match_layer = integer(dict, "match_layer");
    config.separator = integer(dict, "separator");
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
nb::object hand_over(PreparedTensor& prepared) {
    const std::vector<std::int64_t>& shape = prepared.tensor.shape;
    return hand_over<T>(std::move(prepared.buffer), std::vector<std::size_t>(shape.begin(), shape.end()))
        .cast();
}

nb::dict prepare_weights(const nb::dict& config_dict, const nb::dict& dict, const std::string& precision,
                         int threads) {
    const Config config = config_of(config_dict);
    const Arrays arrays(dict);
    const Precision kind = precision_of(precision);
    std::vector<PreparedTensor> prepared;
    {
        const GilReleased released;
        ThreadPool pool(threads);
        prepared = prepare(config, kind, arrays.tensors, pool);
    }
    nb::dict out;
    for (PreparedTensor& p : prepared) {
        const nb::str name(p.name.c_str());
        if (!p.source.empty()) out[name] = dict[p.source.c_str()];
        else if (p.tensor.type == Type::f32) out[name] = hand_over<float>(p);
        else if (p.tensor.type == Type::u8) out[name] = hand_over<std::uint8_t>(p);
        else out[name] = hand_over<std::uint16_t>(p);
    }
    return out;
}

// A duplicate of a file descriptor.
class File {
  public:
    explicit File(int descriptor) : descriptor_(descriptor < 0 ? -1 : duplicate_file(descriptor)) {
        if (descriptor >= 0 && descriptor_ < 0)
            throw std::runtime_error("dup: " + std::string(strerror(errno)));
    }
    ~File() {
        if (descriptor_ >= 0) close_file(descriptor_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    int descriptor() const { return descriptor_; }

  private:
    const int descriptor_;
};

class PythonEngine {
  public:
    PythonEngine(const nb::dict& config, const nb::dict& tensors, const std::string& precision, int threads,
                 const std::string& isa, int words_file, std::int64_t words_start, std::size_t prefix_bytes)
        : arrays_(tensors),
          words_(words_file),
          engine_(model(config_of(config), precision_of(precision), words_start), find_kernels(isa), threads,
                  prefix_bytes) {}

    using Integers = ArrayOf<std::int32_t, nb::ndim<1>>;

    nb::ndarray<nb::numpy, float> logits(const Integers& token_ids, const Integers& offsets,
                                         const std::optional<Integers>& segment_ids,
                                         const std::optional<Integers>& prefix_ids,
                                         const std::optional<Integers>& prefix_offsets,
                                         const std::optional<Integers>& prefix_of) {
        Pack pack;
        pack.token_ids = values_of("token_ids", token_ids);
        pack.tokens = size_of(token_ids);
        pack.offsets = values_of("offsets", offsets);
        pack.pairs = count_of("offsets", offsets, "pairs");
        if (segment_ids) {
            pack.segment_ids = values_of("segment_ids", *segment_ids);
            same_size("segment_ids", *segment_ids, pack.tokens, "token_ids");
        }
        if (prefix_ids.has_value() != prefix_offsets.has_value() ||
            prefix_ids.has_value() != prefix_of.has_value())
            throw std::invalid_argument("prefix_ids, prefix_offsets and prefix_of belong together");
        if (prefix_of) {
            pack.prefix_ids = values_of("prefix_ids", *prefix_ids);
            pack.prefix_tokens = size_of(*prefix_ids);
            pack.prefix_offsets = values_of("prefix_offsets", *prefix_offsets);
            pack.prefixes = count_of("prefix_offsets", *prefix_offsets, "prefixes");
            pack.prefix_of = values_of("prefix_of", *prefix_of);
            same_size("prefix_of", *prefix_of, pack.pairs, "pairs");
        }
        auto out = new_array<float>({static_cast<std::size_t>(pack.pairs)});
        {
            const GilReleased released;
            engine_.logits(pack, out.data());
        }
        return out;
    }

    std::size_t prefix_bytes() const { return engine_.prefix_bytes(); }
    std::int64_t prefix_tokens() const { return engine_.prefix_tokens(); }
    const char* isa() const { return engine_.kernels().name; }
    const char* precision() const { return name_of(engine_.model().precision); }
    int threads() const { return engine_.threads(); }
    int max_tokens() const { return engine_.model().config.max_tokens; }

  private:
    static std::int64_t size_of(const Integers& array) { return static_cast<std::int64_t>(array.shape(0)); }

    static const std::int32_t* values_of(const char* name, const Integers& array) {
        if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(std::int32_t) != 0)
            throw std::invalid_argument(std::string(name) + " must be aligned to 4 bytes");
        return array.data();
    }

    static std::int64_t count_of(const char* name, const Integers& offsets, const char* what) {
        if (offsets.shape(0) == 0)
            throw std::invalid_argument(std::string(name) + " is empty; it must have one more than the " +
                                        what);
        return size_of(offsets) - 1;
    }

    static void same_size(const char* name, const Integers& array, std::int64_t size, const char* as) {
        if (size_of(array) != size)
            throw std::invalid_argument(std::string(name) + " has " + std::to_string(size_of(array)) +
                                        " elements; it must have " + std::to_string(size) + ", as " + as);
    }

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

    // With the largest table that Config::check allows, offsets in the file stay below 2^63.
    static constexpr std::int64_t kMaxStart = std::int64_t{1} << 62;

    Arrays arrays_;
    File words_;
    Engine engine_;
};

}  // namespace

NB_MODULE(_native, m) {
    // An engine that is alive when the interpreter ends is no leak worth a message to the user.
    nb::set_leak_warnings(false);
    m.doc() = "CrossRank's engine on the CPU.";
    m.attr("LAYOUT") = kLayout;

    nb::class_<PythonEngine>(m, "Engine")
        .def(nb::init<const nb::dict&, const nb::dict&, const std::string&, int, const std::string&, int,
                      std::int64_t, std::size_t>(),
             "architecture"_a, "tensors"_a, "precision"_a, "threads"_a, "isa"_a = "", "words_file"_a = -1,
             "words_start"_a = 0, "prefix_bytes"_a = Engine::kPrefixBytes,
             "A model on prepared tensors, which it keeps and does not copy. architecture: as "
             "Architecture.flat() makes it. words_file: a descriptor from which embedding.words is read row "
             "by "
             "row; the table begins at words_start. prefix_bytes: of prefixes that are kept from call to "
             "call.")
        .def("logits", &PythonEngine::logits, "token_ids"_a.noconvert(), "offsets"_a.noconvert(),
             "segment_ids"_a.noconvert().none() = nb::none(), "prefix_ids"_a.noconvert().none() = nb::none(),
             "prefix_offsets"_a.noconvert().none() = nb::none(),
             "prefix_of"_a.noconvert().none() = nb::none(),
             "int32 (T), int32 (B+1), int32 (T), and prefixes, int32 (P), int32 (G+1), int32 (B) -> float32 "
             "(B). Raises ValueError for a pack that is wrong.")
        .def_prop_ro("isa", &PythonEngine::isa)
        .def_prop_ro("precision", &PythonEngine::precision)
        .def_prop_ro("threads", &PythonEngine::threads)
        .def_prop_ro("prefix_bytes", &PythonEngine::prefix_bytes, "Of the prefixes that are kept now.")
        .def_prop_ro("prefix_tokens", &PythonEngine::prefix_tokens,
                     "Of prefixes that went through the model since it was loaded.")
        .def_prop_ro("max_tokens", &PythonEngine::max_tokens, "Tokens of the longest pair.");

    m.def("prepare_weights", &prepare_weights, "architecture"_a, "tensors"_a, "precision"_a, "threads"_a = 1,
          "Tensors by their canonical names (models/architecture.py) to prepared ones. Raises ValueError "
          "that names the "
          "tensor.");
    nb::class_<MapGuard>(m, "MapGuard")
        .def(
            "__init__",
            [](MapGuard* guard, std::uintptr_t address, std::size_t size) {
                new (guard) MapGuard(reinterpret_cast<void*>(address), size);
            },
            "address"_a, "size"_a,
            "While it lives, what is missing in a file's map is read as zeros, and does not end the process. "
            "The map must outlive it.")
        .def_prop_ro("damaged", &MapGuard::damaged, "Whether something was missing, and read.");
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
            return p == Precision::fp32 || (p == Precision::int8 ? k.fast_int8 : k.native_bf16);
        },
        "precision"_a, "isa"_a = "",
        "Whether products in that precision are faster than in fp32, or it is fp32.");
}
