// One module per instruction set: KITAE_MODULE is its name, KITAE_VARIANT the instruction set it was compiled for.
#include "bindings/array.h"

namespace py = pybind11;
using namespace kitae::bindings;

PYBIND11_MODULE(KITAE_MODULE, module, py::mod_gil_not_used()) {
  module.doc() = "kitae's CPU backend, compiled for one instruction set.";
  module.attr("variant") = KITAE_VARIANT;
  register_errors(module);
  register_threads(module);
  register_optimizers(module);
  register_gradients(module);
  register_normalization(module);
  register_layer_normalization(module);
  register_weight_normalization(module);
  register_dropout(module);
  register_convolution(module);
  register_exchange(module);
}
