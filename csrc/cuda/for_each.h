// Changes of every element of a list in place. A block takes a chunk of 4,096 elements, then the next but as many as
// there are blocks. Contiguous tensors move in vectors of 16 bytes, four under way in a thread: 64 KB on a
// multiprocessor with four blocks of 256 threads. What lies before and after whole vectors, and other tensors, go
// element by element, neighbours in neighbouring threads: that costs instructions but no traffic.
#pragma once

#include <cstdint>
#include <utility>

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
      const Part part = source.layout == 0 ? in_vectors(number, source, begin, count) : Part{0, 0};
      with_type(source.dtype, [&](auto type) {
        using T = decltype(type);
        const Element<T> element{change.template of<Compute<T>>(number)};
        KITAE_NO_UNROLL
        for (int i = thread_index(); i < count - part.elements; i += kThreads) {
          const int place = i < part.first ? i : i + part.elements;
          T* const at = reinterpret_cast<T*>(source.data + list.offset(source, begin + place));
          *at = element(*at);
        }
      });
    }
  }

 private:
  template <class T>
  struct Element {
    decltype(std::declval<Change>().template of<Compute<T>>(0)) change;
    KITAE_DEVICE T operator()(T value) const { return FromFloat<T>::convert(change(to_float(value))); }
  };

  template <class Visit>
  static KITAE_DEVICE void with_type(DType dtype, Visit&& visit) {
    switch (dtype) {
      case DType::float16:
        return visit(Float16{});
      case DType::bfloat16:
        return visit(BFloat16{});
      case DType::float32:
        return visit(float{});
      default:
        return visit(double{});
    }
  }

  // Elements in 16 bytes. As words until they are needed: 16-bit numbers would take a register each from the load on.
  template <class T>
  static KITAE_DEVICE void change_words(Vector<uint32_t, 4>& words, const Element<T>& element) {
    if constexpr (sizeof(T) == 8) {
      KITAE_UNROLL
      for (int i = 0; i < 4; i += 2) {
        const uint64_t bits = uint64_t{words[i + 1]} << 32 | words[i];
        const auto result = bit_cast<uint64_t>(element(bit_cast<T>(bits)));
        words[i] = static_cast<uint32_t>(result);
        words[i + 1] = static_cast<uint32_t>(result >> 32);
      }
    } else if constexpr (sizeof(T) == 4) {
      KITAE_UNROLL
      for (int i = 0; i < 4; ++i) words[i] = bit_cast<uint32_t>(element(bit_cast<T>(words[i])));
    } else {
      KITAE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const T low = element(T{static_cast<uint16_t>(words[i] & 0xffffu)});
        const T high = element(T{static_cast<uint16_t>(words[i] >> 16)});
        words[i] = uint32_t{low.bits} | uint32_t{high.bits} << 16;
      }
    }
  }

  struct Part {
    int first, elements;  // of a chunk
  };

  // Types differ only between loads and stores: a loop each would take twice the registers. Returns what is done.
  KITAE_DEVICE Part in_vectors(int32_t number, const Source& source, int64_t begin, int count) const {
    const int bytes = bytes_of(source.dtype);
    const auto lead = static_cast<int>(-reinterpret_cast<uintptr_t>(source.data) % 16) / bytes;  // of every chunk
    const int vectors = lead < count ? (count - lead) * bytes / 16 : 0;
    auto* const data = reinterpret_cast<uint32_t*>(source.data + (begin + lead) * bytes);
    KITAE_NO_UNROLL
    for (int first = thread_index(); first < vectors; first += kAtOnce * kThreads) {
      Vector<uint32_t, 4> values[kAtOnce];
      KITAE_UNROLL
      for (int k = 0; k < kAtOnce; ++k)
        if (first + k * kThreads < vectors) values[k] = load_vector_streaming<4>(data + 4 * (first + k * kThreads));
      with_type(source.dtype, [&](auto type) {
        using T = decltype(type);
        const Element<T> element{change.template of<Compute<T>>(number)};
        KITAE_UNROLL
        for (int k = 0; k < kAtOnce; ++k)
          if (first + k * kThreads < vectors) change_words<T>(values[k], element);
      });
      KITAE_UNROLL
      for (int k = 0; k < kAtOnce; ++k)
        if (first + k * kThreads < vectors) store_vector(data + 4 * (first + k * kThreads), values[k]);
    }
    return {lead, vectors * 16 / bytes};
  }
};

}  // namespace kitae::cuda
