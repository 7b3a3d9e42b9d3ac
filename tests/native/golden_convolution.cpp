// Columns of windows and pooling: the bytes that the drivers write.
#include "drivers/convolution.h"
#include "golden.h"

namespace kitae::golden {
namespace {

struct Geometry {
  int64_t samples, channels;
  Windows windows;
};

// {input, output, kernel, stride, padding, dilation} of each axis.
const Geometry kConvolutions[] = {
    {3, 2, {{7, 7, 3, 1, 1, 1}, {9, 9, 3, 1, 1, 1}}},
    {2, 3, {{9, 3, 3, 3, 1, 2}, {8, 3, 2, 4, 3, 3}}},
    {37, 4, {{14, 7, 5, 2, 2, 1}, {13, 7, 4, 2, 2, 1}}},
};
const Geometry kPoolings[] = {
    {3, 2, {{8, 4, 2, 2, 0, 1}, {9, 4, 2, 2, 0, 1}}},
    {41, 3, {{13, 7, 3, 2, 1, 1}, {12, 12, 3, 1, 1, 1}}},
    {1, 2, {{40, 6, 17, 5, 2, 1}, {40, 8, 17, 4, 8, 1}}},
};

template <class T>
uint64_t columns() {
  Hash hash;
  Numbers numbers(21);
  for (const Geometry& geometry : kConvolutions) {
    const Windows& windows = geometry.windows;
    const std::vector<int64_t> shape = {geometry.samples, geometry.channels, windows.height.input, windows.width.input};
    const std::vector<int64_t> matrix = {geometry.channels * windows.cells(), geometry.samples * windows.places()};
    std::vector<T> x = numbers.array<T>(shape[0] * shape[1] * shape[2] * shape[3]), dx(x.size());
    std::vector<T> made(static_cast<size_t>(matrix[0] * matrix[1])), given = numbers.array<T>(matrix[0] * matrix[1]);
    im2col(Contiguous<T>(x, shape), Contiguous<T>(made, matrix), windows);
    col2im(Contiguous<T>(given, matrix), Contiguous<T>(dx, shape), windows);
    hash.array(made);
    hash.array(dx);
  }
  return hash.value();
}

template <class T>
uint64_t pooling() {
  Hash hash;
  Numbers numbers(22);
  for (const Geometry& geometry : kPoolings) {
    const Windows& windows = geometry.windows;
    const int64_t planes = geometry.samples * geometry.channels;
    const std::vector<int64_t> large = {geometry.samples, geometry.channels, windows.height.input, windows.width.input};
    const std::vector<int64_t> small = {geometry.samples, geometry.channels, windows.height.output,
                                        windows.width.output};
    std::vector<T> x = numbers.array<T>(planes * windows.height.input * windows.width.input), dx(x.size());
    std::vector<T> dout = numbers.array<T>(planes * windows.places()), y(dout.size());
    std::vector<uint8_t> positions(dout.size() * static_cast<size_t>(position_bytes(windows.cells())));
    max_pool_forward(Contiguous<T>(x, large), Contiguous<T>(y, small), positions.data(), windows);
    max_pool_backward(Contiguous<T>(dout, small), positions.data(), Contiguous<T>(dx, large), windows);
    hash.array(y);
    hash.array(positions);
    hash.array(dx);
    for (const bool count_padding : {true, false}) {
      avg_pool_forward(Contiguous<T>(x, large), Contiguous<T>(y, small), windows, count_padding);
      avg_pool_backward(Contiguous<T>(dout, small), Contiguous<T>(dx, large), windows, count_padding);
      hash.array(y);
      hash.array(dx);
    }
  }
  return hash.value();
}

}  // namespace

void add_convolution_rows(std::vector<Row>& rows) {
  rows.push_back({"columns/float16", columns<Float16>});
  rows.push_back({"columns/bfloat16", columns<BFloat16>});
  rows.push_back({"columns/float32", columns<float>});
  rows.push_back({"columns/float64", columns<double>});
  rows.push_back({"pooling/float16", pooling<Float16>});
  rows.push_back({"pooling/bfloat16", pooling<BFloat16>});
  rows.push_back({"pooling/float32", pooling<float>});
  rows.push_back({"pooling/float64", pooling<double>});
}

}  // namespace kitae::golden
