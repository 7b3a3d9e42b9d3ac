#include "cpu/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "cpu/floating_point_mode.h"

namespace kitae::cpu {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSpin = std::chrono::microseconds(50);  // a waiting worker burns no more than this
constexpr auto kPoll = std::chrono::milliseconds(50);  // how often an interruptible call looks for Ctrl-C
constexpr int kSpinsBetweenClocks = 64;
constexpr auto kWorthWaking = std::chrono::microseconds(100);  // of work by one thread; a sleeper comes after 20 to 50
constexpr double kBusy = 0.6;  // of the time in calls: workers are kept awake between them

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

thread_local bool (*poll_function)() = nullptr;
std::atomic<int64_t> wakes{0};

using Body = void (*)(void*, int64_t);

struct Job {
  Body body = nullptr;
  void* context = nullptr;
  int helpers = 0;  // workers with a smaller number may join
  std::atomic<bool> stop{false};
  std::mutex error_mutex;
  std::exception_ptr error;

  void divide(int64_t units, int threads) {
    shares_ = threads < kMostShares ? threads : kMostShares;
    for (int i = 0; i < shares_; ++i) {
      share_[i].next.store(units / shares_ * i + std::min<int64_t>(i, units % shares_), std::memory_order_relaxed);
      if (i > 0) share_[i - 1].end = share_[i].next.load(std::memory_order_relaxed);
    }
    share_[shares_ - 1].end = units;
  }
  int64_t left() const {
    int64_t sum = 0;
    for (int i = 0; i < shares_; ++i)
      sum += std::max<int64_t>(share_[i].end - share_[i].next.load(std::memory_order_relaxed), 0);
    return sum;
  }

  // Runs one unit; false when none is left. `thread`: 0 is the caller.
  bool run_one(int thread) {
    const int64_t unit = claim(thread);
    if (unit < 0) return false;
    if (stop.load(std::memory_order_relaxed)) return true;
    try {
      body(context, unit);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_mutex);
      if (!error) error = std::current_exception();
      stop = true;
    }
    return true;
  }

 private:
  // Every thread has a share of the units, one run of them, and helps with the others' when its own is done. So a
  // unit's memory stays near one core, from call to call and from one step of a call to the next: fetched from
  // another core's caches it takes several times as long.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  static constexpr int kMostShares = 64;

  int64_t claim(int thread) {
    for (int i = 0; i < shares_; ++i) {
      Share& share = share_[(thread + i) % shares_];
      if (share.next.load(std::memory_order_relaxed) >= share.end) continue;
      const int64_t unit = share.next.fetch_add(1, std::memory_order_relaxed);
      if (unit < share.end) return unit;
    }
    return -1;
  }

  Share share_[kMostShares];
  int shares_ = 0;
};

// What units of each kind of work took lately, by the function that does them. Decides who works, never what comes out.
class Experience {
 public:
  // Of one thread; the longest there is for work not seen before.
  Clock::duration expected(Body body, int64_t units) const {
    const Entry& entry = entries_[slot(body)];
    if (entry.body != body) return Clock::duration::max();
    const double ticks = entry.ticks_of_unit * static_cast<double>(units);
    return ticks < 1e15 ? Clock::duration(static_cast<int64_t>(ticks)) : Clock::duration::max();
  }
  void add(Body body, int64_t units, Clock::duration time) {
    entries_[slot(body)] = {body, static_cast<double>(time.count()) / static_cast<double>(units)};
  }

 private:
  struct Entry {
    Body body = nullptr;
    double ticks_of_unit = 0;
  };
  static constexpr size_t kEntries = 64;
  static size_t slot(Body body) { return (reinterpret_cast<uintptr_t>(body) >> 4) * 0x9E3779B97F4A7C15u >> 58; }

  Entry entries_[kEntries];
};

