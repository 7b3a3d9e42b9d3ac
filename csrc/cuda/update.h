// An optimizer's step: one persistent launch for a list of any number of tensors.
//
// A block takes a chunk of 4,096 elements, then the next but as many as there are blocks. Where parameter, gradient and
// state are contiguous, of one type and as far from a multiple of 16 bytes, a thread has two vectors of four elements
// of each under way: with Adam 128 bytes, 64 KB on a multiprocessor with two blocks of 256 threads. What lies before
// and after whole vectors, and others, go element by element, neighbours in neighbouring threads: that costs
// instructions but no traffic. Bytes an element in float32, each its floor: 12 without state, 20 with one array of it,
// 28 with two, 36 with three; 16-bit parameters and gradients with a float32 master 14 + 8 a state array; clipping adds
// 4 (reduce_all.h).
//
// A step that measures itself (drivers/optimizers.h: Tracked) has a kernel of its own, with one instance for all
// dtypes: sixteen threads take a chunk, one a virtual lane, so that each holds the sums of its lane in registers and
// elements pass once here, too. Bytes are those above and 48 a chunk (0.012 an element); the loads of sixteen threads
// are 64 contiguous bytes of float32, eight elements of each array under way in a thread. The price is paid by short
// lists: a thread has 256 elements to go through, one after the other, where it has 16 otherwise. The sums of the
// chunks are added by the host, once somebody asks, so no kernel has a chain of additions for them.
//
// The step's number and everything that follows from it lives in device memory, so a captured launch replays as the
// next step. Each launch finds the scalars of its own step there; block 0 does no update but computes those of the next
// step (bias corrections: 1 us of dependent double arithmetic) beside the others.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/list.h"
#include "cuda/reduce_all.h"
#include "cuda/update_sums.h"
#include "drivers/optimizer_numbers.h"
#include "ops/gradient_terms.h"

namespace kitae::cuda {

struct Parameter {
  char* value;
  float* master;   // nullptr: none
  void* slots[3];  // contiguous, of the arithmetic type
  int32_t group;
  int32_t layout;
  DType dtype;
  int8_t lead;  // elements before a vector of four begins in all of the above; -1: there are no such
};

// In device memory, one a plan.
struct Progress {
  int64_t steps;          // written
  uint64_t launches;      // also those that wrote nothing
  uint64_t nonfinite[2];  // elements that launch number n saw: [n % 2]
  uint32_t arrived;       // blocks
};

template <class Rule>
struct GroupNumbers {
  typename Rule::Hyperparameters rule;
  CommonNumbers common;
};

// What the update reads, rounded to its type.
template <class Rule, class T>
struct Rounded {
  typename Rule::template Scalars<T> scalars;
  T weight_keep, l2, l1;
  bool penalties;

  KITAE_HD Rounded(const GroupNumbers<Rule>& numbers, int64_t step)
      : scalars(numbers.rule, step),
        weight_keep(static_cast<T>(numbers.common.weight_keep)),
        l2(static_cast<T>(numbers.common.l2)),
        l1(static_cast<T>(numbers.common.l1)),
        penalties(numbers.common.l2 != 0 || numbers.common.l1 != 0) {}
};

// The scalars of every group: of step n in the half n % 2.
template <class Rule>
struct StepNumbers {
  const GroupNumbers<Rule>* numbers;
  Rounded<Rule, float>* of_float;
  Rounded<Rule, double>* of_double;
  int32_t groups;

  KITAE_DEVICE void prepare(int64_t step) const {
    const int64_t half = (step & 1) * groups;
    KITAE_NO_UNROLL
    for (int32_t group = thread_index(); group < groups; group += thread_count()) {
      of_float[half + group] = Rounded<Rule, float>(numbers[group], step);
      of_double[half + group] = Rounded<Rule, double>(numbers[group], step);
    }
  }
  template <class T>
  KITAE_DEVICE const Rounded<Rule, T>& of(int64_t step, int32_t group) const {
    const int64_t at = (step & 1) * groups + group;
    if constexpr (sizeof(T) == 8)
      return of_double[at];
    else
      return of_float[at];
  }
};

// After a change of numbers or of the count: the scalars of the next step.
template <class Rule>
struct PrepareKernel {
  static constexpr int kThreads = 32;
  static constexpr int kBlocksPerSM = 1;
  StepNumbers<Rule> numbers;
  const Progress* progress;
  KITAE_DEVICE void operator()() const { numbers.prepare(progress->steps + 1); }
};

// `count` elements, one or four, as they lie in memory.
template <class T, int count>
struct Pack {
  static constexpr int kVector = sizeof(T) == 8 && count > 2 ? 2 : count;
  static constexpr int kParts = count / kVector;
  Vector<T, kVector> parts[kParts];

