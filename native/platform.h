// What operating systems do differently: aligned memory, reads from files, and processes.
// (map_guard.h has maps of files; dispatch.cpp what a processor's registers need of the system.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace crossrank {

// Memory aligned to `alignment`, a power of two and a multiple of sizeof(void*). Throws std::bad_alloc.
void* allocate_aligned(std::size_t alignment, std::size_t bytes);
void free_aligned(void* p);

// Asks for large pages, so that there are fewer TLB misses. It does not matter if this is refused.
void prefer_large_pages(void* p, std::size_t bytes);

// The process: another one after fork, where the system has it.
int process_id();

// Up to `bytes` bytes of a file from `place` on, whatever its position is: how many there are, or -1, and
// then errno says why. Several threads may read at the same time.
std::ptrdiff_t read_at(int file, void* to, std::size_t bytes, std::int64_t place);

// A duplicate of a file descriptor, or -1, and then errno says why.
int duplicate_file(int file);
void close_file(int file);
int descriptor_of(std::FILE* file);

}  // namespace crossrank
