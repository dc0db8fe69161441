// A memory map of a file that may shrink: where pages are gone, reading them ends the process by SIGBUS.
// While a MapGuard lives, such a read finds zeros instead, and the guard says so afterwards.
//
// On Windows it guards nothing: there no file shrinks while it is mapped.
#pragma once

#include <cstddef>

namespace crossrank {

class MapGuard {
  public:
    // Guards `size` bytes from `begin`, the first byte of a map. The map must outlive the guard.
    // Throws std::runtime_error where too many are guarded already.
    MapGuard(void* begin, std::size_t size);
    ~MapGuard();
    MapGuard(const MapGuard&) = delete;
    MapGuard& operator=(const MapGuard&) = delete;

    // Whether a read found zeros because the file had shrunk or could not be read.
    bool damaged() const;

  private:
    int slot_;
};

}  // namespace crossrank
