// The host's side of cuda/list.h: a list's tables, built in one piece of memory that is uploaded at once.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/list.h"
#include "drivers/view.h"

namespace kitae::cuda {

// Strides of views that are not contiguous, one after the other.
class Layouts {
 public:
  void clear() { words_.assign(1, 0); }
  const std::vector<int64_t>& words() const { return words_; }

  int32_t add(const View& view) {
    if (view.contiguous || view.size == 0) return 0;
    const auto at = static_cast<int32_t>(words_.size());
    words_.push_back(static_cast<int64_t>(view.shape.size()));
    for (size_t axis = 0; axis < view.shape.size(); ++axis)
      words_.insert(words_.end(), {view.shape[axis], view.strides[axis],
                                   bit_cast<int64_t>(1.0 / static_cast<double>(view.shape[axis]))});
    return at;
  }

 private:
  std::vector<int64_t> words_{0};  // place 0 stands for "contiguous"
};

// Elements before the first vector of four (of two in 16 bytes of float64), of contiguous memory.
inline int8_t lead_of(const void* data, int64_t element_bytes) {
  const int64_t vector = element_bytes < 4 ? 4 * element_bytes : 16;
  const auto beyond = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(vector));
  return static_cast<int8_t>((vector - beyond) % vector / element_bytes);
}

inline Source source_of(const View& view, Layouts& layouts) {
  Source source{};
  source.dtype = view.dtype;
  if (view.dtype == DType::other) return source;
  source.data = view.data;
  source.layout = layouts.add(view);
  source.lead = source.layout == 0 ? lead_of(view.data, size_of(view.dtype)) : int8_t{-1};
  return source;
}

// Several arrays in one piece of memory, each at a multiple of 16 bytes.
class Blob {
 public:
  template <class T>
  size_t add(const std::vector<T>& values) {
    const size_t at = reserve(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(bytes_.data() + at, values.data(), values.size() * sizeof(T));
    return at;
  }
  size_t reserve(size_t bytes) {
    const size_t at = bytes_.size();
    bytes_.resize(at + (bytes + 15) / 16 * 16);
    return at;
  }
  void clear() { bytes_.clear(); }
  const char* data() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }
  bool operator==(const Blob& other) const { return bytes_ == other.bytes_; }

 private:
  std::vector<char> bytes_;
};

// first_chunk of the tensors' sizes.
template <class Size>
std::vector<int64_t> chunk_numbers(size_t count, Size size) {
  std::vector<int64_t> first{0};
  for (size_t i = 0; i < count; ++i) first.push_back(first.back() + (size(i) + kChunk - 1) / kChunk);
  return first;
}

}  // namespace kitae::cuda
