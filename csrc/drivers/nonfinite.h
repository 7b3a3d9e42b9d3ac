// What to do about infinite and NaN elements; the words are python/kitae/_checks.py's, in this order.
#pragma once

namespace kitae {

enum class Nonfinite : int { raise = 0, skip = 1, zero = 2, propagate = 3 };

}  // namespace kitae
