// How threads share one group of pairs. The model (encoder.cpp) is written as if for one thread; what differs
// when several work on the same pairs is here.
//
// By rows: each thread takes some of the tokens through all layers. The threads meet once a layer, when all
// keys and values are there, because a query attends to those of every token. This is for long pairs.
//
// By outputs: all threads go through the layers step by step. Of each step, every thread takes some of the
// work: some outputs of a product, some heads of attention, some rows. This is for short pairs of a large
// model, so that no thread reads all of the weights.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <mutex>
#include <optional>

#include "kernels.h"
#include "memory.h"
#include "threads.h"

namespace crossrank {

struct Call;   // encoder.h
struct Group;  // plan.h

// All pairs of a group, from token ids to logits. Throws what the encoder throws; no thread is left waiting.
void share_by_rows(const Call& call, const Group& group, int threads, ThreadPool& pool, Arena& arena);
void share_by_outputs(const Call& call, const Group& group, ThreadPool& pool, Arena& arena);

// --- how threads wait for each other ---

// A point where `size` threads wait for each other.
class Meeting {
  public:
    explicit Meeting(int size) : size_(size) {}
    Meeting(const Meeting&) = delete;
    Meeting& operator=(const Meeting&) = delete;

    // Returns when every thread has called it. Throws after fail().
    void meet();
    // Wakes the threads that wait; each of them gets the error.
    void fail(std::exception_ptr error);

  private:
    const int size_;
    std::mutex mutex_;
    std::condition_variable all_here_;
    int waiting_ = 0;
    unsigned long round_ = 0;
    std::exception_ptr error_;
};

// Threads that go through the same phases, each of which is a number of tasks; whoever is free takes the next
// one. A phase is over when its tasks are done, whether or not every thread has come to it: a thread that has
// lost its core delays the others by at most the one task that it holds. Threads sleep while they wait.
//
// After fail() no phase begins or ends: whoever waits for one, or comes to one, gets the error.
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

    // The next task of a phase that has `tasks`; -1 once that phase is over. Throws after fail().
    std::ptrdiff_t take(std::uint32_t phase, std::ptrdiff_t tasks);
    // One more task is done. Returns whether it was the last.
    bool finish(std::ptrdiff_t tasks) { return done_.fetch_add(1, std::memory_order_acq_rel) + 1 == tasks; }
    void end(std::uint32_t phase);

    static std::uint32_t phase_of(std::uint64_t taken) { return static_cast<std::uint32_t>(taken >> 32); }

    const int size_;
    std::atomic<std::uint64_t> taken_{
        0};  // the current phase, and in the lower half how many tasks are taken
    std::atomic<std::ptrdiff_t> done_{0};
    std::mutex mutex_;
    std::condition_variable over_;
    std::exception_ptr error_;
};

// One thread's place in a team.
class Member {
  public:
    explicit Member(Team& team) : team_(team) {}

    int team_size() const { return team_.size(); }

    // Called by every member with the same arguments; `tasks` is at least 1. Returns when all tasks of the
    // phase are done, and then() after them. One member calls it while the others still wait, which saves a
    // phase.
    template <class Task, class Then>
    void phase(std::ptrdiff_t tasks, const Task& task, const Then& then) {
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
    // A thread that has been alone for long may soon lose its core, too, because others want it. If it held a
    // task then, all would wait until it runs again; so now and then it lets the system choose in between.
    void rest(bool alone);

    Team& team_;
    std::uint32_t phase_ = 0;
    std::chrono::steady_clock::time_point together_ = std::chrono::steady_clock::now();
};

// work(member) on `members` threads side by side, which wait for each other at `meeting`, a Team or a
// Meeting. When one throws, none of them waits any longer, and the exception is thrown again.
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

// --- what the encoder sees of it ---

// One product of a layer: out = left weights^T + bias.
struct Product {
    const Linear& weights;
    Activations left;
    Output out;
};

// What comes after a step: work(r) for each of `rows` rows, of `width` values each.
template <class Work>
struct EachRow {
    int rows, width;
    Work work;
};
template <class Work>
EachRow(int, int, Work) -> EachRow<Work>;

// What comes after a step: work(), by one thread.
template <class Work>
struct Once {
    Work work;
};
template <class Work>
Once(Work) -> Once<Work>;

// One thread's share of the work on a group. Every thread that shares the group calls the same steps in the
// same order, and a step returns when all threads' shares of it are done. A thread by itself does everything,
// does not wait and touches no lock.
class Share {
  public:
    // All of a group: there are no other threads.
    explicit Share(const Kernels& kernels) : kernels_(kernels) {}
    // By rows. The rows of this thread are a group of their own, until all meet.
    Share(const Kernels& kernels, Meeting& meeting) : kernels_(kernels), meeting_(&meeting) {}
    // By outputs. No two members of a team have the same `rank`, from 0 up.
    Share(const Kernels& kernels, Team& team, int rank) : kernels_(kernels), rank_(rank), member_(team) {}

