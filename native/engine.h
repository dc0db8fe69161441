// The engine: a model with its threads. Packs of token ids to one logit for each pair.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "memory.h"
#include "model.h"
#include "prefixes.h"
#include "threads.h"

namespace crossrank {

struct Call;  // encoder.h

// Pairs, laid end to end.
struct Pack {
    const std::int32_t* token_ids = nullptr;  // (tokens)
    std::int64_t tokens = 0;
    const std::int32_t* offsets = nullptr;  // (pairs + 1)
    std::int64_t pairs = 0;
    const std::int32_t* segment_ids = nullptr;  // (tokens); null: all are 0

    // What stands before the pairs' tokens. Without it, prefix_of is null.
    const std::int32_t* prefix_ids = nullptr;  // (prefix_tokens)
    std::int64_t prefix_tokens = 0;
    const std::int32_t* prefix_offsets = nullptr;  // (prefixes + 1)
    std::int64_t prefixes = 0;
    const std::int32_t* prefix_of = nullptr;  // (pairs): the number of each pair's prefix
};

class Engine {
  public:
    // Memory for prefixes that are kept from call to call.
    static constexpr std::size_t kPrefixBytes = std::size_t{256} << 20;

    // `model` points into tensors that must outlive the engine. `threads` is at least 1. Throws
    // std::system_error where the system allows no more threads.
    Engine(Model model, const Kernels& kernels, int threads, std::size_t prefix_bytes = kPrefixBytes);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    // A logit for each pair: out (pairs).
    // Safe to call from several threads: threads that have done their part of one call go on with the next.
    // Throws std::invalid_argument for a wrong pack, std::runtime_error after fork.
    void logits(const Pack& pack, float* out);

    const Model& model() const { return model_; }
    const Kernels& kernels() const { return kernels_; }
    int threads() const { return threads_; }
    // Bytes of the prefixes that are kept now, and all tokens of prefixes that were computed so far.
    std::size_t prefix_bytes() const { return prefixes_.bytes(); }
    std::int64_t prefix_tokens() const { return prefix_tokens_; }

  private:
    using Tokens = std::vector<std::int32_t>;

    void check(const Pack& pack) const;
    void check_prefixes(const Pack& pack) const;
    void run(const Call& call, std::vector<std::int32_t> pairs);
    Call call(const std::int32_t* token_ids, const std::int32_t* offsets) const;
    std::vector<SharedPrefix> prefixes_of(const std::vector<Tokens>& wanted);
    std::vector<SharedPrefix> compute(const std::vector<Tokens>& wanted);
    std::size_t prefix_stride() const;

    const Model model_;
    const Kernels& kernels_;
    const int threads_;
    const int process_;
    std::atomic<int> calls_{0};  // in progress
    std::unique_ptr<ThreadPool> pool_;
    std::vector<Arena> arenas_;  // one for each thread
    std::mutex sharing_;         // held while threads share pairs, which is for one call at a time
    Arena shared_arena_;         // for those pairs
    PrefixCache prefixes_;
    std::mutex prefixing_;  // held while prefixes are computed: who wants the same waits for them
    std::atomic<std::int64_t> prefix_tokens_{0};
};

}  // namespace crossrank
