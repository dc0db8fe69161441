#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#ifdef CROSSRANK_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace crossrank {

extern const Kernels kPortable;

#if defined(__x86_64__)

extern const Kernels kAvx2;
#ifdef CROSSRANK_HAS_AVX_VNNI
extern const Kernels kAvxVnni;
#endif
extern const Kernels kAvx512Vnni;
#ifdef CROSSRANK_HAS_AVX512_BF16
extern const Kernels kAvx512Bf16;
#endif
#ifdef CROSSRANK_HAS_AMX
extern const Kernels kAmx;
#endif

namespace {

struct Registers {
    unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers r;
    if (__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) return {};
    return r;
}

bool bit(unsigned word, int n) { return (word >> n & 1) != 0; }

// Register state that the operating system saves for a thread: without it, an instruction that the
// processor has still traps.
unsigned saved_state() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

#ifdef CROSSRANK_HAS_AMX
// AMX's tiles are 8 KiB of state for each thread, which Linux saves only for a process that has asked for it.
bool tiles_allowed() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

std::vector<const Kernels*> detect() {
    std::vector<const Kernels*> found;
    const Registers basic = cpuid(1, 0), extended = cpuid(7, 0), more = cpuid(7, 1);
    const bool osxsave = bit(basic.c, 27);
    const unsigned state = osxsave ? saved_state() : 0;
    const bool ymm = (state & 0x06) == 0x06;  // XMM and YMM
    const bool zmm = (state & 0xe6) == 0xe6;  // and opmask, both halves of ZMM
    const bool avx2 = ymm && bit(basic.c, 28) && bit(basic.c, 12) && bit(extended.b, 5);  // AVX, FMA, AVX2
    const bool avx512 = avx2 && zmm && bit(extended.b, 16) && bit(extended.b, 17) && bit(extended.b, 30) &&
                        bit(extended.b, 31) && bit(extended.c, 11);  // F, DQ, BW, VL, VNNI
#ifdef CROSSRANK_HAS_AMX
    const bool amx = bit(extended.d, 22) && bit(extended.d, 24) && bit(extended.d, 25);  // BF16, TILE, INT8
    if (avx512 && bit(more.a, 5) && amx && tiles_allowed()) found.push_back(&kAmx);
#endif
#ifdef CROSSRANK_HAS_AVX512_BF16
    if (avx512 && bit(more.a, 5)) found.push_back(&kAvx512Bf16);
#endif
    if (avx512) found.push_back(&kAvx512Vnni);
#ifdef CROSSRANK_HAS_AVX_VNNI
    if (avx2 && bit(more.a, 4)) found.push_back(&kAvxVnni);
#endif
    if (avx2) found.push_back(&kAvx2);
    (void)more;
    found.push_back(&kPortable);
    return found;
}

}  // namespace

#elif defined(__aarch64__)

extern const Kernels kNeonDotprod;

namespace {

std::vector<const Kernels*> detect() {
#if defined(__APPLE__)
    const bool dotprod = true;  // every Apple processor that runs macOS on Arm has it
#elif defined(__linux__)
    const bool dotprod = (getauxval(AT_HWCAP) >> 20 & 1) != 0;  // HWCAP_ASIMDDP
#else
    const bool dotprod = false;
#endif
    if (dotprod) return {&kNeonDotprod, &kPortable};
    return {&kPortable};
}

}  // namespace

#else

namespace {
std::vector<const Kernels*> detect() { return {&kPortable}; }
}  // namespace

#endif

const std::vector<const Kernels*>& available_kernels() {
    static const std::vector<const Kernels*> found = detect();
    return found;
}

const Kernels& find_kernels(const std::string& name) {
    if (name.empty()) return default_kernels();
    std::string names;
    for (const Kernels* k : available_kernels()) {
        if (name == k->name) return *k;
        names += names.empty() ? k->name : std::string(", ") + k->name;
    }
    throw std::invalid_argument("instruction set '" + name +
                                "' is unknown or cannot run here; there are: " + names);
}

const Kernels& default_kernels() {
    const char* forced = std::getenv("CROSSRANK_ISA");
    if (forced == nullptr || *forced == '\0') return *available_kernels().front();
    try {
        return find_kernels(forced);
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(std::string("CROSSRANK_ISA: ") + error.what());
    }
}

}  // namespace crossrank
