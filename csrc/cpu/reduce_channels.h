// Two sums a channel over all its elements, in the order of ops/reduction_order.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/channel_tiles.h"
#include "cpu/lanes.h"
#include "ops/reduction_order.h"

namespace kitae::cpu {
namespace detail {

// Op::OfZeros, with which floats are summed where no parameter is anything but 0. Op itself is the rarer case then, and
// is not compiled for near and far each.
template <class Op, class T, class = void>
struct OfZeros {
  static constexpr bool kKnown = false;
};
template <class Op>
struct OfZeros<Op, float, std::void_t<typename Op::OfZeros>> {
  static constexpr bool kKnown = true;
  using Type = typename Op::OfZeros;
};

// Times sixteen columns whose sums and parameters the registers hold: 24 of 32, or 12 of 16. A tile of no more columns
// goes by as a whole; of a wider one sixteen columns of a few rows (kRowsOfColumns) at a time, so that memory is read
// nearly in its order.
constexpr int kColumnGroups = kVectorBytes == 64 ? 4 : 1;
constexpr int kGatedGroups = kVectorBytes == 64 ? 2 : 1;

// Both sums of kGroups times sixteen lanes in registers. Every index is a constant of the unrolled code: an array of
// vectors that a loop runs over would stay in memory.
template <class Op, class T, int kGroups = 1, class Gate = OpenGate>
class Accumulators {
 public:
  using Vector = Lanes::Vector;
  using Part = cpu::Part<Compute<T>>;
  static constexpr int kParts = kGroups * Lanes::kParts;

  Accumulators(const double* first, const double* second, const double* parameters, const Gate& gate = {})
      : gate_(gate) {
    each<kParts>([&](auto part) __attribute__((always_inline)) {
      constexpr int kAt = part() * Lanes::kWidth;
      first_[part()] = Lanes::load_part(first + kAt);
      second_[part()] = Lanes::load_part(second + kAt);
      parameter_[part()] = Lanes::load_part(parameters + kAt);
      if constexpr (!Gate::kOpen) {
        bound_[part()] = Lanes::load_stored(gate.bound + kAt);
        sign_[part()] = Lanes::load_stored(gate.sign + kAt);
      }
    });
  }
  void store(double* first, double* second) const {
    each<kParts>([&](auto part) __attribute__((always_inline)) {
      constexpr int kAt = part() * Lanes::kWidth;
      std::memcpy(first + kAt, &first_[part()], sizeof(Vector));
      std::memcpy(second + kAt, &second_[part()], sizeof(Vector));
    });
  }

  // Sixteen elements of each input.
  void add(const T* const (&from)[Op::kInputs]) {
    each<kParts>([&](auto part) __attribute__((always_inline)) {
      Vector values[Op::kInputs];
      load(part, from, values);
      add_terms<Op, std::is_same_v<Compute<T>, float>>(first_[part()], second_[part()], values, parameter_[part()]);
    });
  }
  // The first `count` of them; the others add +0, whatever they hold.
  void add_first(const T* const (&from)[Op::kInputs], int64_t count) {
    static constexpr int64_t kKept[2 * kLanes] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    typedef int64_t Bits __attribute__((vector_size(kVectorBytes)));
    each<kParts>([&](auto part) __attribute__((always_inline)) {
      Bits kept;
      std::memcpy(&kept, kKept + kLanes - count + part() * Lanes::kWidth, sizeof(kept));
      Vector values[Op::kInputs];
      load(part, from, values);
      const Terms<Vector> terms = Op::of(values, parameter_[part()]);
      first_[part()] += reinterpret_cast<Vector>(reinterpret_cast<Bits>(terms.first) & kept);
      second_[part()] += reinterpret_cast<Vector>(reinterpret_cast<Bits>(terms.second) & kept);
    });
  }

