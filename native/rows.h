// What is done to one row of activations between the products.
#pragma once

#include "vec.h"

namespace crossrank::CR_ISA {

void layer_norm(const float* x, const float* gamma, const float* beta, float eps, int n, float* y) {
    const int whole = n / kLanes * kLanes, rest = n - whole;
    Vf total{};
    for (int i = 0; i < whole; i += kLanes) total += load<Vf>(x + i);
    if (rest) total += load_some(x + whole, rest);
    const float mean = sum(total) / static_cast<float>(n);

    Vf squares{};
    for (int i = 0; i < whole; i += kLanes) {
        const Vf d = load<Vf>(x + i) - mean;
        squares = fma(d, d, squares);
    }
    float variance = sum(squares);
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

void quantise(const float* x, const float* smooth, int n, std::int8_t* q, float* scale, std::int32_t* sum_q) {
    const int whole = n / kLanes * kLanes;
    Vf largest{};
    float largest_rest = 0;
    if (smooth)
        for (int i = 0; i < whole; i += kLanes)
            largest = max(largest, abs(load<Vf>(x + i) * load<Vf>(smooth + i)));
    else
        for (int i = 0; i < whole; i += kLanes) largest = max(largest, abs(load<Vf>(x + i)));
    for (int i = whole; i < n; ++i) {
        const float v = __builtin_fabsf(smooth ? x[i] * smooth[i] : x[i]);
        largest_rest = v > largest_rest ? v : largest_rest;
    }
    float amax = max_of(largest);
    amax = largest_rest > amax ? largest_rest : amax;
    // A row of zeros, or of values too small to invert, is all zeros.
    const float inverse = amax > 1e-30f ? 127.0f / amax : 0.0f;
    *scale = amax > 1e-30f ? amax * (1.0f / 127.0f) : 0.0f;

    // |x| inverse may exceed 127 by rounding only, and then by far less than one half.
    Vi total{};
    for (int i = 0; i < whole; i += kLanes) {
        const Vf v = smooth ? load<Vf>(x + i) * load<Vf>(smooth + i) : load<Vf>(x + i);
        const Vi rounded = bits(fma(v, splat(inverse), splat(kRound))) - kRoundBits;
        total += rounded;
        store(q + i, __builtin_convertvector(rounded, Vb));
    }
    std::int32_t s = sum(total);
    for (int i = whole; i < n; ++i) {
        const float v = smooth ? x[i] * smooth[i] : x[i];
        q[i] = static_cast<std::int8_t>(__builtin_lrintf(v * inverse));
        s += q[i];
    }
    for (int i = n; i % 4; ++i) q[i] = 0;
    *sum_q = s;
}

void to_bf16(const float* x, int n, std::uint16_t* y) {
    const int whole = n / kLanes * kLanes;
    for (int i = 0; i < whole; i += kLanes) store(y + i, to_bf16(load<Vf>(x + i)));
    if (whole < n) {
        const Vh rest = to_bf16(load_some(x + whole, n - whole));
        __builtin_memcpy(y + whole, &rest, static_cast<std::size_t>(n - whole) * 2);
    }
    if (n % 2) y[n] = 0;
}

void gelu(const float* x, std::ptrdiff_t n, float* y) {
    for (std::ptrdiff_t i = 0; i < n; i += kLanes) {
        const std::ptrdiff_t m = n - i < kLanes ? n - i : kLanes;
        store_some(y + i, gelu(load_some(x + i, m)), m);
    }
}

void exp2(const float* x, std::ptrdiff_t n, float* y) {
    for (std::ptrdiff_t i = 0; i < n; i += kLanes) {
        const std::ptrdiff_t m = n - i < kLanes ? n - i : kLanes;
        store_some(y + i, exp2_nonpositive<false>(load_some(x + i, m)), m);
    }
}

}  // namespace crossrank::CR_ISA
