// A pool of threads that sleep unless they have work, and a team of them that works through phases.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace crossrank {

// `size` threads, one of them a caller. Several may call at a time: whoever is free takes the next task of
// the first call that has one left, so that no thread waits for the last task of another. One caller works at
// a time, so that no more than `size` threads do.
class ThreadPool {
  public:
    explicit ThreadPool(int size);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // work(i, rank) for each i in [0, tasks), on whichever threads are free; no two threads have the same
    // rank, in [0, size()), at a time. Returns when all are done. After an exception, the first of which is
    // thrown again, no more of them begin. `size` tasks that wait for each other run side by side.
    void run(std::ptrdiff_t tasks, const std::function<void(std::ptrdiff_t, int)>& work);

  private:
    struct Run {
        const std::function<void(std::ptrdiff_t, int)>* work;
        std::ptrdiff_t waiting;  // tasks that nobody has taken
        std::ptrdiff_t next;
        std::ptrdiff_t at_work;
        std::exception_ptr error;
    };

    void serve(int rank);
    // One task, the lock being given back meanwhile.
    void work_on(Run& run, int rank, std::unique_lock<std::mutex>& lock);

    std::mutex mutex_;
    std::condition_variable wake_, callers_;
    std::deque<Run*> runs_;  // that have tasks which nobody has taken
    bool caller_works_ = false;
    bool stopping_ = false;
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

    // Called by every member with the same arguments. Returns when all tasks of the phase are done, and
    // then() after them: one member does that while the others still wait, which spares them a phase of its
    // own.
    template <class Task, class Then>
    void phase(std::ptrdiff_t tasks, const Task& task, const Then& then) {
        if (size_ == 1) {
            for (std::ptrdiff_t i = 0; i < tasks; ++i) task(i);
            return then();
        }
        for (std::ptrdiff_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(i);
        std::unique_lock<std::mutex> lock(mutex_);
        if (++waiting_ < size_) return wait(lock);
        then();
        release(lock);
    }

    template <class Task>
    void phase(std::ptrdiff_t tasks, const Task& task) {
        phase(tasks, task, [] {});
    }

    // Returns when every member has called it.
    void meet() {
        phase(0, [](std::ptrdiff_t) {});
    }

  private:
    void wait(std::unique_lock<std::mutex>& lock);
    void release(std::unique_lock<std::mutex>& lock);

    const int size_;
    std::atomic<std::ptrdiff_t> next_{0};
    std::mutex mutex_;
    std::condition_variable all_here_;
    int waiting_ = 0;
    unsigned long round_ = 0;
};

}  // namespace crossrank
