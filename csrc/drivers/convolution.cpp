#include "drivers/convolution.h"

#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/runs.h"
#include "cpu/threads.h"
#include "cpu/two_by_two.h"
#include "drivers/images.h"

namespace kitae {
namespace {

// Elements that a thread claims at a time, at least; fewer than two such units wake no thread.
constexpr int64_t kUnit = 16384;

// body(sample, channel) for every plane, as they lie in memory; `elements`: of work for each.
template <class T, class Body>
void for_each_plane(const Images<T>& images, int64_t elements, Body body) {
  const int64_t planes = images.samples * images.channels;
  int64_t grain = elements >= kUnit ? 1 : kUnit / (elements > 0 ? elements : 1);
  if (planes < 2 * grain) grain = planes > 0 ? planes : 1;
  const bool by_channel = images.channel_stride > images.sample_stride;
  const int64_t inner = by_channel ? images.samples : images.channels;
  cpu::parallel_ranges(planes, grain, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t outside = plane / inner, inside = plane % inner;
      body(by_channel ? inside : outside, by_channel ? outside : inside);
    }
  });
}

// At stride 1, where a row has as many places as elements and rows are one run of memory, so is what a cell of the
// window lies over: place n of the plane has it over element n + shift, for n in [begin, end) but for places over the
// padding beside a row.
bool run_through_rows(const WindowAxis& width) { return width.stride == 1 && width.output == width.input; }
bool run_through_planes(const Windows& windows, int64_t row_stride) {
  return windows.height.stride == 1 && run_through_rows(windows.width) && row_stride == windows.width.input;
}

struct CellRun {
  int64_t begin, end, shift;

  // Of a cell that lies over the image somewhere.
  CellRun(const Windows& windows, int64_t i, int64_t j)
      : begin(windows.height.first_place(i) * windows.width.output + windows.width.first_place(j)),
        end((windows.height.end_place(i) - 1) * windows.width.output + windows.width.end_place(j)),
        shift(windows.height.element(0, i) * windows.width.input + windows.width.element(0, j)) {}
};

// A plane to read in the arithmetic type: rows that are runs of memory, the caller's or a copy.
template <class C>
struct Plane {
  const C* data;
  int64_t row_stride;
  const C* row(int64_t number) const { return data + number * row_stride; }
};

template <class T>
Plane<Compute<T>> read_plane(const Images<const T>& images, int64_t sample, int64_t channel, cpu::Scratch slot) {
  using C = Compute<T>;
  const T* from = images.plane(sample, channel);
  if constexpr (std::is_same_v<T, C>)
    if (images.rows_are_runs()) return {from, images.row_stride};
  C* const copy = cpu::scratch<C>(slot, images.height * images.width);
  for (int64_t h = 0; h < images.height; ++h)
    for (int64_t w = 0; w < images.width; ++w)
      copy[h * images.width + w] = to_float(from[h * images.row_stride + w * images.column_stride]);
  return {copy, images.width};
}

// For each column of the kernel, which places of a row lie over the image and not beside it.
template <class C>
class PlaceMasks {
 public:
  explicit PlaceMasks(const WindowAxis& width) : length_(width.output + cpu::kBeyondRow<C>) {
    if (!run_through_rows(width)) return;
    masks_.reserve(static_cast<size_t>(width.kernel * length_));
    for (int64_t j = 0; j < width.kernel; ++j)
      for (int64_t i = 0; i < length_; ++i) {
        const int64_t place = i % width.output;
        masks_.push_back(place >= width.first_place(j) && place < width.end_place(j) ? -1 : 0);
      }
  }
  const cpu::MaskOf<C>* of(int64_t j) const { return masks_.data() + j * length_; }

 private:
  int64_t length_;
  std::vector<cpu::MaskOf<C>> masks_;
};

// A plane of zeros to add to, in the arithmetic type: the target's memory where that is possible, else a buffer that
// store() rounds into it.
template <class T>
struct SumPlane {
  using C = Compute<T>;
  const Images<T>& target;
  T* const memory;
  C* data;
  int64_t row_stride;