  KITAE_DEVICE T get(int i) const { return parts[i / kVector][i % kVector]; }
  KITAE_DEVICE void set(int i, T value) { parts[i / kVector][i % kVector] = value; }
  KITAE_DEVICE void load(const T* from) {
    KITAE_UNROLL
    for (int i = 0; i < kParts; ++i) parts[i] = load_vector<kVector>(from + i * kVector);
  }
  KITAE_DEVICE void load_streaming(const T* from) {
    KITAE_UNROLL
    for (int i = 0; i < kParts; ++i) parts[i] = load_vector_streaming<kVector>(from + i * kVector);
  }
  KITAE_DEVICE void store(T* to) const {
    KITAE_UNROLL
    for (int i = 0; i < kParts; ++i) store_vector(to + i * kVector, parts[i]);
  }
  KITAE_DEVICE void store_streaming(T* to) const {
    KITAE_UNROLL
    for (int i = 0; i < kParts; ++i) store_vector_streaming(to + i * kVector, parts[i]);
  }
};

// 16-bit numbers stay words until they are needed: they would take a register each from the load on.
template <>
struct Pack<uint16_t, 4> {
  Vector<uint32_t, 2> words;

  KITAE_DEVICE uint16_t get(int i) const { return static_cast<uint16_t>(words[i / 2] >> 16 * (i % 2)); }
  KITAE_DEVICE void set(int i, uint16_t value) {
    if (i % 2 == 0)
      words[i / 2] = (words[i / 2] & 0xffff0000u) | value;
    else
      words[i / 2] = (words[i / 2] & 0xffffu) | uint32_t{value} << 16;
  }
  KITAE_DEVICE void load(const uint16_t* from) { words = load_vector<2>(reinterpret_cast<const uint32_t*>(from)); }
  KITAE_DEVICE void load_streaming(const uint16_t* from) {
    words = load_vector_streaming<2>(reinterpret_cast<const uint32_t*>(from));
  }
  KITAE_DEVICE void store(uint16_t* to) const { store_vector(reinterpret_cast<uint32_t*>(to), words); }
};

// A 16-bit number of either type.
KITAE_DEVICE float widen(uint16_t bits, bool brain) {
  return brain ? to_float(BFloat16{bits}) : to_float(Float16{bits});
}
KITAE_DEVICE uint16_t narrow(float value, bool brain) {
  return brain ? FromFloat<BFloat16>::convert(value).bits : FromFloat<Float16>::convert(value).bits;
}
// A 16-bit parameter is its float32 master; where the master, rounded, is no longer the parameter, the caller has
// changed the parameter and it wins.
KITAE_DEVICE float master_or_parameter(float master, uint16_t parameter, bool brain) {
  const float value = widen(parameter, brain);
  return widen(narrow(master, brain), brain) == value ? master : value;
}

// `tracks`: the step measures itself.
template <class Rule, bool has_float64, bool tracks>
struct UpdateKernel {
  // No register is spilled, and at least 40 KB are under way on a multiprocessor; 24 in a step that measures itself.
  static constexpr int kSlots = Rule::kSlots;
  static constexpr int kThreads = has_float64 ? 128 : 256;
  static constexpr int kBlocksPerSM = kSlots == 0 || (has_float64 && kSlots < (tracks ? 2 : 3)) ? 3 : 2;
  static constexpr int kWarps = kThreads / kWarp;

  List list;
  const Parameter* parameters;
  const int64_t* layouts;  // of parameters
  StepNumbers<Rule> numbers;
  Progress* progress;
  const FoundNorm* found;  // of this step's gradients, or nullptr
  const double* factors;   // nullptr: 1
  Tracked* tracked;        // of every chunk, where the step measures itself
  bool per_tensor, zero_nonfinite;

