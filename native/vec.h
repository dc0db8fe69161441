// A vector of CR_LANES floats, on the compiler's own vector types (GCC and clang), so that one text gives
// SSE, AVX2, AVX-512 and NEON code. Each instruction set's source file includes this once, inside a
// namespace of its own (CR_ISA): nothing here may be shared by the linker between instruction sets.
#pragma once

#include <cstddef>
#include <cstdint>

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

CR_INLINE Vf splat(float x) { return Vf{} + x; }
CR_INLINE Vi bits(Vf v) { return reinterpret_cast<Vi>(v); }
CR_INLINE Vf from_bits(Vi v) { return reinterpret_cast<Vf>(v); }
CR_INLINE Vf max(Vf a, Vf b) { return a > b ? a : b; }
CR_INLINE Vf min(Vf a, Vf b) { return a < b ? a : b; }
CR_INLINE Vf abs(Vf v) { return from_bits(bits(v) & 0x7fffffff); }

// Contracted to one instruction where there is one (-ffp-contract=fast).
CR_INLINE Vf fma(Vf a, Vf b, Vf c) { return a * b + c; }

// Halves are folded onto each other, so the order of the sum is fixed.
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

CR_INLINE std::int32_t sum(Vi v) {
    std::int32_t t = 0;
    for (int i = 0; i < kLanes; ++i) t += v[i];
    return t;
}

// To the nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves the integer in the low
// bits of the mantissa.
constexpr float kRound = 12582912.0f;
constexpr std::int32_t kRoundBits = 0x4b400000;

// bf16 is the upper half of fp32; to nearest even. (NaN may become infinity: weights and inputs are
// checked elsewhere, and an infinite logit is refused as well as a NaN.)
CR_INLINE Vh to_bf16(Vf x) {
    const Vu b = reinterpret_cast<Vu>(x);
    return __builtin_convertvector((b + 0x7fff + ((b >> 16) & 1)) >> 16, Vh);
}

// exp(x) for x <= 0: 2^(n + f) with |f| <= 1/2; 2^f by a polynomial of degree 5 fitted for the least
// relative error (7.5e-8; least squares reweighted towards the minimax solution). Below 2^-126: 2^-126.
CR_INLINE Vf exp_nonpositive(Vf x) {
    const Vf t = max(x * 1.44269504f, splat(-126.0f));
    const Vf shifted = t + kRound;
    const Vf f = t - (shifted - kRound);
    Vf p = splat(0.00132764666f);
    p = fma(p, f, splat(0.00967554096f));
    p = fma(p, f, splat(0.0555071346f));
    p = fma(p, f, splat(0.240221202f));
    p = fma(p, f, splat(0.693146944f));
    p = fma(p, f, splat(1.0f));
    return from_bits(bits(p) + ((bits(shifted) - kRoundBits) << 23));
}

// GELU, as the models were trained: x/2 (1 + erf(x / sqrt 2)). With y = x clipped to c sqrt 2, c = 3.7, where
// erf is 1 to 1.7e-7: erf(y / sqrt 2) = y P(y^2/c^2 - 1). P has degree 13 and was fitted to erf by least
// squares on Chebyshev nodes, reweighted towards the least largest error: 1.5e-7, and 4e-7 with fp32 rounding
// (tests/engines measures it).
CR_INLINE Vf gelu(Vf x) {
    const Vf y = min(max(x, splat(-5.2325902f)), splat(5.2325902f));
    const Vf t = fma(y * 0.0730460212f, y, splat(-1.0f));
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

}  // namespace crossrank::CR_ISA
