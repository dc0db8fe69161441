// A vector of CR_LANES floats, on the compiler's own vector types (GCC and clang), so that one text gives
// SSE, AVX2, AVX-512 and NEON code. Each instruction set's source file includes this once, inside a
// namespace of its own (CR_ISA): nothing here may be shared by the linker between instruction sets.
#pragma once

#include <cstddef>
#include <cstdint>
#if CR_LANES >= 8
#include <immintrin.h>
#endif

#include "kernels.h"

#define CR_INLINE inline __attribute__((always_inline))

namespace crossrank::CR_ISA {

constexpr int kLanes = CR_LANES;

typedef float Vf __attribute__((vector_size(4 * CR_LANES)));
typedef std::int32_t Vi __attribute__((vector_size(4 * CR_LANES)));
typedef std::uint32_t Vu __attribute__((vector_size(4 * CR_LANES)));
typedef std::uint16_t Vh __attribute__((vector_size(2 * CR_LANES)));
typedef std::int8_t Vb __attribute__((vector_size(CR_LANES)));

template <class V>
CR_INLINE V load(const void* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <class V>
CR_INLINE void store(void* p, V v) {
    __builtin_memcpy(p, &v, sizeof v);
}

// The first n values, at most a vector, then zeros.
CR_INLINE Vf load_some(const float* p, std::ptrdiff_t n) {
    if (n >= kLanes) return load<Vf>(p);
    Vf v{};
    __builtin_memcpy(&v, p, static_cast<std::size_t>(n) * 4);
    return v;
}

CR_INLINE void store_some(float* p, Vf v, std::ptrdiff_t n) {
    if (n >= kLanes) return store(p, v);
    __builtin_memcpy(p, &v, static_cast<std::size_t>(n) * 4);
}

CR_INLINE Vf splat(float x) { return x - Vf{}; }  // 0 + x would be an addition, as it turns -0 into 0
CR_INLINE Vi bits(Vf v) { return reinterpret_cast<Vi>(v); }
CR_INLINE Vf from_bits(Vi v) { return reinterpret_cast<Vf>(v); }

// As instructions, where the compiler would make two of it.
#if CR_LANES == 16
CR_INLINE Vf max(Vf a, Vf b) { return _mm512_max_ps(a, b); }
CR_INLINE Vf min(Vf a, Vf b) { return _mm512_min_ps(a, b); }
#elif CR_LANES == 8
CR_INLINE Vf max(Vf a, Vf b) { return _mm256_max_ps(a, b); }
CR_INLINE Vf min(Vf a, Vf b) { return _mm256_min_ps(a, b); }
#else
CR_INLINE Vf max(Vf a, Vf b) { return a > b ? a : b; }
CR_INLINE Vf min(Vf a, Vf b) { return a < b ? a : b; }
#endif

CR_INLINE Vf abs(Vf v) { return from_bits(bits(v) & 0x7fffffff); }

// Contracted to one instruction where there is one (-ffp-contract=fast).
CR_INLINE Vf fma(Vf a, Vf b, Vf c) { return a * b + c; }

// Halves are folded onto each other, so the order of the sum is fixed.
#if CR_LANES == 16
CR_INLINE float sum(Vf v) { return _mm512_reduce_add_ps(v); }
CR_INLINE float max_of(Vf v) { return _mm512_reduce_max_ps(v); }
#else
CR_INLINE float sum(Vf v) {
    float t[kLanes];
    __builtin_memcpy(t, &v, sizeof v);
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) t[i] += t[i + half];
    return t[0];
}

CR_INLINE float max_of(Vf v) {
    float t[kLanes];
    __builtin_memcpy(t, &v, sizeof v);
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
    return t[0];
}
#endif

#if CR_LANES == 16
constexpr Vi kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif CR_LANES == 8
constexpr Vi kLane = {0, 1, 2, 3, 4, 5, 6, 7};
#else
constexpr Vi kLane = {0, 1, 2, 3};
#endif

// Of lanes i and i + kApart, where i has no such bit: the sum at i, the difference at i + kApart.
template <int kApart>
CR_INLINE Vf butterfly(Vf v) {
#ifdef __clang__
    Vf other{};
    for (int i = 0; i < kLanes; ++i) other[i] = v[i ^ kApart];
#else
    const Vf other = __builtin_shuffle(v, kLane ^ kApart);
#endif
    return fma(v, (kLane & kApart) != 0 ? splat(-1.0f) : splat(1.0f), other);
}

CR_INLINE Vi max(Vi a, Vi b) { return a > b ? a : b; }

CR_INLINE Vu widen(Vh h) {
#if CR_LANES == 16
    return reinterpret_cast<Vu>(
        _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(h)));  // GCC 12 makes five of it
#else
    return __builtin_convertvector(h, Vu);
#endif
}

