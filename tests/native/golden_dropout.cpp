// Dropout: Random123's published vectors, the vectorized masks against the definition, and the drivers' bytes.
#include "check.h"
#include "cpu/keep_words.h"
#include "drivers/dropout.h"
#include "golden.h"

namespace kitae::golden {
namespace {

constexpr double kKeepScale = 1 / 0.7;
constexpr uint64_t kThreshold = 0x4ccccccc;  // drop = 0.3

void check_known_answer(uint64_t low, uint64_t high, uint64_t key, const uint32_t (&expected)[4]) {
  const PhiloxBlock block = philox(low, high, key);
  for (int i = 0; i < 4; ++i) CHECK(block.word[i] == expected[i]);
}

uint64_t keep_word(const DropoutDraw& draw, int64_t word) {
  uint64_t words[cpu::KeepWords::kAtOnce];
  cpu::KeepWords(draw, word)(word, words);
  return words[0];
}

uint64_t dropout_masks() {
  check_known_answer(0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  check_known_answer(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  check_known_answer(0x85a308d3243f6a88, 0x0370734413198a2e, 0x299f31d0a4093822,
                     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  Hash hash;
  // Words on both sides of the carry between the two halves of the block's number.
  for (const int64_t first : {int64_t{0}, (int64_t{1} << 29) - 40, int64_t{1} << 29, (int64_t{1} << 33) + 5})
    for (const uint64_t seed : {uint64_t{7}, ~uint64_t{0}})
      for (const uint64_t offset : {uint64_t{0}, uint64_t{0x123456789abc}, (uint64_t{1} << 63) - 1}) {
        const uint64_t block = static_cast<uint64_t>(8 * first);
        // With this threshold the first element is a tie.
        const uint64_t tied = uint64_t{philox(block, offset, seed).word[0] & 0xffffu} << 16 | 0x8000u;
        const bool kept = (philox(block, offset + kSecondDraw, seed).word[0] & 0xffffu) >= 0x8000u;
        CHECK((keep_word({tied, seed, offset}, first) & 1u) == (kept ? 1u : 0u));
        for (const uint64_t threshold : {uint64_t{1}, kThreshold, tied, uint64_t{0xffffffff}})
          for (int64_t word = first; word < first + 40; ++word) {
            const DropoutDraw draw{threshold, seed, offset};
            const uint64_t keep = keep_word(draw, word);
            for (int byte = 0; byte < 8; ++byte)
              CHECK((keep >> (8 * byte) & 0xff) == draw.keep_byte(static_cast<uint64_t>(8 * word + byte)));
            hash.number(keep);
          }
      }
  return hash.value();
}

template <class T>
uint64_t dropout_passes() {
  Hash hash;
  Numbers numbers(11);
  for (const int64_t size : {1, 7, 8, 63, 64, 65, 1000, 1024, 1025, 50021}) {
    std::vector<T> x = numbers.array<T>(size), y(static_cast<size_t>(size)), replayed(static_cast<size_t>(size));
    std::vector<uint8_t> bits(static_cast<size_t>(8 * mask_words(size)));
    const DropoutDraw draw{kThreshold, 9, static_cast<uint64_t>(size)};
    dropout_forward(Contiguous<T>(x), Contiguous<T>(y), bits.data(), draw, kKeepScale);
    hash.array(y);
    hash.array(bits);
    std::vector<uint8_t> alone(bits.size());
    dropout_mask(alone.data(), size, draw);
    CHECK(alone == bits);
    for (const uint8_t* stored : {static_cast<const uint8_t*>(bits.data()), static_cast<const uint8_t*>(nullptr)}) {
      dropout_backward(Contiguous<T>(x), Contiguous<T>(replayed), stored, draw, kKeepScale);
      CHECK(std::memcmp(replayed.data(), y.data(), y.size() * sizeof(T)) == 0);
    }
  }
  return hash.value();
}

}  // namespace

void add_dropout_rows(std::vector<Row>& rows) {
  rows.push_back({"dropout_masks", dropout_masks});
  rows.push_back({"dropout/float16", dropout_passes<Float16>});
  rows.push_back({"dropout/bfloat16", dropout_passes<BFloat16>});
  rows.push_back({"dropout/float32", dropout_passes<float>});
  rows.push_back({"dropout/float64", dropout_passes<double>});
}

}  // namespace kitae::golden
