// Short runs of elements, as rows of small images are, in a few vectors of falling size: loops that the compiler makes
// spend more on their rests (and on calls of memset for a single zero) than on the run.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/lanes.h"

namespace kitae::cpu {

template <class T, int kBytes>
struct Run {
  typedef T Vector __attribute__((vector_size(kBytes)));
  static constexpr int64_t kCount = kBytes / static_cast<int64_t>(sizeof(T));

  static Vector load(const T* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof(vector));
    return vector;
  }
  static void store(T* to, Vector vector) { std::memcpy(to, &vector, sizeof(vector)); }
  static void add(T* to, const T* from) { store(to, load(to) + load(from)); }
};

// to = from, of other memory. The last vector overlaps the one before.
template <class T>
inline void copy_run(T* to, const T* from, int64_t count) {
  constexpr int64_t kLine = 64;
  auto* const out = reinterpret_cast<char*>(to);
  const auto* const in = reinterpret_cast<const char*>(from);
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  const auto ends = [=](auto size) {
    std::memcpy(out, in, size);
    std::memcpy(out + bytes - size, in + bytes - size, size);
  };
  if (bytes >= kLine) {
    for (int64_t i = 0; i < bytes - kLine; i += kLine) std::memcpy(out + i, in + i, kLine);
    std::memcpy(out + bytes - kLine, in + bytes - kLine, kLine);
  } else if (bytes >= kLine / 2) {
    ends(std::integral_constant<size_t, kLine / 2>());
  } else if (bytes >= kLine / 4) {
    ends(std::integral_constant<size_t, kLine / 4>());
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  }
}

// to = 0
template <class T>
inline void clear_run(T* to, int64_t count) {
  if (count <= 0) return;
  to[0] = to[count - 1] = T(0);  // padding is mostly of one or two elements
  if (count > 2) std::memset(to, 0, static_cast<size_t>(count) * sizeof(T));
}

// to += from
template <class T>
inline void add_run(T* to, const T* from, int64_t count) {
  int64_t i = 0;
  const auto add = [&](auto run) {
    run.add(to + i, from + i);
    i += run.kCount;
  };
  while (count - i >= Run<T, kVectorBytes>::kCount) add(Run<T, kVectorBytes>());
  if constexpr (kVectorBytes > 32)
    if (count - i >= Run<T, 32>::kCount) add(Run<T, 32>());
  if constexpr (kVectorBytes > 16)
    if (count - i >= Run<T, 16>::kCount) add(Run<T, 16>());
  // What remains is at most the last 12 bytes; written as a loop it would become one with a vector body.
  const int64_t rest = count - i;
  if (rest > 0) to[i] += from[i];
  if (rest > 1) to[i + 1] += from[i + 1];
  if (rest > 2) to[i + 2] += from[i + 2];
}

// Masks of elements of T: all bits set, or none.
template <class T>
using MaskOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// What add_run_in_rows needs of a row: the rest of a vector that begins with its last element.
template <class T>
constexpr int64_t kBeyondRow = Run<T, kVectorBytes>::kCount - 1;

// to += from through rows of `length` elements, where the row's mask says so: of the others 0 is added, which changes
// no sum that began with +0. `mask`: of a row, going on with its first elements for kBeyondRow more; `place`: where in
// a row the run begins.
template <class T>
inline void add_run_in_rows(T* to, const T* from, int64_t count, const MaskOf<T>* mask, int64_t length, int64_t place) {
  using Vector = Run<T, kVectorBytes>;
  using Mask = Run<MaskOf<T>, kVectorBytes>;
  const int64_t step = Vector::kCount % length;
  int64_t i = 0;
  for (; i + Vector::kCount <= count; i += Vector::kCount) {
    const auto bits = Mask::load(reinterpret_cast<const MaskOf<T>*>(from + i)) & Mask::load(mask + place);
    Vector::store(to + i, Vector::load(to + i) + reinterpret_cast<typename Vector::Vector>(bits));
    place += step;
    if (place >= length) place -= length;
  }
  for (; i < count; ++i, place = place + 1 < length ? place + 1 : 0)
    if (mask[place]) to[i] += from[i];
}

}  // namespace kitae::cpu
