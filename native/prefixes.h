// Tokens that many pairs begin with, and what the model has made of them: the keys and values of every layer.
//
// In a causal model nothing that comes later changes them. So where pairs begin with the same instruction and
// query, only the rest of each has to be computed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "memory.h"

namespace crossrank {

class Prefix {
  public:
    // Room for the keys and values of `tokens` in that many layers, each of `stride` bytes. Throws
    // std::bad_alloc.
    Prefix(std::vector<std::int32_t> tokens, std::size_t layers, std::size_t stride);

    const std::vector<std::int32_t>& tokens() const { return tokens_; }
    std::size_t bytes() const { return bytes_; }

    char* key(std::size_t layer, int token) { return at(2 * layer, token); }
    char* value(std::size_t layer, int token) { return at(2 * layer + 1, token); }

    // Keys and values of the first tokens, from a prefix of the same model that begins with the same ones.
    void take_over(Prefix& other, int tokens);

  private:
    char* at(std::size_t part, int token) {
        const std::size_t row = part * tokens_.size() + static_cast<std::size_t>(token);
        return static_cast<char*>(memory_.get()) + row * stride_;
    }

    const std::vector<std::int32_t> tokens_;
    const std::size_t parts_;  // keys and values of each layer
    const std::size_t stride_;
    const std::size_t bytes_;
    const Buffer memory_;
};

using SharedPrefix = std::shared_ptr<Prefix>;

// The prefixes that were used last. Safe to use from several threads.
class PrefixCache {
  public:
    // As many as fit into `limit` bytes.
    explicit PrefixCache(std::size_t limit) : limit_(limit) {}

    // That of exactly these tokens, or null.
    SharedPrefix find(const std::vector<std::int32_t>& tokens);

    struct Begun {
        SharedPrefix prefix;  // or null
        int tokens = 0;       // that it has in common with those wanted, from the first on
    };
    // The one that has the most tokens in common with these.
    Begun begun(const std::vector<std::int32_t>& tokens);

    void keep(SharedPrefix prefix);

    std::size_t limit() const { return limit_; }
    std::size_t bytes() const;

  private:
    using Place = std::list<SharedPrefix>::iterator;

    void use(Place place) { kept_.splice(kept_.begin(), kept_, place); }

    const std::size_t limit_;
    mutable std::mutex mutex_;
    std::list<SharedPrefix> kept_;  // the one used last comes first
    std::size_t bytes_ = 0;
};

// How many of the first tokens are the same.
int in_common(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b);

}  // namespace crossrank
