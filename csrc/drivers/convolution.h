// The convolution family: ops/im2col.h and ops/pooling.h over arrays. Arguments are checked by the bindings.
//
// Images are arrays (samples, channels, height, width) of any strides; columns and positions are contiguous.
#pragma once

#include <cstdint>

#include "drivers/array.h"
#include "ops/im2col.h"
#include "ops/pooling.h"

namespace kitae {

// columns (channels kh kw, samples oh ow) from x, of one dtype.
void im2col(const Array& x, const Array& columns, const Windows& windows);

// dx, every element the sum of its copies in columns.
void col2im(const Array& columns, const Array& dx, const Windows& windows);

// y and the position of each maximum: position_bytes(windows.cells()) bytes for each element of y in the C order of its
// indices.
void max_pool_forward(const Array& x, const Array& y, uint8_t* positions, const Windows& windows);
void max_pool_backward(const Array& dout, const uint8_t* positions, const Array& dx, const Windows& windows);

void avg_pool_forward(const Array& x, const Array& y, const Windows& windows, bool count_padding);
void avg_pool_backward(const Array& dout, const Array& dx, const Windows& windows, bool count_padding);

}  // namespace kitae
