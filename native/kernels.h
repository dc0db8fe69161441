// What an instruction set must provide: the table of kernels, and the form of the data that they share.
//
// Prepared weights have one form for all instruction sets, so that a cache of them can be used on any
// machine. A weight matrix W of N outputs and K inputs is cut into panels of 32 outputs. Inside a
// panel the inputs go in groups that fill 32 bits (four int8, two bf16, one fp32), because that is the
// unit that dot-product instructions (vpdpbusd, vdpbf16ps, sdot) take:
//
//     panels: [N / 32][ceil(K / group)][32 outputs][group inputs]
//
// Weights in int8 are stored unsigned, +128, as vpdpbusd wants one unsigned side. The activations stay
// signed, and their row's sum takes the 128 out again: sum (w + 128) a = sum w a + 128 sum a.
//
// Rotation: a few inputs of a transformer's layers are many times larger than all others, and one scale for
// the row would leave the others few of int8's 256 steps. So, in int8, the inputs of most layers are turned
// by a Hadamard matrix H, block by block, which spreads each of them over its block; and so are the rows of W
// when they are prepared. As H H^T = b for blocks of b, (x H) (w H / b)^T = x w^T: nothing else changes, and
// it needs no data. (The idea is QuIP's and QuaRot's: arXiv 2307.13304, 2404.00456.)
#pragma once

#include <cstddef>
#include <cstdint>

// Functions that the kernels share must leave no copy of their own for the linker: it could take the one that
// was compiled for AVX-512, and a lesser processor would run it.
#define CR_ALWAYS_INLINE __attribute__((always_inline)) inline

namespace crossrank {

// The version of prepared weights: of the form above, and of what prepare.cpp does to a checkpoint. Whoever
// changes either raises it, so that older files in the cache are no longer used; a test compares digests.
constexpr int kLayout = 6;

constexpr int kPanel = 32;                      // outputs of a panel
constexpr int kUnit = 4;                        // bytes of a group of inputs
constexpr std::ptrdiff_t kMaxInputs = 1 << 16;  // 2^16 * 255 * 127 < 2^31: int32 cannot overflow

enum class Precision { fp32, bf16, int8 };

CR_ALWAYS_INLINE constexpr int inputs_per_unit(Precision p) {
    return p == Precision::int8 ? 4 : p == Precision::bf16 ? 2 : 1;
}

CR_ALWAYS_INLINE constexpr std::ptrdiff_t ceil_div(std::ptrdiff_t a, std::ptrdiff_t b) {
    return (a + b - 1) / b;
}
CR_ALWAYS_INLINE constexpr std::ptrdiff_t round_up(std::ptrdiff_t a, std::ptrdiff_t b) {
    return ceil_div(a, b) * b;
}

constexpr int kMaxRotated = 1 << 14;  // inputs; rotated rows are kept on the stack

// Inputs of a block of the rotation: the largest power of two up to 128 that divides n; 1 is no rotation.
CR_ALWAYS_INLINE constexpr int rotation_block(int n) {
    int block = 1;
    while (block < 128 && n <= kMaxRotated && n % (2 * block) == 0) block *= 2;
    return block;
}

// A gated layer is one product: a panel holds the gates of 16 values, and then the 16 values, so that both
// are at hand when a panel's sums are finished.
constexpr int kGates = kPanel / 2;

// Outputs of the product for `values` gated values.
CR_ALWAYS_INLINE constexpr std::ptrdiff_t gated_outputs(int values) { return 2 * round_up(values, kGates); }

// A linear layer on prepared weights: y = x W^T + bias.
struct Linear {
    Precision precision = Precision::fp32;
    int outputs = 0;               // N
    int inputs = 0;                // K
    const void* panels = nullptr;  // see above; need not be aligned
    const float* scale = nullptr;  // (N rounded up to 32): int8 only
    const float* bias = nullptr;   // (N rounded up to 32)

