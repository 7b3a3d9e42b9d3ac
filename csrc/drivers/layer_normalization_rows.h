// What both passes of layer normalization on the CPU share: rows in the type of arithmetic, in place or through a
// buffer.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include "cpu/for_each_channel.h"
#include "cpu/row_sums.h"
#include "cpu/short_rows.h"
#include "cpu/threads.h"
#include "drivers/layer_normalization.h"
#include "drivers/vectors.h"
#include "ops/layer_norm.h"

namespace kitae::layer_normalization {

// Elements of a block of rows, which stays in the caches next to the core between its sums and its step.
constexpr int64_t kBlockElements = 1 << 13;
constexpr int64_t kMostRows = kBlockElements / kLanes;
constexpr int64_t kUnitElements = 1 << 16;  // of a thread's unit of work
constexpr int64_t kSmall = 1 << 14;         // elements; below, waking a thread costs more than it brings

// The numbers of the columns, rounded to T.
template <class T>
void read_columns(const Array& from, T absent, T* to, int64_t count) {
  if (!from) return std::fill(to, to + count, absent);
  visit_dtype(from.dtype, [&](auto zero) {
    const auto* elements = from.as<const decltype(zero)>();
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(to_float(elements[i]));
  });
}

// f(row, column, count) for pieces of the rows of a box (a channel is a row) that fit a tile's buffer.
template <class F>
void for_each_piece(const cpu::Box& box, bool backwards, F&& f) {
  for (int64_t i = box.first_channel; i < box.last_channel; ++i) {
    const int64_t row = backwards ? box.last_channel - 1 - (i - box.first_channel) : i;
    for (int64_t column = box.first_column; column < box.last_column; column += cpu::kTileElements)
      f(row, column, std::min(box.last_column - column, cpu::kTileElements));
  }
}

// A piece of storage in the type of arithmetic: in place, or widened into the buffer.
template <class S>
const Compute<S>* load_piece(const S* from, int64_t count, Compute<S>* buffer) {
  if constexpr (std::is_same_v<S, Compute<S>>) {
    return from;
  } else {
    cpu::widen(buffer, from, count);
    return buffer;
  }
}

// The way back: write(T*) makes the piece.
template <class S, class Write>
void store_piece(S* to, int64_t count, Compute<S>* buffer, Write&& write) {
  if constexpr (std::is_same_v<S, Compute<S>>) {
    write(to);
  } else {
    write(buffer);
    cpu::narrow(to, buffer, count);
  }
}

inline ChannelStatistics statistics_of(const LayerNorm& call, int64_t row) {
  const double* at = call.statistics + row;
  return {at[0], at[call.rows], at[2 * call.rows]};
}

// Whether a row has so few elements that many are transposed together.
inline bool by_short_rows(const LayerNorm& call) { return call.columns <= kLanes; }

// Whether a longer row is one chunk, so that its sums are taken beside its neighbours'.
inline bool by_rows(const LayerNorm& call) { return call.columns > kLanes && call.columns <= kChunk; }

// Rows of a unit of work, which leaves every thread a choice of two.
inline int64_t rows_of_unit(const LayerNorm& call) {
  if (call.size() <= kSmall) return call.rows;
  const int64_t share = call.rows / (2 * cpu::num_threads());
  return std::max<int64_t>(std::min(kUnitElements / call.columns, share), cpu::kRowsTogether);
}

// Rows of a block; those that are widened fit its buffer.
template <class S>
int64_t rows_of_block(int64_t columns) {
  const int64_t fit = kBlockElements / columns, together = cpu::kRowsTogether;
  if (fit >= together) return fit / together * together;
  return std::is_same_v<S, Compute<S>> ? together : fit;
}

// Elements up to which rows come soon enough unasked. Where cores with vectors of 32 bytes have it in a level-3 cache,
// asking takes a quarter of the time again; beyond it, it saves as much.
constexpr int64_t kNear = cpu::kVectorBytes == 64 ? cpu::kNearElements : 1 << 20;

// The rows that begin at element `next`: nothing where they are near.
template <class S>
cpu::Ahead rows_ahead(const LayerNorm& call, const S* data, int64_t next) {
  if (call.size() <= kNear) return {};
  constexpr int64_t kElement = sizeof(S);
  return {reinterpret_cast<const char*>(data + next), call.columns * kElement, kElement};
}

// The block of rows after the one that begins at `element`.
template <class S>
cpu::Ahead next_block(const LayerNorm& call, const S* data, int64_t element) {
  return rows_ahead(call, data, element + rows_of_block<S>(call.columns) * call.columns);
}

// The forward steps of rows [row, last).
template <class T>
void normalizations(const LayerNorm& call, int64_t row, int64_t last, NormalizeRow<T>* steps) {
#pragma GCC ivdep
  for (int64_t i = row; i < last; ++i) steps[i - row] = NormalizeRow<T>::from(statistics_of(call, i));
}

// The forward steps of short rows, each number side by side.
template <class T>
struct ShortRows {
  alignas(64) T center[cpu::kMostShortRows], gain[cpu::kMostShortRows], gain_low[cpu::kMostShortRows],
      shift[cpu::kMostShortRows];

