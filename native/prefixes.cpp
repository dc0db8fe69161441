#include "prefixes.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace crossrank {

Prefix::Prefix(std::vector<std::int32_t> tokens, std::size_t layers, std::size_t stride)
    : tokens_(std::move(tokens)),
      parts_(2 * layers),
      stride_(stride),
      bytes_(parts_ * tokens_.size() * stride),
      memory_(allocate(bytes_)) {}

void Prefix::take_over(Prefix& other, int tokens) {
    for (std::size_t part = 0; part < parts_; ++part)
        std::memcpy(at(part, 0), other.at(part, 0), static_cast<std::size_t>(tokens) * stride_);
}

SharedPrefix PrefixCache::find(const std::vector<std::int32_t>& tokens) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Place found = std::find_if(kept_.begin(), kept_.end(),
                                     [&](const SharedPrefix& kept) { return kept->tokens() == tokens; });
    if (found == kept_.end()) return nullptr;
    use(found);
    return *found;
}

PrefixCache::Begun PrefixCache::begun(const std::vector<std::int32_t>& tokens) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Begun best;
    Place place = kept_.end();
    for (Place i = kept_.begin(); i != kept_.end(); ++i) {
        const int common = in_common((*i)->tokens(), tokens);
        if (common <= best.tokens) continue;
        best = {*i, common};
        place = i;
    }
    if (best.prefix) use(place);
    return best;
}

void PrefixCache::keep(SharedPrefix prefix) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (prefix->bytes() > limit_) return;
    bytes_ += prefix->bytes();
    kept_.push_front(std::move(prefix));
    while (bytes_ > limit_) {
        bytes_ -= kept_.back()->bytes();
        kept_.pop_back();
    }
}

std::size_t PrefixCache::bytes() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return bytes_;
}

int in_common(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b) {
    const auto shorter = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
    return static_cast<int>(std::mismatch(a.begin(), a.begin() + shorter, b.begin()).first - a.begin());
}

}  // namespace crossrank
