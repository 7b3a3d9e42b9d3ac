// The Euclidean norms of a list of tensors, and what is to be done with them, in one launch: the bits of the CPU
// (ops/global_norm.h, cpu/norms.h), whatever the number of multiprocessors.
//
// Sixteen threads take a chunk, one a virtual lane: their loads are 64 contiguous bytes of float32, sixteen of them
// under way in each thread, 64 KB on a multiprocessor. The chunks' sums are added one after the other by block 0, while
// the other blocks still make them: a sum is published by being stored, with the sign bit set, in memory that was 0.
// Its chain of additions (about 10 cycles a chunk and tensor) would otherwise stand after the last load: 40 us of the
// 116 us that GPT-2's gradients take.
// Traffic: one read, 4 bytes an element in float32 (its floor) and 16 bytes a chunk in the L2 cache. float64 lists in
// which a sum overflows, or nearly underflows, are read twice more; the device decides.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/flags.h"
#include "cuda/lanes.h"
#include "cuda/list.h"
#include "drivers/gradients.h"
#include "ops/global_norm.h"
#include "ops/gradient_terms.h"

namespace kitae::cuda {

// In device memory.
struct FoundNorm {
  double norm;
  int64_t first_nonfinite;  // tensor, or -1
  uint32_t stop;            // the rule forbids to write
  uint32_t scaled;
};

// Runs of tensors with a norm each.
struct Layers {
  const int64_t* first;  // number of every layer's first tensor, and the end
  int64_t count;
  int64_t after_places;  // of the caller's norms
  double* of_layers;
};

template <bool has_float64>
struct NormKernel {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = 4;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kAtOnce = 16;  // loads of a thread

  List list;
  bool zero_nonfinite;
  Nonfinite rule;
  Scaling scaling;
  uint64_t* partial;   // a chunk's sum; 0: not there yet, and again when the kernel ends
  uint32_t* barrier;   // of the grid, where there is float64
  double* of_tensors;  // scratch, then the norms
  double* scales;      // scratch, where there is float64
  double* factors;     // what gradients are multiplied by: one for all, or one a tensor; or nullptr
  double* norms;       // the caller's: of all, then of each place, then of each layer; or nullptr
  Layers layers;       // none: their number is 0
  FoundNorm* found;
  Flags* flags;

  // A launch of so many blocks makes the first one wait for the others: all must be resident.
  static int64_t blocks_for(int64_t chunks, int64_t resident) {
    const int64_t wanted = 1 + (chunks + 2 * kWarps - 1) / (2 * kWarps);
    return wanted < resident ? wanted : resident;
  }

  KITAE_DEVICE void operator()() const {
    if (block_index() > 0)
      each_chunk([&](int32_t tensor, int64_t begin, int64_t count) { return sum_of_chunk(tensor, begin, count, 1.0); });
    else
      sums_of_tensors();
    if constexpr (has_float64) again_scaled();
    if (block_index() == 0 && warp_index() == 0) finish();
  }

 private:
  static constexpr uint64_t kThere = uint64_t{1} << 63;
  static constexpr uint64_t kNaN = uint64_t{0x7ff8} << 48, kInfinity = uint64_t{0x7ff0} << 48;

  // make(tensor, begin, count) -> this lane's part of the chunk, a number >= +0 or NaN; lanes fold by halves.
  template <bool largest = false, class Make>
  KITAE_DEVICE void each_chunk_as(Make make) const {
    const int64_t warps = int64_t{block_count() - 1} * kWarps;
    const auto one_chunk = [&](int64_t chunk, int32_t tensor, int64_t begin, int64_t count) {
      double value = count > 0 ? make(tensor, begin, count) : 0.0;
      sync_warp();
      if constexpr (largest) {
        KITAE_UNROLL
        for (int width = kLanes / 2; width > 0; width /= 2) {
          const double other = shuffle_xor(kAllLanes, value, width);
          value = other > value ? other : value;
        }
      } else {
        value = fold_lanes_of_warp(value);
      }
      if (count > 0 && lane_index() % kLanes == 0) publish(chunk, value);
    };
    list.each_chunk_in_lanes(int64_t{block_index() - 1} * kWarps + warp_index(), warps, one_chunk);
  }
  template <class Make>
  KITAE_DEVICE void each_chunk(Make make) const {
    each_chunk_as<false>(make);
  }

  KITAE_DEVICE void publish(int64_t chunk, double value) const {
    const uint64_t bits = value == value ? bit_cast<uint64_t>(value) : kNaN;
    *static_cast<volatile uint64_t*>(partial + chunk) = bits | kThere;
  }

