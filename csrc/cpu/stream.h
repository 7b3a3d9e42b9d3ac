// Stores that bypass the caches, for outputs much larger than them: they save the read that a plain store makes first.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kitae::cpu {

// Copies bytes; whole cache lines of the destination are streamed. Ends with a fence, so other threads see the bytes.
inline void stream_bytes(void* to, const void* from, int64_t bytes) {
#if defined(__x86_64__)
  constexpr int64_t kLine = 64;
  auto* out = static_cast<char*>(to);
  const auto* in = static_cast<const char*>(from);
  int64_t head = (kLine - static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % kLine)) % kLine;
  if (head > bytes) head = bytes;
  std::memcpy(out, in, static_cast<size_t>(head));
  int64_t at = head;
  for (; at + kLine <= bytes; at += kLine) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(out + at), _mm512_loadu_si512(in + at));
#elif defined(__AVX2__)
    for (int part = 0; part < kLine; part += 32)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(out + at + part),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + at + part)));
#else
    for (int part = 0; part < kLine; part += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + at + part),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + at + part)));
#endif
  }
  std::memcpy(out + at, in + at, static_cast<size_t>(bytes - at));
  _mm_sfence();
#else
  std::memcpy(to, from, static_cast<size_t>(bytes));
#endif
}

}  // namespace kitae::cpu
