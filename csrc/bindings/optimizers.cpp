#include "bindings/array.h"

namespace kitae::bindings {

void register_optimizers(py::module_& /*module*/) {}

}  // namespace kitae::bindings
