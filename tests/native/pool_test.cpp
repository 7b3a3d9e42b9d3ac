// The thread pool alone: every unit once, exceptions, many callers, nesting, sleep, fork, floating-point mode,
// interruption. Built with -fsanitize=thread it must finish without a report.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/floating_point_mode.h"
#include "cpu/threads.h"

namespace {

using kitae::cpu::FixedFloatingPointMode;
using kitae::cpu::Interrupted;
using kitae::cpu::Interruptible;
using kitae::cpu::parallel_for;
using kitae::cpu::parallel_ranges;
using kitae::cpu::set_num_threads;
using Clock = std::chrono::steady_clock;

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif
constexpr int kCallers = 8;
constexpr int kCallsOfCaller = kThreadSanitizer ? 2000 : 10000;
constexpr int kForks = 100;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Not atomic on purpose: two threads that ran one unit would be a race that ThreadSanitizer reports.
void check_every_unit_once(int64_t units) {
  std::vector<int> runs(static_cast<size_t>(units), 0);
  parallel_for(units, [&](int64_t unit) { ++runs[static_cast<size_t>(unit)]; });
  for (const int count : runs) CHECK(count == 1);
}

void test_every_unit_runs_once() {
  for (const int threads : {1, 2, 3, 4, 7, 8, 16}) {
    set_num_threads(threads);
    for (const int64_t units : {0, 1, 2, 3, 15, 16, 17, 1000})
      for (int repeat = 0; repeat < 20; ++repeat) check_every_unit_once(units);
  }
}

void test_ranges_cover_without_overlap() {
  set_num_threads(4);
  for (const int64_t count : {0, 1, 99, 100, 101, 1000}) {
    std::vector<int> visits(static_cast<size_t>(count), 0);
    parallel_ranges(count, 100, [&](int64_t begin, int64_t end) {
      CHECK(begin < end && end - begin <= 100);
      for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
    });
    for (const int visit : visits) CHECK(visit == 1);
  }
}

void test_exception_reaches_the_caller() {
  for (const int threads : {1, 2, 8}) {
    set_num_threads(threads);
    for (int64_t bad = 0; bad < 100; bad += 9) {
      bool caught = false;
      try {
        parallel_for(100, [&](int64_t unit) {
          if (unit == bad) throw std::runtime_error("unit");
        });
      } catch (const std::runtime_error& error) {
        caught = std::string(error.what()) == "unit";
      }
      CHECK(caught);
      check_every_unit_once(100);  // the pool is as good as before
    }
    bool caught = false;  // every unit throws: one of the exceptions arrives
    try {
      parallel_for(100, [](int64_t) { throw std::bad_alloc(); });
    } catch (const std::bad_alloc&) {
      caught = true;
    }
    CHECK(caught);
  }
}

void test_nested_calls() {
  set_num_threads(4);
  std::atomic<int64_t> runs{0};
  parallel_for(8, [&](int64_t) { parallel_for(8, [&](int64_t) { ++runs; }); });
  CHECK(runs == 64);
}

void test_many_callers_while_the_thread_count_changes() {
  std::atomic<bool> stop{false};
  std::thread changer([&] {
    for (int count = 1; !stop; count = count % 6 + 1) {
      set_num_threads(count);
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller)
    callers.emplace_back([] {
      std::vector<int64_t> own(64, 0);
      for (int call = 0; call < kCallsOfCaller; ++call)
        parallel_for(64, [&](int64_t unit) { own[static_cast<size_t>(unit)] += unit; });
      for (int64_t unit = 0; unit < 64; ++unit) CHECK(own[static_cast<size_t>(unit)] == unit * kCallsOfCaller);
    });
  for (std::thread& caller : callers) caller.join();
  stop = true;
  changer.join();
}

// How often `call` woke workers, each time after a pause in which they fell asleep.
template <class Call>
int64_t wakes_after_pauses(int calls, Call call) {
  const int64_t before = kitae::cpu::detail::wakes();
  for (int number = 0; number < calls; ++number) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    call();
  }
  return kitae::cpu::detail::wakes() - before;
}

void test_short_work_lets_workers_sleep() {
  set_num_threads(2);
  // The first call wakes, as it does not know better. Where other processes want the cores, short units can look long
  // and workers come late to sleep: half is enough.
  std::atomic<int64_t> runs{0};
  CHECK(wakes_after_pauses(40, [&] { parallel_for(4, [&](int64_t) { ++runs; }); }) <= 20);
  CHECK(runs == 160);

  const auto long_unit = [](int64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  CHECK(wakes_after_pauses(10, [&] { parallel_for(2, long_unit); }) >= 5);

  // Known as short, and long this time: the caller notices after a unit.
  std::chrono::microseconds length{0};
  const auto unit = [&](int64_t) { std::this_thread::sleep_for(length); };
  int64_t noticed = 0;
  for (int number = 0; number < 10; ++number) {
    length = std::chrono::microseconds(0);
    wakes_after_pauses(2, [&] { parallel_for(1000, unit); });
    length = std::chrono::microseconds(200);
    noticed += wakes_after_pauses(1, [&] { parallel_for(10, unit); });
  }
  CHECK(noticed >= 5);

  // One short call after the other: they are kept awake.
  const auto short_unit = [](int64_t) {
    const auto start = Clock::now();
    while (seconds_since(start) < 5e-6) {
    }
  };
  wakes_after_pauses(10, [&] { parallel_for(3, short_unit); });
  const int64_t before = kitae::cpu::detail::wakes();
  for (int number = 0; number < 500; ++number) parallel_for(3, short_unit);
  CHECK(kitae::cpu::detail::wakes() > before);
}

void test_scratch_belongs_to_its_thread() {
  using kitae::cpu::Scratch;
  using kitae::cpu::scratch;
  auto* first = scratch<float>(Scratch::tile, 10);
  CHECK(reinterpret_cast<uintptr_t>(first) % 64 == 0);
  CHECK(scratch<float>(Scratch::tile, 5) == first);
  CHECK(scratch<float>(Scratch::statistics, 10) != first);
  float* of_other = nullptr;
  std::thread([&] { of_other = scratch<float>(Scratch::tile, 10); }).join();
  CHECK(of_other != nullptr);
  auto* larger = scratch<double>(Scratch::tile, 100000);
  CHECK(reinterpret_cast<uintptr_t>(larger) % 64 == 0);
  larger[99999] = 1.0;
}

#if defined(__x86_64__)
unsigned int floating_point_register() { return _mm_getcsr(); }
void flush_subnormals() { _mm_setcsr(_mm_getcsr() | 0x8040u); }  // FTZ and DAZ
#elif defined(__aarch64__)
uint64_t floating_point_register() {
  uint64_t value;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
void flush_subnormals() { __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t{1} << 24)); }
#endif

void test_floating_point_mode() {
  const auto before = floating_point_register();
  flush_subnormals();
  const auto flushing = floating_point_register();
  CHECK(flushing != before);
  volatile float smallest = std::numeric_limits<float>::denorm_min();
  CHECK(smallest * 1.0f == 0.0f);  // the caller's own mode
  set_num_threads(13);             // more than any test before: new workers are created in this mode
  {
    const FixedFloatingPointMode mode;
    std::atomic<int> flushed{0};
    for (int repeat = 0; repeat < 50; ++repeat)
      parallel_for(64, [&](int64_t) {
        if (smallest * 1.0f == 0.0f) ++flushed;
        std::this_thread::yield();
      });
    CHECK(flushed == 0);
  }
  CHECK(floating_point_register() == flushing);
  // A worker that starts from a flushing thread keeps subnormals without the caller's guard, too.
  set_num_threads(20);
  const auto caller = std::this_thread::get_id();
  std::atomic<int> flushed{0};
  for (int repeat = 0; repeat < 50; ++repeat)
    parallel_for(64, [&](int64_t) {
      if (std::this_thread::get_id() != caller && smallest * 1.0f == 0.0f) ++flushed;
      std::this_thread::yield();
    });
  CHECK(flushed == 0);
#if defined(__x86_64__)
  _mm_setcsr(before);
#else
  __asm__ volatile("msr fpcr, %0" : : "r"(before));
#endif
}

std::atomic<int> polls{0};
bool stop_at_once() { return ++polls > 0; }
bool never_stop() { return ++polls < 0; }

void test_interruption() {
  for (const int threads : {1, 4}) {
    set_num_threads(threads);
    std::atomic<int> runs{0};
    const auto slow_unit = [&](int64_t) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      ++runs;
    };
    const auto start = Clock::now();
    bool stopped = false;
    try {
      const Interruptible interruptible(stop_at_once);
      parallel_for(10000, slow_unit);
    } catch (const Interrupted&) {
      stopped = true;
    }
    CHECK(stopped);
    CHECK(runs < 10000);
    CHECK(seconds_since(start) < 0.25);

    polls = 0;
    runs = 0;
    parallel_for(100, slow_unit);  // outside of Interruptible nobody asks
    CHECK(polls == 0 && runs == 100);
    {
      const Interruptible interruptible(never_stop);
      parallel_for(200, slow_unit);
    }
    CHECK(polls > 0 && runs == 300);
  }
}

// Runs `child` in a forked process and returns how long it took; the test fails when it does not exit with 0 in time.
template <class Child>
double forked(Child child) {
  const auto start = Clock::now();
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    child();
    std::_Exit(0);
  }
  int status = -1;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    CHECK(seconds_since(start) < 60);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  return seconds_since(start);
}

