#include "map_guard.h"

#ifndef _WIN32

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <stdexcept>

namespace crossrank {
namespace {

// What the signal handler reads, which may take no lock. A slot with size 0 is free.
struct Slot {
    std::atomic<std::uintptr_t> begin{0};
    std::atomic<std::size_t> size{0};
    std::atomic<bool> damaged{false};
};

constexpr int kSlots = 256;  // files: a checkpoint has at most some dozens
Slot slots[kSlots];
std::mutex mutex;  // for all but the handler
int guards = 0;
bool installed = false;
struct sigaction before;
std::uintptr_t page_size = 4096;

// Zeros from the missing page to the end of the map: all of it is as useless as the page.
bool fill(std::uintptr_t address) {
    for (Slot& slot : slots) {
        const std::uintptr_t begin = slot.begin.load();
        const std::size_t size = slot.size.load();
        if (size == 0 || address < begin || address - begin >= size) continue;
        const std::uintptr_t page = address / page_size * page_size;
        slot.damaged.store(true);
        return mmap(reinterpret_cast<void*>(page), begin + size - page, PROT_READ,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
    }
    return false;
}

void handle(int number, siginfo_t* info, void* context) {
    if (fill(reinterpret_cast<std::uintptr_t>(info->si_addr))) return;
    if (before.sa_flags & SA_SIGINFO) before.sa_sigaction(number, info, context);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) before.sa_handler(number);
    else sigaction(number, &before, nullptr);  // the read is repeated, and has its usual consequence
}

}  // namespace

MapGuard::MapGuard(void* begin, std::size_t size) : slot_(0) {
    const std::lock_guard<std::mutex> lock(mutex);
    while (slot_ < kSlots && slots[slot_].size.load() != 0) ++slot_;
    if (slot_ == kSlots) throw std::runtime_error("too many files are mapped at a time");
    if (!installed) {
        page_size = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
        struct sigaction action{};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        installed = sigaction(SIGBUS, &action, &before) == 0;
    }
    ++guards;
    Slot& slot = slots[slot_];
    slot.damaged.store(false);
    slot.begin.store(reinterpret_cast<std::uintptr_t>(begin));
    slot.size.store(size);
}

MapGuard::~MapGuard() {
    const std::lock_guard<std::mutex> lock(mutex);
    slots[slot_].size.store(0);
    if (--guards > 0) return;
    struct sigaction now{};
    sigaction(SIGBUS, nullptr, &now);
    // Where somebody else's handler has come since, it may call this one, which stays.
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == handle)
        installed = sigaction(SIGBUS, &before, nullptr) != 0;
}

bool MapGuard::damaged() const { return slots[slot_].damaged.load(); }

}  // namespace crossrank

#else

namespace crossrank {

MapGuard::MapGuard(void*, std::size_t) : slot_(0) {}
MapGuard::~MapGuard() = default;
bool MapGuard::damaged() const { return slot_ != 0; }

}  // namespace crossrank

#endif
