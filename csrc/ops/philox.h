// Philox4x32-10: a counter-based random generator. Its output is a function of (counter, key) alone, so any thread or
// device can make any part of a sequence. J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers:
// as easy as 1, 2, 3", SC 2011; the constants and the known answers of the tests are those of their library Random123.
//
// One round on the words (c0, c1, c2, c3) with the key (k0, k1), in 32x32 -> 64 bit products:
//   (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0));  k0 += W0, k1 += W1
#pragma once

#include <cstdint>

#include "ops/host_device.h"

namespace kitae {

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;

struct PhiloxBlock {
  uint32_t word[4];
};

struct PhiloxKey {
  uint32_t k0, k1;
  KITAE_HD void next() {
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
};

KITAE_HD void philox_round(PhiloxBlock& c, const PhiloxKey& key) {
  const uint64_t p0 = static_cast<uint64_t>(c.word[0]) * kPhiloxM0, p1 = static_cast<uint64_t>(c.word[2]) * kPhiloxM1;
  c.word[0] = static_cast<uint32_t>(p1 >> 32) ^ c.word[1] ^ key.k0;
  c.word[1] = static_cast<uint32_t>(p1);
  c.word[2] = static_cast<uint32_t>(p0 >> 32) ^ c.word[3] ^ key.k1;
  c.word[3] = static_cast<uint32_t>(p0);
}

// A 128-bit counter in two halves, each with the low word first.
KITAE_HD PhiloxBlock philox_counter(uint64_t low, uint64_t high) {
  return {{static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32), static_cast<uint32_t>(high),
           static_cast<uint32_t>(high >> 32)}};
}
KITAE_HD PhiloxKey philox_key(uint64_t key) { return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)}; }

KITAE_HD PhiloxBlock philox(uint64_t low, uint64_t high, uint64_t key) {
  PhiloxBlock block = philox_counter(low, high);
  PhiloxKey round_key = philox_key(key);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    philox_round(block, round_key);
    round_key.next();
  }
  return block;
}

}  // namespace kitae
