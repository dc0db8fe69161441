#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace crossrank {

void FreeBuffer::operator()(void* p) const { std::free(p); }

Buffer allocate(std::size_t bytes) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, std::max<std::size_t>(bytes, 64)) != 0) throw std::bad_alloc();
    std::memset(p, 0, bytes);
    return Buffer(p);
}

char* Arena::reserve(std::size_t bytes) {
    if (bytes > size_) {
        buffer_.reset();
        size_ = 0;
        void* p = nullptr;
        constexpr std::size_t kHuge = std::size_t{2} << 20;
        const std::size_t size = (bytes + kHuge - 1) / kHuge * kHuge;
        if (posix_memalign(&p, kHuge, size) != 0) throw std::bad_alloc();
        buffer_.reset(p);
        size_ = size;
#ifdef MADV_HUGEPAGE
        (void)madvise(p, size, MADV_HUGEPAGE);  // fewer TLB misses; it does not matter if this is refused
#endif
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