  // One block more than update.
  static int64_t blocks_for(int64_t chunks, int64_t most) {
    const int64_t wanted = tracks ? (chunks + 2 * kWarps - 1) / (2 * kWarps) : chunks;
    return 1 + (wanted < most - 1 ? wanted : most - 1);
  }

  KITAE_DEVICE void operator()() const {
    KITAE_SHARED(int64_t, shared, 3);
    if (thread_index() == 0) {
      shared[0] = progress->steps;
      shared[1] = static_cast<int64_t>(progress->launches);
      shared[2] = found && found->stop;
    }
    sync_block();
    const int64_t steps = shared[0];
    const uint64_t launches = static_cast<uint64_t>(shared[1]);
    const bool stop = shared[2] != 0;
    if (thread_index() == 0) arrive(steps, launches, stop);
    if (stop) return;
    if (block_index() == 0) return numbers.prepare(steps + 2);

    uint32_t bad = 0;
    if constexpr (tracks)
      bad = tracked_chunks(steps + 1);
    else
      bad = chunks(steps + 1);
    if (any_of_block(bad != 0)) count_bad(bad, &progress->nonfinite[launches & 1]);
  }

 private:
  KITAE_DEVICE uint32_t chunks(int64_t step) const {
    uint32_t bad = 0;
    for (int64_t chunk = block_index() - 1; chunk < list.chunks; chunk += block_count() - 1) {
      const int32_t number = list.tensor_of(chunk);
      const Tensor& tensor = list.tensors[number];
      if (!list.active(tensor)) continue;
      const int64_t begin = (chunk - list.first_chunk[number]) * kChunk, left = tensor.size - begin;
      const auto count = static_cast<int>(left < kChunk ? left : kChunk);
      if (has_float64 && tensor.wide)
        bad += update<double>(number, tensor, begin, count, step);
      else
        bad += update<float>(number, tensor, begin, count, step);
    }
    return bad;
  }

  KITAE_DEVICE uint32_t tracked_chunks(int64_t step) const {
    uint32_t bad = 0;
    const auto one_chunk = [&](int64_t chunk, int32_t number, int64_t begin, int64_t count) {
      Tracked sums;
      if (count > 0) bad += update_lane(number, begin, static_cast<int>(count), step, sums);
      sync_warp();
      sums = fold_lanes_of_warp(sums);
      if (count > 0 && lane_index() % kLanes == 0) tracked[chunk] = sums;
    };
    const int64_t warps = int64_t{block_count() - 1} * kWarps;
    list.each_chunk_in_lanes(int64_t{block_index() - 1} * kWarps + warp_index(), warps, one_chunk);
    return bad;
  }

  // Every block has read what the last one to arrive changes.
  KITAE_DEVICE void arrive(int64_t steps, uint64_t launches, bool stop) const {
    fence_device();
    if (atomic_add(&progress->arrived, 1u) != static_cast<uint32_t>(block_count()) - 1) return;
    progress->arrived = 0;
    progress->launches = launches + 1;
    progress->nonfinite[(launches + 1) & 1] = 0;
    if (!stop) progress->steps = steps + 1;
  }

  KITAE_DEVICE void count_bad(uint32_t bad, uint64_t* to) const {
    KITAE_UNROLL
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) bad += shuffle_xor(kAllLanes, bad, lanes);
    if (lane_index() == 0 && bad) atomic_add(to, uint64_t{bad});
  }

  template <class T>
  struct Terms {
    // float64 reads its scalars where they are used: beside them, its vectors would not fit the registers.
    std::conditional_t<sizeof(T) == 8, const Rounded<Rule, T>&, const Rounded<Rule, T>> numbers;
    T scale;
    bool zero;

    // Returns 1 where the gradient is not finite.
    KITAE_DEVICE uint32_t operator()(T& weight, T gradient, T (&slots)[kSlots > 0 ? kSlots : 1]) const {
      const uint32_t bad = nonfinite(gradient) ? 1u : 0u;
      if (zero) gradient = finite_or_zero(gradient);
      if (numbers.penalties) {
        GradientTerms<T> terms;
        terms.scale = scale;
        terms.l2 = numbers.l2;
        terms.l1 = numbers.l1;
        gradient = terms(gradient, weight);
      } else {
        gradient = scale * gradient;
      }
      weight = weight * numbers.weight_keep;
      Rule::update(numbers.scalars, weight, gradient, slots);
      KITAE_UNROLL
      for (int s = 0; s < kSlots; ++s) slots[s] = flush(slots[s]);
      return bad;
    }
  };