  SumPlane(const Images<T>& images, int64_t sample, int64_t channel)
      : target(images), memory(images.plane(sample, channel)), data(nullptr), row_stride(images.row_stride) {
    if constexpr (std::is_same_v<T, C>)
      if (images.rows_are_runs()) data = memory;
    if (!data) {
      data = cpu::scratch<C>(cpu::Scratch::tile, images.height * images.width);
      row_stride = images.width;
    }
    const bool whole = row_stride == images.width;
    const int64_t runs = whole ? 1 : images.height, run = whole ? images.height * images.width : images.width;
    for (int64_t h = 0; h < runs; ++h) cpu::clear_run(row(h), run);
  }
  C* row(int64_t number) const { return data + number * row_stride; }
  void store() const {
    if (static_cast<const void*>(data) == memory) return;
    for (int64_t h = 0; h < target.height; ++h)
      for (int64_t w = 0; w < target.width; ++w)
        memory[h * target.row_stride + w * target.column_stride] = FromFloat<T>::convert(row(h)[w]);
  }

  // += the values of all places of the window, each where cell (i, j) lies; `from`: rows of windows.width.output.
  template <class Source>
  void add_cell(const Windows& windows, const PlaceMasks<C>& masks, int64_t i, int64_t j, const Source* from) const {
    const WindowAxis &height = windows.height, &width = windows.width;
    const int64_t begin = width.first_place(j), end = width.end_place(j);
    if (begin >= end) return;
    if constexpr (std::is_same_v<Source, C>)
      if (run_through_planes(windows, row_stride) && height.first_place(i) < height.end_place(i)) {
        const CellRun run(windows, i, j);
        if (end - begin == width.output)
          cpu::add_run(data + run.begin + run.shift, from + run.begin, run.end - run.begin);
        else
          cpu::add_run_in_rows(data + run.begin + run.shift, from + run.begin, run.end - run.begin, masks.of(j),
                               width.output, begin);
        return;
      }
    for (int64_t o = height.first_place(i); o < height.end_place(i); ++o) {
      C* const to = row(height.element(o, i)) + width.element(begin, j);
      const Source* const values = from + o * width.output + begin;
      if constexpr (std::is_same_v<Source, C>)
        if (width.stride == 1) {
          cpu::add_run(to, values, end - begin);
          continue;
        }
      with_step(width.stride, [=](auto step) {
        for (int64_t p = 0; p < end - begin; ++p) to[p * step] += to_float(values[p]);
      });
    }
  }
};

// f(step) with the usual steps as constants, so that the compiler makes vectors of what f walks over.
template <class F>
void with_step(int64_t step, F f) {
  switch (step) {
    case 1:
      return f(std::integral_constant<int64_t, 1>{});
    case 2:
      return f(std::integral_constant<int64_t, 2>{});
    default:
      return f(step);
  }
}

template <class T>
void store_row(const Images<T>& images, T* plane, int64_t row, const Compute<T>* values) {
  T* const to = plane + row * images.row_stride;
  for (int64_t w = 0; w < images.width; ++w) to[w * images.column_stride] = FromFloat<T>::convert(values[w]);
}

// Elements are only copied: Bits is an unsigned integer of their size.
template <class Bits>
void copy_to_columns(const Array& x, const Array& columns, const Windows& windows) {
  const Images<const Bits> images(x);
  const WindowAxis &height = windows.height, &width = windows.width;
  const int64_t places = windows.places(), line = images.samples * places;
  for_each_plane(images, windows.cells() * places, [&](int64_t sample, int64_t channel) {
    const Bits* const plane = images.plane(sample, channel);
    const bool runs = images.column_stride == 1 && run_through_planes(windows, images.row_stride);
    Bits* to = columns.as<Bits>() + channel * windows.cells() * line + sample * places;
    for (int64_t i = 0; i < height.kernel; ++i) {
      const int64_t first_row = height.first_place(i), end_row = height.end_place(i);
      for (int64_t j = 0; j < width.kernel; ++j, to += line) {
        const int64_t begin = width.first_place(j), end = width.end_place(j);
        if (runs && first_row < end_row && begin < end) {
          const CellRun run(windows, i, j);
          cpu::clear_run(to, run.begin);
          cpu::copy_run(to + run.begin, plane + run.begin + run.shift, run.end - run.begin);
          cpu::clear_run(to + run.end, places - run.end);
          for (int64_t o = first_row; begin > 0 && o < end_row; ++o) cpu::clear_run(to + o * width.output, begin);
          for (int64_t o = first_row; end < width.output && o < end_row; ++o)
            cpu::clear_run(to + o * width.output + end, width.output - end);
          continue;
        }
        for (int64_t o = 0; o < height.output; ++o) {
          Bits* const row = to + o * width.output;
          if (o < first_row || o >= end_row || begin >= end) {
            cpu::clear_run(row, width.output);
            continue;
          }
          const Bits* const from =
              plane + height.element(o, i) * images.row_stride + width.element(begin, j) * images.column_stride;
          cpu::clear_run(row, begin);
          with_step(width.stride * images.column_stride, [=](auto step) {
            if constexpr (std::is_same_v<decltype(step), std::integral_constant<int64_t, 1>>)
              cpu::copy_run(row + begin, from, end - begin);
            else
              for (int64_t p = 0; p < end - begin; ++p) row[begin + p] = from[p * step];
          });
          cpu::clear_run(row + end, width.output - end);
        }
      }
    }
  });
}

