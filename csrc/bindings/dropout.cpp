#include "bindings/array.h"

namespace kitae::bindings {

void register_dropout(py::module_& /*module*/) {}

}  // namespace kitae::bindings
