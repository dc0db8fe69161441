#include "memory.h"

#include <algorithm>
#include <cstring>

#include "platform.h"

namespace crossrank {

void FreeBuffer::operator()(void* p) const { free_aligned(p); }

Buffer allocate(std::size_t bytes) {
    void* p = allocate_aligned(64, std::max<std::size_t>(bytes, 64));
    std::memset(p, 0, bytes);
    return Buffer(p);
}

char* Arena::reserve(std::size_t bytes) {
    if (bytes > size_) {
        buffer_.reset();
        size_ = 0;
        constexpr std::size_t kHuge = std::size_t{2} << 20;
        const std::size_t size = (bytes + kHuge - 1) / kHuge * kHuge;
        buffer_.reset(allocate_aligned(kHuge, size));
        size_ = size;
        prefer_large_pages(buffer_.get(), size);
    }
    return static_cast<char*>(buffer_.get());
}

void Arena::trim(std::size_t bytes) {
    if (size_ > bytes) {
        buffer_.reset();
        size_ = 0;
    }
}

}  // namespace crossrank
