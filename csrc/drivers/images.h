// An array (samples, channels, height, width) of any strides, by element.
#pragma once

#include <cstdint>

#include "drivers/array.h"

namespace kitae {

template <class T>
struct Images {
  T* data;
  int64_t samples, channels, height, width;
  int64_t sample_stride, channel_stride, row_stride, column_stride;  // in elements

  explicit Images(const Array& array)
      : data(array.as<T>()),
        samples(array.shape[0]),
        channels(array.shape[1]),
        height(array.shape[2]),
        width(array.shape[3]),
        sample_stride(array.strides[0] / static_cast<int64_t>(sizeof(T))),
        channel_stride(array.strides[1] / static_cast<int64_t>(sizeof(T))),
        row_stride(array.strides[2] / static_cast<int64_t>(sizeof(T))),
        column_stride(array.strides[3] / static_cast<int64_t>(sizeof(T))) {}

  KITAE_HD int64_t size() const { return samples * channels * height * width; }
  KITAE_HD T* plane(int64_t sample, int64_t channel) const {
    return data + sample * sample_stride + channel * channel_stride;
  }
  KITAE_HD bool rows_are_runs() const { return column_stride == 1 || width <= 1; }
};

}  // namespace kitae
