#include "cuda/launch.h"
#include "cuda/list_norms.h"

namespace kitae::cuda {
namespace {

template <bool has_float64>
void launch_as(const List& list, const Scaling& scaling, Nonfinite rule, const FoundNorms& to, double* norms,
               const Layers& layers) {
  using Kernel = NormKernel<has_float64>;
  const cudaStream_t stream = current_stream();
  // The sums of the chunks, and the grid's barrier: memory that is 0 before and after.
  auto* const zeroed = reinterpret_cast<uint64_t*>(counters(stream, 2 * static_cast<size_t>(list.chunks + 1)));
  Kernel kernel{};
  kernel.list = list;
  kernel.zero_nonfinite = rule == Nonfinite::zero;
  kernel.rule = rule;
  kernel.scaling = scaling;
  kernel.partial = zeroed + 1;
  kernel.barrier = reinterpret_cast<uint32_t*>(zeroed);
  kernel.of_tensors = to.of_tensors;
  kernel.scales = to.scales;
  kernel.factors = to.factors;
  kernel.norms = norms;
  kernel.layers = layers;
  kernel.found = to.found;
  kernel.flags = device_flags();
  Shape shape;
  shape.blocks = Kernel::blocks_for(list.chunks, resident_blocks<Kernel>());
  shape.cooperative = true;
  launch(kernel, shape, stream);
}

}  // namespace

FoundNorms launch_norms(const List& list, bool has_float64, const Scaling& scaling, Nonfinite rule, void* memory,
                        double* norms, const Layers& layers) {
  const FoundNorms to = NormMemory(static_cast<size_t>(list.count)).at(memory);
  if (has_float64)
    launch_as<true>(list, scaling, rule, to, norms, layers);
  else
    launch_as<false>(list, scaling, rule, to, norms, layers);
  return to;
}

}  // namespace kitae::cuda
