#include "engine.h"

#include <unistd.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "encoder.h"
#include "plan.h"
#include "sharing.h"

namespace crossrank {
namespace {

// Memory that an idle engine keeps for each thread.
constexpr std::size_t kKeptBytes = std::size_t{64} << 20;

// Counts a call while it lasts.
class Counted {
  public:
    explicit Counted(std::atomic<int>& calls) : calls_(calls), others_(calls.fetch_add(1)) {}
    ~Counted() { --calls_; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;

    bool others() const { return others_ > 0; }

  private:
    std::atomic<int>& calls_;
    const int others_;
};

}  // namespace

Engine::Engine(Model model, const Kernels& kernels, int threads)
    : model_(std::move(model)), kernels_(kernels), threads_(threads), process_(getpid()) {
    pool_ = std::make_unique<ThreadPool>(threads);
    arenas_.resize(static_cast<std::size_t>(threads));
}

Engine::~Engine() {
    // A forked process has the pool but not its threads, and cannot join them.
    if (getpid() != process_) (void)pool_.release();
}

void Engine::logits(const std::int32_t* token_ids, std::int64_t tokens, const std::int32_t* offsets,
                    std::int64_t pairs, const std::int32_t* segment_ids, float* out) {
    if (getpid() != process_)
        throw std::runtime_error(
            "this engine was loaded before the process forked, and its threads stayed behind; "
            "load the model in the child process");
    check(token_ids, tokens, offsets, pairs, segment_ids);
    if (pairs == 0) return;
    const Call call{model_,    kernels_, model_.precision != Precision::fp32 && kernels_.native_bf16,
                    token_ids, offsets,  segment_ids,
                    out};
    // Beside another call, which keeps the other threads busy, this one need not be spread over them.
    const Counted counted(calls_);
    const Plan plan = make_plan(model_.config, kernels_, offsets, pairs, counted.others() ? 1 : threads_);

    if (!plan.shared.pairs.empty()) {
        const std::lock_guard<std::mutex> lock(sharing_);
        if (plan.row_threads > 0) share_by_rows(call, plan.shared, plan.row_threads, *pool_, shared_arena_);
        else share_by_outputs(call, plan.shared, *pool_, shared_arena_);
        shared_arena_.trim(kKeptBytes);
    }
    if (!plan.groups.empty()) {
        const auto workspace = [&](std::ptrdiff_t rows, char* memory) {
            return Workspace(model_, kernels_, call.attention_bf16, rows, 1, memory);
        };
        const std::size_t largest = workspace(plan.groups[0].tokens, nullptr).size;
        pool_->run(static_cast<std::ptrdiff_t>(plan.groups.size()), [&](std::ptrdiff_t i, int rank) {
            const Group& group = plan.groups[static_cast<std::size_t>(i)];
            Arena& arena = arenas_[static_cast<std::size_t>(rank)];
            Encoder encoder(call, group, {0, group.tokens}, workspace(group.tokens, arena.reserve(largest)),
                            Share(kernels_));
            encoder.embed();
            encoder.run();
            arena.trim(kKeptBytes);
        });
    }
}

void Engine::check(const std::int32_t* token_ids, std::int64_t tokens, const std::int32_t* offsets,
                   std::int64_t pairs, const std::int32_t* segment_ids) const {
    const Config& config = model_.config;
    if (offsets[0] != 0 || offsets[pairs] != tokens)
        throw std::invalid_argument(
            "offsets go from " + std::to_string(offsets[0]) + " to " + std::to_string(offsets[pairs]) +
            "; they must go from 0 to the number of tokens, " + std::to_string(tokens));
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
        const std::int64_t length = std::int64_t{offsets[pair + 1]} - offsets[pair];
        if (length < 1 || length > config.max_tokens)
            throw std::invalid_argument("pair " + std::to_string(pair) + " has " + std::to_string(length) +
                                        " tokens; it must have 1 to " + std::to_string(config.max_tokens));
    }
    for (std::int64_t pair = 0; pair < pairs; ++pair)
        for (std::int64_t i = offsets[pair]; i < offsets[pair + 1]; ++i) {
            const std::int32_t token = token_ids[i];
            if (token < 0 || token >= config.vocabulary)
                throw std::invalid_argument("pair " + std::to_string(pair) + " has the token id " +
                                            std::to_string(token) + "; the model has embeddings for 0 to " +
                                            std::to_string(config.vocabulary - 1));
            if (segment_ids && (segment_ids[i] < 0 || segment_ids[i] >= config.segments))
                throw std::invalid_argument(
                    "pair " + std::to_string(pair) + " has the segment id " + std::to_string(segment_ids[i]) +
                    "; the model has embeddings for 0 to " + std::to_string(config.segments - 1));
        }
}

}  // namespace crossrank
