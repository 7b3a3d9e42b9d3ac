// Which of our instruction-set variants this CPU and operating system can run; compiled for the baseline.
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace py = pybind11;

namespace {

#if defined(__x86_64__)
struct Registers {
  unsigned int a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned int leaf, unsigned int subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}

bool has(unsigned int word, std::initializer_list<int> bits) {
  for (const int bit : bits)
    if (!((word >> bit) & 1u)) return false;
  return true;
}

// The register state the operating system saves: 0x6 for AVX, 0xe6 for AVX-512.
bool saves(unsigned int mask) {
  if (!has(cpuid(1).c, {27})) return false;  // OSXSAVE
  unsigned int low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & mask) == mask;
}
#endif

// Best last. Bits as the x86-64 psABI lists them for its levels.
py::list supported() {
  py::list names;
#if defined(__x86_64__)
  const Registers basic = cpuid(1), extended = cpuid(7), amd = cpuid(0x80000001u);
  // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; LAHF
  if (!has(basic.c, {0, 9, 13, 19, 20, 23}) || !has(amd.c, {0})) return names;
  names.append("x86_64_v2");
  // FMA, MOVBE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT
  if (!has(basic.c, {12, 22, 28, 29}) || !has(extended.b, {3, 5, 8}) || !has(amd.c, {5}) || !saves(0x6u)) return names;
  names.append("x86_64_v3");
  // AVX-512 F, DQ, CD, BW, VL
  if (!has(extended.b, {16, 17, 28, 30, 31}) || !saves(0xe6u)) return names;
  names.append("x86_64_v4");
#elif defined(__aarch64__)
  names.append("aarch64");
#else
  names.append("generic");
#endif
  return names;
}

}  // namespace

PYBIND11_MODULE(_isa, module, py::mod_gil_not_used()) {
  module.doc() = "Which instruction sets of this build the CPU can run.";
  module.def("supported", &supported, "Names of the variants that this machine runs, the best one last.");
}