 private:
  template <class At>
  void load(At part, const T* const (&from)[Op::kInputs], Vector (&values)[Op::kInputs]) const {
    constexpr int kAt = part() * Lanes::kWidth;
    if constexpr (Gate::kOpen) {
      values[0] = Lanes::load_part(from[0] + kAt);
      if constexpr (Op::kInputs == 2) values[1] = Lanes::load_part(from[1] + kAt);
    } else {
      const Part second = Lanes::load_stored(from[1] + kAt);
      values[0] = Lanes::widened(gate_(Lanes::load_stored(from[0] + kAt), second, bound_[part()], sign_[part()]));
      values[1] = Lanes::widened(second);
    }
  }

  Vector first_[kParts], second_[kParts], parameter_[kParts];
  Part bound_[Gate::kOpen ? 1 : kParts], sign_[Gate::kOpen ? 1 : kParts];
  Gate gate_;
};

// Sixteen elements from `from` on, of which `count` are wanted: through `spare` where the array ends before.
template <class T>
inline const T* readable(const T* from, const T* end, int64_t count, T* spare) {
  if (from + kLanes <= end) return from;
  for (int64_t i = 0; i < count; ++i) spare[i] = from[i];
  return spare;
}

// Lanes along the row: one channel. kAhead: what comes next is asked for a line at a time.
template <bool kAhead, class Op, class T>
[[gnu::always_inline]] inline void add_rows(double* first, double* second, const Tile<T> (&in)[Op::kInputs],
                                            int64_t rows, int64_t columns, const double* parameters) {
  constexpr int kInputs = Op::kInputs;
  Accumulators<Op, T> sums(first, second, parameters);
  const int64_t whole = columns / kLanes * kLanes, rest = columns - whole;
  T spare[kInputs][kLanes] = {};
  for (int64_t row = 0; row < rows; ++row) {
    const T* from[kInputs];
    const char* ahead[kInputs];
    for (int i = 0; i < kInputs; ++i) {
      from[i] = in[i].row(row);
      if constexpr (kAhead) ahead[i] = in[i].ahead.row(row);
    }
    for (int64_t column = 0; column < whole; column += kLanes) {
      if constexpr (kAhead)
        for (int i = 0; i < kInputs; ++i) {
          __builtin_prefetch(ahead[i], 0, 2);  // into the level-2 cache: level 1 holds this tile
          ahead[i] += kLanes * in[i].ahead.element;
        }
      sums.add(from);
      for (int i = 0; i < kInputs; ++i) from[i] += kLanes;
    }
    if (rest > 0) {
      for (int i = 0; i < kInputs; ++i) from[i] = readable(from[i], in[i].end, rest, spare[i]);
      sums.add_first(from, rest);
    }
  }
  sums.store(first, second);
}

// A lane a channel: kGroups times sixteen columns go down the rows [row, last), all of them inside the array.
template <int kGroups, class Op, class T, class Gate>
inline void add_columns(double* first, double* second, const Tile<T> (&in)[Op::kInputs], int64_t column, int64_t row,
                        int64_t last, const double* parameters, const Gate& gate) {
  Accumulators<Op, T, kGroups, Gate> sums(first + column, second + column, parameters + column, gate.at(column));
  const T* from[Op::kInputs];
  for (int i = 0; i < Op::kInputs; ++i) from[i] = in[i].row(row) + column;
  for (; row < last; ++row) {
    sums.add(from);
    for (int i = 0; i < Op::kInputs; ++i) from[i] += in[i].stride;
  }
  sums.store(first + column, second + column);
}

// The same for kRowsOfColumns rows of a tile, sixteen columns at a time. What is ahead of them is asked for meanwhile,
// in the order of memory and into the level-2 cache: rows that advance side by side are too many places for the
// hardware to fetch ahead of.
template <class Op, class T, class Gate>
inline void add_rows_across(double* first, double* second, const Tile<T> (&in)[Op::kInputs], int64_t row,
                            int64_t columns, const double* parameters, const Gate& gate) {
  const int64_t steps = columns / kLanes;
  int64_t step = 0;
  for (int64_t part = 0; part < kRowsOfColumns; ++part) {
    const char* ahead[Op::kInputs];
    for (int i = 0; i < Op::kInputs; ++i) ahead[i] = in[i].ahead.data ? in[i].ahead.row(row + part) : nullptr;
    for (; step < steps * (part + 1) / kRowsOfColumns; ++step) {
      for (int i = 0; i < Op::kInputs; ++i)
        if (ahead[i]) ahead[i] = fetch(ahead[i], kRowsOfColumns * kLanes * in[i].ahead.element);
      add_columns<1, Op, T>(first, second, in, step * kLanes, row, row + kRowsOfColumns, parameters, gate);
    }
  }
}

// `first`, `second` and `parameters` are padded to whole lanes; what the padding sums up is never looked at.
template <class Op, class T, class Gate>
inline void add_across(double* first, double* second, const Tile<T> (&in)[Op::kInputs], int64_t rows, int64_t columns,
                       const double* parameters, const Gate& gate) {
  constexpr int kInputs = Op::kInputs, kGroups = Gate::kOpen ? kColumnGroups : kGatedGroups;
  constexpr int64_t kWide = kGroups * kLanes;
  int64_t row = 0, column = 0;
  if (columns > kWide)
    for (; row + kRowsOfColumns <= rows; row += kRowsOfColumns)
      add_rows_across<Op, T>(first, second, in, row, columns, parameters, gate);
  for (; row < rows && column + kWide <= columns; column += kWide)
    add_columns<kGroups, Op, T>(first, second, in, column, row, rows, parameters, gate);
  for (; row < rows && column + kLanes <= columns; column += kLanes)
    add_columns<1, Op, T>(first, second, in, column, row, rows, parameters, gate);
  const int64_t count = columns % kLanes;
  if (count == 0) return;
  column = columns - count;
  Accumulators<Op, T, 1, Gate> sums(first + column, second + column, parameters + column, gate.at(column));
  T spare[kInputs][kLanes] = {};
  for (row = 0; row < rows; ++row) {
    const T* from[kInputs];
    for (int i = 0; i < kInputs; ++i) from[i] = readable(in[i].row(row) + column, in[i].end, count, spare[i]);
    sums.add(from);
  }
  sums.store(first + column, second + column);
}

}  // namespace detail

namespace detail {

// Sums of all columns that `region`, rows of channels side by side, has.
template <class Op, class T, class Gate, class Read>
inline void sum_columns(const ChannelSizes& sizes, const Region& region, const double* parameters, const Gate& gate,
                        Read&& read, double* first, double* second) {
  for (int64_t i = 0; i < round_up(region.columns, kLanes); ++i) first[i] = second[i] = 0;
  Tile<T> tiles[Op::kInputs];
  for_each_tile(sizes, region, kColumnsOfSum, false, [&](const Region& tile, const Region& next) {
    read(tile, next, tiles);
    const int64_t at = tile.channel - region.channel;
    add_across<Op, T>(first + at, second + at, tiles, tile.rows, tile.columns, parameters + at, gate.at(at));
  });
}

// Of `channels` channels of `inner` columns each; none of the columns' sums is -0.
inline void fold_columns(const double* columns, int64_t channels, int64_t inner, double* sums) {
  each<kLanes>([&](auto less) __attribute__((always_inline)) {
    constexpr int kColumns = less() + 1;
    for (int64_t i = 0; inner == kColumns && i < channels; ++i)
      sums[i] = fold_tree<kLanes>(
          kColumns, [&](int lane) __attribute__((always_inline)) { return columns[i * kColumns + lane]; });
  });
}

// The channels' sums by way of their columns' (as_columns), kBlockChannels of them at a time.
template <class Op, class T, class Read>
inline void sum_as_columns(const ChannelSizes& sizes, int64_t row, int64_t rows, int64_t begin, int64_t end,
                           const double* parameters, Read&& read, double* first, double* second) {
  const int64_t inner = sizes.inner, most = kBlockChannels / inner;
  alignas(64) double numbers[kBlockChannels + kLanes] = {}, lanes[2][kBlockChannels];
  for (int64_t from = begin; from < end; from += most) {
    const int64_t channels = end - from < most ? end - from : most, columns = channels * inner;
    spread(parameters + (from - begin), channels, inner, numbers);
    read.prepare(from, channels);
    sum_columns<Op, T>(as_columns(sizes), Region{row, rows, from * inner, 0, columns}, numbers, OpenGate{}, read,
                       lanes[0], lanes[1]);
    fold_columns(lanes[0], channels, inner, first + (from - begin));
    fold_columns(lanes[1], channels, inner, second + (from - begin));
  }
}

// Of a chunk, where channels lie side by side or are seen so; then the gate is open.
template <class Op, class T, class Gate, class Read>
inline void sum_across(const ChannelSizes& sizes, const Region& chunk, int64_t begin, int64_t end,
                       const double* parameters, const Gate& gate, Read&& read, double* first, double* second) {
  if (!sizes.adjacent())
    return sum_as_columns<Op, T>(sizes, chunk.row, chunk.rows, begin, end, parameters, read, first, second);
  const Region region{chunk.row, chunk.rows, begin, 0, end - begin};
  sum_columns<Op, T>(sizes, region, parameters, gate, read, first, second);
}

// Sums of channels [begin, end), which have the rows and columns of `part`. add(tile, next, lanes, parameter) for the
// tiles of a channel, of which the last is followed by after(channel).
template <class Add, class After>
[[gnu::always_inline]] inline void sum_each_channel(const ChannelSizes& sizes, Region part, int64_t begin, int64_t end,
                                                    const double* parameters, Add&& add, After&& after, double* first,
                                                    double* second) {
  for (int64_t channel = begin; channel < end; ++channel) {
    alignas(64) double parameter[kLanes], lanes[2][kLanes] = {};
    for (double& lane : parameter) lane = parameters[channel - begin];
    part.channel = channel;
    for_each_tile(
        sizes, part, kColumnsOfSum, false,
        [&](const Region& tile, const Region& next) { add(tile, next, lanes, parameter); }, after(channel));
    first[channel - begin] = Lanes::load(lanes[0]).fold();
    second[channel - begin] = Lanes::load(lanes[1]).fold();
  }
}

template <class Op, class T, class Read>
inline void sum_rows(const ChannelSizes& sizes, const Region& part, int64_t begin, int64_t end,
                     const double* parameters, Read&& read, double* first, double* second) {
  Tile<T> tiles[Op::kInputs];
  const auto add = [&](const Region& tile, const Region& next, double (&lanes)[2][kLanes], const double* parameter) {
    read(tile, next, tiles);
    add_rows<false, Op, T>(lanes[0], lanes[1], tiles, tile.rows, tile.columns, parameter);
  };
  sum_each_channel(sizes, part, begin, end, parameters, add, [](int64_t) { return Region{}; }, first, second);
}

// The same with what comes next asked for: a function of its own, so that it costs short rows nothing.
template <class Op, class T, class Read>
[[gnu::noinline]] void sum_long_rows(const ChannelSizes& sizes, const Region& part, int64_t begin, int64_t end,
                                     const Region& next_chunk, const double* parameters, Read&& read, double* first,
                                     double* second) {
  Tile<T> tiles[Op::kInputs];
  const auto add = [&](const Region& tile, const Region& next, double (&lanes)[2][kLanes], const double* parameter) {
    read(tile, next, tiles);
    if (tiles[0].ahead.data)
      add_rows<true, Op, T>(lanes[0], lanes[1], tiles, tile.rows, tile.columns, parameter);
    else
      add_rows<false, Op, T>(lanes[0], lanes[1], tiles, tile.rows, tile.columns, parameter);
  };
  const auto after = [&](int64_t channel) {
    if (channel + 1 == end) return next_chunk;
    Region region = part;
    region.channel = channel + 1;
    return first_tile(region);
  };
  sum_each_channel(sizes, part, begin, end, parameters, add, after, first, second);
}

}  // namespace detail

// A channel's part of a chunk, where channels are rows.
inline Region region_of_chunk(const ChannelSizes& sizes, int64_t chunk, int64_t channel) {
  const ChannelChunks chunks(sizes);
  const int64_t row = chunk / chunks.pieces * chunks.rows, column = chunk % chunks.pieces * chunks.per_piece;
  const int64_t rows = sizes.outer - row, columns = sizes.inner - column;
  return {row, rows < chunks.rows ? rows : chunks.rows, channel, column,
          columns < chunks.per_piece ? columns : chunks.per_piece};
}

namespace detail {

// A block of channels is runs of memory, one an outer row: an offset in bytes that stays so far before the sums, goes
// over the end of a run into the next one, and behind the last into the next block.
class RunsAhead {
 public:
  RunsAhead(int64_t begin, int64_t run, int64_t stride, int64_t runs, int64_t ahead)
      : offset_(begin), end_(begin + run), run_(run), stride_(stride), left_(runs), next_block_(begin + run) {
    for (; run_ > 0 && ahead >= run_; ahead -= run_) next_run();
    offset_ += ahead;
  }
  // Sixteen elements of each input, into the level-2 cache, as level 1 holds what is at work.
  template <class S, int kInputs>
  [[gnu::always_inline]] void ask(const S* const (&in)[kInputs]) {
    constexpr int64_t kBytes = kLanes * sizeof(S);
    for (int i = 0; i < kInputs; ++i) fetch(reinterpret_cast<const char*>(in[i]) + offset_, kBytes);
    offset_ += kBytes;
    if (offset_ >= end_) next_run();
  }

