// A small thread pool. Not OpenMP: libgomp hangs a child forked after parallel work.
//
// A call is cut into units whose results do not depend on who runs them; the caller and the workers claim units one by
// one, each from its own share first. One call at a time uses the workers; a call from a second thread meanwhile runs
// alone, with the same result. A worker that is still asleep when the units are gone is not waited for. After fork the
// child starts with a fresh pool.
#pragma once

#include <cstdint>
#include <exception>
#include <type_traits>

namespace kitae::cpu {

int num_threads();
void set_num_threads(int count);

// Thrown by parallel_for when the caller's poll function asked to stop (Ctrl-C); some units have not run.
struct Interrupted : std::exception {
  const char* what() const noexcept override { return "interrupted"; }
};

// While one lives, parallel_for of this thread asks `poll` every 50 ms whether to stop. Only for calls that may leave
// their outputs unfinished: never while arrays are updated in place.
class Interruptible {
 public:
  explicit Interruptible(bool (*poll)());
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  bool (*outer_)();
};

namespace detail {
int64_t wakes();  // how often sleeping workers were woken, for tests
void parallel_for(int64_t units, void (*body)(void*, int64_t), void* context);
}  // namespace detail

// Calls body(unit) for every unit in [0, units), each once, in any order, from any thread. The first
// exception of a unit is rethrown here, after the units that are running have finished; the others are not started.
template <class Body>
void parallel_for(int64_t units, Body&& body) {
  detail::parallel_for(
      units, [](void* context, int64_t unit) { (*static_cast<std::remove_reference_t<Body>*>(context))(unit); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// The same over [0, count) in ranges of `grain`: body(begin, end). At most one range: no thread is woken.
template <class Body>
void parallel_ranges(int64_t count, int64_t grain, Body&& body) {
  const int64_t units = (count + grain - 1) / grain;
  parallel_for(units, [&](int64_t unit) {
    const int64_t begin = unit * grain;
    body(begin, begin + grain < count ? begin + grain : count);
  });
}

// Elements of a unit of work: `few`, and more of a large array. Its memory is walked at as many places as there are
// threads, and the hardware begins to fetch ahead anew with every unit.
constexpr int64_t elements_of_unit(int64_t few, int64_t size) {
  constexpr int64_t kLarge = 1 << 22, kMany = 1 << 18;
  return size < kLarge || few > kMany ? few : kMany;
}

// Scratch memory of this thread, kept between calls; contents undefined, 64-byte aligned. Nested uses take other slots.
enum class Scratch { partial_sums, statistics, tile, count };
void* scratch_bytes(Scratch slot, int64_t bytes);
template <class T>
T* scratch(Scratch slot, int64_t elements) {
  return static_cast<T*>(scratch_bytes(slot, elements * static_cast<int64_t>(sizeof(T))));
}

}  // namespace kitae::cpu
