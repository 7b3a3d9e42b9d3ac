#include "drivers/dropout.h"

#include <cstring>

#include "cpu/keep_row.h"
#include "cpu/keep_words.h"
#include "cpu/rows.h"
#include "cpu/stream.h"
#include "cpu/threads.h"

namespace kitae {
namespace {

// Elements that a thread claims at a time: a divisor of 2^35, so that KeepWords's counter carries between units only.
constexpr int64_t kUnit = 16 * cpu::kRow;
constexpr int64_t kAloneBelow = 2 * kUnit;  // fewer elements wake no thread
static_assert(cpu::kRow % kElementsPerWord == 0 && (kUnit & (kUnit - 1)) == 0, "rows and units are whole words");

uint64_t load_word(const uint8_t* bits, int64_t word) {
  uint64_t value;
  std::memcpy(&value, bits + 8 * word, sizeof(value));
  return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? value : __builtin_bswap64(value);
}

void store_word(uint8_t* bits, int64_t word, uint64_t value) {
  if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) value = __builtin_bswap64(value);
  std::memcpy(bits + 8 * word, &value, sizeof(value));
}

// Where the words of a mask come from. at(word) makes what a unit that starts with that word calls: (word, words)
// stores kAtOnce words from `word` on.
struct Constant {
  static constexpr int kAtOnce = 1;
  uint64_t value;
  const Constant& at(int64_t) const { return *this; }
  void operator()(int64_t, uint64_t* words) const { *words = value; }
};

struct Stored {
  static constexpr int kAtOnce = 1;
  const uint8_t* bits;
  const Stored& at(int64_t) const { return *this; }
  void operator()(int64_t word, uint64_t* words) const { *words = load_word(bits, word); }
};

struct Drawn {
  DropoutDraw draw;
  cpu::KeepWords at(int64_t word) const { return {draw, word}; }
};

// f(source of words) for the draw: T = 0 and T = 2^32 need no generator.
template <class F>
void with_words(const DropoutDraw& draw, F f) {
  if (draw.threshold == 0)
    f(Constant{~uint64_t{0}});
  else if (draw.threshold == kDropAll)
    f(Constant{0});
  else
    f(Drawn{draw});
}

// body(begin, end) over whole units.
template <class Body>
void for_each_unit(int64_t size, Body body) {
  cpu::parallel_ranges(size, size < kAloneBelow ? kAloneBelow : cpu::elements_of_unit(kUnit, size), body);
}

// f(word, its bits, elements before it, its elements) for `count` elements from word `word` on; bits past them are 0.
template <class Words, class F>
void for_each_word(const Words& words, int64_t word, int64_t count, F f) {
  for (int64_t done = 0; done < count; word += Words::kAtOnce) {
    uint64_t keep[Words::kAtOnce];
    words(word, keep);
    for (int at = 0; at < Words::kAtOnce && done < count; ++at, done += kElementsPerWord) {
      if (count - done >= kElementsPerWord)
        f(word + at, keep[at], done, int64_t{kElementsPerWord});
      else
        f(word + at, keep[at] & ((uint64_t{1} << (count - done)) - 1), done, count - done);
    }
  }
}

// to = from masked, for `count` elements from word `word` on; the mask is stored in `bits` unless nullptr.
template <class S, class Words>
void keep_row(S* to, const S* from, int64_t count, int64_t word, const Words& words, uint8_t* bits,
              Compute<S> keep_scale) {
  for_each_word(words, word, count, [=](int64_t number, uint64_t keep, int64_t at, int64_t elements) {
    if (bits) store_word(bits, number, keep);
    if (elements == kElementsPerWord)
      cpu::keep_word(to + at, from + at, keep, keep_scale);
    else
      cpu::keep_part_of_word(to + at, from + at, keep, keep_scale, elements);
  });
}

// keep_row for a large output that is not the input.
template <class S, class Words>
void keep_and_stream(S* to, const S* from, int64_t count, int64_t word, const Words& words, uint8_t* bits,
                     Compute<S> keep_scale) {
  {
    cpu::LineStream<S, cpu::kRow> lines(to);
    for (int64_t at = 0; at < count; at += cpu::kRow, word += cpu::kRow / kElementsPerWord) {
      const int64_t length = count - at < cpu::kRow ? count - at : cpu::kRow;
      keep_row(lines.room(), from + at, length, word, words, bits, keep_scale);
      lines.add(length);
    }
  }
  cpu::stream_fence();
}

// S: what the arrays hold.
template <class S, class Source>
void apply(const View& x, const View& y, const Source& source, uint8_t* bits, double keep_scale) {
  using T = Compute<S>;
  const T scale = static_cast<T>(keep_scale);
  const S* const all_of_x = x.contiguous ? reinterpret_cast<const S*>(x.data) : nullptr;
  S* const all_of_y = y.contiguous ? reinterpret_cast<S*>(y.data) : nullptr;
  // One thread waits for its own arithmetic, not for memory, and the buffer costs it more than it gains.
  const bool large = y.size * static_cast<int64_t>(sizeof(S)) >= cpu::kStreamedBytes && cpu::num_threads() > 1;
  const bool streamed = large && all_of_x != all_of_y;
  for_each_unit(x.size, [&](int64_t begin, int64_t end) {
    const int64_t first = begin / kElementsPerWord;
    const auto words = source.at(first);
    if (all_of_x && all_of_y) {
      if (streamed)
        keep_and_stream(all_of_y + begin, all_of_x + begin, end - begin, first, words, bits, scale);
      else
        keep_row(all_of_y + begin, all_of_x + begin, end - begin, first, words, bits, scale);
      return;
    }
    alignas(64) T buffer[cpu::kRow];
    for (; begin < end; begin += cpu::kRow) {
      const int64_t count = end - begin < cpu::kRow ? end - begin : cpu::kRow;
      const T* from = cpu::direct<T>(x, begin);
      T* to = cpu::direct<T>(y, begin);
      if (!from) {
        cpu::read_row(buffer, x, begin, count);
        from = buffer;
      }
      keep_row(to ? to : buffer, from, count, begin / kElementsPerWord, words, bits, scale);
      if (!to) cpu::write_row(y, begin, buffer, count);
    }
  });
}

template <class Source>
void apply(const Array& x, const Array& y, const Source& source, uint8_t* bits, double keep_scale) {
  View from, to;
  from.assign(x);
  to.assign(y);
  visit_dtype(x.dtype, [&](auto zero) { apply<decltype(zero)>(from, to, source, bits, keep_scale); });
}

}  // namespace

void dropout_forward(const Array& x, const Array& y, uint8_t* bits, const DropoutDraw& draw, double keep_scale) {
  with_words(draw, [&](const auto& source) { apply(x, y, source, bits, keep_scale); });
}

void dropout_backward(const Array& dout, const Array& dx, const uint8_t* bits, const DropoutDraw& draw,
                      double keep_scale) {
  if (bits)
    apply(dout, dx, Stored{bits}, nullptr, keep_scale);
  else
    dropout_forward(dout, dx, nullptr, draw, keep_scale);
}

void dropout_mask(uint8_t* bits, int64_t size, const DropoutDraw& draw) {
  with_words(draw, [&](const auto& source) {
    for_each_unit(size, [&](int64_t begin, int64_t end) {
      const int64_t first = begin / kElementsPerWord;
      for_each_word(source.at(first), first, end - begin,
                    [=](int64_t word, uint64_t keep, int64_t, int64_t) { store_word(bits, word, keep); });
    });
  });
}

}  // namespace kitae