  // f(value) for the elements of this thread's lane, in order. Loads come in groups that don't wait for each other.
  template <class T, class F>
  KITAE_DEVICE void each_element(const Tensor& tensor, int64_t begin, int64_t count, F f) const {
    const Source& source = list.sources[tensor.first_source];
    const int lane = lane_index() % kLanes;
    const auto cleaned = [&](T value) { f(zero_nonfinite ? finite_or_zero(value) : value); };
    if (tensor.sources == 1 && source.layout == 0 && source.dtype != DType::other) {
      const auto number = static_cast<int>(count);
      const auto walk = [&](const auto* from) {
        using Storage = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
        int i = lane;
        KITAE_NO_UNROLL
        for (; i + (kAtOnce - 1) * kLanes < number; i += kAtOnce * kLanes) {
          Storage values[kAtOnce];
          KITAE_UNROLL
          for (int k = 0; k < kAtOnce; ++k) values[k] = from[i + k * kLanes];
          KITAE_UNROLL
          for (int k = 0; k < kAtOnce; ++k) cleaned(static_cast<T>(to_float(values[k])));
        }
        KITAE_NO_UNROLL
        for (; i < number; i += kLanes) cleaned(static_cast<T>(to_float(from[i])));
      };
      if constexpr (sizeof(T) == 8) {
        if (source.dtype == DType::float64) return walk(reinterpret_cast<const double*>(source.data) + begin);
        return walk(reinterpret_cast<const float*>(source.data) + begin);
      } else {
        if (source.dtype == DType::float32) return walk(reinterpret_cast<const float*>(source.data) + begin);
        if (source.dtype == DType::float16) return walk(reinterpret_cast<const Float16*>(source.data) + begin);
        return walk(reinterpret_cast<const BFloat16*>(source.data) + begin);
      }
    }
    if (!list.active(tensor)) return;
    KITAE_NO_UNROLL
    for (int64_t i = lane; i < count; i += kLanes) cleaned(list.template value<T>(tensor, begin + i));
  }

  KITAE_DEVICE double sum_of_chunk(int32_t number, int64_t begin, int64_t count, double scale) const {
    const Tensor& tensor = list.tensors[number];
    double sum = 0.0;
    const auto add = [&](auto value) {
      double wide = static_cast<double>(value);
      if constexpr (has_float64) wide = wide * scale;
      sum += wide * wide;
    };
    if (has_float64 && tensor.wide)
      each_element<double>(tensor, begin, count, add);
    else
      each_element<float>(tensor, begin, count, add);
    return sum;
  }

  KITAE_DEVICE uint64_t look(int64_t chunk) const { return *static_cast<const volatile uint64_t*>(partial + chunk); }
  // What another block publishes for a chunk, once it is there; the place is empty again then.
  KITAE_DEVICE double wait_for(int64_t chunk, uint64_t seen) const {
    while (seen == 0) {
      spin();
      seen = look(chunk);
    }
    partial[chunk] = 0;
    return bit_cast<double>(seen & ~kThere);
  }

  // add(total, value) over chunks [first, end) in order, by a whole warp: lanes look ahead, the additions wait for each
  // other only.
  template <class Add>
  KITAE_DEVICE double by_warp(int64_t first, int64_t end, Add add) const {
    constexpr int kAhead = 4;
    double total = 0.0;
    uint64_t next[kAhead];
    KITAE_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      const int64_t chunk = first + k * kWarp + lane_index();
      next[k] = chunk < end ? look(chunk) : 0;
    }
    KITAE_NO_UNROLL
    for (; first < end; first += kAhead * kWarp) {
      double now[kAhead];
      KITAE_UNROLL
      for (int k = 0; k < kAhead; ++k) {
        const int64_t chunk = first + k * kWarp + lane_index();
        now[k] = chunk < end ? wait_for(chunk, next[k]) : 0.0;
        next[k] = chunk + kAhead * kWarp < end ? look(chunk + kAhead * kWarp) : 0;
      }
      sync_warp();
      KITAE_UNROLL
      for (int k = 0; k < kAhead; ++k) {
        const int64_t left = end - first - k * kWarp;
        if (left >= kWarp) {
          KITAE_UNROLL
          for (int lane = 0; lane < kWarp; ++lane) total = add(total, shuffle(kAllLanes, now[k], lane));
        } else {
          KITAE_NO_UNROLL
          for (int lane = 0; lane < left; ++lane) total = add(total, shuffle(kAllLanes, now[k], lane));
        }
      }
    }
    return total;
  }

