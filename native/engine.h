// The engine: a model with its threads. Packs of token ids to one logit for each pair.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "memory.h"
#include "model.h"
#include "threads.h"

namespace crossrank {

class Engine {
  public:
    // `model` points into tensors that must outlive the engine. `threads` is at least 1. Throws
    // std::system_error where the system allows no more threads.
    Engine(Model model, const Kernels& kernels, int threads);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    // token_ids (T), offsets (pairs + 1), segment_ids (T) or null (all zero) -> out (pairs).
    // Safe to call from several threads: threads that have done their part of one call go on with the next.
    // Throws std::invalid_argument for a wrong pack, std::runtime_error after fork.
    void logits(const std::int32_t* token_ids, std::int64_t tokens, const std::int32_t* offsets,
                std::int64_t pairs, const std::int32_t* segment_ids, float* out);

    const Model& model() const { return model_; }
    const Kernels& kernels() const { return kernels_; }
    int threads() const { return threads_; }

  private:
    void check(const std::int32_t* token_ids, std::int64_t tokens, const std::int32_t* offsets,
               std::int64_t pairs, const std::int32_t* segment_ids) const;

    const Model model_;
    const Kernels& kernels_;
    const int threads_;
    const pid_t process_;
    std::atomic<int> calls_{0};  // in progress
    std::unique_ptr<ThreadPool> pool_;
    std::vector<Arena> arenas_;  // one for each thread
    std::mutex sharing_;         // held while threads share pairs, which is for one call at a time
    Arena shared_arena_;         // for those pairs
};

}  // namespace crossrank