    int rank() const { return rank_; }

    // Where threads that share a group by rows wait for each other.
    void meet() const {
        if (meeting_) meeting_->meet();
    }

    // task(i) for each i in [0, tasks), and `after` when all are done. `tasks` is at least 1.
    template <class Task, class Work>
    void tasks(std::ptrdiff_t tasks, const Task& task, const Once<Work>& after) {
        if (member_) return member_->phase(tasks, task, after.work);
        for (std::ptrdiff_t i = 0; i < tasks; ++i) task(i);
        after.work();
    }

    template <class Task, class Work>
    void tasks(std::ptrdiff_t tasks, const Task& task, const EachRow<Work>& after) {
        if (!member_ || std::ptrdiff_t{after.rows} * after.width <= kAloneValues)
            return this->tasks(tasks, task, Once{[&] {
                                   for (int r = 0; r < after.rows; ++r) after.work(r);
                               }});
        constexpr int kRowsAtATime = 8;
        member_->phase(tasks, task);
        member_->phase(ceil_div(after.rows, kRowsAtATime), [&](std::ptrdiff_t i) {
            const int first = static_cast<int>(i) * kRowsAtATime;
            for (int r = first; r < std::min(after.rows, first + kRowsAtATime); ++r) after.work(r);
        });
    }

    // Products that do not depend on each other and have the same number of rows, and `after` when all are
    // done.
    template <class After>
    void products(std::initializer_list<Product> list, const After& after) {
        if (member_) {
            const Cut cut(list, member_->team_size());
            tasks(cut.tasks(), [&](std::ptrdiff_t i) { cut.multiply(kernels_, i); }, after);
        } else {
            const Product* const first = list.begin();
            tasks(
                static_cast<std::ptrdiff_t>(list.size()), [&](std::ptrdiff_t i) { multiply(first[i]); },
                after);
        }
    }

    void products(std::initializer_list<Product> list) {
        products(list, Once{[] {}});
    }

  private:
    // Values of rows that one member goes through while the others wait, because that takes less time than
    // waking them for a phase. (With twice as many, rows in another core's cache made it slower.)
    static constexpr std::ptrdiff_t kAloneValues = std::ptrdiff_t{1} << 14;

    // Products as tasks for a team: each is a few panels of one product, and where there are too few panels,
    // some of the rows.
    class Cut {
      public:
        Cut(std::initializer_list<Product> list, int threads);
        std::ptrdiff_t tasks() const { return tasks_; }
        void multiply(const Kernels& kernels, std::ptrdiff_t task) const;

      private:
        std::ptrdiff_t tasks_of(const Product& product) const {
            return ceil_div(product.weights.panel_count(), panels_) * parts_;
        }

        const std::initializer_list<Product> list_;
        std::ptrdiff_t panels_, parts_;  // of a task; of the rows
        std::ptrdiff_t tasks_ = 0;
    };

    void multiply(const Product& product) const {
        kernels_.linear(product.weights, product.left, 0, product.weights.panel_count(), product.out);
    }

    const Kernels& kernels_;
    Meeting* const meeting_ = nullptr;
    const int rank_ = 0;
    std::optional<Member> member_;
};

}  // namespace crossrank
