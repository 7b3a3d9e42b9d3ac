// golden_test [EXPECTED]: prints a hash for every row, computed with 1, 2, 3, 7 and 16 threads; with a file, compares.
// After a change that is meant to change bits: golden_test > tests/native/golden_hashes.txt, and CHANGELOG.md says why.
#include "golden.h"

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "check.h"
#include "cpu/threads.h"

namespace {

constexpr int kNotRun = 77;  // what ctest shows as "Skipped"

bool cpu_can_run_this() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

}  // namespace

int main(int argc, char** argv) {
  if (!cpu_can_run_this()) {
    std::puts("golden_test: not run: this CPU lacks the instruction set that it was compiled for");
    return kNotRun;
  }
  std::vector<kitae::golden::Row> rows;
  kitae::golden::add_number_rows(rows);
  kitae::golden::add_normalization_rows(rows);
  kitae::golden::add_layer_normalization_rows(rows);
  kitae::golden::add_dropout_rows(rows);
  kitae::golden::add_optimizer_rows(rows);
  kitae::golden::add_convolution_rows(rows);

  std::ostringstream found;
  for (const kitae::golden::Row& row : rows) {
    kitae::cpu::set_num_threads(1);
    const uint64_t hash = row.hash();
    for (const int threads : {2, 3, 7, 16}) {
      kitae::cpu::set_num_threads(threads);
      if (row.hash() == hash) continue;
      std::fprintf(stderr, "%s: %d threads give other bits than one\n", row.name.c_str(), threads);
      return 1;
    }
    char line[20];
    std::snprintf(line, sizeof(line), "%016" PRIx64, hash);
    found << line << "  " << row.name << "\n";
  }
  std::fputs(found.str().c_str(), stdout);
  if (argc < 2) return 0;
  std::ifstream file(argv[1]);
  std::ostringstream expected;
  expected << file.rdbuf();
  if (expected.str() == found.str()) return 0;
  std::fprintf(stderr, "golden_test: these hashes differ from %s\n", argv[1]);
  return 1;
}
