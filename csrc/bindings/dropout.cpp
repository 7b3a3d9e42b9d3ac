#include "drivers/dropout.h"

#include "bindings/array.h"

namespace kitae::bindings {
namespace {

constexpr const char* kBits = "mask.bits";

uint8_t* bits_argument(py::handle object, int64_t elements, Access access) {
  return bytes_argument(object, 8 * mask_words(elements), kBits, access);
}

struct Arrays {
  Array from, to;
};

// `to` has the shape and dtype of `from` and is `from` itself or memory of its own.
Arrays array_arguments(py::handle from_object, const char* from_name, py::handle to_object) {
  const Array from = array_argument(from_object, from_name, Access::read);
  const Array to = array_argument(to_object, "out", Access::write);
  require_dtype(to, from.dtype, "out");
  require_same_shape(to, from, "out");
  bool in_place = to.data == from.data;
  for (int axis = 0; in_place && axis < to.ndim; ++axis) in_place = to.strides[axis] == from.strides[axis];
  if (!in_place && overlap(to, to_object, from, from_object)) throw Rejected{"out", "overlap"};
  return {from, to};
}

// Ctrl-C may stop a call whose input is still there, not one that overwrites it.
template <class Call>
void run(const Arrays& arrays, Call call) {
  if (arrays.to.data == arrays.from.data) {
    const NativeCall native;
    call();
  } else {
    const InterruptibleCall native;
    call();
  }
}

void forward(py::handle x, py::handle out, py::handle bits, uint64_t threshold, double keep_scale, uint64_t seed,
             uint64_t offset) {
  const Arrays arrays = array_arguments(x, "x", out);
  uint8_t* const mask = bits_argument(bits, arrays.from.size, Access::write);
  run(arrays, [&] { dropout_forward(arrays.from, arrays.to, mask, {threshold, seed, offset}, keep_scale); });
}

void backward(py::handle dout, py::handle out, py::handle bits, uint64_t threshold, double keep_scale, uint64_t seed,
              uint64_t offset) {
  const Arrays arrays = array_arguments(dout, "dout", out);
  const uint8_t* const mask = bits_argument(bits, arrays.from.size, Access::read);
  run(arrays, [&] { dropout_backward(arrays.from, arrays.to, mask, {threshold, seed, offset}, keep_scale); });
}

void mask(py::handle bits, int64_t size, uint64_t threshold, uint64_t seed, uint64_t offset) {
  uint8_t* const memory = bits_argument(bits, size, Access::write);
  if (!memory) throw Rejected{kBits, "type"};
  const InterruptibleCall native;
  dropout_mask(memory, size, {threshold, seed, offset});
}

}  // namespace

void register_dropout(py::module_& module) {
  using py::arg;
  module.def("dropout_forward", &forward, py::call_guard<Arguments>(), arg("x"), arg("out"), arg("bits"),
             arg("threshold"), arg("keep_scale"), arg("seed"), arg("offset"),
             "out = keep_scale * x where kept, else 0; the mask goes to bits unless None.");
  module.def("dropout_backward", &backward, py::call_guard<Arguments>(), arg("dout"), arg("out"), arg("bits"),
             arg("threshold"), arg("keep_scale"), arg("seed"), arg("offset"),
             "The same for the gradient: from bits, or drawn again where they are None.");
  module.def("dropout_mask", &mask, py::call_guard<Arguments>(), arg("bits"), arg("size"), arg("threshold"),
             arg("seed"), arg("offset"), "Draws the mask of size elements into bits.");
}

}  // namespace kitae::bindings
