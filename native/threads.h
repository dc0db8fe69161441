// A pool of threads that sleep unless they have work, and a team of them that works through phases.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace crossrank {

// `size` threads, the caller being one of them. One run() at a time: the owner holds a lock.
class ThreadPool {
  public:
    explicit ThreadPool(int size);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // work(rank) once for each rank in [0, size()), the caller's rank being 0; returns when all are done. The
    // first exception is thrown again.
    void run(const std::function<void(int)>& work);

    // work(i) for each i in [0, count), on whichever threads are free.
    void for_each(std::ptrdiff_t count, const std::function<void(std::ptrdiff_t)>& work);

  private:
    void serve(int rank);
    void attempt(const std::function<void(int)>& work, int rank);

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    const std::function<void(int)>* work_ = nullptr;
    unsigned long round_ = 0;
    int busy_ = 0;
    bool stopping_ = false;
    std::exception_ptr error_;
    std::vector<std::thread> workers_;
};

// Threads that go through the same phases together, each phase being a number of tasks that whoever is free
// takes: a thread that loses its core for a while delays the others by one task at most. Alone (size 1) there
// is nothing to wait for and no lock is touched. Waiting is sleeping.
class Team {
  public:
    explicit Team(int size) : size_(size) {}
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // Called by every member with the same arguments. Returns when all tasks of the phase are done.
    template <class Task>
    void phase(std::ptrdiff_t tasks, const Task& task) {
        if (size_ == 1) {
            for (std::ptrdiff_t i = 0; i < tasks; ++i) task(i);
            return;
        }
        for (std::ptrdiff_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(i);
        wait_for_all();
    }

  private:
    void wait_for_all();

    const int size_;
    std::atomic<std::ptrdiff_t> next_{0};
    std::mutex mutex_;
    std::condition_variable all_here_;
    int waiting_ = 0;
    unsigned long round_ = 0;
};

}  // namespace crossrank