  // add(total, value) over the chunks of every tensor; use(tensor, total) once, by one thread. Tensors of few chunks
  // are added by a thread each, others by a warp. Neighbours go to different warps: their chunks come one after the
  // other.
  template <class Add, class Use>
  KITAE_DEVICE void each_tensor(Add add, Use use) const {
    constexpr int64_t kFew = 4;
    KITAE_NO_UNROLL
    for (int32_t first = 0; first < list.count; first += kThreads) {
      const int32_t tensor = first + lane_index() * kWarps + warp_index();
      int64_t begin = 0, end = 0;
      if (tensor < list.count) {
        begin = list.first_chunk[tensor];
        end = list.first_chunk[tensor + 1];
      }
      double total = 0.0;
      if (end - begin <= kFew) {
        KITAE_NO_UNROLL
        for (int64_t chunk = begin; chunk < end; ++chunk) total = add(total, wait_for(chunk, look(chunk)));
      }
      uint32_t others = ballot(kAllLanes, end - begin > kFew);
      KITAE_NO_UNROLL
      for (int lane = 0; others != 0; ++lane, others >>= 1) {
        if (!(others & 1u)) continue;
        const double of_lane = by_warp(shuffle(kAllLanes, begin, lane), shuffle(kAllLanes, end, lane), add);
        if (lane_index() == lane) total = of_lane;
      }
      if (tensor < list.count) use(tensor, total);
    }
  }

  KITAE_DEVICE void sums_of_tensors() const {
    each_tensor([](double sum, double value) { return sum + value; },
                [&](int32_t tensor, double sum) { of_tensors[tensor] = sum; });
    sync_block();
  }

  // float64 sums that overflowed, or nearly vanished, once more with every value multiplied by a power of two.
  KITAE_DEVICE void again_scaled() const {
    if (block_index() == 0) {
      bool any = false;
      for (int32_t tensor = thread_index(); tensor < list.count; tensor += kThreads) {
        scales[tensor] = 1.0;
        any = any || needs_scaling(of_tensors[tensor]);
      }
      any = any_of_block(any);
      if (thread_index() == 0) found->scaled = any;
    }
    grid_sync(barrier);
    const bool any = *static_cast<const volatile uint32_t*>(&found->scaled) != 0;
    grid_sync(barrier);
    if (!any) return;
    if (block_index() > 0) {
      each_chunk_as<true>([&](int32_t number, int64_t begin, int64_t count) {
        double largest = 0.0;
        if (!needs_scaling(sum_of(number))) return largest;
        const auto compare = [&](auto value) {
          const double wide = static_cast<double>(value);
          const double magnitude = nonfinite(wide) ? bit_cast<double>(kInfinity) : absolute(wide);
          largest = magnitude > largest ? magnitude : largest;
        };
        const Tensor& tensor = list.tensors[number];
        if (tensor.wide)
          each_element<double>(tensor, begin, count, compare);
        else
          each_element<float>(tensor, begin, count, compare);
        return largest;
      });
    } else {
      bool scaled = false;
      each_tensor([](double largest, double value) { return value > largest ? value : largest; },
                  [&](int32_t tensor, double largest) {
                    if (!(largest > 0.0) || nonfinite(largest)) return;
                    scaled = true;
                    scales[tensor] = norm_scale(largest);
                  });
      scaled = any_of_block(scaled);
      if (thread_index() == 0) found->scaled = scaled;
    }
    grid_sync(barrier);
    const bool scaled = *static_cast<const volatile uint32_t*>(&found->scaled) != 0;
    grid_sync(barrier);
    if (!scaled) return;
    if (block_index() > 0)
      each_chunk([&](int32_t tensor, int64_t begin, int64_t count) {
        const double scale = *static_cast<const volatile double*>(scales + tensor);
        return sum_of_chunk(tensor, begin, count, scale);
      });
    else
      sums_of_tensors();
  }

  // Written by another block before a barrier of the grid: not to be found in this multiprocessor's cache.
  KITAE_DEVICE double sum_of(int32_t tensor) const { return *static_cast<const volatile double*>(of_tensors + tensor); }

  // value(i) of i = 0, 1, ... in this order: add(value) in every lane.
  template <class Value, class Add>
  KITAE_DEVICE void in_order(Value value, Add add) const {
    KITAE_NO_UNROLL
    for (int32_t first = 0; first < list.count; first += kWarp) {
      const int32_t mine = first + lane_index();
      const double own = mine < list.count ? value(mine) : 0.0;
      const int32_t left = list.count - first;
      if (left >= kWarp) {
        KITAE_UNROLL
        for (int lane = 0; lane < kWarp; ++lane) add(shuffle(kAllLanes, own, lane));
      } else {
        KITAE_NO_UNROLL
        for (int lane = 0; lane < left; ++lane) add(shuffle(kAllLanes, own, lane));
      }
    }
  }