constexpr int kWide = cpu::kVectorBytes < 32 ? cpu::kVectorBytes : 32;  // of a row of windows, which is mostly short

// Whether max pooling goes by cpu/two_by_two.h, in vectors of kBytes or more: windows of 2 x 2 side by side, none of
// them over padding, over rows that are runs.
template <int kBytes, class T, class U>
bool is_two_by_two(const Images<T>& x, const Images<U>& y, const Windows& windows) {
  const auto fits = [](const WindowAxis& axis) {
    return axis.kernel == 2 && axis.stride == 2 && axis.padding == 0 && 2 * axis.output <= axis.input;
  };
  return fits(windows.height) && fits(windows.width) && x.column_stride == 1 && y.column_stride == 1 &&
         windows.width.output * static_cast<int64_t>(sizeof(T)) >= kBytes;
}

template <int kBytes, class T>
void max_two_by_two(const Images<const T>& from, const Images<T>& to, uint8_t* positions) {
  using Vectors = cpu::TwoByTwo<T, kBytes>;
  for_each_plane(to, 4 * to.height * to.width, [&](int64_t sample, int64_t channel) {
    const T* const x = from.plane(sample, channel);
    T* const y = to.plane(sample, channel);
    uint8_t* const stored = positions + (sample * to.channels + channel) * to.height * to.width;
    for (int64_t o = 0; o < to.height; ++o) {
      const T* const row = x + 2 * o * from.row_stride;
      cpu::for_each_block<Vectors::kCount>(to.width, [&](int64_t p) {
        Vectors::largest(row + 2 * p, row + from.row_stride + 2 * p, y + o * to.row_stride + p,
                         stored + o * to.width + p);
      });
    }
  });
}

template <int kBytes, class T>
void spread_two_by_two(const Images<const T>& from, const uint8_t* positions, const Images<T>& to) {
  using Vectors = cpu::TwoByTwo<T, kBytes>;
  for_each_plane(to, to.height * to.width, [&](int64_t sample, int64_t channel) {
    const T* const dout = from.plane(sample, channel);
    T* const dx = to.plane(sample, channel);
    const uint8_t* const taken = positions + (sample * to.channels + channel) * from.height * from.width;
    for (int64_t o = 0; o < from.height; ++o) {
      T *const upper = dx + 2 * o * to.row_stride, *const lower = upper + to.row_stride;
      cpu::for_each_block<Vectors::kCount>(from.width, [&](int64_t p) {
        Vectors::spread(dout + o * from.row_stride + p, taken + o * from.width + p, upper + 2 * p, lower + 2 * p);
      });
      for (T* row : {upper, lower}) cpu::clear_run(row + 2 * from.width, to.width - 2 * from.width);
    }
    for (int64_t h = 2 * from.height; h < to.height; ++h) cpu::clear_run(dx + h * to.row_stride, to.width);
  });
}

