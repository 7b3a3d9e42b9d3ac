#include "bindings/array.h"

#include <atomic>
#include <string>

namespace kitae::bindings {
namespace {

constexpr int kFloat16 = 23, kFloat32 = 11, kFloat64 = 12;  // NumPy's type numbers (its ABI)
constexpr int kFirstUserType = 256;

// ml_dtypes registers bfloat16 at run time: its number is learnt from the first array that carries it.
std::atomic<int> bfloat16_number{-1};

DType dtype_of(const py::detail::PyArrayDescr_Proxy* descr, py::handle object) {
  switch (descr->type_num) {
    case kFloat16:
      return DType::float16;
    case kFloat32:
      return DType::float32;
    case kFloat64:
      return DType::float64;
    default:
      break;
  }
  if (descr->type_num < kFirstUserType) return DType::other;
  if (descr->type_num == bfloat16_number.load(std::memory_order_relaxed)) return DType::bfloat16;
  if (py::str(object.attr("dtype").attr("name")).cast<std::string>() != "bfloat16") return DType::other;
  bfloat16_number.store(descr->type_num, std::memory_order_relaxed);
  return DType::bfloat16;
}

// Exact numpy.ndarray, or numpy.memmap; other subclasses (matrix, masked arrays) change what indexing means.
bool is_plain_array(py::handle object) {
  const auto& api = py::detail::npy_api::get();
  if (reinterpret_cast<PyTypeObject*>(api.PyArray_Type_) == Py_TYPE(object.ptr())) return true;
  if (!api.PyArray_Check_(object.ptr())) return false;
  return py::type::handle_of(object).is(py::handle(py::module_::import("numpy").attr("memmap")));
}

bool is_contiguous(const py::detail::PyArray_Proxy* proxy) {
  return (proxy->flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_) != 0;
}

}  // namespace

Array array_argument(py::handle object, const char* argument, Access access, int64_t index) {
  if (!is_plain_array(object)) throw Rejected{argument, "type", index};
  const auto* proxy = py::detail::array_proxy(object.ptr());
  const auto* descr = py::detail::array_descriptor_proxy(proxy->descr);
  Array array;
  array.dtype = dtype_of(descr, object);
  if (array.dtype == DType::other) throw Rejected{argument, "dtype", index};
  if (descr->byteorder != '=' && descr->byteorder != '|') {
    const char native = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';
    if (descr->byteorder != native) throw Rejected{argument, "byte_order", index};
  }
  if (!(proxy->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_)) throw Rejected{argument, "aligned", index};
  if (access == Access::write && !(proxy->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
    throw Rejected{argument, "writeable", index};
  static_assert(sizeof(py::ssize_t) == sizeof(int64_t), "kitae needs a 64-bit platform");
  array.data = proxy->data;
  array.ndim = proxy->nd;
  array.shape = reinterpret_cast<const int64_t*>(proxy->dimensions);
  array.strides = reinterpret_cast<const int64_t*>(proxy->strides);
  array.size = 1;
  for (int axis = 0; axis < array.ndim; ++axis) array.size *= array.shape[axis];
  array.contiguous = is_contiguous(proxy);
  if (access == Access::write && repeats_elements(array)) throw Rejected{argument, "repeats", index};
  return array;
}

Array optional_array_argument(py::handle object, const char* argument, Access access, int64_t index) {
  return object.is_none() ? Array{} : array_argument(object, argument, access, index);
}

uint8_t* bytes_argument(py::handle object, int64_t bytes, const char* argument, Access access) {
  if (object.is_none()) return nullptr;
  if (!py::isinstance<py::array>(object)) throw Rejected{argument, "type"};
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (array.dtype().num() != py::detail::npy_api::NPY_UBYTE_) throw Rejected{argument, "dtype"};
  if (array.ndim() != 1 || array.shape(0) != bytes) throw Rejected{argument, "shape"};
  if (!(array.flags() & py::array::c_style)) throw Rejected{argument, "contiguous"};
  if (access == Access::write && !array.writeable()) throw Rejected{argument, "writeable"};
  return static_cast<uint8_t*>(const_cast<void*>(array.data()));
}

bool overlap(const Array& a, py::handle a_object, const Array& b, py::handle b_object) {
  const Extent first = extent(a), second = extent(b);
  if (first.end <= second.begin || second.end <= first.begin) return false;
  return py::module_::import("numpy").attr("shares_memory")(a_object, b_object).cast<bool>();
}

bool interrupt_requested() {
  const py::gil_scoped_acquire held;
  // The exception stays set in this thread; the translator of cpu::Interrupted passes it on.
  return PyErr_CheckSignals() != 0;
}

void register_errors(py::module_& /*module*/) {
  py::register_local_exception_translator([](std::exception_ptr raised) {
    try {
      if (raised) std::rethrow_exception(raised);
    } catch (const Rejected& rejected) {
      const py::object type = py::module_::import("kitae._checks").attr("Rejected");
      const py::object error = type(rejected.argument, rejected.reason, rejected.index);
      PyErr_SetObject(type.ptr(), error.ptr());
    } catch (const cpu::Interrupted&) {
      if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
    }
  });
}

}  // namespace kitae::bindings
