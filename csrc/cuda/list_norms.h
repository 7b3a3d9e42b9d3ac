// Launches of NormKernel (cuda/reduce_all.h), which is compiled once.
#pragma once

#include <cstddef>

#include "cuda/list_tables.h"
#include "cuda/memory.h"
#include "cuda/reduce_all.h"

namespace kitae::cuda {

// Where the results of a launch lie in device memory.
struct FoundNorms {
  FoundNorm* found = nullptr;
  double* factors = nullptr;  // one, or one a tensor
  double* of_tensors = nullptr;
  double* scales = nullptr;
};

class NormMemory {
 public:
  explicit NormMemory(size_t tensors) : tensors_(tensors) {}
  size_t bytes() const { return sizeof(FoundNorm) + (3 * tensors_ + 1) * sizeof(double); }
  FoundNorms at(void* memory) const {
    FoundNorms norms;
    norms.found = static_cast<FoundNorm*>(memory);
    norms.of_tensors = reinterpret_cast<double*>(norms.found + 1);
    norms.scales = norms.of_tensors + tensors_;
    norms.factors = norms.scales + tensors_;
    return norms;
  }

 private:
  size_t tensors_;
};

// On the current stream. `layers`: where the list is cut into some. `memory`: NormMemory(tensors).bytes(). `norms`: see
// TensorList, or nullptr. With `raise` a non-finite element sets the device's flag.
FoundNorms launch_norms(const List& list, bool has_float64, const Scaling& scaling, Nonfinite rule, void* memory,
                        double* norms, const Layers& layers = {});

}  // namespace kitae::cuda