  template <class T>
  KITAE_DEVICE uint32_t update(int32_t number, const Tensor& tensor, int64_t begin, int count, int64_t step) const {
    const Parameter& parameter = parameters[number];
    const Terms<T> terms = terms_of<T>(number, step);
    const Source& source = list.sources[tensor.first_source];
    uint32_t bad = 0;
    int lead = 0, done = 0;  // elements before the vectors, and in them
    if (tensor.sources == 1 && parameter.lead >= 0 && parameter.lead == source.lead &&
        source.dtype == parameter.dtype) {
      lead = parameter.lead < count ? parameter.lead : count;
      const int vectors = (count - lead) / 4;
      bad = whole<4, T>(parameter, source, terms, begin + lead, vectors, thread_index(), kThreads);
      done = 4 * vectors;
    }
    KITAE_NO_UNROLL
    for (int i = thread_index(); i < count - done; i += kThreads)
      bad += one<T>(parameter, tensor, terms, begin + (i < lead ? i : i + done));
    return bad;
  }

  // This thread's lane of a chunk: its elements in order.
  KITAE_DEVICE uint32_t update_lane(int32_t number, int64_t begin, int count, int64_t step, Tracked& sums) const {
    const Tensor& tensor = list.tensors[number];
    if (!list.active(tensor)) return 0;
    if (has_float64 && tensor.wide) return update_lane<double>(number, tensor, begin, count, step, sums);
    return update_lane<float>(number, tensor, begin, count, step, sums);
  }
  template <class T>
  KITAE_DEVICE uint32_t update_lane(int32_t number, const Tensor& tensor, int64_t begin, int count, int64_t step,
                                    Tracked& sums) const {
    const Parameter& parameter = parameters[number];
    const Terms<T> terms = terms_of<T>(number, step);
    const Source& source = list.sources[tensor.first_source];
    const auto seen = [&](T& weight, T gradient, T(&slots)[kSlots > 0 ? kSlots : 1]) {
      const T before = weight;
      const uint32_t bad = terms(weight, gradient, slots);
      add_element(sums, zero_nonfinite ? finite_or_zero(gradient) : gradient, before, weight);
      return bad;
    };
    const int lane = lane_index() % kLanes;
    uint32_t bad = 0;
    if (tensor.sources == 1 && parameter.layout == 0 && source.layout == 0 && source.dtype == parameter.dtype) {
      bad = whole<1, T>(parameter, source, seen, begin, count, lane, kLanes);
    } else {
      KITAE_NO_UNROLL
      for (int i = lane; i < count; i += kLanes) bad += one<T>(parameter, tensor, seen, begin + i);
    }
    sums.nonfinite += bad;
    return bad;
  }

  template <class T>
  KITAE_DEVICE Terms<T> terms_of(int32_t number, int64_t step) const {
    const T scale = factors ? static_cast<T>(factors[per_tensor ? number : 0]) : T(1);
    return {numbers.template of<T>(step, parameters[number].group), scale, zero_nonfinite};
  }

  template <class T>
  KITAE_DEVICE T* slot(const Parameter& parameter, int s, int64_t at) const {
    return static_cast<T*>(parameter.slots[s]) + at;
  }

