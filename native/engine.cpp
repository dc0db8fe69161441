#include "engine.h"

#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "encoder.h"
#include "plan.h"
#include "platform.h"
#include "sharing.h"

namespace crossrank {
namespace {

// Memory that an idle engine keeps for each thread.
constexpr std::size_t kKeptBytes = std::size_t{64} << 20;

// What several prefixes begin with is computed by itself where that saves so many tokens: it means to read
// all weights once more.
constexpr std::size_t kWorthwhileTokens = 64;

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

Engine::Engine(Model model, const Kernels& kernels, int threads, std::size_t prefix_bytes)
    : model_(std::move(model)),
      kernels_(kernels),
      threads_(threads),
      process_(process_id()),
      prefixes_(prefix_bytes) {
    pool_ = std::make_unique<ThreadPool>(threads);
    arenas_.resize(static_cast<std::size_t>(threads));
}

Engine::~Engine() {
    // A forked process has the pool but not its threads, and cannot join them.
    if (process_id() != process_) (void)pool_.release();
}

void Engine::logits(const Pack& pack, float* out) {
    if (process_id() != process_)
        throw std::runtime_error(
            "this engine was loaded before the process forked, and its threads stayed behind; "
            "load the model in the child process");
    check(pack);
    if (pack.pairs == 0) return;
    Call call = this->call(pack.token_ids, pack.offsets);
    call.segment_ids = pack.segment_ids;
    call.out = out;
    std::vector<std::int32_t> pairs(static_cast<std::size_t>(pack.pairs));
    std::iota(pairs.begin(), pairs.end(), 0);
    if (!pack.prefix_of) return run(call, std::move(pairs));

    std::vector<Tokens> prefixes;
    for (std::int64_t i = 0; i < pack.prefixes; ++i)
        prefixes.emplace_back(pack.prefix_ids + pack.prefix_offsets[i],
                              pack.prefix_ids + pack.prefix_offsets[i + 1]);
    std::vector<std::vector<std::int32_t>> pairs_of(prefixes.size());
    for (const std::int32_t pair : pairs)
        pairs_of[static_cast<std::size_t>(pack.prefix_of[pair])].push_back(pair);

    // At a time, those whose prefixes fit into the cache.
    const std::size_t token_bytes = prefix_stride() * 2 * model_.layers.size();
    std::vector<Before> before(pairs.size());
    call.before = before.data();
    for (std::size_t first = 0, end; first < prefixes.size(); first = end) {
        std::size_t bytes = 0;
        for (end = first; end < prefixes.size(); ++end) {
            bytes += prefixes[end].size() * token_bytes;
            if (end > first && bytes > prefixes_.limit()) break;
        }
        const auto at = [&](std::size_t i) { return prefixes.begin() + static_cast<std::ptrdiff_t>(i); };
        const std::vector<SharedPrefix> found = prefixes_of({at(first), at(end)});
        pairs.clear();
        for (std::size_t i = first; i < end; ++i)
            for (const std::int32_t pair : pairs_of[i]) {
                before[static_cast<std::size_t>(pair)] = {found[i - first].get(),
                                                          static_cast<int>(prefixes[i].size())};
                pairs.push_back(pair);
            }
        run(call, pairs);
    }
}

// Their logits; or, without `out`, their keys and values.
void Engine::run(const Call& call, std::vector<std::int32_t> pairs) {
    // Beside another call, which keeps the other threads busy, this one need not be spread over them.
    const Counted counted(calls_);
    const Plan plan =
        make_plan(model_.config, kernels_, call.offsets, std::move(pairs), counted.others() ? 1 : threads_);

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

Call Engine::call(const std::int32_t* token_ids, const std::int32_t* offsets) const {
    const bool attention_bf16 = model_.precision != Precision::fp32 && kernels_.native_bf16;
    return {model_, kernels_, attention_bf16, token_ids, offsets, nullptr, nullptr, nullptr};
}

// --- prefixes ---

// Those of the cache, and others computed. One call computes them at a time: another that wants the same
// waits and finds them.
std::vector<SharedPrefix> Engine::prefixes_of(const std::vector<Tokens>& wanted) {
    std::vector<SharedPrefix> found(wanted.size());
    std::vector<std::size_t> missing;
    const auto look = [&] {
        missing.clear();
        for (std::size_t i = 0; i < wanted.size(); ++i)
            if (!found[i] && !(found[i] = prefixes_.find(wanted[i]))) missing.push_back(i);
        return missing.empty();
    };
    if (look()) return found;
    const std::lock_guard<std::mutex> lock(prefixing_);
    if (look()) return found;

    Tokens common = wanted[missing[0]];
    for (const std::size_t i : missing) common.resize(static_cast<std::size_t>(in_common(common, wanted[i])));
    const std::size_t known = static_cast<std::size_t>(prefixes_.begun(common).tokens);
    if ((common.size() - known) * (missing.size() - 1) >= kWorthwhileTokens) {
        compute({common});
        if (look()) return found;
    }
    std::vector<Tokens> rest;
    for (const std::size_t i : missing) rest.push_back(wanted[i]);
    const std::vector<SharedPrefix> computed = compute(rest);
    for (std::size_t i = 0; i < missing.size(); ++i) found[missing[i]] = computed[i];
    return found;
}

std::vector<SharedPrefix> Engine::compute(const std::vector<Tokens>& wanted) {
    Tokens token_ids;
    std::vector<std::int32_t> offsets{0}, pairs;
    std::vector<SharedPrefix> prefixes;
    std::vector<Before> before;
    for (const Tokens& tokens : wanted) {
        const PrefixCache::Begun begun = prefixes_.begun(tokens);
        prefixes.push_back(std::make_shared<Prefix>(tokens, model_.layers.size(), prefix_stride()));
        if (begun.prefix) prefixes.back()->take_over(*begun.prefix, begun.tokens);
        if (static_cast<std::size_t>(begun.tokens) < tokens.size())
            pairs.push_back(static_cast<std::int32_t>(before.size()));
        before.push_back({prefixes.back().get(), begun.tokens});
        token_ids.insert(token_ids.end(), tokens.begin() + begun.tokens, tokens.end());
        offsets.push_back(static_cast<std::int32_t>(token_ids.size()));
    }
    Call call = this->call(token_ids.data(), offsets.data());
    call.before = before.data();
    if (!pairs.empty()) run(call, std::move(pairs));
    prefix_tokens_ += static_cast<std::int64_t>(token_ids.size());
    for (const SharedPrefix& prefix : prefixes) prefixes_.keep(prefix);
    return prefixes;
}

std::size_t Engine::prefix_stride() const {
    return static_cast<std::size_t>(
        Workspace(model_, kernels_, call(nullptr, nullptr).attention_bf16, 1, 1, nullptr).key_stride);
}

// --- what is wrong with a pack ---

namespace {

// Whole ranges of tokens: from 0 to all of them, and none before the one in front of it.
void check_offsets(const char* name, const std::int32_t* offsets, std::int64_t count, std::int64_t tokens) {
    if (offsets[0] != 0 || offsets[count] != tokens)
        throw std::invalid_argument(std::string(name) + " go from " + std::to_string(offsets[0]) + " to " +
                                    std::to_string(offsets[count]) +
                                    "; they must go from 0 to the number of tokens, " +
                                    std::to_string(tokens));
}

void check_token(const Config& config, const char* of, std::int64_t number, std::int32_t token) {
    if (token < 0 || token >= config.vocabulary)
        throw std::invalid_argument(std::string(of) + " " + std::to_string(number) + " has the token id " +
                                    std::to_string(token) + "; the model has embeddings for 0 to " +
                                    std::to_string(config.vocabulary - 1));
}

}  // namespace

void Engine::check(const Pack& pack) const {
    const Config& config = model_.config;
    check_offsets("offsets", pack.offsets, pack.pairs, pack.tokens);
    if (pack.prefix_of) check_prefixes(pack);
    for (std::int64_t pair = 0; pair < pack.pairs; ++pair) {
        const std::int64_t length = std::int64_t{pack.offsets[pair + 1]} - pack.offsets[pair];
        const std::int32_t* prefix = pack.prefix_of ? pack.prefix_offsets + pack.prefix_of[pair] : nullptr;
        const std::int64_t before = prefix ? std::int64_t{prefix[1]} - prefix[0] : 0;
        if (length < 1 || length + before > config.max_tokens)
            throw std::invalid_argument("pair " + std::to_string(pair) + " has " + std::to_string(length) +
                                        " tokens" +
                                        (before ? " behind a prefix of " + std::to_string(before) : "") +
                                        "; it must have 1 to " + std::to_string(config.max_tokens - before));
    }
    for (std::int64_t pair = 0; pair < pack.pairs; ++pair)
        for (std::int64_t i = pack.offsets[pair]; i < pack.offsets[pair + 1]; ++i) {
            check_token(config, "pair", pair, pack.token_ids[i]);
            const std::int32_t segment = pack.segment_ids ? pack.segment_ids[i] : 0;
            if (pack.segment_ids && (segment < 0 || segment >= config.segments))
                throw std::invalid_argument("pair " + std::to_string(pair) + " has the segment id " +
                                            std::to_string(segment) + "; the model has embeddings for 0 to " +
                                            std::to_string(config.segments - 1));
        }
}

void Engine::check_prefixes(const Pack& pack) const {
    const Config& config = model_.config;
    if (!config.causal || config.pooling != Pooling::last || config.position_rows || config.segments)
        throw std::invalid_argument(
            "prefixes are for models with causal attention, the last token's pooling, and no embeddings of "
            "positions or segments");
    check_offsets("prefix_offsets", pack.prefix_offsets, pack.prefixes, pack.prefix_tokens);
    for (std::int64_t i = 0; i < pack.prefixes; ++i)
        if (pack.prefix_offsets[i + 1] < pack.prefix_offsets[i])
            throw std::invalid_argument("prefix_offsets do not rise: prefix " + std::to_string(i) +
                                        " ends at " + std::to_string(pack.prefix_offsets[i + 1]));
    for (std::int64_t i = 0; i < pack.prefixes; ++i)
        for (std::int64_t token = pack.prefix_offsets[i]; token < pack.prefix_offsets[i + 1]; ++token)
            check_token(config, "prefix", i, pack.prefix_ids[token]);
    for (std::int64_t pair = 0; pair < pack.pairs; ++pair)
        if (pack.prefix_of[pair] < 0 || pack.prefix_of[pair] >= pack.prefixes)
            throw std::invalid_argument("pair " + std::to_string(pair) + " has the prefix " +
                                        std::to_string(pack.prefix_of[pair]) + "; there are " +
                                        std::to_string(pack.prefixes));
}

}  // namespace crossrank