void test_fork_after_use() {
  set_num_threads(4);
  check_every_unit_once(1000);
  for (int fork_number = 0; fork_number < kForks; ++fork_number) {
    CHECK(forked([] { check_every_unit_once(1000); }) < (kThreadSanitizer ? 30 : 1));
    check_every_unit_once(100);
  }
}

void test_fork_while_others_compute() {
  set_num_threads(4);
  std::atomic<bool> stop{false};
  std::thread worker([&] {
    while (!stop) check_every_unit_once(64);
  });
  for (int fork_number = 0; fork_number < 20; ++fork_number) forked([] { check_every_unit_once(1000); });
  stop = true;
  worker.join();
}

// Where the system gives no more threads, the call runs on those there are.
void test_no_memory_for_threads() {
  forked([] {
    rlimit limit{};
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = 512u << 20;  // a thread's stack takes 8 MiB of addresses
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    set_num_threads(1000);
    check_every_unit_once(10000);
    check_every_unit_once(10000);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const bool emulated = argc > 1 && std::strcmp(argv[1], "--emulated") == 0;
  test_every_unit_runs_once();
  test_ranges_cover_without_overlap();
  test_exception_reaches_the_caller();
  test_nested_calls();
  test_many_callers_while_the_thread_count_changes();
  test_short_work_lets_workers_sleep();
  test_scratch_belongs_to_its_thread();
  test_floating_point_mode();
  test_interruption();
  if (!emulated) test_fork_after_use();  // a forked child that starts threads crashes qemu-user 7.2 itself
  if (!emulated && !kThreadSanitizer) {  // which cannot follow a fork amid running threads, nor live in 512 MiB
    test_fork_while_others_compute();
    test_no_memory_for_threads();
  }
  std::puts("pool_test: passed");
  return 0;
}
