// Changes of every element of a list in place. A block takes a chunk of 4,096 elements, then the next but as many as
// there are blocks. Contiguous tensors at a multiple of 16 bytes move in vectors, four under way in a thread:
// 64 KB on a multiprocessor with four blocks of 256 threads. Others go element by element, neighbours in
// neighbouring threads, so that unaligned memory costs instructions but no traffic.
#pragma once

#include <cstdint>

#include "cuda/list.h"

namespace kitae::cuda {

// change.of<T>(tensor number) -> element, element(T) -> T. Traffic: 8 bytes an element in float32 (its floor).
template <class Change>
struct ChangeKernel {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = 4;
  static constexpr int kAtOnce = 4;

  List list;
  Change change;

  KITAE_DEVICE void operator()() const {
    if (change.nothing()) return;
    for (int64_t chunk = block_index(); chunk < list.chunks; chunk += block_count()) {
      const int32_t number = list.tensor_of(chunk);
      if (change.nothing(number)) continue;
      const Tensor& tensor = list.tensors[number];
      const Source& source = list.sources[tensor.first_source];
      const int64_t begin = (chunk - list.first_chunk[number]) * kChunk, left = tensor.size - begin;
      const auto count = static_cast<int>(left < kChunk ? left : kChunk);
      switch (source.dtype) {
        case DType::float16:
          apply<Float16>(number, source, begin, count);
          break;
        case DType::bfloat16:
          apply<BFloat16>(number, source, begin, count);
          break;
        case DType::float32:
          apply<float>(number, source, begin, count);
          break;
        default:
          apply<double>(number, source, begin, count);
      }
    }
  }

 private:
  // Elements in 16 bytes. As words until they are needed: 16-bit numbers would take a register each from the load on.
  template <class T, class Element>
  static KITAE_DEVICE Vector<uint32_t, 4> changed_words(const Vector<uint32_t, 4>& words, const Element& element) {
    Vector<uint32_t, 4> changed;
    if constexpr (sizeof(T) == 8) {
      KITAE_UNROLL
      for (int i = 0; i < 2; ++i) {
        const uint64_t bits = uint64_t{words[2 * i + 1]} << 32 | words[2 * i];
        const auto result = bit_cast<uint64_t>(element(bit_cast<T>(bits)));
        changed[2 * i] = static_cast<uint32_t>(result);
        changed[2 * i + 1] = static_cast<uint32_t>(result >> 32);
      }
    } else if constexpr (sizeof(T) == 4) {
      KITAE_UNROLL
      for (int i = 0; i < 4; ++i) changed[i] = bit_cast<uint32_t>(element(bit_cast<T>(words[i])));
    } else {
      KITAE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const T low = element(T{static_cast<uint16_t>(words[i] & 0xffffu)});
        const T high = element(T{static_cast<uint16_t>(words[i] >> 16)});
        changed[i] = uint32_t{low.bits} | uint32_t{high.bits} << 16;
      }
    }
    return changed;
  }

  template <class T>
  KITAE_DEVICE void apply(int32_t number, const Source& source, int64_t begin, int count) const {
    constexpr int kVector = kPerVector<T>;
    const auto changed = change.template of<Compute<T>>(number);
    const auto element = [&](T value) { return FromFloat<T>::convert(changed(to_float(value))); };
    int done = 0;
    if (source.aligned) {
      auto* const data = reinterpret_cast<uint32_t*>(reinterpret_cast<T*>(source.data) + begin);
      const int vectors = count / kVector;
      done = vectors * kVector;
      KITAE_NO_UNROLL
      for (int first = thread_index(); first < vectors; first += kAtOnce * kThreads) {
        Vector<uint32_t, 4> values[kAtOnce];
        KITAE_UNROLL
        for (int k = 0; k < kAtOnce; ++k)
          if (first + k * kThreads < vectors) values[k] = load_vector_streaming<4>(data + 4 * (first + k * kThreads));
        KITAE_UNROLL
        for (int k = 0; k < kAtOnce; ++k) {
          if (first + k * kThreads >= vectors) continue;
          store_vector(data + 4 * (first + k * kThreads), changed_words<T>(values[k], element));
        }
      }
    }
    KITAE_NO_UNROLL
    for (int i = done + thread_index(); i < count; i += kThreads) {
      T* const at = reinterpret_cast<T*>(source.data + list.offset(source, begin + i));
      *at = element(*at);
    }
  }
};

}  // namespace kitae::cuda