template <class T, class Position>
void max_forward(const Array& x, const Array& y, Position* positions, const Windows& windows) {
  using C = Compute<T>;
  const Images<const T> from(x);
  const Images<T> to(y);
  if constexpr (std::is_same_v<T, C> && sizeof(Position) == 1) {
    if (is_two_by_two<kWide>(from, to, windows)) return max_two_by_two<kWide>(from, to, positions);
    if (is_two_by_two<16>(from, to, windows)) return max_two_by_two<16>(from, to, positions);
  }
  const WindowAxis &height = windows.height, &width = windows.width;
  for_each_plane(to, windows.cells() * windows.places(), [&](int64_t sample, int64_t channel) {
    const auto plane = read_plane(from, sample, channel, cpu::Scratch::tile);
    C* const largest = cpu::scratch<C>(cpu::Scratch::statistics, width.output);
    auto* const position = cpu::scratch<uint32_t>(cpu::Scratch::partial_sums, width.output);
    for (int64_t o = 0; o < height.output; ++o) {
      const int64_t first = height.first_cell(o), end = height.end_cell(o);
      for (int64_t p = 0; p < width.output; ++p) {
        largest[p] = -std::numeric_limits<C>::infinity();
        position[p] = static_cast<uint32_t>(first * width.kernel + width.first_cell(p));
      }
      for (int64_t i = first; i < end; ++i)
        for (int64_t j = 0; j < width.kernel; ++j) {
          const int64_t begin = width.first_place(j), past = width.end_place(j);
          if (begin >= past) continue;
          const C* const values = plane.row(height.element(o, i)) + width.element(begin, j);
          const auto cell = static_cast<uint32_t>(i * width.kernel + j);
          with_step(width.stride, [=](auto step) {
            for (int64_t p = begin; p < past; ++p) {
              const C value = values[(p - begin) * step];
              const bool takes = takes_the_maximum(value, largest[p]);
              largest[p] = takes ? value : largest[p];
              position[p] = takes ? cell : position[p];
            }
          });
        }
      store_row(to, to.plane(sample, channel), o, largest);
      Position* const stored = positions + ((sample * to.channels + channel) * height.output + o) * width.output;
      for (int64_t p = 0; p < width.output; ++p) stored[p] = static_cast<Position>(position[p]);
    }
  });
}

template <class T, class Position>
void max_backward(const Array& dout, const Position* positions, const Array& dx, const Windows& windows) {
  using C = Compute<T>;
  const Images<const T> from(dout);
  const Images<T> to(dx);
  if constexpr (std::is_same_v<T, C> && sizeof(Position) == 1) {
    if (is_two_by_two<kWide>(to, from, windows)) return spread_two_by_two<kWide>(from, positions, to);
    if (is_two_by_two<16>(to, from, windows)) return spread_two_by_two<16>(from, positions, to);
  }
  const WindowAxis &height = windows.height, &width = windows.width;
  for_each_plane(to, to.height * to.width + windows.places(), [&](int64_t sample, int64_t channel) {
    const auto values = read_plane(from, sample, channel, cpu::Scratch::statistics);
    const SumPlane<T> sums(to, sample, channel);
    struct Cell {
      int64_t row, column;
    };
    Cell* const cells = cpu::scratch<Cell>(cpu::Scratch::partial_sums, windows.cells());
    for (int64_t i = 0; i < windows.cells(); ++i) cells[i] = {i / width.kernel, i % width.kernel};
    const Position* position = positions + (sample * to.channels + channel) * windows.places();
    for (int64_t o = 0; o < height.output; ++o) {
      const C* const row = values.row(o);
      for (int64_t p = 0; p < width.output; ++p, ++position) {
        if (static_cast<int64_t>(*position) >= windows.cells()) continue;  // the caller's memory: what is none
        const Cell cell = cells[*position];
        const int64_t h = height.element(o, cell.row), w = width.element(p, cell.column);
        if (h >= 0 && h < to.height && w >= 0 && w < to.width) sums.row(h)[w] += row[p];
      }
    }
    sums.store();
  });
}

