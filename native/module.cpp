// crossrank._native: the engine for Python. Checks and converts arguments; computes nothing.

#include <unistd.h>

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
    config.epsilon = value_of<double>(dict, "epsilon", "a number");
    config.activation = activation_of(dict, "activation");
    config.gated = value_of<bool>(dict, "gated", kFlag);
    config.mean = one_of<bool>(dict, "pooling", {{"first", false}, {"mean", true}});
    config.head = head_of(dict, config.hidden);
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

class PythonEngine {
  public:
    PythonEngine(const nb::dict& config, const nb::dict& tensors, const std::string& precision, int threads,
                 const std::string& isa, int words_file, std::int64_t words_start)
        : arrays_(tensors),
          words_(words_file),
          engine_(model(config_of(config), precision_of(precision), words_start), find_kernels(isa),
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
            engine_.logits(token_ids.data(), static_cast<std::int64_t>(token_ids.shape(0)), offsets.data(),
                           static_cast<std::int64_t>(pairs), segment_ids ? segment_ids->data() : nullptr,
                           out.data());
        }
        return out;
    }

    const char* isa() const { return engine_.kernels().name; }
    const char* precision() const { return name_of(engine_.model().precision); }
    int threads() const { return engine_.threads(); }
    int max_tokens() const { return engine_.model().config.max_tokens; }

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
                      std::int64_t>(),
             "architecture"_a, "tensors"_a, "precision"_a, "threads"_a, "isa"_a = "", "words_file"_a = -1,
             "words_start"_a = 0,
             "A model on prepared tensors, which it keeps and does not copy. architecture: as "
             "Architecture.flat() "
             "makes it. words_file: a descriptor from "
             "which embedding.words is read row by row; the table begins at words_start.")
        .def("logits", &PythonEngine::logits, "token_ids"_a.noconvert(), "offsets"_a.noconvert(),
             "segment_ids"_a.noconvert().none() = nb::none(),
             "int32 (T), int32 (B+1), int32 (T) -> float32 (B). Raises ValueError for a pack that is wrong.")
        .def_prop_ro("isa", &PythonEngine::isa)
        .def_prop_ro("precision", &PythonEngine::precision)
        .def_prop_ro("threads", &PythonEngine::threads)
        .def_prop_ro("max_tokens", &PythonEngine::max_tokens, "Tokens of the longest pair.");

    m.def("prepare_weights", &prepare_weights, "architecture"_a, "tensors"_a, "precision"_a, "threads"_a = 1,
          "Tensors by their canonical names (models/architecture.py) to prepared ones. Raises ValueError "
          "that names the "
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
}
