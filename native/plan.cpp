#include "plan.h"

#include <algorithm>
#include <numeric>

namespace crossrank {
namespace {

// A model whose activations of one group fit into the second-level cache.
bool is_small(const Config& config) { return config.hidden <= 512; }

// Tokens that one thread takes through a layer together: enough that reading the weights costs little
// compared with using them, and few enough that the activations stay in the second-level cache. Those of a
// large model do not fit in any case, and its weights take longer to read.
int group_tokens(const Config& config) { return is_small(config) ? 256 : 512; }

// Minimum tokens of a shared pair for each thread. With fewer, threads wait for each other longer than they
// work (a small model), or each reads all weights although it could read a part of them (a large one).
int thread_tokens(const Config& config, const Kernels& kernels) {
    return is_small(config) ? kernels.thread_rows : 64;
}

// Pairs, longest first, dealt to groups of about equal size: each pair goes to the group that has the fewest
// tokens. The number of groups is that of the threads, or a multiple.
std::vector<Group> deal(const std::int32_t* offsets, const std::vector<std::int32_t>& pairs,
                        std::ptrdiff_t tokens, int threads, int group_tokens) {
    const std::ptrdiff_t round = std::ptrdiff_t{threads} * group_tokens;
    const std::ptrdiff_t rounds = std::max<std::ptrdiff_t>(1, (tokens + round / 2) / round);
    std::vector<Group> groups(std::min(static_cast<std::size_t>(rounds * threads), pairs.size()));
    const auto more = [&](std::size_t a, std::size_t b) { return groups[a].tokens > groups[b].tokens; };
    std::vector<std::size_t> heap(groups.size());
    std::iota(heap.begin(), heap.end(), std::size_t{0});  // all groups are empty, so this is a heap
    for (const std::int32_t pair : pairs) {
        std::pop_heap(heap.begin(), heap.end(), more);
        groups[heap.back()].add(pair, offsets);
        std::push_heap(heap.begin(), heap.end(), more);
    }
    std::stable_sort(groups.begin(), groups.end(),
                     [](const Group& a, const Group& b) { return a.tokens > b.tokens; });
    return groups;
}

// Tokens of the busiest thread, when each takes the next group as soon as it is free.
std::ptrdiff_t busiest(const std::vector<Group>& groups, int threads) {
    std::vector<std::ptrdiff_t> load(static_cast<std::size_t>(threads), 0);
    for (const Group& group : groups) *std::min_element(load.begin(), load.end()) += group.tokens;
    return *std::max_element(load.begin(), load.end());
}

}  // namespace

Plan make_plan(const Config& config, const Kernels& kernels, const std::int32_t* offsets,
               std::vector<std::int32_t> pairs, int threads) {
    const auto length = [&](std::int32_t pair) { return offsets[pair + 1] - offsets[pair]; };
    std::ptrdiff_t tokens = 0;
    for (const std::int32_t pair : pairs) tokens += length(pair);
    std::stable_sort(pairs.begin(), pairs.end(),
                     [&](std::int32_t a, std::int32_t b) { return length(a) > length(b); });

    // Each thread takes groups of pairs by itself as long as that keeps all threads busy. Where the longest
    // pairs prevent that, all threads share them, although they then have to wait for each other.
    const int tokens_of_group = group_tokens(config), least = thread_tokens(config, kernels);
    Plan plan;
    plan.groups = deal(offsets, pairs, tokens, threads, tokens_of_group);
    while (threads > 1 && !pairs.empty() && (!is_small(config) || length(pairs.front()) >= 2 * least)) {
        const std::ptrdiff_t rest = tokens - plan.shared.tokens;
        if (busiest(plan.groups, threads) * threads <= rest + rest / 4) break;
        plan.shared.add(pairs.front(), offsets);
        pairs.erase(pairs.begin());
        plan.groups = deal(offsets, pairs, tokens - plan.shared.tokens, threads, tokens_of_group);
    }

    // A large model's short pairs are shared by outputs.
    if (is_small(config) || plan.shared.tokens >= std::ptrdiff_t{threads} * least)
        plan.row_threads = std::min(threads, plan.shared.tokens / least);
    return plan;
}

}  // namespace crossrank
