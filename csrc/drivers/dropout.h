// The dropout family: ops/dropout.h over arrays. Arguments are checked by the bindings.
#pragma once

#include <cstdint>

#include "drivers/array.h"
#include "ops/dropout.h"

namespace kitae {

// y = dropout of x, of one shape and dtype; y may be x. `bits`: where the mask is stored, mask_words(x.size) words in
// little-endian order; or nullptr. `keep_scale` is rounded to the type of the arithmetic here.
void dropout_forward(const Array& x, const Array& y, uint8_t* bits, const DropoutDraw& draw, double keep_scale);

// dx from dout and the stored mask; or, where `bits` is nullptr, from the same draw again.
void dropout_backward(const Array& dout, const Array& dx, const uint8_t* bits, const DropoutDraw& draw,
                      double keep_scale);

// The mask of `size` elements alone.
void dropout_mask(uint8_t* bits, int64_t size, const DropoutDraw& draw);

}  // namespace kitae
