#include <type_traits>

#include "cuda/launch.h"
#include "drivers/convolution.h"
#include "drivers/images.h"

// A thread makes one element of the result and then the next but as many as there are threads: gradients are gathered
// over the windows above an element, so nothing is added by two threads. Neighbours in a row are neighbouring threads,
// which read neighbouring elements; what several windows read again comes from the cache.

namespace kitae {
namespace {

using namespace cuda;

struct Gather {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = 3;  // 64-bit indices: with eight, most kernels spill registers
};

// The place of element number `index` in C order.
struct Place {
  int64_t sample, channel, row, column;
  template <class T>
  KITAE_DEVICE static Place of(int64_t index, const Images<T>& images) {
    const int64_t line = index / images.width, plane = line / images.height;
    return {plane / images.channels, plane % images.channels, line % images.height, index % images.width};
  }
};

template <class T>
KITAE_DEVICE T& element(const Images<T>& images, const Place& at) {
  return images.plane(at.sample, at.channel)[at.row * images.row_stride + at.column * images.column_stride];
}

template <class Bits>
struct ColumnsKernel : Gather {
  Images<const Bits> x;
  Bits* columns;
  Windows windows;

  KITAE_DEVICE void operator()() const {
    const int64_t places = windows.places(), line = x.samples * places, count = x.channels * windows.cells() * line;
    for (int64_t index = global_thread(); index < count; index += grid_threads()) {
      const int64_t row = index / line, column = index % line, place = column % places;
      const int64_t cell = row % windows.cells();
      const int64_t h = windows.height.element(place / windows.width.output, cell / windows.width.kernel);
      const int64_t w = windows.width.element(place % windows.width.output, cell % windows.width.kernel);
      const bool inside = h >= 0 && h < x.height && w >= 0 && w < x.width;
      columns[index] = inside ? element(x, Place{column / places, row / windows.cells(), h, w}) : Bits(0);
    }
  }
};

template <class T>
struct SumColumnsKernel : Gather {
  const T* columns;
  Images<T> dx;
  Windows windows;

  KITAE_DEVICE void operator()() const {
    const int64_t places = windows.places(), line = dx.samples * places;
    for (int64_t index = global_thread(); index < dx.size(); index += grid_threads()) {
      const Place at = Place::of(index, dx);
      const T* const from = columns + at.channel * windows.cells() * line + at.sample * places;
      Compute<T> sum = 0;
      for (int64_t i = 0; i < windows.height.kernel; ++i) {
        const int64_t o = windows.height.place(at.row, i);
        if (o < 0) continue;
        for (int64_t j = 0; j < windows.width.kernel; ++j) {
          const int64_t p = windows.width.place(at.column, j);
          if (p >= 0) sum += to_float(from[(i * windows.width.kernel + j) * line + o * windows.width.output + p]);
        }
      }
      element(dx, at) = FromFloat<T>::convert(sum);
    }
  }
};

template <class T, class Position>
struct MaximumKernel : Gather {
  Images<const T> x;
  Images<T> y;
  Position* positions;
  Windows windows;

  KITAE_DEVICE void operator()() const {
    const WindowAxis &height = windows.height, &width = windows.width;
    for (int64_t index = global_thread(); index < y.size(); index += grid_threads()) {
      const Place at = Place::of(index, y);
      const int64_t first = height.first_cell(at.row), left = width.first_cell(at.column);
      const auto value_at = [&](int64_t i, int64_t j) {
        return to_float(
            element(x, Place{at.sample, at.channel, height.element(at.row, i), width.element(at.column, j)}));
      };
      Compute<T> largest = value_at(first, left);
      int64_t position = first * width.kernel + left;
      for (int64_t i = first; i < height.end_cell(at.row); ++i)
        for (int64_t j = left; j < width.end_cell(at.column); ++j) {
          const Compute<T> value = value_at(i, j);
          if (!takes_the_maximum(value, largest)) continue;
          largest = value;
          position = i * width.kernel + j;
        }
      element(y, at) = FromFloat<T>::convert(largest);
      positions[index] = static_cast<Position>(position);
    }
  }
};

template <class T, class Position>
struct MaximumGradientKernel : Gather {
  Images<const T> dout;
  const Position* positions;
  Images<T> dx;
  Windows windows;

  // The first window over an element.
  KITAE_DEVICE static int64_t first_place(const WindowAxis& axis, int64_t element) {
    const int64_t before = element + axis.padding - (axis.kernel - 1);
    return before > 0 ? (before + axis.stride - 1) / axis.stride : 0;
  }

