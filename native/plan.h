// Which pairs of a pack go to which thread.
#pragma once

#include <cstdint>
#include <vector>

#include "model.h"

namespace crossrank {

// Pairs that go through the model together.
struct Group {
    std::vector<std::int32_t> pairs;
    int tokens = 0;

    void add(std::int32_t pair, const std::int32_t* offsets) {
        pairs.push_back(pair);
        tokens += offsets[pair + 1] - offsets[pair];
    }
};

struct Plan {
    std::vector<Group> groups;  // each for one thread, largest first
    Group shared;               // for several threads together (sharing.h); often empty
    int row_threads = 0;        // threads that share it by rows; 0: all threads share it by outputs
};

// Some pairs of a pack for `threads` threads.
Plan make_plan(const Config& config, const Kernels& kernels, const std::int32_t* offsets,
               std::vector<std::int32_t> pairs, int threads);

}  // namespace crossrank
