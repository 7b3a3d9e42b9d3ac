// What of batch normalization's interface needs no device: compiled for every backend.
#include "drivers/normalization.h"

namespace kitae {

std::optional<ChannelSizes> channel_sizes(const Array& array, int axis) {
  ChannelSizes sizes{1, axis < 0 ? 1 : array.shape[axis], 1};
  if (array.size == 0) {
    for (int i = 0; i < array.ndim; ++i)
      if (i != axis) sizes.outer *= array.shape[i];
    return sizes;
  }
  // From the innermost axis outwards: each must begin where the ones inside it end.
  int64_t inside = size_of(array.dtype);
  uint64_t seen = 0;
  bool channels_seen = sizes.channels == 1;
  int left = 0;
  for (int i = 0; i < array.ndim; ++i) left += array.shape[i] > 1;
  for (; left > 0; --left) {
    int next = -1;
    for (int i = 0; i < array.ndim && next < 0; ++i)
      if (array.shape[i] > 1 && !(seen >> i & 1u) && array.strides[i] == inside) next = i;
    if (next < 0) return std::nullopt;
    seen |= uint64_t{1} << next;
    inside *= array.shape[next];
    if (next == axis)
      channels_seen = true;
    else
      (channels_seen && sizes.channels > 1 ? sizes.outer : sizes.inner) *= array.shape[next];
  }
  return sizes;
}

bool same_layout(const Array& a, const Array& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
    if (a.size > 0 && a.shape[i] > 1 && a.strides[i] != b.strides[i]) return false;
  }
  return true;
}

int64_t mask_bytes(const ChannelSizes& sizes) {
  if (sizes.adjacent()) return sizes.outer * ((sizes.channels + 7) / 8);
  return sizes.outer * sizes.channels * ((sizes.inner + 7) / 8);
}

}  // namespace kitae
