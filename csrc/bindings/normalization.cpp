#include "bindings/array.h"

namespace kitae::bindings {

void register_normalization(py::module_& /*module*/) {}

}  // namespace kitae::bindings
