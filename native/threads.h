// A pool of threads that sleep unless they have work, and how they work together.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
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

// Threads that go through the same phases, each being a number of tasks that whoever is free takes. A phase
// is over when its tasks are done, whether or not everybody has come to it: a thread that has lost its core
// delays the others by the task in its hands at most. Waiting is sleeping.
//
// After fail() no phase begins or ends: whoever waits for one, or comes to one, gets the error thrown.
class Team {
  public:
    explicit Team(int size) : size_(size) {}
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }
    void fail(std::exception_ptr error);

  private:
    friend class Member;

    static constexpr std::uint32_t kFailed = UINT32_MAX;  // in place of a phase

    // A task of a phase that has so many; -1 once that phase is over. Throws after fail().
    std::ptrdiff_t take(std::uint32_t phase, std::ptrdiff_t tasks);
    // One more is done; whether it was the last.
    bool finish(std::ptrdiff_t tasks) { return done_.fetch_add(1, std::memory_order_acq_rel) + 1 == tasks; }
    void end(std::uint32_t phase);

    static std::uint32_t phase_of(std::uint64_t taken) { return static_cast<std::uint32_t>(taken >> 32); }

    const int size_;
    std::atomic<std::uint64_t> taken_{0};  // the phase that goes on, and in the lower half the tasks taken
    std::atomic<std::ptrdiff_t> done_{0};
    std::mutex mutex_;
    std::condition_variable over_;
    std::exception_ptr error_;
};

// One thread's place in a team. Alone (size 1) there is nothing to wait for and no lock is touched.
class Member {
  public:
    explicit Member(Team& team) : team_(team) {}

    int of() const { return team_.size(); }

    // Called by every member with the same arguments, `tasks` being at least 1. Returns when all tasks of the
    // phase are done, and then() after them: one member does that while the others still wait, which spares
    // them a phase of its own.
    template <class Task, class Then>
    void phase(std::ptrdiff_t tasks, const Task& task, const Then& then) {
        if (team_.size() == 1) {
            for (std::ptrdiff_t i = 0; i < tasks; ++i) task(i);
            return then();
        }
        std::ptrdiff_t mine = 0;
        for (std::ptrdiff_t i; (i = team_.take(phase_, tasks)) >= 0; ++mine) {
            task(i);
            if (!team_.finish(tasks)) continue;
            then();
            team_.end(phase_);
        }
        ++phase_;
        rest(mine == tasks);
    }

    template <class Task>
    void phase(std::ptrdiff_t tasks, const Task& task) {
        phase(tasks, task, [] {});
    }

  private:
    // A thread that has long been alone may lose its core soon, too: others want the cores. With a task in
    // its hands, all would wait until it has it back; so now and then it lets the system choose between two.
    void rest(bool alone);

    Team& team_;
    std::uint32_t phase_ = 0;
    std::chrono::steady_clock::time_point together_ = std::chrono::steady_clock::now();
};

// Where `size` threads wait for each other.
class Meeting {
  public:
    explicit Meeting(int size) : size_(size) {}
    Meeting(const Meeting&) = delete;
    Meeting& operator=(const Meeting&) = delete;

    // Returns when every thread has called it. Throws after fail().
    void meet();
    void fail(std::exception_ptr error);

  private:
    const int size_;
    std::mutex mutex_;
    std::condition_variable all_here_;
    int waiting_ = 0;
    unsigned long round_ = 0;
    std::exception_ptr error_;
};

// work(member) for each of `members`, side by side: they wait for each other by `meeting`, a Team or a
// Meeting. When one of them throws, none goes on waiting, and the exception is thrown again.
template <class Together, class Work>
void run_together(ThreadPool& pool, int members, Together& meeting, const Work& work) {
    pool.run(members, [&](std::ptrdiff_t member, int) {
        try {
            work(static_cast<int>(member));
        } catch (...) {
            meeting.fail(std::current_exception());
            throw;
        }
    });
}

}  // namespace crossrank
