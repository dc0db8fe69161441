#include "threads.h"

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
    unsigned long seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        wake_.wait(lock, [&] { return stopping_ || round_ != seen; });
        if (stopping_) return;
        seen = round_;
        const std::function<void(int)>* work = work_;
        lock.unlock();
        attempt(*work, rank);
        lock.lock();
        if (--busy_ == 0) done_.notify_one();
    }
}

void ThreadPool::attempt(const std::function<void(int)>& work, int rank) {
    try {
        work(rank);
    } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
    }
}

void ThreadPool::run(const std::function<void(int)>& work) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        work_ = &work;
        busy_ = static_cast<int>(workers_.size());
        ++round_;
    }
    wake_.notify_all();
    attempt(work, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return busy_ == 0; });
    if (const std::exception_ptr error = std::exchange(error_, nullptr)) std::rethrow_exception(error);
}

void ThreadPool::for_each(std::ptrdiff_t count, const std::function<void(std::ptrdiff_t)>& work) {
    std::atomic<std::ptrdiff_t> next{0};
    run([&](int) {
        try {
            for (std::ptrdiff_t i; (i = next.fetch_add(1)) < count;) work(i);
        } catch (...) {
            next = count;  // the others need not go on
            throw;
        }
    });
}

void Team::wait_for_all() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (++waiting_ == size_) {
        waiting_ = 0;
        next_.store(0, std::memory_order_relaxed);  // nobody takes tasks now; the mutex publishes it
        ++round_;
        lock.unlock();
        all_here_.notify_all();
        return;
    }
    const unsigned long round = round_;
    all_here_.wait(lock, [&] { return round_ != round; });
}

}  // namespace crossrank
