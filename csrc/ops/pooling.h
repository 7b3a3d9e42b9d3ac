// Pooling over windows without dilation (ops/im2col.h has the geometry; max pooling: Y. Boureau, J. Ponce and Y. LeCun,
// "A theoretical analysis of feature pooling in visual recognition", ICML 2010).
//
//   max:      y[o, p] = the largest element of x under the window at (o, p)     dx = sum of dout where it was the
//   largest average:  y[o, p] = (sum of x under the window) / count                     dx = sum of dout / count over
//   its windows
//
// Padding is no element: the largest is one of x. NaN is larger than anything; of equal elements the first one counts,
// of several NaNs the last (PyTorch's rules). The place of the largest, i kw + j, is stored in a byte where the window
// has at most 256 cells, in four bytes else.
//
// The average adds in double, i before j, from +0, and rounds once after the division (16-bit types through float).
// Gradients are added in the arithmetic type from +0: for max in the order of the windows, for the average in that of
// the kernel's cells. One thread or GPU thread adds up one element: the same bits anywhere.
// Traffic: x read once and y written once, and the places; back the same.
#pragma once

#include <cstdint>

#include "ops/im2col.h"

namespace kitae {

constexpr int64_t kCellsOfByte = 256;

KITAE_HD int64_t position_bytes(int64_t cells) { return cells <= kCellsOfByte ? 1 : 4; }

template <class C>
KITAE_HD bool takes_the_maximum(C value, C largest) {
  return value > largest || value != value;
}

// By what the sum of a window is divided: all its cells, or those over the image.
KITAE_HD int64_t averaged_cells(const Windows& windows, int64_t row, int64_t column, bool count_padding) {
  if (count_padding) return windows.cells();
  return (windows.height.end_cell(row) - windows.height.first_cell(row)) *
         (windows.width.end_cell(column) - windows.width.first_cell(column));
}

}  // namespace kitae
