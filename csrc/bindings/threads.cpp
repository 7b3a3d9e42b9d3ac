#include "cpu/threads.h"

#include "bindings/array.h"
#include "drivers/copy.h"

namespace kitae::bindings {
namespace {

// Destination and source of a copy: contiguous arrays of one number of bytes.
template <void (*copy)(void*, const void*, int64_t)>
void copy_buffers(const py::buffer& destination, const py::buffer& source) {
  const py::buffer_info to = destination.request(true), from = source.request();
  if (!PyBuffer_IsContiguous(to.view(), 'A')) throw Rejected{"destination", "contiguous"};
  if (!PyBuffer_IsContiguous(from.view(), 'A')) throw Rejected{"source", "contiguous"};
  if (to.size * to.itemsize != from.size * from.itemsize) throw Rejected{"source", "length"};
  const NativeCall native;
  copy(to.ptr, from.ptr, to.size * to.itemsize);
}

}  // namespace

void register_threads(py::module_& module) {
  module.def("num_threads", &cpu::num_threads, "Threads a native call may use, the caller's included.");
  module.def("set_num_threads", &cpu::set_num_threads, py::arg("count"), "Sets num_threads; at least 1.");
  module.def("copy_split", &copy_buffers<copy_split>, py::arg("destination"), py::arg("source"),
             "A plain copy, split over the threads: the benchmark's yardstick.");
  module.def("copy_streaming", &copy_buffers<copy_streaming>, py::arg("destination"), py::arg("source"),
             "The same with stores that bypass the caches.");
}

}  // namespace kitae::bindings