    CR_ALWAYS_INLINE int panel_count() const { return static_cast<int>(ceil_div(outputs, kPanel)); }
    CR_ALWAYS_INLINE int groups() const {
        return static_cast<int>(ceil_div(inputs, inputs_per_unit(precision)));
    }
};

// The left side of a product: M rows of K values in the product's precision, zero-padded to whole groups.
struct Activations {
    const void* data = nullptr;
    std::ptrdiff_t stride = 0;          // bytes from row to row
    const float* scale = nullptr;       // (M): int8 only
    const std::int32_t* sum = nullptr;  // (M): int8 only, sum of each row's int8 values
    int rows = 0;
};

enum class Activation { gelu, gelu_tanh, relu, silu, tanh };

// Where a product goes. Columns are written in whole panels: rows have room for N rounded up to 32; of a
// gated product N is the number of its values.
struct Output {
    void* data = nullptr;
    std::ptrdiff_t stride = 0;  // bytes from row to row
    bool bf16 = false;          // else fp32
    bool add = false;           // to what is there, which is fp32
    bool activated = false;     // by an activation function:
    Activation activation = Activation::gelu;
    bool coarse = false;  // exact to what bf16 and int8 can tell apart; else to fp32
    bool gated = false;   // activation(gate) * value, both being of this product
};

// Some heads of one pair, which have the same keys and values: out = softmax(q k^T) v, where q has been
// multiplied by log2(e) / sqrt(head_dim): the powers are powers of two.
struct Attention {
    bool bf16 = false;    // q, k, v are bf16, else fp32
    int first_query = 0;  // the position of the first query, where that of the first key is 0
    int window = -1;      // the largest distance at which a query sees a key; -1: no limit
    bool causal = false;  // a query sees no key behind itself
    float slope = 0;      // of ALiBi: what a distance of one takes off a score, times log2(e)
    const void *q = nullptr, *k = nullptr, *v = nullptr;
    std::ptrdiff_t q_stride = 0, kv_stride = 0;  // bytes
    int q_rows = 0, kv_rows = 0, head_dim = 0;
    int heads = 1;  // those of q and out, side by side
    // The first `before` of the kv_rows keys and values are here, and only the others at k and v.
    int before = 0;
    const void *k_before = nullptr, *v_before = nullptr;
    float* out = nullptr;           // (q_rows, heads * head_dim)
    std::ptrdiff_t out_stride = 0;  // bytes
    void* scratch = nullptr;        // attention_scratch(head_dim) bytes, aligned to 64
};

// Rotary positions of one row: in each head, values i and i + half are turned by the angles of `coarse` and
// of `fine` together, which are cosines and then sines, `stride` floats on, both padded to whole vectors.
// With `gamma`, each head is normalised before that, by its root mean square.
struct Rotation {
    bool bf16 = false;  // the row is bf16, else fp32
    int heads = 0, half = 0;
    const float* gamma = nullptr;  // (2 * half), or null
    float eps = 0;
    const float *coarse = nullptr, *fine = nullptr;
    std::ptrdiff_t stride = 0;
};

// Some tokens of a query beside a document's: rows of fp32 values.
struct Match {
    const float *query = nullptr, *document = nullptr;
    int query_rows = 0;  // 1 to kMatchRows
    int document_rows = 0;
    std::ptrdiff_t stride = 0;  // bytes from row to row
    int n = 0;
    const float* weights = nullptr;            // (n)
    float *best = nullptr, *weight = nullptr;  // (kMatchRows)
};

constexpr int kMatchRows = 4;

struct Kernels {
    const char* name;
    bool fast_int8;    // products in int8 are faster than in fp32
    bool native_bf16;  // has an instruction for bf16 dot products
    int thread_rows;   // of a small model that are worth a thread of their own: with fewer, threads wait
                       // longer for each other than they work

    // Columns of panels [first, last) of x W^T + bias, with what `out` asks for on top.
    void (*linear)(const Linear& w, const Activations& x, int first, int last, const Output& out);

    void (*attention)(const Attention& args);
    std::size_t (*attention_scratch)(int head_dim);

    // y = (x - mean) / sqrt(variance + eps) * gamma + beta for one row of n values; y may be x.
    void (*layer_norm)(const float* x, const float* gamma, const float* beta, float eps, int n, float* y);

    // y = x / sqrt(mean of squares + eps) * gamma, likewise.
    void (*rms_norm)(const float* x, const float* gamma, float eps, int n, float* y);

    // q = round(x / scale), scale = max|x| / 127. Writes n values and zeros up to a multiple of 4, the scale
    // and the sum of q.
    void (*quantise)(const float* x, int n, std::int8_t* q, float* scale, std::int32_t* sum);

    // The same of x H: rotated before.
    void (*quantise_rotated)(const float* x, int n, std::int8_t* q, float* scale, std::int32_t* sum);

    // The same of bf16 values.
    void (*quantise_rotated_bf16)(const std::uint16_t* x, int n, std::int8_t* q, float* scale,
                                  std::int32_t* sum);

    // fp32 to bf16, to nearest even; writes n values and zeros up to a multiple of 2.
    void (*to_bf16)(const float* x, int n, std::uint16_t* y);

    void (*rotate)(const Rotation& args, void* row);

    // For each row of the query: the largest cosine with a row of the document, -1 where there is none, and
    // the product with `weights`.
    void (*match)(const Match& args);

    void (*activate)(Activation activation, const float* x, std::ptrdiff_t n, float* y);
    void (*exp2)(const float* x, std::ptrdiff_t n, float* y);  // for x <= 0

    // `repeats` int8 products of one register tile that stays in the first-level cache: the rate that
    // nothing can exceed. Returns the number of multiply-adds done.
    double (*peak_int8)(std::int64_t repeats);
};

}  // namespace crossrank