  // Of rows [row, last), padded with zeros to `stride`.
  void fill(const LayerNorm& call, int64_t row, int64_t last, int64_t stride) {
#pragma GCC ivdep
    for (int64_t i = row; i < last; ++i) {
      const Normalize<T> step = NormalizeRow<T>::from(statistics_of(call, i)).normalize;
      center[i - row] = step.center;
      gain[i - row] = step.gain;
      gain_low[i - row] = step.gain_low;
      shift[i - row] = step.shift;
    }
    for (int64_t i = last - row; i < stride; ++i) center[i] = gain[i] = gain_low[i] = shift[i] = 0;
  }
  NormalizeRow<T> operator()(int64_t i) const { return {{center[i], gain[i], gain_low[i], shift[i]}}; }
  // Of as many rows as load(T*) gives.
  template <class Vector, class Load>
  [[gnu::always_inline]] NormalizeRow<Vector> several(int64_t i, const Load& load) const {
    return {{load(center + i), load(gain + i), load(gain_low + i), load(shift + i)}};
  }
};

// visit(a constant number of rows, the first of them): several at a time, the rest one by one.
template <int kTogether = cpu::kRowsTogether, class Visit>
void for_each_group(int64_t row, int64_t last, Visit&& visit) {
  for (; row + kTogether <= last; row += kTogether) visit(std::integral_constant<int, kTogether>{}, row);
  for (; row < last; ++row) visit(std::integral_constant<int, 1>{}, row);
}

// A copy, which nothing that is written can change: the compiler keeps it in registers.
template <int kRows, class Step>
std::array<Step, kRows> first_of(const Step* steps) {
  std::array<Step, kRows> copy;
  std::copy(steps, steps + kRows, copy.begin());
  return copy;
}

// to[k columns + i] = f(k, k columns + i, i). What is ahead is asked for, to be read and to be written.
template <int kRows, class T, class F>
[[gnu::always_inline]] inline void write_rows(T* to, int64_t columns, const cpu::Ahead& read, const cpu::Ahead& written,
                                              const F& f) {
  constexpr int64_t kPiece = 256, kLine = 64;
  for (int64_t begin = 0; begin < columns; begin += kPiece) {
    const int64_t end = std::min(begin + kPiece, columns);
    for (int k = 0; k < kRows; ++k) {
      for (int64_t i = begin * read.element; i < end * read.element; i += kLine)
        __builtin_prefetch(read.row(k) + i, 0, 2);
      for (int64_t i = begin * written.element; i < end * written.element; i += kLine)
        __builtin_prefetch(written.row(k) + i, 1, 2);
    }
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i)
      for (int k = 0; k < kRows; ++k) to[k * columns + i] = f(k, k * columns + i, i);
  }
}

}  // namespace kitae::layer_normalization
