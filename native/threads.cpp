#include "threads.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace crossrank {

ThreadPool::ThreadPool(int size) {
    if (size < 1)
        throw std::invalid_argument("threads is " + std::to_string(size) + "; it must be at least 1");
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

}  // namespace crossrank
