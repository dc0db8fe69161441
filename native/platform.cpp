#include "platform.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <new>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX  // libstdc++ defines it
#define NOMINMAX
#endif
#include <io.h>
#include <malloc.h>
#include <process.h>
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace crossrank {

#ifdef _WIN32

void* allocate_aligned(std::size_t alignment, std::size_t bytes) {
    void* p = _aligned_malloc(bytes, alignment);
    if (p == nullptr) throw std::bad_alloc();
    return p;
}

void free_aligned(void* p) { _aligned_free(p); }

void prefer_large_pages(void*, std::size_t) {}  // they need a privilege that users do not have

int process_id() { return _getpid(); }

std::ptrdiff_t read_at(int file, void* to, std::size_t bytes, std::int64_t place) {
    const auto handle = reinterpret_cast<HANDLE>(_get_osfhandle(file));
    OVERLAPPED at{};
    at.Offset = static_cast<DWORD>(place & 0xffffffff);
    at.OffsetHigh = static_cast<DWORD>(place >> 32);
    DWORD got = 0;
    constexpr std::size_t kMost = std::size_t{1} << 30;
    if (ReadFile(handle, to, static_cast<DWORD>(std::min(bytes, kMost)), &got, &at) == 0) {
        if (GetLastError() == ERROR_HANDLE_EOF) return 0;
        errno = GetLastError() == ERROR_INVALID_HANDLE ? EBADF : EIO;
        return -1;
    }
    return static_cast<std::ptrdiff_t>(got);
}

int duplicate_file(int file) { return _dup(file); }
void close_file(int file) { _close(file); }
int descriptor_of(std::FILE* file) { return _fileno(file); }

#else

void* allocate_aligned(std::size_t alignment, std::size_t bytes) {
    void* p = nullptr;
    if (posix_memalign(&p, alignment, bytes) != 0) throw std::bad_alloc();
    return p;
}

void free_aligned(void* p) { std::free(p); }

void prefer_large_pages(void* p, std::size_t bytes) {
#ifdef MADV_HUGEPAGE
    (void)madvise(p, bytes, MADV_HUGEPAGE);
#else
    (void)p;
    (void)bytes;
#endif
}

int process_id() { return getpid(); }

std::ptrdiff_t read_at(int file, void* to, std::size_t bytes, std::int64_t place) {
    for (;;) {
        const ssize_t got = pread(file, to, bytes, static_cast<off_t>(place));
        if (got >= 0 || errno != EINTR) return got;
    }
}

int duplicate_file(int file) { return dup(file); }
void close_file(int file) { (void)close(file); }
int descriptor_of(std::FILE* file) { return fileno(file); }

#endif

}  // namespace crossrank
