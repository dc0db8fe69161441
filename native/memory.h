// Memory for weights and activations.
#pragma once

#include <cstddef>
#include <memory>

namespace crossrank {

struct FreeBuffer {
    void operator()(void* p) const;
};
using Buffer = std::unique_ptr<void, FreeBuffer>;

// Zeroed, aligned to 64 bytes. Throws std::bad_alloc.
Buffer allocate(std::size_t bytes);

// Memory that grows on demand and is reused by the next call.
class Arena {
  public:
    // At least `bytes`, aligned to 64. Earlier contents are lost. Throws std::bad_alloc.
    char* reserve(std::size_t bytes);
    // Frees the memory if it is larger than `bytes`.
    void trim(std::size_t bytes);

  private:
    Buffer buffer_;
    std::size_t size_ = 0;
};

}  // namespace crossrank