 private:
  void next_run() {
    if (left_ == 0) return;
    offset_ = --left_ > 0 ? end_ - run_ + stride_ : next_block_;
    end_ = offset_ + run_;
  }
  int64_t offset_, end_, run_, stride_, left_, next_block_;
};

// Of one channel, between its rows; T: what a gate works on.
template <class T, class Gate>
struct ChannelSums {
  alignas(64) double first[kLanes], second[kLanes], parameter[kLanes];
  T bound[kLanes], sign[kLanes];

  void begin_channel(int64_t channel, const double* parameters, const Gate& gate) {
    for (int lane = 0; lane < kLanes; ++lane) {
      parameter[lane] = parameters[channel];
      if constexpr (!Gate::kOpen) {
        bound[lane] = gate.bound[channel];
        sign[lane] = gate.sign[channel];
      }
    }
  }
  Gate gate_of_lanes(Gate gate) const {
    if constexpr (!Gate::kOpen) {
      gate.bound = bound;
      gate.sign = sign;
    }
    return gate;
  }
};

// A row from `at` on is added. Up to in[i] + `size` may be read.
template <bool kAsk, class Op, class T, class Gate>
[[gnu::always_inline]] inline void add_row(ChannelSums<Compute<T>, Gate>& channel, const Gate& gate,
                                           const T* const (&in)[Op::kInputs], int64_t at, int64_t columns, int64_t size,
                                           RunsAhead& ahead) {
  constexpr int kInputs = Op::kInputs;
  Accumulators<Op, T, 1, Gate> sums(channel.first, channel.second, channel.parameter, channel.gate_of_lanes(gate));
  const T* from[kInputs];
  for (int i = 0; i < kInputs; ++i) from[i] = in[i] + at;
  int64_t column = 0;
  for (; column + kLanes <= columns; column += kLanes) {
    if constexpr (kAsk) ahead.ask(in);
    sums.add(from);
    for (int i = 0; i < kInputs; ++i) from[i] += kLanes;
  }
  if (column < columns) {
    if constexpr (kAsk) ahead.ask(in);
    T spare[kInputs][kLanes] = {};
    for (int i = 0; i < kInputs; ++i) from[i] = readable(from[i], in[i] + size, columns - column, spare[i]);
    sums.add_first(from, columns - column);
  }
  sums.store(channel.first, channel.second);
}

// To `first` and `second` are added the sums of chunks [chunk, last) of channels [begin, end), whose rows are read as
// they lie. Channels of a block take turns row by row: its rows follow each other in memory.
template <bool kAsk, class Op, class T, class Gate>
[[gnu::noinline]] void sum_in_place(const ChannelSizes& sizes, int64_t chunk, int64_t last, int64_t begin, int64_t end,
                                    const double* parameters, const Gate& gate, const T* const (&in)[Op::kInputs],
                                    double* first, double* second) {
  constexpr int64_t kTogether = 16, kElement = sizeof(T);
  const int64_t stride = sizes.channels * sizes.inner;
  const bool pieces = ChannelChunks(sizes).pieces > 1;
  const int64_t width = pieces ? 1 : kTogether;
  ChannelSums<Compute<T>, Gate> sums[kTogether];
  for (int64_t from = begin; from < end; from += width) {
    const int64_t channels = from + width < end ? width : end - from;
    for (int64_t i = 0; i < channels; ++i) sums[i].begin_channel(from - begin + i, parameters, gate);
    const Region start = region_of_chunk(sizes, chunk, from), stop = region_of_chunk(sizes, last - 1, from);
    const int64_t run = pieces && last - chunk == 1 ? start.columns : channels * sizes.inner;
    RunsAhead ahead(start.offset(sizes) * kElement, run * kElement, stride * kElement, stop.row + stop.rows - start.row,
                    kAsk ? kAskedBytes : 0);
    for (int64_t at = chunk; at < last; ++at) {
      const Region part = region_of_chunk(sizes, at, from);
      for (int64_t i = 0; i < channels; ++i)
        for (int64_t lane = 0; lane < kLanes; ++lane) sums[i].first[lane] = sums[i].second[lane] = 0;
      for (int64_t row = 0, here = part.offset(sizes); row < part.rows; ++row, here += stride)
        for (int64_t i = 0; i < channels; ++i)
          add_row<kAsk, Op, T>(sums[i], gate, in, here + i * sizes.inner, part.columns, sizes.size(), ahead);
      for (int64_t i = 0; i < channels; ++i) {
        first[from - begin + i] += Lanes::load(sums[i].first).fold();
        second[from - begin + i] += Lanes::load(sums[i].second).fold();
      }
    }
  }
}
template <class Op, class T, class Gate>
inline void sum_in_place(const ChannelSizes& sizes, int64_t chunk, int64_t last, int64_t begin, int64_t end,
                         const double* parameters, const Gate& gate, const T* const (&in)[Op::kInputs], double* first,
                         double* second) {
  for (int64_t i = 0; i < end - begin; ++i) first[i] = second[i] = 0;
  if (OfZeros<Op, Compute<T>>::kKnown || sizes.size() > kNearElements)
    return sum_in_place<true, Op, T>(sizes, chunk, last, begin, end, parameters, gate, in, first, second);
  if constexpr (!OfZeros<Op, Compute<T>>::kKnown)
    sum_in_place<false, Op, T>(sizes, chunk, last, begin, end, parameters, gate, in, first, second);
}

// Read::Stored of readers whose inputs may be read as they lie.
template <class Read, class = void>
struct StoredOf {
  using Type = void;
};
template <class Read>
struct StoredOf<Read, std::void_t<typename Read::Stored>> {
  using Type = typename Read::Stored;
};

// The tiles of inputs that are read as they lie: of channels side by side, or seen so.
template <class S, int kInputs>
struct RowsReader {
  const ChannelSizes& view;
  const bool ahead;
  const S* from[kInputs] = {};