  KITAE_DEVICE void operator()() const {
    const WindowAxis &height = windows.height, &width = windows.width;
    for (int64_t index = global_thread(); index < dx.size(); index += grid_threads()) {
      const Place at = Place::of(index, dx);
      const Position* const taken = positions + (at.sample * dx.channels + at.channel) * windows.places();
      Compute<T> sum = 0;
      for (int64_t o = first_place(height, at.row); o < height.output; ++o) {
        const int64_t i = at.row - height.element(o, 0);
        if (i < 0) break;
        for (int64_t p = first_place(width, at.column); p < width.output; ++p) {
          const int64_t j = at.column - width.element(p, 0);
          if (j < 0) break;
          if (static_cast<int64_t>(taken[o * width.output + p]) == i * width.kernel + j)
            sum += to_float(element(dout, Place{at.sample, at.channel, o, p}));
        }
      }
      element(dx, at) = FromFloat<T>::convert(sum);
    }
  }
};

template <class T>
struct AverageKernel : Gather {
  Images<const T> x;
  Images<T> y;
  Windows windows;
  bool count_padding;

  KITAE_DEVICE void operator()() const {
    const WindowAxis &height = windows.height, &width = windows.width;
    for (int64_t index = global_thread(); index < y.size(); index += grid_threads()) {
      const Place at = Place::of(index, y);
      double sum = 0;
      for (int64_t i = height.first_cell(at.row); i < height.end_cell(at.row); ++i)
        for (int64_t j = width.first_cell(at.column); j < width.end_cell(at.column); ++j)
          sum += static_cast<double>(to_float(
              element(x, Place{at.sample, at.channel, height.element(at.row, i), width.element(at.column, j)})));
      const auto count = static_cast<double>(averaged_cells(windows, at.row, at.column, count_padding));
      element(y, at) = FromFloat<T>::convert(static_cast<Compute<T>>(sum / count));
    }
  }
};

template <class T>
struct AverageGradientKernel : Gather {
  Images<const T> dout;
  Images<T> dx;
  Windows windows;
  bool count_padding;

  KITAE_DEVICE void operator()() const {
    for (int64_t index = global_thread(); index < dx.size(); index += grid_threads()) {
      const Place at = Place::of(index, dx);
      Compute<T> sum = 0;
      for (int64_t i = 0; i < windows.height.kernel; ++i) {
        const int64_t o = windows.height.place(at.row, i);
        if (o < 0) continue;
        for (int64_t j = 0; j < windows.width.kernel; ++j) {
          const int64_t p = windows.width.place(at.column, j);
          if (p < 0) continue;
          const auto count = static_cast<Compute<T>>(averaged_cells(windows, o, p, count_padding));
          sum += to_float(element(dout, Place{at.sample, at.channel, o, p})) / count;
        }
      }
      element(dx, at) = FromFloat<T>::convert(sum);
    }
  }
};

template <class Kernel>
void launch_over(int64_t count, const Kernel& kernel) {
  launch(kernel, Shape{.blocks = grid_blocks<Kernel>(count)}, current_stream());
}

template <class Bits>
void copy_to_columns(const Array& x, const Array& columns, const Windows& windows) {
  launch_over(columns.size, ColumnsKernel<Bits>{{}, Images<const Bits>(x), columns.as<Bits>(), windows});
}

}  // namespace

void im2col(const Array& x, const Array& columns, const Windows& windows) {
  switch (size_of(x.dtype)) {
    case 2:
      return copy_to_columns<uint16_t>(x, columns, windows);
    case 4:
      return copy_to_columns<uint32_t>(x, columns, windows);
    default:
      return copy_to_columns<uint64_t>(x, columns, windows);
  }
}

void col2im(const Array& columns, const Array& dx, const Windows& windows) {
  visit_dtype(dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_over(dx.size, SumColumnsKernel<T>{{}, columns.as<const T>(), Images<T>(dx), windows});
  });
}

void max_pool_forward(const Array& x, const Array& y, uint8_t* positions, const Windows& windows) {
  visit_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Images<const T> from(x);
    if (position_bytes(windows.cells()) == 1)
      launch_over(y.size, MaximumKernel<T, uint8_t>{{}, from, Images<T>(y), positions, windows});
    else
      launch_over(y.size,
                  MaximumKernel<T, uint32_t>{{}, from, Images<T>(y), reinterpret_cast<uint32_t*>(positions), windows});
  });
}

void max_pool_backward(const Array& dout, const uint8_t* positions, const Array& dx, const Windows& windows) {
  visit_dtype(dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Images<const T> from(dout);
    if (position_bytes(windows.cells()) == 1)
      launch_over(dx.size, MaximumGradientKernel<T, uint8_t>{{}, from, positions, Images<T>(dx), windows});
    else
      launch_over(dx.size, MaximumGradientKernel<T, uint32_t>{
                               {}, from, reinterpret_cast<const uint32_t*>(positions), Images<T>(dx), windows});
  });
}

void avg_pool_forward(const Array& x, const Array& y, const Windows& windows, bool count_padding) {
  visit_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_over(y.size, AverageKernel<T>{{}, Images<const T>(x), Images<T>(y), windows, count_padding});
  });
}

void avg_pool_backward(const Array& dout, const Array& dx, const Windows& windows, bool count_padding) {
  visit_dtype(dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_over(dx.size, AverageGradientKernel<T>{{}, Images<const T>(dout), Images<T>(dx), windows, count_padding});
  });
}

}  // namespace kitae
