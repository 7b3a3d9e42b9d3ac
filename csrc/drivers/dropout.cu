#include "cuda/keep_words.h"
#include "cuda/launch.h"
#include "cuda/strided.h"
#include "drivers/dropout.h"

// A warp takes a tile of 1,024 elements: each lane makes (or loads) one 32-bit word of mask, stores it, and passes it
// to the lanes whose elements it speaks about. So every access is coalesced: 128 bytes of mask, 512 bytes of elements.
// With three blocks of 256 threads on a multiprocessor and four vectors a thread, 48 KB of loads are under way. Traffic
// an element: its bytes read and written once, one bit of mask.

namespace kitae {
namespace {

using namespace cuda;

constexpr int kTile = kWarp * kMaskBits;
template <class T>
KITAE_DEVICE T apply(T value, bool kept, Compute<T> keep_scale) {
  return FromFloat<T>::convert(keep_or_zero(to_float(value), kept, keep_scale));
}

struct Tiles {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = 4;

  int64_t count;
  KeepWords words;
  uint8_t* bits;  // where the mask is stored, or nullptr

  // f(tile) for the tiles of this warp.
  template <class F>
  KITAE_DEVICE void for_each_tile(F f) const {
    const int64_t tiles = (count + kTile - 1) / kTile, warps = grid_threads() / kWarp;
    for (int64_t tile = global_thread() / kWarp; tile < tiles; tile += warps) f(tile);
  }

  // This lane's word of the tile, stored; bits past the last element are 0.
  KITAE_DEVICE uint32_t word_of(int64_t tile) const {
    const int64_t number = tile * kWarp + lane_index();
    const int64_t left = count - number * kMaskBits;
    uint32_t word = 0;
    if (left > 0) word = words(number);
    if (left > 0 && left < kMaskBits) word &= (1u << left) - 1;
    if (bits && number < 2 * mask_words(count)) store_mask_word(bits, number, word);
    return word;
  }
};

// x and y in C order without gaps. In tile t, vectors begin at element kTile t + head, so that those of y are aligned.
// kPlain: head is 0, and x's vectors are aligned, too.
template <class T, bool kPlain>
struct DropoutKernel : Tiles {
  static constexpr int kBlocksPerSM = kPlain ? 3 : 2;  // one more spills registers
  static constexpr int kVector = kPerVector<T>;
  static constexpr int kVectors = kTile / kWarp / kVector;  // of a lane
  static constexpr int kAtOnce = 4;

  const T* x;
  T* y;
  Compute<T> keep_scale;
  int head;
  bool x_is_aligned;

  KITAE_DEVICE Vector<T, kVector> load(const T* from) const {
    if (kPlain || x_is_aligned) {
      return load_vector_streaming<kVector>(from);
    } else {
      Vector<T, kVector> vector;
      KITAE_UNROLL
      for (int i = 0; i < kVector; ++i) vector[i] = from[i];
      return vector;
    }
  }

  // The mask from bit `bit` of the tile on, at least kVector bits of it. `next`: the first byte of the next tile.
  KITAE_DEVICE uint32_t bits_at(uint32_t word, uint32_t next, int bit) const {
    const int owner = bit / kMaskBits;
    const uint32_t low = shuffle(kAllLanes, word, owner % kWarp);
    if (kPlain) return low >> bit % kMaskBits;
    const uint32_t high = shuffle(kAllLanes, word, (owner + 1) % kWarp);
    const uint64_t both = static_cast<uint64_t>(owner + 1 < kWarp ? high : next) << 32 | (owner < kWarp ? low : next);
    return static_cast<uint32_t>(both >> bit % kMaskBits);
  }

  KITAE_DEVICE void operator()() const {
    for_each_tile([&](int64_t tile) {
      const int64_t base = tile * kTile + (kPlain ? 0 : head);
      if (base + kTile <= count)
        whole(tile, x + base, y + base);
      else
        part(tile, base);
    });
  }

  KITAE_DEVICE uint32_t next_byte(int64_t tile) const {
    return !kPlain && (tile + 1) * kTile < count ? words.first_byte((tile + 1) * kWarp) : 0;
  }

  KITAE_DEVICE void whole(int64_t tile, const T* from, T* to) const {
    from += lane_index() * kVector;
    to += lane_index() * kVector;
    uint32_t word = 0, next = 0;
    KITAE_UNROLL
    for (int first = 0; first < kVectors; first += kAtOnce) {
      Vector<T, kVector> vectors[kAtOnce];
      KITAE_UNROLL
      for (int i = 0; i < kAtOnce; ++i) vectors[i] = load(from + (first + i) * kWarp * kVector);
      if (first == 0) {  // while the loads are under way
        word = word_of(tile);
        next = next_byte(tile);
        if (!kPlain && tile == 0) first_elements(word);
      }
      KITAE_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int bit = ((first + i) * kWarp + lane_index()) * kVector + (kPlain ? 0 : head);
        const uint32_t kept = bits_at(word, next, bit);
        KITAE_UNROLL
        for (int element = 0; element < kVector; ++element)
          vectors[i][element] = apply(vectors[i][element], (kept >> element & 1u) != 0, keep_scale);
        store_vector_streaming(to + (first + i) * kWarp * kVector, vectors[i]);
      }
    }
  }

