// Weights are prepared once for a model and a precision, and kept: a checkpoint's tensors to those that the
// encoder reads. kernels.h has the form of a matrix; whoever changes anything here or there raises its
// kLayout.
//
// The tensors of a checkpoint have the names that models/architecture.py gives them; a bias that is not there
// is zero. The prepared tensors, for H = hidden, E = embedding, F = intermediate and D = the head size, P(n)
// = n rounded up to 32 (a norm that is an RMSNorm has no beta):
//
//     embedding.words, .positions, .segments     the checkpoint's own tensors, not copied (model.h: Table)
//     embedding.norm.gamma, .beta                float32 (E)
//     embedding.projection.panels, .bias         float32
//     layer.I.query | key | value | attention_output | intermediate | output
//         .panels                                uint8 | uint16 | float32 (N / 32, K / group, 32, group)
//         .bias                                  float32 (P(N))
//         .scale                                 float32 (P(N)), int8 only
//     layer.I.query_norm | key_norm .gamma       float32 (D), if there are norms of heads
//     layer.I.attention_norm | output_norm .gamma, .beta     float32 (H)
//     final_norm.gamma, .beta                    float32 (H)
//     head.N.panels, .bias | .gamma, .beta       float32, of step N
//     head.N.weight, .bias                       float32 (K), (1), of the last step
//
// Where there is a gate, it and the intermediate weights are one matrix, 16 rows of each in turn (kernels.h).
// Attention's 1 / sqrt(head size), and the log2(e) that makes its exponentials powers of two, are folded into
// the query's weights, or into query_norm. In int8 the rows of all but attention_output are rotated
// (kernels.h).
#pragma once

#include <string>
#include <vector>

#include "memory.h"
#include "model.h"
#include "threads.h"

namespace crossrank {

struct PreparedTensor {
    std::string name;
    Tensor tensor;
    Buffer buffer;       // what tensor.data points to, or
    std::string source;  // the name of the checkpoint's tensor that is passed on
};

// Throws std::invalid_argument where a tensor is missing, misshapen, or holds NaN or infinity.
std::vector<PreparedTensor> prepare(const Config& config, Precision precision, const Tensors& checkpoint,
                                    ThreadPool& pool);

// One weight matrix (outputs, inputs), row-major fp32, not rotated: for tests and benchmarks.
// panels: panel_count() * groups() * 128 bytes; scale, bias: outputs rounded up to 32 (scale for int8 only).
void prepare_linear(const float* weight, int outputs, int inputs, Precision precision, void* panels,
                    float* scale);

}  // namespace crossrank