class Pool {
 public:
  void run(int64_t units, Body body, void* context, int threads) {
    const auto start = Clock::now();
    grow(threads - 1);
    job_.body = body;
    job_.context = context;
    job_.helpers = threads - 1;
    job_.divide(units, threads);
    job_.stop.store(false, std::memory_order_relaxed);
    job_.error = nullptr;

    gate_.store(kOpen, std::memory_order_seq_cst);
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    // A worker that spins joins by itself. To wake one takes long enough to finish short work alone.
    bool asleep = sleepers_.load(std::memory_order_seq_cst) > 0;
    const auto wake = [&] {
      const std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
      wakes.fetch_add(1, std::memory_order_relaxed);
      asleep = false;
    };
    if (asleep && (busy_share_ > kBusy || experience_.expected(body, units) > kWorthWaking)) wake();

    bool interrupted = false;
    auto next_poll = start + kPoll;
    const auto poll = [&] {
      if (!poll_function || Clock::now() < next_poll) return;
      next_poll = Clock::now() + kPoll;
      if (!interrupted && poll_function()) {
        interrupted = true;
        job_.stop = true;
      }
    };
    const auto begin = Clock::now();
    int64_t done = 0;
    for (; job_.run_one(0); ++done) {
      poll();
      if (!asleep) continue;
      // Work that proves longer than it was: what is left for others, at the pace so far.
      const int64_t others = job_.left() - 1;
      if ((Clock::now() - begin) * others > kWorthWaking * (done + 1)) wake();
    }
    if (done > 0) experience_.add(body, done, Clock::now() - begin);
    // Close the gate, then wait for those inside: the context is about to disappear.
    gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int spins = 0; gate_.load(std::memory_order_acquire) != 0; ++spins) {
      relax();
      if (spins % 4096 == 4095) {
        std::this_thread::yield();
        poll();
      }
    }
    const auto end = Clock::now();
    if (done == 0) experience_.add(body, units, end - start);
    if (end > last_end_)
      busy_share_ += kWeight * (std::chrono::duration<double>(end - start) / (end - last_end_) - busy_share_);
    last_end_ = end;
    if (job_.error) std::rethrow_exception(std::exchange(job_.error, nullptr));
    if (interrupted) throw Interrupted();
  }

  // Claimed by the call that uses the workers. Not a mutex: a nested call asks again from the thread that holds it.
  bool claim() { return !busy_.exchange(true, std::memory_order_acquire); }
  void release() { busy_.store(false, std::memory_order_release); }

 private:
  static constexpr int64_t kOpen = int64_t{1} << 62;
  static constexpr double kWeight = 0.1;  // of the latest call in busy_share_

  // As many workers as the system gives: results do not depend on how many there are.
  void grow(int workers) {
    try {
      for (; workers_ < workers; ++workers_) {
        // A pool thread is never joined: it lives as long as the process, and the pool is never destroyed.
        std::thread([this, index = workers_, seen = epoch_.load()]() { work(index, seen); }).detach();
      }
    } catch (const std::system_error&) {  // the system's limit on threads or memory
    }
  }

  bool enter() {
    int64_t gate = gate_.load(std::memory_order_acquire);
    while (gate & kOpen)
      if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  void work(int index, uint64_t seen) {
    const FixedFloatingPointMode mode;
    for (;;) {
      seen = wait(seen);
      if (!enter()) continue;
      if (index < job_.helpers)
        while (job_.run_one(index + 1)) {
        }
      gate_.fetch_sub(1, std::memory_order_release);
    }
  }

  uint64_t wait(uint64_t seen) {
    const auto deadline = Clock::now() + kSpin;
    for (int spins = 0;; ++spins) {
      const uint64_t epoch = epoch_.load(std::memory_order_acquire);
      if (epoch != seen) return epoch;
      relax();
      if (spins % kSpinsBetweenClocks == 0 && Clock::now() > deadline) break;
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return epoch_.load(std::memory_order_seq_cst) != seen; });
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    return epoch_.load(std::memory_order_acquire);
  }

  Job job_;
  std::atomic<bool> busy_{false};
  std::atomic<int64_t> gate_{0};  // kOpen | number of workers inside the job
  std::atomic<uint64_t> epoch_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  int workers_ = 0;
  Experience experience_;
  double busy_share_ = 0;
  Clock::time_point last_end_ = Clock::now();
};

std::atomic<int> thread_count{1};
std::atomic<Pool*> current_pool{nullptr};

Pool& pool() {
  Pool* existing = current_pool.load(std::memory_order_acquire);
  if (existing) return *existing;
  // The child has none of the parent's workers: drop the pool (its locks may be held) and start anew when needed.
  static const int registered = pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr); });
  if (registered != 0) throw std::bad_alloc();
  auto* fresh = new Pool();
  if (current_pool.compare_exchange_strong(existing, fresh)) return *fresh;
  delete fresh;
  return *existing;
}

void run_alone(int64_t units, Body body, void* context) {
  if (!poll_function) {
    for (int64_t unit = 0; unit < units; ++unit) body(context, unit);
    return;
  }
  auto next_poll = Clock::now() + kPoll;
  for (int64_t unit = 0; unit < units; ++unit) {
    body(context, unit);
    if (unit + 1 == units || Clock::now() < next_poll) continue;
    next_poll = Clock::now() + kPoll;
    if (poll_function()) throw Interrupted();
  }
}

struct Slot {
  void* data = nullptr;
  int64_t bytes = 0;
  ~Slot() { std::free(data); }
};

}  // namespace

int num_threads() { return thread_count.load(std::memory_order_relaxed); }
void set_num_threads(int count) { thread_count.store(count < 1 ? 1 : count, std::memory_order_relaxed); }

Interruptible::Interruptible(bool (*poll)()) : outer_(poll_function) { poll_function = poll; }
Interruptible::~Interruptible() { poll_function = outer_; }

void* scratch_bytes(Scratch slot, int64_t bytes) {
  thread_local Slot slots[static_cast<int>(Scratch::count)];
  Slot& kept = slots[static_cast<int>(slot)];
  if (kept.bytes < bytes) {
    constexpr int64_t kAlignment = 64;
    const int64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* data = std::aligned_alloc(kAlignment, static_cast<size_t>(rounded));
    if (!data) throw std::bad_alloc();
    std::free(kept.data);
    kept.data = data;
    kept.bytes = rounded;
  }
  return kept.data;
}

int64_t detail::wakes() { return kitae::cpu::wakes.load(std::memory_order_relaxed); }

void detail::parallel_for(int64_t units, Body body, void* context) {
  if (units <= 0) return;
  const int64_t wanted = num_threads();
  const int threads = static_cast<int>(wanted < units ? wanted : units);
  if (threads <= 1) return run_alone(units, body, context);
  Pool& shared = pool();
  if (!shared.claim()) return run_alone(units, body, context);
  struct Claim {
    Pool& pool;
    ~Claim() { pool.release(); }
  } claim{shared};
  shared.run(units, body, context, threads);
}

}  // namespace kitae::cpu
