// A pool of threads that sleep unless they have work.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace crossrank {

// `size` threads; one of them is the caller. Several threads may call at the same time: whichever thread is
// free takes the next task of the first call that has one left, so none waits for another's last task. Only
// one caller works at a time, so no more than `size` threads do.
class ThreadPool {
  public:
    // Throws std::invalid_argument where `size` is less than 1, std::system_error where the system allows no
    // more threads.
    explicit ThreadPool(int size);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // work(i, rank) for each i in [0, tasks), on whichever threads are free. No two threads have the same
    // rank, in [0, size()), at the same time. Returns when all tasks are done. After an exception no further
    // task begins, and the first exception is thrown again. `size` tasks that wait for each other run side by
    // side.
    void run(std::ptrdiff_t tasks, const std::function<void(std::ptrdiff_t, int)>& work);

  private:
    struct Run {
        const std::function<void(std::ptrdiff_t, int)>* work;
        std::ptrdiff_t waiting;  // tasks that no thread has taken yet
        std::ptrdiff_t next;
        std::ptrdiff_t at_work;
        std::exception_ptr error;
    };

    void serve(int rank);
    // One task, the lock being given back meanwhile.
    void work_on(Run& run, int rank, std::unique_lock<std::mutex>& lock);

    std::mutex mutex_;
    std::condition_variable wake_, callers_;
    std::deque<Run*> runs_;  // those with tasks that no thread has taken yet
    bool caller_works_ = false;
    bool stopping_ = false;
    std::vector<std::thread> workers_;
};

}  // namespace crossrank