  // One warp: norms from sums, and what follows from them.
  KITAE_DEVICE void finish() const {
    double all = 0.0, largest = 0.0;
    int32_t first_nonfinite = list.count;
    bool scaled = false;
    for (int32_t tensor = lane_index(); tensor < list.count; tensor += kWarp)
      if (nonfinite(of_tensors[tensor]) && tensor < first_nonfinite) first_nonfinite = tensor;
    KITAE_UNROLL
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
      const int32_t other = shuffle_xor(kAllLanes, first_nonfinite, lanes);
      first_nonfinite = other < first_nonfinite ? other : first_nonfinite;
    }
    if constexpr (has_float64) scaled = found->scaled != 0;
    in_order([&](int32_t tensor) { return of_tensors[tensor]; }, [&](double sum) { all += sum; });
    sync_warp();
    const auto norm_of = [&](int32_t tensor) {
      double norm = square_root(of_tensors[tensor]);
      if constexpr (has_float64) norm = norm / scales[tensor];
      return norm;
    };
    if (scaled && first_nonfinite == list.count) {
      in_order(norm_of, [&](double norm) { largest = norm > largest ? norm : largest; });
      all = 0.0;
      in_order(
          [&](int32_t tensor) {
            const double part = norm_of(tensor) / largest;
            return part * part;
          },
          [&](double square) { all += square; });
      all = largest * square_root(all);
    } else {
      all = square_root(all);
    }
    sync_warp();
    KITAE_NO_UNROLL
    for (int64_t layer = lane_index(); layer < layers.count; layer += kWarp) finish_layer(layer, norm_of);
    sync_warp();
    for (int32_t tensor = lane_index(); tensor < list.count; tensor += kWarp) {
      const double norm = norm_of(tensor);
      of_tensors[tensor] = norm;
      if (norms) norms[1 + list.tensors[tensor].place] = norm;
      if (factors && scaling.scope == Scope::tensor)
        factors[tensor] = gradient_factor(norm, scaling.max_norm, scaling.eps);
    }
    if (lane_index() != 0) return;
    const bool any = first_nonfinite < list.count;
    if (norms) norms[0] = all;
    if (factors && scaling.scope == Scope::all) factors[0] = gradient_factor(all, scaling.max_norm, scaling.eps);
    found->norm = all;
    found->first_nonfinite = any ? first_nonfinite : -1;
    found->stop = any && (rule == Nonfinite::raise || rule == Nonfinite::skip);
    if (any && rule == Nonfinite::raise)
      raise_flag(flags, Finding::nonfinite_gradient, list.tensors[first_nonfinite].place);
  }

  // One thread: a layer's norm, as `finish` takes that of all, and the factors of its tensors.
  template <class NormOf>
  KITAE_DEVICE void finish_layer(int64_t layer, const NormOf& norm_of) const {
    const auto first = static_cast<int32_t>(layers.first[layer]), last = static_cast<int32_t>(layers.first[layer + 1]);
    double all = 0.0, largest = 0.0;
    bool scaled = false, finite = true;
    KITAE_NO_UNROLL
    for (int32_t tensor = first; tensor < last; ++tensor) {
      all += of_tensors[tensor];
      finite = finite && !nonfinite(of_tensors[tensor]);
      if constexpr (has_float64) {
        scaled = scaled || scales[tensor] != 1.0;
        const double norm = norm_of(tensor);
        largest = norm > largest ? norm : largest;
      }
    }
    double norm = square_root(all);
    if (scaled && finite) {
      all = 0.0;
      KITAE_NO_UNROLL
      for (int32_t tensor = first; tensor < last; ++tensor) {
        const double part = norm_of(tensor) / largest;
        all += part * part;
      }
      norm = largest * square_root(all);
    }
    layers.of_layers[layer] = norm;
    if (norms) norms[1 + layers.after_places + layer] = norm;
    if (!factors || scaling.scope != Scope::layer) return;
    KITAE_NO_UNROLL
    for (int32_t tensor = first; tensor < last; ++tensor)
      factors[tensor] = gradient_factor(norm, scaling.max_norm, scaling.eps);
  }
};

}  // namespace kitae::cuda