CR_INLINE std::int32_t max_of(Vi v) {
#if CR_LANES == 16
    return _mm512_reduce_max_epi32(reinterpret_cast<__m512i>(v));
#else
    std::int32_t m = v[0];
    for (int i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
    return m;
#endif
}

CR_INLINE std::int32_t sum(Vi v) {
#if CR_LANES == 16
    return _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(v));
#else
    std::int32_t t = 0;
    for (int i = 0; i < kLanes; ++i) t += v[i];
    return t;
#endif
}

// To the nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves the integer in the low
// bits of the mantissa.
constexpr float kRound = 12582912.0f;
constexpr std::int32_t kRoundBits = 0x4b400000;

// bf16 is the upper half of fp32; to nearest even. (NaN may become infinity: weights and inputs are
// checked elsewhere, and an infinite logit is refused as well as a NaN.)
CR_INLINE Vh to_bf16(Vf x) {
#ifdef CR_AVX512_BF16
    return reinterpret_cast<Vh>(
        _mm512_cvtneps_pbh(x));  // the same, but for numbers below 2^-126: they become 0
#else
    const Vu b = reinterpret_cast<Vu>(x);
    return __builtin_convertvector((b + 0x7fff + ((b >> 16) & 1)) >> 16, Vh);
#endif
}

// Two vectors as bf16, one after the other.
CR_INLINE void store_bf16(void* to, Vf first, Vf second) {
#ifdef CR_AVX512_BF16
    store(to, _mm512_cvtne2ps_pbh(second, first));
#else
    store(to, to_bf16(first));
    store(static_cast<char*>(to) + 2 * kLanes, to_bf16(second));
#endif
}

// 2^x for x <= 0: 2^n 2^f with |f| <= 1/2, and 2^f by a polynomial fitted for the least relative error:
// degree 5, 7.5e-8, or, for results that are rounded to bf16 next, degree 4, 2.6e-6. Below 2^-126 the result
// is 2^-126 or less.
template <bool coarse>
CR_INLINE Vf exp2_nonpositive(Vf x) {
#if CR_LANES == 16
    const Vf n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vf f = x - n;
#else
    const Vf clipped = max(x, splat(-126.0f));
    const Vf shifted = clipped + kRound;
    const Vf f = clipped - (shifted - kRound);
#endif
    Vf p;
    if constexpr (coarse) {
        p = splat(0.00957009662f);
        p = fma(p, f, splat(0.0559178591f));
        p = fma(p, f, splat(0.240247443f));
        p = fma(p, f, splat(0.693121791f));
        p = fma(p, f, splat(0.999999285f));
    } else {
        p = splat(0.00132764666f);
        p = fma(p, f, splat(0.00967554096f));
        p = fma(p, f, splat(0.0555071346f));
        p = fma(p, f, splat(0.240221202f));
        p = fma(p, f, splat(0.693146944f));
        p = fma(p, f, splat(1.0f));
    }
#if CR_LANES == 16
    return _mm512_scalef_ps(p, n);
#else
    // Unsigned: n is negative, and to shift such a number to the left is undefined.
    const Vu n = reinterpret_cast<Vu>(bits(shifted) - kRoundBits);
    return reinterpret_cast<Vf>(reinterpret_cast<Vu>(p) + (n << 23));
#endif
}