  template <class Read>
  explicit RowsReader(const Read& read) : view(read.view), ahead(read.ahead) {}

  void prepare(int64_t /*channel*/, int64_t /*count*/) const {}
  void operator()(const Region& tile, const Region& next, Tile<S> (&tiles)[kInputs]) const {
    for (int i = 0; i < kInputs; ++i) {
      tiles[i] = {from[i] + tile.offset(view), tile.stride(view), from[i] + view.size()};
      if (ahead) tiles[i].ahead = find_ahead(from[i], view, tile, next);
    }
  }
};

}  // namespace detail

// Both sums of chunk `chunk` for channels [begin, end). `parameters`, `first` and `second` start at channel `begin` and
// are padded to whole lanes. read(tile, next, tiles) fills in where the inputs of a tile are, T its elements; `next`
// comes after it. With read.columns the tiles are those of as_columns(sizes), and read.prepare(channel, count) comes
// before their tiles. With read.ahead `next` goes on in the next channel and, unless this is the caller's `last_chunk`,
// chunk. Where read.in_place(rows), inputs of type Read::Stored are read as they lie instead, by
// read.through_gate(sum), which calls sum(gate).
template <class Op, class T, class Read>
inline void sum_chunk(const ChannelSizes& sizes, int64_t chunk, bool last_chunk, int64_t begin, int64_t end,
                      const double* parameters, Read&& read, double* first, double* second) {
  if constexpr (detail::OfZeros<Op, T>::kKnown)
    if (all_zero(parameters, end - begin))
      return sum_chunk<typename detail::OfZeros<Op, T>::Type, T>(sizes, chunk, last_chunk, begin, end, parameters, read,
                                                                 first, second);
  using Stored = typename detail::StoredOf<std::decay_t<Read>>::Type;
  const Region part = region_of_chunk(sizes, chunk, begin);
  if constexpr (kInPlace<Stored>) {
    detail::RowsReader<Stored, Op::kInputs> rows(read);
    if (read.in_place(rows.from))
      return read.through_gate([&](const auto& gate) {
        if (sizes.adjacent() || read.columns)
          return detail::sum_across<Op, Stored>(sizes, part, begin, end, parameters, gate.at(begin), rows, first,
                                                second);
        detail::sum_in_place<Op, Stored>(sizes, chunk, chunk + 1, begin, end, parameters, gate.at(begin), rows.from,
                                         first, second);
      });
  }
  if (sizes.adjacent() || read.columns)
    return detail::sum_across<Op, T>(sizes, part, begin, end, parameters, OpenGate{}, read, first, second);
  if (detail::OfZeros<Op, T>::kKnown || read.ahead) {
    const Region next_chunk = last_chunk ? Region{} : first_tile(region_of_chunk(sizes, chunk + 1, begin));
    return detail::sum_long_rows<Op, T>(sizes, part, begin, end, next_chunk, parameters, read, first, second);
  }
  if constexpr (!detail::OfZeros<Op, T>::kKnown)
    detail::sum_rows<Op, T>(sizes, part, begin, end, parameters, read, first, second);
}

// Both sums over all chunks.
template <class Op, class T, class Read>
inline void sum_channels(const ChannelSizes& sizes, int64_t begin, int64_t end, const double* parameters, Read&& read,
                         double* first, double* second) {
  if constexpr (detail::OfZeros<Op, T>::kKnown)
    if (all_zero(parameters, end - begin))
      return sum_channels<typename detail::OfZeros<Op, T>::Type, T>(sizes, begin, end, parameters, read, first, second);
  alignas(64) double chunk_first[kBlockChannels], chunk_second[kBlockChannels];
  const int64_t chunks = ChannelChunks(sizes).count;
  using Stored = typename detail::StoredOf<std::decay_t<Read>>::Type;
  if constexpr (kInPlace<Stored>) {
    const Stored* rows[Op::kInputs];
    if (!sizes.adjacent() && !read.columns && chunks > 0 && read.in_place(rows))
      return read.through_gate([&](const auto& gate) {
        detail::sum_in_place<Op, Stored>(sizes, 0, chunks, begin, end, parameters, gate.at(begin), rows, first, second);
      });
  }
  for (int64_t i = 0; i < end - begin; ++i) first[i] = second[i] = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    sum_chunk<Op, T>(sizes, chunk, chunk + 1 == chunks, begin, end, parameters, read, chunk_first, chunk_second);
    for (int64_t i = 0; i < end - begin; ++i) {
      first[i] += chunk_first[i];
      second[i] += chunk_second[i];
    }
  }
}

}  // namespace kitae::cpu
