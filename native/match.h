// How well a query's tokens match a document's: the largest cosine of each.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace crossrank::CR_ISA {

inline void match(const Match& args) {
    constexpr int kDocumentRows = 2;  // at a time: with four of the query, sums stay in registers
    constexpr float kLeastSquare = 1e-24f;
    const auto row = [&](const float* rows, int i) {
        return reinterpret_cast<const float*>(reinterpret_cast<const char*>(rows) + i * args.stride);
    };
    // A row that is not there is the last one again.
    const float* query[kMatchRows];
    for (int i = 0; i < kMatchRows; ++i)
        query[i] = row(args.query, i < args.query_rows ? i : args.query_rows - 1);

    Vf squares[kMatchRows] = {}, weights[kMatchRows] = {};
    for (int c = 0; c < args.n; c += kLanes) {
        const Vf w = load_some(args.weights + c, args.n - c);
        for (int i = 0; i < kMatchRows; ++i) {
            const Vf q = load_some(query[i] + c, args.n - c);
            squares[i] = fma(q, q, squares[i]);
            weights[i] = fma(q, w, weights[i]);
        }
    }
    float largest[kMatchRows];  // of the products with a document's unit vectors
    for (float& value : largest) value = -__builtin_inff();

    for (int first = 0; first < args.document_rows; first += kDocumentRows) {
        const float* document[kDocumentRows];
        for (int j = 0; j < kDocumentRows; ++j)
            document[j] =
                row(args.document, first + j < args.document_rows ? first + j : args.document_rows - 1);
        Vf products[kMatchRows][kDocumentRows] = {}, own[kDocumentRows] = {};
        const auto add = [&](const auto& values) {
            Vf d[kDocumentRows];
            for (int j = 0; j < kDocumentRows; ++j) {
                d[j] = values(document[j]);
                own[j] = fma(d[j], d[j], own[j]);
            }
            for (int i = 0; i < kMatchRows; ++i) {
                const Vf q = values(query[i]);
                for (int j = 0; j < kDocumentRows; ++j) products[i][j] = fma(q, d[j], products[i][j]);
            }
        };
        int c = 0;
        for (; c + kLanes <= args.n; c += kLanes) add([c](const float* x) { return load<Vf>(x + c); });
        if (c < args.n) add([&](const float* x) { return load_some(x + c, args.n - c); });
        for (int j = 0; j < kDocumentRows; ++j) {
            const float square = sum(own[j]);
            const float inverse = 1.0f / __builtin_sqrtf(square > kLeastSquare ? square : kLeastSquare);
            for (int i = 0; i < kMatchRows; ++i) {
                const float product = sum(products[i][j]) * inverse;
                largest[i] = product > largest[i] ? product : largest[i];
            }
        }
    }
    for (int i = 0; i < args.query_rows; ++i) {
        const float square = sum(squares[i]);
        const float inverse = 1.0f / __builtin_sqrtf(square > kLeastSquare ? square : kLeastSquare);
        args.best[i] = args.document_rows > 0 ? largest[i] * inverse : -1.0f;
        args.weight[i] = sum(weights[i]);
    }
}

}  // namespace crossrank::CR_ISA
