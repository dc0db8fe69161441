#include "threads.h"

#include <algorithm>
#include <utility>

namespace crossrank {

ThreadPool::ThreadPool(int size) {
    workers_.reserve(static_cast<std::size_t>(size - 1));
    try {
        for (int rank = 1; rank < size; ++rank) workers_.emplace_back([this, rank] { serve(rank); });
    } catch (...) {  // the system allows no more threads: do not leave those that started
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (std::thread& worker : workers_) worker.join();
        throw;
    }
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::serve(int rank) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        wake_.wait(lock, [&] { return stopping_ || !runs_.empty(); });
        if (stopping_) return;
        work_on(*runs_.front(), rank, lock);
    }
}

void ThreadPool::work_on(Run& run, int rank, std::unique_lock<std::mutex>& lock) {
    const std::ptrdiff_t task = run.next++;
    ++run.at_work;
    if (--run.waiting == 0) {
        runs_.pop_front();
        callers_.notify_all();  // the next one's turn
    }
    lock.unlock();
    std::exception_ptr error;
    try {
        (*run.work)(task, rank);
    } catch (...) {
        error = std::current_exception();
    }
    lock.lock();
    if (error && !run.error) run.error = error;
    if (error && run.waiting > 0) {
        run.waiting = 0;
        runs_.erase(std::find(runs_.begin(), runs_.end(), &run));
        callers_.notify_all();
    }
    if (--run.at_work == 0 && run.waiting == 0) callers_.notify_all();
}

void ThreadPool::run(std::ptrdiff_t tasks, const std::function<void(std::ptrdiff_t, int)>& work) {
    if (tasks == 0) return;
    Run run{&work, tasks, 0, 0, nullptr};
    std::unique_lock<std::mutex> lock(mutex_);
    runs_.push_back(&run);
    if (tasks > 1 || runs_.size() > 1 || caller_works_) wake_.notify_all();
    while (run.waiting > 0 || run.at_work > 0) {
        if (run.waiting > 0 && runs_.front() == &run && !caller_works_) {
            caller_works_ = true;
            work_on(run, 0, lock);
            caller_works_ = false;
            callers_.notify_all();
        } else {
            callers_.wait(lock);
        }
    }
    if (run.error) std::rethrow_exception(run.error);
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
    done_.store(0, std::memory_order_relaxed);  // nobody finishes tasks now; taken_ publishes it
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

}  // namespace crossrank
