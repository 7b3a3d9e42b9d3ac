// Convolution as a matrix product: the windows of an image become the columns of a matrix (K. Chellapilla, S. Puri and
// P. Simard, "High performance convolutional neural networks for document processing", IWFHR 2006).
//
//   columns[(c kh + i) kw + j, (n oh + o) ow + p] = x[n, c, o sh - top + i dh, p sw - left + j dw], 0 outside of x
//   x[n, c, h, w] = the sum of all elements of columns that this one was copied to                        (col2im)
//
// A convolution is then W (out, c kh kw) times columns, one product for the whole batch whose rows are the channels.
//
// Traffic: x is read kh kw / (sh sw) times, mostly from the cache, and columns written once; back the same. The sum
// goes over kernel cells, i before j, from +0, in the arithmetic type (float, double for float64): one thread or GPU
// thread adds up one element, so the bits are the same for any number of threads and on any device.
#pragma once

#include <cstdint>

#include "ops/host_device.h"

namespace kitae {

// One axis of the windows that slide over an image.
struct WindowAxis {
  int64_t input = 0, output = 0;                              // elements of the image, places of the window
  int64_t kernel = 1, stride = 1, padding = 0, dilation = 1;  // padding: before the first element

  // The element of the image under cell `cell` of the window at `place`; outside of [0, input) is padding.
  KITAE_HD int64_t element(int64_t place, int64_t cell) const { return place * stride - padding + cell * dilation; }
  // The place whose cell `cell` lies over `element`, or -1.
  KITAE_HD int64_t place(int64_t element, int64_t cell) const {
    const int64_t steps = element + padding - cell * dilation;
    return steps >= 0 && steps % stride == 0 && steps / stride < output ? steps / stride : -1;
  }
  // Where cell `cell` lies over the image, not over its padding: the places [first_place, end_place).
  KITAE_HD int64_t first_place(int64_t cell) const {
    const int64_t before = padding - cell * dilation;
    const int64_t first = before > 0 ? (before + stride - 1) / stride : 0;
    return first < output ? first : output;
  }
  KITAE_HD int64_t end_place(int64_t cell) const {
    const int64_t last = input - 1 + padding - cell * dilation;
    if (last < 0) return 0;
    const int64_t end = last / stride + 1;
    return end < output ? end : output;
  }
  // The cells [first_cell, end_cell) of the window at `place` that lie over the image; without dilation.
  KITAE_HD int64_t first_cell(int64_t place) const {
    const int64_t outside = padding - place * stride;
    return outside > 0 ? (outside < kernel ? outside : kernel) : 0;
  }
  KITAE_HD int64_t end_cell(int64_t place) const {
    const int64_t inside = input + padding - place * stride;
    return inside < kernel ? (inside > 0 ? inside : 0) : kernel;
  }
};

struct Windows {
  WindowAxis height, width;

  KITAE_HD int64_t cells() const { return height.kernel * width.kernel; }
  KITAE_HD int64_t places() const { return height.output * width.output; }
};

}  // namespace kitae