template <class T>
void average_forward(const Array& x, const Array& y, const Windows& windows, bool count_padding) {
  using C = Compute<T>;
  const Images<const T> from(x);
  const Images<T> to(y);
  const WindowAxis &height = windows.height, &width = windows.width;
  for_each_plane(to, windows.cells() * windows.places(), [&](int64_t sample, int64_t channel) {
    const auto plane = read_plane(from, sample, channel, cpu::Scratch::tile);
    double* const sum = cpu::scratch<double>(cpu::Scratch::statistics, width.output);
    C* const average = cpu::scratch<C>(cpu::Scratch::partial_sums, width.output);
    for (int64_t o = 0; o < height.output; ++o) {
      for (int64_t p = 0; p < width.output; ++p) sum[p] = 0;
      for (int64_t i = height.first_cell(o); i < height.end_cell(o); ++i)
        for (int64_t j = 0; j < width.kernel; ++j) {
          const int64_t begin = width.first_place(j), past = width.end_place(j);
          if (begin >= past) continue;
          const C* const values = plane.row(height.element(o, i)) + width.element(begin, j);
          with_step(width.stride, [=](auto step) {
            for (int64_t p = begin; p < past; ++p) sum[p] += static_cast<double>(values[(p - begin) * step]);
          });
        }
      for (int64_t p = 0; p < width.output; ++p)
        average[p] = static_cast<C>(sum[p] / static_cast<double>(averaged_cells(windows, o, p, count_padding)));
      store_row(to, to.plane(sample, channel), o, average);
    }
  });
}

template <class T>
void average_backward(const Array& dout, const Array& dx, const Windows& windows, bool count_padding) {
  using C = Compute<T>;
  const Images<const T> from(dout);
  const Images<T> to(dx);
  const WindowAxis &height = windows.height, &width = windows.width;
  const PlaceMasks<C> masks(width);
  for_each_plane(to, windows.cells() * windows.places(), [&](int64_t sample, int64_t channel) {
    const auto values = read_plane(from, sample, channel, cpu::Scratch::statistics);
    C* const shares = cpu::scratch<C>(cpu::Scratch::partial_sums, windows.places());
    for (int64_t o = 0; o < height.output; ++o)
      for (int64_t p = 0; p < width.output; ++p)
        shares[o * width.output + p] = values.row(o)[p] / static_cast<C>(averaged_cells(windows, o, p, count_padding));
    const SumPlane<T> sums(to, sample, channel);
    for (int64_t i = 0; i < height.kernel; ++i)
      for (int64_t j = 0; j < width.kernel; ++j) sums.add_cell(windows, masks, i, j, shares);
    sums.store();
  });
}

// f(pointer to positions) in the type that they are stored in.
template <class Byte, class F>
void with_positions(Byte* positions, const Windows& windows, F f) {
  using Wide = std::conditional_t<std::is_const_v<Byte>, const uint32_t, uint32_t>;
  if (position_bytes(windows.cells()) == 1)
    f(positions);
  else
    f(reinterpret_cast<Wide*>(positions));
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
    const Images<T> images(dx);
    const PlaceMasks<Compute<T>> masks(windows.width);
    const int64_t places = windows.places(), line = images.samples * places;
    for_each_plane(images, windows.cells() * places, [&](int64_t sample, int64_t channel) {
      const T* from = columns.as<const T>() + channel * windows.cells() * line + sample * places;
      const SumPlane<T> sums(images, sample, channel);
      for (int64_t i = 0; i < windows.height.kernel; ++i)
        for (int64_t j = 0; j < windows.width.kernel; ++j, from += line) sums.add_cell(windows, masks, i, j, from);
      sums.store();
    });
  });
}

void max_pool_forward(const Array& x, const Array& y, uint8_t* positions, const Windows& windows) {
  visit_dtype(x.dtype, [&](auto zero) {
    with_positions(positions, windows, [&](auto* stored) { max_forward<decltype(zero)>(x, y, stored, windows); });
  });
}

void max_pool_backward(const Array& dout, const uint8_t* positions, const Array& dx, const Windows& windows) {
  visit_dtype(dx.dtype, [&](auto zero) {
    with_positions(positions, windows, [&](auto* stored) { max_backward<decltype(zero)>(dout, stored, dx, windows); });
  });
}

void avg_pool_forward(const Array& x, const Array& y, const Windows& windows, bool count_padding) {
  visit_dtype(x.dtype, [&](auto zero) { average_forward<decltype(zero)>(x, y, windows, count_padding); });
}

void avg_pool_backward(const Array& dout, const Array& dx, const Windows& windows, bool count_padding) {
  visit_dtype(dx.dtype, [&](auto zero) { average_backward<decltype(zero)>(dout, dx, windows, count_padding); });
}

}  // namespace kitae
