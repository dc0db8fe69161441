// What is done to one row of activations between the products.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace crossrank::CR_ISA {

inline void layer_norm(const float* x, const float* gamma, const float* beta, float eps, int n, float* y) {
    constexpr int kAtOnce = 4;  // independent sums: one would wait for itself
    const int whole = n / kLanes * kLanes, rest = n - whole,
              unrolled = whole / (kAtOnce * kLanes) * kAtOnce * kLanes;
    Vf totals[kAtOnce] = {};
    for (int i = 0; i < unrolled; i += kAtOnce * kLanes)
        for (int v = 0; v < kAtOnce; ++v) totals[v] += load<Vf>(x + i + v * kLanes);
    for (int i = unrolled; i < whole; i += kLanes) totals[0] += load<Vf>(x + i);
    if (rest) totals[1] += load_some(x + whole, rest);
    const float mean = sum((totals[0] + totals[1]) + (totals[2] + totals[3])) / static_cast<float>(n);

    Vf squares[kAtOnce] = {};
    const auto add_square = [&](int v, int i) {
        const Vf d = load<Vf>(x + i) - mean;
        squares[v] = fma(d, d, squares[v]);
    };
    for (int i = 0; i < unrolled; i += kAtOnce * kLanes)
        for (int v = 0; v < kAtOnce; ++v) add_square(v, i + v * kLanes);
    for (int i = unrolled; i < whole; i += kLanes) add_square(0, i);
    float variance = sum((squares[0] + squares[1]) + (squares[2] + squares[3]));
    for (int i = whole; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
    const float inverse = 1.0f / __builtin_sqrtf(variance / static_cast<float>(n) + eps);

    for (int i = 0; i < whole; i += kLanes)
        store(y + i, fma((load<Vf>(x + i) - mean) * inverse, load<Vf>(gamma + i), load<Vf>(beta + i)));
    if (rest)
        store_some(y + whole,
                   fma((load_some(x + whole, rest) - mean) * inverse, load_some(gamma + whole, rest),
                       load_some(beta + whole, rest)),
                   rest);
}

// 1 / sqrt(mean of squares + eps) of n values, which at(i) gives a vector at a time; a last vector that is
// not whole ends in zeros.
template <class At>
CR_INLINE float inverse_rms(const At& at, int n, float eps) {
    constexpr int kAtOnce = 4;  // independent sums: one would wait for itself
    const int unrolled = n / (kAtOnce * kLanes) * kAtOnce * kLanes;
    Vf squares[kAtOnce] = {};
    for (int i = 0; i < unrolled; i += kAtOnce * kLanes)
        for (int v = 0; v < kAtOnce; ++v) {
            const Vf x = at(i + v * kLanes);
            squares[v] = fma(x, x, squares[v]);
        }
    for (int i = unrolled; i < n; i += kLanes) {
        const Vf x = at(i);
        squares[0] = fma(x, x, squares[0]);
    }
    const float total = sum((squares[0] + squares[1]) + (squares[2] + squares[3]));
    return 1.0f / __builtin_sqrtf(total / static_cast<float>(n) + eps);
}

inline void rms_norm(const float* x, const float* gamma, float eps, int n, float* y) {
    const float inverse = inverse_rms([&](int i) { return load_some(x + i, n - i); }, n, eps);
    for (int i = 0; i < n; i += kLanes)
        store_some(y + i, load_some(x + i, n - i) * inverse * load_some(gamma + i, n - i), n - i);
}

// Values of a row as vectors: fp32, or bf16.
struct Fp32Row {
    const float* x;
    CR_INLINE Vf at(std::ptrdiff_t i) const { return load<Vf>(x + i); }
    CR_INLINE Vf some(std::ptrdiff_t i, std::ptrdiff_t n) const { return load_some(x + i, n); }
};

struct Bf16Row {
    const std::uint16_t* x;
    CR_INLINE static Vf value(Vh h) { return reinterpret_cast<Vf>(widen(h) << 16); }
    CR_INLINE Vf at(std::ptrdiff_t i) const { return value(load<Vh>(x + i)); }
    CR_INLINE Vf some(std::ptrdiff_t i, std::ptrdiff_t n) const {
        Vh h{};
        __builtin_memcpy(&h, x + i, static_cast<std::size_t>(n) * 2);
        return value(h);
    }
};

template <class Row>
CR_INLINE void quantise_row(const Row& row, int n, std::int8_t* q, float* scale, std::int32_t* sum_q) {
    const int whole = n / kLanes * kLanes, rest = n - whole;
    // Magnitudes compared as integers: NaN and infinity are the largest, where a maximum of floats may lose
    // them.
    Vi magnitude{};
    for (int i = 0; i < whole; i += kLanes) magnitude = max(magnitude, bits(abs(row.at(i))));
    if (rest) magnitude = max(magnitude, bits(abs(row.some(whole, rest))));
    const std::int32_t largest = max_of(magnitude);
    if (largest >= 0x7f800000) {
        // The row's results are NaN, which will be refused, and not some number.
        for (std::ptrdiff_t i = 0; i < ceil_div(n, 4) * 4; ++i) q[i] = 0;
        *scale = __builtin_nanf("");
        *sum_q = 0;
        return;
    }
    float amax;
    __builtin_memcpy(&amax, &largest, 4);
    // A row of zeros, or of values too small to invert, is all zeros.
    const float inverse = amax > 1e-30f ? 127.0f / amax : 0.0f;
    *scale = amax > 1e-30f ? amax * (1.0f / 127.0f) : 0.0f;

    // |x| inverse may exceed 127 by rounding only, and then by far less than one half.
    Vi total{};
    for (int i = 0; i < whole; i += kLanes) {
        const Vi rounded = bits(fma(row.at(i), splat(inverse), splat(kRound))) - kRoundBits;
        total += rounded;
        store(q + i, __builtin_convertvector(rounded, Vb));
    }
    if (rest) {
        const Vi rounded = bits(fma(row.some(whole, rest), splat(inverse), splat(kRound))) - kRoundBits;
        total += rounded;
        const Vb bytes = __builtin_convertvector(rounded, Vb);
        __builtin_memcpy(q + whole, &bytes, static_cast<std::size_t>(rest));
    }
    for (int i = n; i % 4; ++i) q[i] = 0;
    *sum_q = sum(total);
}

inline void quantise(const float* x, int n, std::int8_t* q, float* scale, std::int32_t* sum_q) {
    quantise_row(Fp32Row{x}, n, q, scale, sum_q);
}

// v times the Hadamard matrix of kSize values within each kSize lanes: sums and differences of lanes that are
// 1, 2, 4, ... apart.
template <int kSize>
CR_INLINE Vf rotate_lanes(Vf v) {
    if constexpr (kSize >= 2) v = butterfly<1>(v);
    if constexpr (kSize >= 4) v = butterfly<2>(v);
    if constexpr (kSize >= 8) v = butterfly<4>(v);
    if constexpr (kSize >= 16) v = butterfly<8>(v);
    return v;
}

// y = x H for one block of kSize values, whole vectors of them.
template <int kSize, class Row>
CR_INLINE void rotate_block(const Row& row, std::ptrdiff_t first, float* y) {
    constexpr int kVectorsOfBlock = kSize / kLanes;
    Vf v[kVectorsOfBlock];
#pragma GCC unroll 32
    for (int i = 0; i < kVectorsOfBlock; ++i) v[i] = rotate_lanes<kLanes>(row.at(first + i * kLanes));
#pragma GCC unroll 5
    for (int apart = 1; apart < kVectorsOfBlock; apart *= 2)
#pragma GCC unroll 32
        for (int i = 0; i < kVectorsOfBlock; ++i)
            if (!(i & apart)) {
                const Vf a = v[i], b = v[i + apart];
                v[i] = a + b;
                v[i + apart] = a - b;
            }
#pragma GCC unroll 32
    for (int i = 0; i < kVectorsOfBlock; ++i) store(y + first + i * kLanes, v[i]);
}

// y = x H for a row whose blocks are shorter than two vectors: one value after the other.
template <class Row>
CR_INLINE void rotate_plain(const Row& row, int n, int block, float* y) {
    for (int i = 0; i < n; i += kLanes)
        store_some(y + i, row.some(i, n - i < kLanes ? n - i : kLanes), n - i);
    for (int apart = 1; apart < block; apart *= 2)
        for (int i = 0; i < n; ++i)
            if (!(i & apart)) {
                const float a = y[i], b = y[i + apart];
                y[i] = a + b;
                y[i + apart] = a - b;
            }
}

template <class Row>
CR_INLINE void quantise_rotated_row(const Row& row, int n, std::int8_t* q, float* scale,
                                    std::int32_t* sum_q) {
    const int block = rotation_block(n);
    if (block == 1) return quantise_row(row, n, q, scale, sum_q);
    alignas(64) float rotated[kMaxRotated];
    if (block == 128)
        for (int i = 0; i < n; i += 128) rotate_block<128>(row, i, rotated);
    else rotate_plain(row, n, block, rotated);
    quantise_row(Fp32Row{rotated}, n, q, scale, sum_q);
}

inline void quantise_rotated(const float* x, int n, std::int8_t* q, float* scale, std::int32_t* sum_q) {
    quantise_rotated_row(Fp32Row{x}, n, q, scale, sum_q);
}

inline void quantise_rotated_bf16(const std::uint16_t* x, int n, std::int8_t* q, float* scale,
                                  std::int32_t* sum_q) {
    quantise_rotated_row(Bf16Row{x}, n, q, scale, sum_q);
}

inline void to_bf16(const float* x, int n, std::uint16_t* y) {
    const int whole = n / kLanes * kLanes;
    for (int i = 0; i < whole; i += kLanes) store(y + i, to_bf16(load<Vf>(x + i)));
    if (whole < n) {
        const Vh rest = to_bf16(load_some(x + whole, n - whole));
        __builtin_memcpy(y + whole, &rest, static_cast<std::size_t>(n - whole) * 2);
    }
    if (n % 2) y[n] = 0;
}

// The two halves of each head as a complex number each, times that of the angle (kernels.h).
template <class Get, class Put>
CR_INLINE void rotate_row(const Rotation& t, const Get& get, const Put& put) {
    constexpr int kHeads = 64;  // whose factors are kept
    float inverse[kHeads];
    for (int first_head = 0; first_head < t.heads; first_head += kHeads) {
        const int heads = t.heads - first_head < kHeads ? t.heads - first_head : kHeads;
        const std::ptrdiff_t start = std::ptrdiff_t{first_head} * 2 * t.half;
        if (t.gamma)
            for (int head = 0; head < heads; ++head)
                inverse[head] = inverse_rms(
                    [&](int i) {
                        return get(start + std::ptrdiff_t{head} * 2 * t.half + i,
                                   2 * t.half - i < kLanes ? 2 * t.half - i : kLanes);
                    },
                    2 * t.half, t.eps);
        for (std::ptrdiff_t i = 0; i < t.half; i += kLanes) {
            const std::ptrdiff_t n = t.half - i < kLanes ? t.half - i : kLanes;
            const Vf c0 = load<Vf>(t.coarse + i), s0 = load<Vf>(t.coarse + t.stride + i),
                     c1 = load<Vf>(t.fine + i), s1 = load<Vf>(t.fine + t.stride + i);
            const Vf cosine = c0 * c1 - s0 * s1, sine = s0 * c1 + c0 * s1;
            Vf upper{}, lower{};
            if (t.gamma) {
                upper = load_some(t.gamma + i, n);
                lower = load_some(t.gamma + t.half + i, n);
            }
            for (int head = 0; head < heads; ++head) {
                const std::ptrdiff_t first = start + std::ptrdiff_t{head} * 2 * t.half + i,
                                     second = first + t.half;
                Vf a = get(first, n), b = get(second, n);
                if (t.gamma) {
                    a = a * inverse[head] * upper;
                    b = b * inverse[head] * lower;
                }
                put(first, a * cosine - b * sine, n);
                put(second, b * cosine + a * sine, n);
            }
        }
    }
}

inline void rotate(const Rotation& t, void* row) {
    if (t.bf16) {
        auto* const x = static_cast<std::uint16_t*>(row);
        rotate_row(
            t,
            [x](std::ptrdiff_t i, std::ptrdiff_t n) {
                return n == kLanes ? Bf16Row{x}.at(i) : Bf16Row{x}.some(i, n);
            },
            [x](std::ptrdiff_t i, Vf v, std::ptrdiff_t n) {
                const Vh h = to_bf16(v);
                if (n == kLanes) return store(x + i, h);
                __builtin_memcpy(x + i, &h, static_cast<std::size_t>(n) * 2);
            });
    } else {
        auto* const x = static_cast<float*>(row);
        rotate_row(
            t, [x](std::ptrdiff_t i, std::ptrdiff_t n) { return load_some(x + i, n); },
            [x](std::ptrdiff_t i, Vf v, std::ptrdiff_t n) { store_some(x + i, v, n); });
    }
}

inline void activate(Activation activation, const float* x, std::ptrdiff_t n, float* y) {
    for (std::ptrdiff_t i = 0; i < n; i += kLanes) {
        const std::ptrdiff_t m = n - i < kLanes ? n - i : kLanes;
        store_some(y + i, activated<false>(activation, load_some(x + i, m)), m);
    }
}

inline void exp2(const float* x, std::ptrdiff_t n, float* y) {
    for (std::ptrdiff_t i = 0; i < n; i += kLanes) {
        const std::ptrdiff_t m = n - i < kLanes ? n - i : kLanes;
        store_some(y + i, exp2_nonpositive<false>(load_some(x + i, m)), m);
    }
}

}  // namespace crossrank::CR_ISA