  // The last tile, and the last but one where a head moves its end beyond the last element.
  KITAE_DEVICE void part(int64_t tile, int64_t base) const {
    const uint32_t word = word_of(tile), next = next_byte(tile);
    if (!kPlain && tile == 0) first_elements(word);
    for (int first = 0; first < kTile; first += kWarp) {
      const int64_t i = base + first + lane_index();
      const uint32_t kept = bits_at(word, next, first + lane_index() + (kPlain ? 0 : head));
      if (i < count) y[i] = apply(x[i], (kept & 1u) != 0, keep_scale);
    }
  }

  KITAE_DEVICE void first_elements(uint32_t word) const {
    word = shuffle(kAllLanes, word, 0);
    const int i = lane_index();
    if (i < head && i < count) y[i] = apply(x[i], (word >> i & 1u) != 0, keep_scale);
  }
};

template <class T>
struct StridedDropoutKernel : Tiles {
  const char* x;
  char* y;
  Compute<T> keep_scale;
  StridedPair pair;

  KITAE_DEVICE void operator()() const {
    for_each_tile([&](int64_t tile) {
      const uint32_t word = word_of(tile);
      for (int first = 0; first < kTile; first += kWarp) {
        const int64_t i = tile * kTile + first + lane_index();
        const uint32_t kept = shuffle(kAllLanes, word, first / kMaskBits);
        if (i >= count) continue;
        const Offsets offsets = pair.offsets(i);
        const T value = *reinterpret_cast<const T*>(x + offsets.of[0]);
        *reinterpret_cast<T*>(y + offsets.of[1]) = apply(value, (kept >> lane_index() & 1u) != 0, keep_scale);
      }
    });
  }
};

struct MaskKernel : Tiles {
  KITAE_DEVICE void operator()() const {
    for_each_tile([&](int64_t tile) { word_of(tile); });
  }
};

KeepWords words_of(const DropoutDraw& draw) {
  const KeepWords::Kind kind = draw.threshold == 0          ? KeepWords::keep_all
                               : draw.threshold == kDropAll ? KeepWords::drop_all
                                                            : KeepWords::drawn;
  return {kind, nullptr, draw};
}

template <class Kernel>
void launch_tiles(const Kernel& kernel) {
  const int64_t tiles = (kernel.count + kTile - 1) / kTile;
  launch(kernel, Shape{.blocks = grid_blocks<Kernel>(tiles * kWarp)}, current_stream());
}

template <class T>
void apply(const Array& x, const Array& y, const Tiles& tiles, double keep_scale) {
  const auto scale = static_cast<Compute<T>>(keep_scale);
  if (!x.contiguous || !y.contiguous) {
    launch_tiles(StridedDropoutKernel<T>{tiles, x.as<const char>(), y.as<char>(), scale, StridedPair(x, y)});
    return;
  }
  constexpr int kBytes = 16;
  const auto beyond = [](const void* data) { return static_cast<int>(reinterpret_cast<uintptr_t>(data) % kBytes); };
  const int head = (kBytes - beyond(y.data)) % kBytes / static_cast<int>(sizeof(T));
  const bool x_is_aligned = beyond(x.data) == beyond(y.data);
  if (head == 0 && x_is_aligned)
    launch_tiles(DropoutKernel<T, true>{tiles, x.as<const T>(), y.as<T>(), scale, 0, true});
  else
    launch_tiles(DropoutKernel<T, false>{tiles, x.as<const T>(), y.as<T>(), scale, head, x_is_aligned});
}

void apply(const Array& x, const Array& y, const Tiles& tiles, double keep_scale) {
  visit_dtype(x.dtype, [&](auto zero) { apply<decltype(zero)>(x, y, tiles, keep_scale); });
}

}  // namespace

void dropout_forward(const Array& x, const Array& y, uint8_t* bits, const DropoutDraw& draw, double keep_scale) {
  apply(x, y, Tiles{x.size, words_of(draw), bits}, keep_scale);
}

void dropout_backward(const Array& dout, const Array& dx, const uint8_t* bits, const DropoutDraw& draw,
                      double keep_scale) {
  const KeepWords words = bits ? KeepWords{KeepWords::stored, bits, draw} : words_of(draw);
  apply(dout, dx, Tiles{dout.size, words, nullptr}, keep_scale);
}

void dropout_mask(uint8_t* bits, int64_t size, const DropoutDraw& draw) {
  launch_tiles(MaskKernel{size, words_of(draw), bits});
}

}  // namespace kitae
