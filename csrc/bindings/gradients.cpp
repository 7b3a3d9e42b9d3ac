#include "bindings/array.h"

namespace kitae::bindings {

void register_gradients(py::module_& /*module*/) {}

}  // namespace kitae::bindings
