#include "drivers/convolution.h"

#include <utility>

#include "bindings/array.h"

namespace kitae::bindings {
namespace {

using Pair = std::pair<int64_t, int64_t>;

constexpr const char* kPositions = "saved.positions";
constexpr int kImageAxes = 4;  // samples, channels, height, width

WindowAxis axis(int64_t input, int64_t output, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return {input, output, kernel, stride, padding, dilation};
}

Windows windows_over(const Array& images, const Pair& output, const Pair& kernel, const Pair& stride,
                     const Pair& padding, const Pair& dilation) {
  return {axis(images.shape[2], output.first, kernel.first, stride.first, padding.first, dilation.first),
          axis(images.shape[3], output.second, kernel.second, stride.second, padding.second, dilation.second)};
}

Array images_argument(py::handle object, const char* name, Access access) {
  const Array images = array_argument(object, name, access);
  if (images.ndim != kImageAxes) throw Rejected{name, "shape"};
  return images;
}

Array columns_argument(py::handle object, Access access, const Array& images, const Windows& windows) {
  const Array columns = array_argument(object, "columns", access);
  require_dtype(columns, images.dtype, access == Access::write ? "columns" : "out");  // of what is written
  if (columns.ndim != 2 || columns.shape[0] != images.shape[1] * windows.cells() ||
      columns.shape[1] != images.shape[0] * windows.places())
    throw Rejected{"columns", "shape"};
  require_contiguous(columns, "columns");
  return columns;
}

struct Pooling {
  Array large, small;  // the image, and what is left of it
  Windows windows;
};

// `written`: the one of the two that is the result.
Pooling pooling_arguments(py::handle large, const char* large_name, py::handle small, const char* small_name,
                          bool written_is_large, const Pair& kernel, const Pair& stride, const Pair& padding) {
  const Array first = images_argument(large, large_name, written_is_large ? Access::write : Access::read);
  const Array second = images_argument(small, small_name, written_is_large ? Access::read : Access::write);
  const Array& written = written_is_large ? first : second;
  require_dtype(written, written_is_large ? second.dtype : first.dtype, "out");
  if (first.shape[0] != second.shape[0] || first.shape[1] != second.shape[1]) throw Rejected{"out", "shape"};
  if (overlap(first, large, second, small)) throw Rejected{"out", "overlap"};
  return {first, second, windows_over(first, {second.shape[2], second.shape[3]}, kernel, stride, padding, Pair{1, 1})};
}

uint8_t* positions_argument(py::handle object, const Pooling& pooling, Access access) {
  const int64_t bytes = pooling.small.size * position_bytes(pooling.windows.cells());
  uint8_t* const positions = bytes_argument(object, bytes, kPositions, access);
  if (!positions) throw Rejected{kPositions, "type"};
  return positions;
}

void to_columns(py::handle x_object, py::handle columns_object, const Pair& kernel, const Pair& stride,
                const Pair& padding, const Pair& dilation, const Pair& output) {
  const Array x = images_argument(x_object, "x", Access::read);
  const Windows windows = windows_over(x, output, kernel, stride, padding, dilation);
  const Array columns = columns_argument(columns_object, Access::write, x, windows);
  if (overlap(columns, columns_object, x, x_object)) throw Rejected{"columns", "overlap"};
  const InterruptibleCall native;
  im2col(x, columns, windows);
}

void to_images(py::handle columns_object, py::handle out, const Pair& kernel, const Pair& stride, const Pair& padding,
               const Pair& dilation, const Pair& output) {
  const Array dx = images_argument(out, "out", Access::write);
  const Windows windows = windows_over(dx, output, kernel, stride, padding, dilation);
  const Array columns = columns_argument(columns_object, Access::read, dx, windows);
  if (overlap(columns, columns_object, dx, out)) throw Rejected{"out", "overlap"};
  const InterruptibleCall native;
  col2im(columns, dx, windows);
}

void max_forward(py::handle x, py::handle out, py::handle positions, const Pair& kernel, const Pair& stride,
                 const Pair& padding) {
  const Pooling pooling = pooling_arguments(x, "x", out, "out", false, kernel, stride, padding);
  uint8_t* const stored = positions_argument(positions, pooling, Access::write);
  const InterruptibleCall native;
  max_pool_forward(pooling.large, pooling.small, stored, pooling.windows);
}

void max_backward(py::handle dout, py::handle positions, py::handle out, const Pair& kernel, const Pair& stride,
                  const Pair& padding) {
  const Pooling pooling = pooling_arguments(out, "out", dout, "dout", true, kernel, stride, padding);
  const uint8_t* const stored = positions_argument(positions, pooling, Access::read);
  const InterruptibleCall native;
  max_pool_backward(pooling.small, stored, pooling.large, pooling.windows);
}

void average_forward(py::handle x, py::handle out, const Pair& kernel, const Pair& stride, const Pair& padding,
                     bool count_include_pad) {
  const Pooling pooling = pooling_arguments(x, "x", out, "out", false, kernel, stride, padding);
  const InterruptibleCall native;
  avg_pool_forward(pooling.large, pooling.small, pooling.windows, count_include_pad);
}

void average_backward(py::handle dout, py::handle out, const Pair& kernel, const Pair& stride, const Pair& padding,
                      bool count_include_pad) {
  const Pooling pooling = pooling_arguments(out, "out", dout, "dout", true, kernel, stride, padding);
  const InterruptibleCall native;
  avg_pool_backward(pooling.small, pooling.large, pooling.windows, count_include_pad);
}

}  // namespace

void register_convolution(py::module_& module) {
  using py::arg;
  module.def("im2col", &to_columns, py::call_guard<Arguments>(), arg("x"), arg("columns"), arg("kernel"), arg("stride"),
             arg("padding"), arg("dilation"), arg("output"), "Writes the windows of x into columns.");
  module.def("col2im", &to_images, py::call_guard<Arguments>(), arg("columns"), arg("out"), arg("kernel"),
             arg("stride"), arg("padding"), arg("dilation"), arg("output"),
             "Writes the sum of every element's copies in columns into out.");
  module.def("max_pool_forward", &max_forward, py::call_guard<Arguments>(), arg("x"), arg("out"), arg("positions"),
             arg("kernel"), arg("stride"), arg("padding"),
             "out = the largest element of each window; where it was goes to positions.");
  module.def("max_pool_backward", &max_backward, py::call_guard<Arguments>(), arg("dout"), arg("positions"), arg("out"),
             arg("kernel"), arg("stride"), arg("padding"), "out = the sum of dout over positions.");
  module.def("avg_pool_forward", &average_forward, py::call_guard<Arguments>(), arg("x"), arg("out"), arg("kernel"),
             arg("stride"), arg("padding"), arg("count_include_pad"), "out = the average of each window.");
  module.def("avg_pool_backward", &average_backward, py::call_guard<Arguments>(), arg("dout"), arg("out"),
             arg("kernel"), arg("stride"), arg("padding"), arg("count_include_pad"),
             "out = the sum of the shares of dout.");
}

}  // namespace kitae::bindings
