#include "sharing.h"

#include <utility>
#include <vector>

#include "encoder.h"

namespace crossrank {

void share_by_rows(const Call& call, const Group& group, int threads, ThreadPool& pool, Arena& arena) {
    // All threads' keys and values come first: those of two layers, because a thread that is ahead writes
    // those of the next layer while another still reads. Then their rows of x, which one thread may go
    // through in the end.
    const auto workspace = [&](std::ptrdiff_t rows, char* memory) {
        return Workspace(call.model, call.kernels, call.attention_bf16, rows, 1, memory, true);
    };
    const Workspace largest = workspace(ceil_div(group.tokens, threads), nullptr);
    const std::ptrdiff_t keys = group.tokens * largest.key_stride, x = group.tokens * largest.row_stride,
                         size = static_cast<std::ptrdiff_t>(largest.size);
    char* memory = arena.reserve(static_cast<std::size_t>(4 * keys + x + threads * size));
    const auto first_row = [&](std::ptrdiff_t i) { return static_cast<int>(group.tokens * i / threads); };
    Meeting meeting(threads);
    std::vector<Encoder> encoders;
    encoders.reserve(static_cast<std::size_t>(threads));
    for (int i = 0; i < threads; ++i) {
        const Rows rows{first_row(i), first_row(i + 1)};
        Workspace own = workspace(rows.to - rows.from, memory + 4 * keys + x + i * size);
        own.x = reinterpret_cast<float*>(memory + 4 * keys + rows.from * own.row_stride);
        own.k = memory;
        own.v = memory + keys;
        own.next_keys = 2 * keys;
        encoders.emplace_back(call, group, rows, own, Share(call.kernels, meeting));
    }
    // Reading embeddings can fail, so it comes before the threads wait for each other.
    pool.run(threads,
             [&](std::ptrdiff_t thread, int) { encoders[static_cast<std::size_t>(thread)].embed(); });
    run_together(pool, threads, meeting,
                 [&](int thread) { encoders[static_cast<std::size_t>(thread)].run(); });
}

void share_by_outputs(const Call& call, const Group& group, ThreadPool& pool, Arena& arena) {
    const int threads = pool.size();
    const auto workspace = [&](char* memory) {
        return Workspace(call.model, call.kernels, call.attention_bf16, group.tokens, threads, memory);
    };
    const Workspace memory = workspace(arena.reserve(workspace(nullptr).size));
    Team team(threads);
    std::vector<Encoder> encoders;
    encoders.reserve(static_cast<std::size_t>(threads));
    for (int i = 0; i < threads; ++i)
        encoders.emplace_back(call, group, Rows{0, group.tokens}, memory, Share(call.kernels, team, i));
    // As above: what can fail comes first.
    pool.run(static_cast<std::ptrdiff_t>(group.pairs.size()),
             [&](std::ptrdiff_t pair, int) { encoders[0].embed(static_cast<std::size_t>(pair)); });
    run_together(pool, threads, team, [&](int thread) { encoders[static_cast<std::size_t>(thread)].run(); });
}

// --- products as tasks for a team ---

Share::Cut::Cut(std::initializer_list<Product> list, int threads) : list_(list) {
    // Four tasks for each thread, so that one that is done early takes some of another's. A part of the rows
    // has at least 56 of them: four full tiles of AVX-512.
    const std::ptrdiff_t wanted = std::ptrdiff_t{4} * threads;
    std::ptrdiff_t panels = 0;
    for (const Product& product : list) panels += product.weights.panel_count();
    panels_ = std::max<std::ptrdiff_t>(1, panels / wanted);
    parts_ =
        std::max<std::ptrdiff_t>(1, std::min<std::ptrdiff_t>(wanted / panels, list.begin()->left.rows / 56));
    for (const Product& product : list) tasks_ += tasks_of(product);
}

void Share::Cut::multiply(const Kernels& kernels, std::ptrdiff_t task) const {
    const Product* product = list_.begin();
    for (; task >= tasks_of(*product); ++product) task -= tasks_of(*product);
    const int first = static_cast<int>(task / parts_ * panels_);
    const int last = std::min(product->weights.panel_count(), first + static_cast<int>(panels_));
    const std::ptrdiff_t part = task % parts_, rows = product->left.rows, from = rows * part / parts_,
                         to = rows * (part + 1) / parts_;
    Activations left = product->left;
    left.data = static_cast<const char*>(left.data) + from * left.stride;
    if (left.scale) left.scale += from, left.sum += from;
    left.rows = static_cast<int>(to - from);
    Output out = product->out;
    out.data = static_cast<char*>(out.data) + from * out.stride;
    kernels.linear(product->weights, left, first, last, out);
}

// --- how threads wait for each other ---

void Meeting::meet() {
    std::unique_lock<std::mutex> lock(mutex_);
    const unsigned long round = round_;
    if (!error_ && ++waiting_ < size_) all_here_.wait(lock, [&] { return round_ != round || error_; });
    if (round_ != round) return;
    if (error_) std::rethrow_exception(error_);
    waiting_ = 0;
    ++round_;
    lock.unlock();
    all_here_.notify_all();
}

void Meeting::fail(std::exception_ptr error) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::move(error);
    }
    all_here_.notify_all();
}

std::ptrdiff_t Team::take(std::uint32_t phase, std::ptrdiff_t tasks) {
    std::uint64_t taken = taken_.load(std::memory_order_acquire);
    while (phase_of(taken) == phase) {
        const std::ptrdiff_t task = static_cast<std::uint32_t>(taken);
        if (task < tasks) {
            if (taken_.compare_exchange_weak(taken, taken + 1, std::memory_order_acquire)) return task;
            continue;
        }
        std::unique_lock<std::mutex> lock(mutex_);
        over_.wait(lock, [&] {
            taken = taken_.load(std::memory_order_acquire);
            return phase_of(taken) != phase;
        });
    }
    if (phase_of(taken) != kFailed) return -1;
    const std::lock_guard<std::mutex> lock(mutex_);
    std::rethrow_exception(error_);
}

void Team::end(std::uint32_t phase) {
    done_.store(0, std::memory_order_relaxed);  // no task is running now; taken_ publishes this
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (error_) return;
        taken_.store(std::uint64_t{phase + 1} << 32, std::memory_order_release);
    }
    over_.notify_all();
}

void Team::fail(std::exception_ptr error) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (error_) return;
        error_ = std::move(error);
        taken_.store(std::uint64_t{kFailed} << 32, std::memory_order_release);
    }
    over_.notify_all();
}

void Member::rest(bool alone) {
    using Clock = std::chrono::steady_clock;
    // Much longer than others take to wake up, and shorter than the time slices of Linux.
    constexpr std::chrono::milliseconds kLong{1};
    const Clock::time_point now = Clock::now();
    if (alone && now - together_ < kLong) return;
    together_ = now;
    if (alone) std::this_thread::sleep_for(std::chrono::microseconds(1));
}

}  // namespace crossrank