// GELU, as the models were trained: x/2 (1 + erf(x / sqrt 2)). With y = x clipped to +-c sqrt 2:
// erf(y / sqrt 2) = y P(y^2/c^2 - 1), where P was fitted to erf by least squares on Chebyshev nodes,
// reweighted towards the least largest error.
//
// c = 3.7, degree 13: erf to 2e-7, and 5e-7 with the rounding of fp32.
CR_INLINE Vf gelu(Vf x) {
    constexpr float kClip = 5.2325902f, kScale = 0.0730460212f;
    const Vf y = min(max(x, splat(-kClip)), splat(kClip));
    const Vf t = fma(y * kScale, y, splat(-1.0f));
    Vf p = splat(-0.00106394489f);
    p = fma(p, t, splat(0.00277709146f));
    p = fma(p, t, splat(-0.00257912232f));
    p = fma(p, t, splat(0.00369340065f));
    p = fma(p, t, splat(-0.0100066876f));
    p = fma(p, t, splat(0.0177809894f));
    p = fma(p, t, splat(-0.0255974885f));
    p = fma(p, t, splat(0.0363985822f));
    p = fma(p, t, splat(-0.0498062149f));
    p = fma(p, t, splat(0.0640814677f));
    p = fma(p, t, splat(-0.0796524435f));
    p = fma(p, t, splat(0.0995532349f));
    p = fma(p, t, splat(-0.134681031f));
    p = fma(p, t, splat(0.270212024f));
    const Vf half = x * 0.5f;
    return fma(half, y * p, half);
}

// c = 2.65, degree 6: erf to 1.1e-4. For values that are rounded to bf16 or int8 next, whose steps are ten
// times coarser or more. Takes x / c, and P holds a factor c / 2: x/2 (1 + y P) is then z (c/2 + y P).
constexpr float kGeluUnit = 2.65f;
CR_INLINE Vf gelu_coarse(Vf z) {
    constexpr float kClip = 1.41421356f;
#if CR_LANES == 16
    const Vf y = _mm512_range_ps(z, splat(kClip), 2);  // of both the nearer to 0, with z's sign
#else
    const Vf y = min(max(z, splat(-kClip)), splat(kClip));
#endif
    const Vf t = fma(y, y, splat(-1.0f));
    Vf p = splat(0.0330526456f);
    p = fma(p, t, splat(-0.0872745216f));
    p = fma(p, t, splat(0.133997992f));
    p = fma(p, t, splat(-0.227893665f));
    p = fma(p, t, splat(0.38694343f));
    p = fma(p, t, splat(-0.616367996f));
    p = fma(p, t, splat(1.31439519f));
    return z * fma(y, p, splat(0.5f * kGeluUnit));
}

// 1 / (1 + 2^-x)
template <bool coarse>
CR_INLINE Vf sigmoid2(Vf x) {
    const Vf power = exp2_nonpositive<coarse>(from_bits(bits(x) | INT32_MIN));  // of -|x|
    const Vf above = 1.0f / (1.0f + power);
    return x >= 0 ? above : power * above;
}

template <bool coarse>
CR_INLINE Vf activated(Activation activation, Vf x) {
    constexpr float kLog2e = 1.44269504f;
    switch (activation) {
        case Activation::gelu:
            return coarse ? gelu_coarse(x * (1 / kGeluUnit)) : gelu(x);
        case Activation::gelu_tanh: {
            // x/2 (1 + tanh(u)) = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
            constexpr float kTwice = 2 * 0.797884561f * kLog2e;
            const Vf u = x * fma(x * (kTwice * 0.044715f), x, splat(kTwice));
            return x * sigmoid2<coarse>(u);
        }
        case Activation::relu:
            return max(splat(0.0f), x);  // in this order, which keeps NaN
        case Activation::silu:
            return x * sigmoid2<coarse>(x * kLog2e);
        case Activation::tanh:
            return fma(sigmoid2<coarse>(x * (2 * kLog2e)), splat(2.0f), splat(-1.0f));
    }
    return x;
}

}  // namespace crossrank::CR_ISA
