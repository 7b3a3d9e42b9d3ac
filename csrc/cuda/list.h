// A list of tensors in device memory, as one sequence of chunks (ops/reduction_order.h): what kernels over lists read.
//
// first_chunk[t] is the number, over the whole list, of tensor t's first chunk; a warp finds the tensor of a chunk in
// one load for every factor of 32 in the number of tensors. Tensors without elements have no chunk.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "drivers/array.h"
#include "ops/reduction_order.h"

namespace kitae::cuda {

// Memory of a tensor's shape: what is read (a gradient) or changed.
struct Source {
  char* data;
  int32_t layout;  // where in the table its strides are, 0: contiguous
  DType dtype;     // other: absent
  int8_t lead;     // elements before a vector of four begins; -1: not contiguous
};

struct Tensor {
  int64_t size;
  int32_t first_source, sources;  // its values are the sum of these, in order
  int32_t place;                  // in the user's list
  bool wide;                      // arithmetic in double
};

// Byte offset of element `index` in C order. layout: number of axes, then of each its length, its stride in bytes and
// the bits of 1 / length. Integer division of 64 bits would be a call, around which registers are spilled; the product
// with the reciprocal is wrong by at most one for fewer than 2^52 elements.
KITAE_DEVICE int64_t strided_offset(const int64_t* layout, int64_t index) {
  const int64_t* axis = layout + 1 + 3 * (layout[0] - 1);
  int64_t offset = 0;
  KITAE_NO_UNROLL
  for (; axis > layout + 1; axis -= 3) {
    const int64_t length = axis[0];
    auto quotient = static_cast<int64_t>(static_cast<double>(index) * bit_cast<double>(axis[2]));
    int64_t place = index - quotient * length;
    if (place < 0) {
      place += length;
      --quotient;
    } else if (place >= length) {
      place -= length;
      ++quotient;
    }
    offset += place * axis[1];
    index = quotient;
  }
  return offset + index * axis[1];
}

// The element at `from`, in the arithmetic type T.
template <class T>
KITAE_DEVICE T read_as(DType dtype, const char* from) {
  switch (dtype) {
    case DType::float32:
      return static_cast<T>(*reinterpret_cast<const float*>(from));
    case DType::float16:
      return static_cast<T>(to_float(*reinterpret_cast<const Float16*>(from)));
    case DType::bfloat16:
      return static_cast<T>(to_float(*reinterpret_cast<const BFloat16*>(from)));
    default:
      return static_cast<T>(*reinterpret_cast<const double*>(from));
  }
}

// Rounds once to the dtype, whose arithmetic type is T.
template <class T>
KITAE_DEVICE void write_as(DType dtype, char* to, T value) {
  if constexpr (sizeof(T) == 8) {
    *reinterpret_cast<double*>(to) = value;
  } else {
    if (dtype == DType::float32)
      *reinterpret_cast<float*>(to) = value;
    else if (dtype == DType::float16)
      *reinterpret_cast<Float16*>(to) = FromFloat<Float16>::convert(value);
    else
      *reinterpret_cast<BFloat16*>(to) = FromFloat<BFloat16>::convert(value);
  }
}

KITAE_DEVICE int bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

// A kernel's parameter.
struct List {
  const int64_t* first_chunk;  // tensors + 1 of them
  const Tensor* tensors;
  const Source* sources;
  const int64_t* layouts;
  int64_t chunks;
  int32_t count;  // tensors

  // The tensor of a chunk. A whole warp calls, with one chunk.
  KITAE_DEVICE int32_t tensor_of(int64_t chunk) const {
    int32_t first = 0, candidates = count;
    KITAE_NO_UNROLL
    while (candidates > 1) {
      const int32_t step = (candidates + kWarp - 1) / kWarp, probe = lane_index() * step;
      const bool before = probe < candidates && first_chunk[first + probe] <= chunk;
      const int32_t last = __builtin_popcount(ballot(kAllLanes, before)) - 1;  // those before are the first lanes
      first += last * step;
      candidates = candidates - last * step < step ? candidates - last * step : step;
    }
    return first;
  }

  // Chunks whose virtual lanes are sixteen threads each, so a warp takes two neighbours: use(chunk, tensor, begin,
  // count), called by the whole warp, with no elements in the half that has no chunk. Warp `warp` of `warps`.
  template <class Use>
  KITAE_DEVICE void each_chunk_in_lanes(int64_t warp, int64_t warps, Use use) const {
    const int half = lane_index() / kLanes;
    for (int64_t pair = warp; 2 * pair < chunks; pair += warps) {
      int32_t tensor = tensor_of(2 * pair);
      if (2 * pair + 1 < chunks && first_chunk[tensor + 1] <= 2 * pair + 1) {
        const int32_t other = tensor_of(2 * pair + 1);
        tensor = half ? other : tensor;
      }
      const int64_t chunk = 2 * pair + half;
      int64_t begin = 0, elements = 0;
      if (chunk < chunks) {
        begin = (chunk - first_chunk[tensor]) * kChunk;
        const int64_t left = tensors[tensor].size - begin;
        elements = left < kChunk ? left : kChunk;
      }
      use(chunk, tensor, begin, elements);
    }
  }

  KITAE_DEVICE int64_t offset(const Source& source, int64_t index) const {
    return source.layout ? strided_offset(layouts + source.layout, index) : index * bytes_of(source.dtype);
  }

  KITAE_DEVICE bool active(const Tensor& tensor) const {
    bool any = false;
    for (int32_t i = 0; i < tensor.sources; ++i) any = any || sources[tensor.first_source + i].dtype != DType::other;
    return any;
  }

  // Element `index` of a tensor: the sum of its sources, in order; 0 without one.
  template <class T>
  KITAE_DEVICE T value(const Tensor& tensor, int64_t index) const {
    T sum = T(0);
    bool first = true;
    KITAE_NO_UNROLL
    for (int32_t i = 0; i < tensor.sources; ++i) {
      const Source source = sources[tensor.first_source + i];
      if (source.dtype == DType::other) continue;
      const T more = read_as<T>(source.dtype, source.data + offset(source, index));
      sum = first ? more : sum + more;
      first = false;
    }
    return sum;
  }
};

}  // namespace kitae::cuda