  // change(weight, gradient, slots): Terms, or what sees them. Here and below it returns how many are not finite.
  template <class T, class Change>
  KITAE_DEVICE uint32_t one(const Parameter& parameter, const Tensor& tensor, const Change& change, int64_t i) const {
    char* const at = parameter.value +
                     (parameter.layout ? strided_offset(layouts + parameter.layout, i) : i * bytes_of(parameter.dtype));
    T weight = read_as<T>(parameter.dtype, at);
    if constexpr (sizeof(T) == 4) {
      if (parameter.master)
        weight = master_or_parameter(parameter.master[i], *reinterpret_cast<const uint16_t*>(at),
                                     parameter.dtype == DType::bfloat16);
    }
    T slots[kSlots > 0 ? kSlots : 1];
    KITAE_UNROLL
    for (int s = 0; s < kSlots; ++s) slots[s] = *slot<T>(parameter, s, i);
    const uint32_t bad = change(weight, list.template value<T>(tensor, i), slots);
    KITAE_UNROLL
    for (int s = 0; s < kSlots; ++s) *slot<T>(parameter, s, i) = slots[s];
    if constexpr (sizeof(T) == 4) {
      if (parameter.master) parameter.master[i] = weight;
    }
    write_as<T>(parameter.dtype, at, weight);
    return bad;
  }

  // Of `count` packs of `size` elements every `stride`-th one from `from` on.
  template <int size, class T, class Change>
  KITAE_DEVICE uint32_t whole(const Parameter& parameter, const Source& source, const Change& change, int64_t begin,
                              int count, int from, int stride) const {
    if constexpr (sizeof(T) == 8)
      return stored_as<T, size, T>(parameter, source, change, begin, count, from, stride);
    else if (parameter.dtype == DType::float32)
      return stored_as<T, size, T>(parameter, source, change, begin, count, from, stride);
    else
      return stored_as<uint16_t, size, T>(parameter, source, change, begin, count, from, stride);
  }
  // Stored as T, or as 16-bit numbers.
  template <class Storage, int size, class T, class Change>
  KITAE_DEVICE uint32_t stored_as(const Parameter& parameter, const Source& source, const Change& change, int64_t begin,
                                  int count, int from, int stride) const {
    constexpr bool kHalf = sizeof(Storage) == 2;
    constexpr int kAtOnce = (sizeof(T) == 8 ? 4 : 8) / size;  // packs of a thread: two vectors in float32 and float64
    Storage* const weights = reinterpret_cast<Storage*>(parameter.value) + begin;
    const Storage* const gradients = reinterpret_cast<const Storage*>(source.data) + begin;
    const bool brain = parameter.dtype == DType::bfloat16, has_master = kHalf && parameter.master != nullptr;
    uint32_t bad = 0;
    KITAE_NO_UNROLL
    for (int first = from; first < count; first += kAtOnce * stride) {
      Pack<Storage, size> weight[kAtOnce], gradient[kAtOnce];
      Pack<T, size> slots[kAtOnce][kSlots > 0 ? kSlots : 1], master[kAtOnce];
      KITAE_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        const int at = size * (first + k * stride);
        if (at >= size * count) continue;
        gradient[k].load_streaming(gradients + at);
        weight[k].load(weights + at);
        KITAE_UNROLL
        for (int s = 0; s < kSlots; ++s) slots[k][s].load_streaming(slot<T>(parameter, s, begin + at));
        if constexpr (kHalf) {
          if (has_master) master[k].load_streaming(parameter.master + begin + at);
        }
      }
      KITAE_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        const int at = size * (first + k * stride);
        if (at >= size * count) continue;
        KITAE_UNROLL
        for (int i = 0; i < size; ++i) {
          T own[kSlots > 0 ? kSlots : 1];
          KITAE_UNROLL
          for (int s = 0; s < kSlots; ++s) own[s] = slots[k][s].get(i);
          if constexpr (kHalf) {
            const uint16_t bits = weight[k].get(i);
            T value = has_master ? master_or_parameter(master[k].get(i), bits, brain) : widen(bits, brain);
            bad += change(value, widen(gradient[k].get(i), brain), own);
            master[k].set(i, value);
            weight[k].set(i, narrow(value, brain));
          } else {
            T value = weight[k].get(i);
            bad += change(value, gradient[k].get(i), own);
            weight[k].set(i, value);
          }
          KITAE_UNROLL
          for (int s = 0; s < kSlots; ++s) slots[k][s].set(i, own[s]);
        }
        weight[k].store(weights + at);
        KITAE_UNROLL
        for (int s = 0; s < kSlots; ++s) slots[k][s].store_streaming(slot<T>(parameter, s, begin + at));
        if constexpr (kHalf) {
          if (has_master) master[k].store_streaming(parameter.master + begin + at);
        }
      }
    }
    return bad;
  }
};

}  // namespace kitae::cuda
