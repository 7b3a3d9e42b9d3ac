// A check that stays in release builds: on failure it says where and what, and the program exits with 1.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(expression)                                                           \
  do {                                                                              \
    if (!(expression)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #expression); \
      std::_Exit(1);                                                                \
    }                                                                               \
  } while (false)
