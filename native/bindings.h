// What both Python modules convert arguments and results with.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace crossrank {

template <class T, class... Shape>
using ArrayOf = nb::ndarray<const T, Shape..., nb::c_contig, nb::device::cpu>;

// Releases the GIL while one of these lives. If the program ends in the meantime, a daemon thread stops here
// for good: before 3.14, Python ends a thread that asks for the GIL then by unwinding its stack, and neither
// a destructor (such as nb::gil_scoped_release's) nor a caller in nanobind lets that through.
class GilReleased {
  public:
    GilReleased() : state_(PyEval_SaveThread()) {}
    ~GilReleased() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
        }
    }
    GilReleased(const GilReleased&) = delete;
    GilReleased& operator=(const GilReleased&) = delete;

  private:
    PyThreadState* const state_;
};

inline Precision precision_of(const std::string& name) {
    if (name == "fp32") return Precision::fp32;
    if (name == "bf16") return Precision::bf16;
    if (name == "int8") return Precision::int8;
    throw std::invalid_argument("precision is '" + name + "'; it must be fp32, bf16 or int8");
}

// An array of Python's that owns the buffer.
template <class T>
nb::ndarray<nb::numpy, T> hand_over(Buffer buffer, const std::vector<std::size_t>& shape) {
    void* data = buffer.get();
    nb::capsule owner(data, [](void* p) noexcept { FreeBuffer()(p); });
    (void)buffer.release();
    return nb::ndarray<nb::numpy, T>(data, shape.size(), shape.data(), owner);
}

template <class T>
nb::ndarray<nb::numpy, T> new_array(const std::vector<std::size_t>& shape) {
    std::size_t size = 1;
    for (const std::size_t extent : shape) size *= extent;
    return hand_over<T>(allocate(size * sizeof(T)), shape);
}

}  // namespace crossrank
