// The encoder: packs of token ids to one logit for each pair.
#pragma once

#include <sys/types.h>
#include <atomic>

#include <memory>
#include <mutex>

#include "model.h"
#include "pack.h"
#include "threads.h"

namespace crossrank {

// Memory that grows and is used again by the next call.
class Arena {
  public:
    // At least `bytes`, aligned to 64; what was there before is lost. Throws std::bad_alloc.
    char* reserve(std::size_t bytes);
    // Gives back more than `bytes`.
    void trim(std::size_t bytes);

  private:
    Buffer buffer_;
    std::size_t size_ = 0;
};

struct Input;  // of one call: encoder.cpp
struct Group;  // of its pairs

class Encoder {
  public:
    // `model` points into tensors that must outlive the encoder.
    Encoder(Model model, const Kernels& kernels, int threads);
    ~Encoder();
    Encoder(const Encoder&) = delete;
    Encoder& operator=(const Encoder&) = delete;

    // token_ids (T), offsets (pairs + 1), segment_ids (T) or null (all zero) -> out (pairs).
    // Safe to call from several threads: the engine's threads go on with the next call's pairs when they are
    // done with theirs of the one before. Throws std::invalid_argument for a pack that is wrong,
    // std::runtime_error after fork.
    void logits(const std::int32_t* token_ids, std::int64_t tokens, const std::int32_t* offsets,
                std::int64_t pairs, const std::int32_t* segment_ids, float* out);

    const Model& model() const { return model_; }
    const Kernels& kernels() const { return kernels_; }
    int threads() const { return threads_; }

  private:
    void check(const std::int32_t* token_ids, std::int64_t tokens, const std::int32_t* offsets,
               std::int64_t pairs, const std::int32_t* segment_ids) const;

    // A group for all threads together: each takes some of the outputs of every product, or some of the
    // tokens.
    void by_outputs(const Input& input, const Group& group);
    void by_rows(const Input& input, const Group& group, int members);

    const Model model_;
    const Kernels& kernels_;
    const bool attention_bf16_;  // else in fp32
    const int threads_;
    const pid_t process_;
    std::atomic<int> calls_{0};  // that are being answered
    std::unique_ptr<ThreadPool> pool_;
    std::vector<Arena> arenas_;  // one for each thread
    std::mutex team_;            // one team at a time,
    Arena team_arena_;           // which has this
};

}  // namespace crossrank
