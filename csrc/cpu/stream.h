// Stores that bypass the caches, for outputs much larger than them: they save the read that a plain store makes first.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kitae::cpu {

constexpr int64_t kLineBytes = 64;

// One cache line; `to` is aligned to it.
[[gnu::always_inline]] inline void stream_line(void* to, const void* from) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif defined(__AVX2__)
  for (int part = 0; part < 2; ++part)
    _mm256_stream_si256(static_cast<__m256i*>(to) + part, _mm256_loadu_si256(static_cast<const __m256i*>(from) + part));
#elif defined(__x86_64__)
  for (int part = 0; part < 4; ++part)
    _mm_stream_si128(static_cast<__m128i*>(to) + part, _mm_loadu_si128(static_cast<const __m128i*>(from) + part));
#else
  std::memcpy(to, from, kLineBytes);
#endif
}

// After the last line, so that other threads see them.
inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Bytes up to the first line that begins at or behind `to`.
inline int64_t bytes_to_line(const void* to) {
  return static_cast<int64_t>(-reinterpret_cast<uintptr_t>(to) % static_cast<uintptr_t>(kLineBytes));
}

// Copies bytes; whole cache lines of the destination are streamed.
inline void stream_bytes(void* to, const void* from, int64_t bytes) {
  auto* out = static_cast<char*>(to);
  const auto* in = static_cast<const char*>(from);
  int64_t at = bytes_to_line(to);
  if (at > bytes) at = bytes;
  std::memcpy(out, in, static_cast<size_t>(at));
  for (; at + kLineBytes <= bytes; at += kLineBytes) stream_line(out + at, in + at);
  std::memcpy(out + at, in + at, static_cast<size_t>(bytes - at));
}

// Elements written one after the other, their whole lines streamed, by way of a buffer in the level-1 cache. At most
// kMostElements may be added at a time.
template <class T, int64_t kMostElements = 512>
class LineStream {
 public:
  static constexpr int64_t kMost = kMostElements;

  explicit LineStream(T* out) : out_(out) {}
  ~LineStream() { stream_bytes(out_, buffer_, count_ * kElement); }
  LineStream(const LineStream&) = delete;
  LineStream& operator=(const LineStream&) = delete;

  // Where the next elements, kMost at most, are to be written; then: so many were.
  T* room() { return buffer_ + count_; }
  void add(int64_t count) {
    count_ += count;
    if (count_ < kMost) return;
    // Up to the end of a line: the next elements complete the rest.
    const int64_t last = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out_ + count_) % kLineBytes) / kElement;
    stream_bytes(out_, buffer_, (count_ - last) * kElement);
    out_ += count_ - last;
    std::memmove(buffer_, buffer_ + count_ - last, static_cast<size_t>(last * kElement));
    count_ = last;
  }

 private:
  static constexpr int64_t kElement = sizeof(T);
  T* out_;
  int64_t count_ = 0;
  alignas(kLineBytes) T buffer_[2 * kMost];
};

// An output of so many bytes or more is streamed, where it is none of the inputs: with an input as large, the caches
// hold little of it when it is read next. What a virtual machine says of its caches is the host's.
#if defined(__x86_64__)
constexpr int64_t kStreamedBytes = 1 << 24;
#else
constexpr int64_t kStreamedBytes = INT64_MAX;
#endif

}  // namespace kitae::cpu
