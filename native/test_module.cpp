// crossrank._native_test: the kernels by themselves, for tests and benchmarks. No wheel has it: it is built
// with the CMake option CROSSRANK_TEST_MODULE.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>

#include "bindings.h"
#include "dispatch.h"
#include "prepare.h"

using namespace crossrank;

namespace {

using Matrix = ArrayOf<float, nb::ndim<2>>;
using Vector = ArrayOf<float, nb::ndim<1>>;

// An extent as the kernels take it.
int extent(std::size_t value, std::ptrdiff_t max = std::ptrdiff_t{1} << 30) {
    if (value > static_cast<std::size_t>(max))
        throw std::invalid_argument("an array has " + std::to_string(value) + " values where at most " +
                                    std::to_string(max) + " fit");
    return static_cast<int>(value);
}

// A matrix product with all that belongs to it: prepared weights, and activations in their precision.
class WholeProduct {
  public:
    WholeProduct(const float* x, int rows, const float* weight, int outputs, int inputs, const float* bias,
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
        prepare_linear(weight, outputs, inputs, precision, panels_.get(), scale_.data());
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
    WholeProduct product(x.data(), extent(rows), weight.data(), extent(outputs), extent(inputs, kMaxInputs),
                         bias ? bias->data() : nullptr, precision_of(precision), find_kernels(isa));
    product.out().activated = gelu;
    product.out().coarse = precision != "fp32";
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

NB_MODULE(_native_test, m) {
    m.doc() = "The kernels of CrossRank's CPU engine, for tests and benchmarks.";

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
            find_kernels(isa).activate(Activation::gelu, x.data(), static_cast<std::ptrdiff_t>(x.shape(0)),
                                       y.data());
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
            const WholeProduct product(x.data(), rows, w.data(), outputs, inputs, nullptr,
                                       precision_of(precision), find_kernels(isa));
            const GilReleased released;
            return seconds_of([&] {
                       for (int i = 0; i < repeats; ++i) product.run();
                   }) /
                   std::max(repeats, 1);
        },
        "rows"_a, "outputs"_a, "inputs"_a, "precision"_a, "repeats"_a = 10, "isa"_a = "",
        "Seconds of one product on one thread.");
}
