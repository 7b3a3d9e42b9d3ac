// Tensors of another library as NumPy arrays over the same memory, many in one call, through DLPack's C exchange API
// (dlpack.h 1.3): a table of functions that the library publishes on its tensor type. Nothing of it is linked.
#include <string>
#include <vector>

#include "bindings/array.h"

namespace kitae::bindings {
namespace {

// DLPack's structures, as its ABI has them.
constexpr uint32_t kMajorVersion = 1;
constexpr int32_t kCpu = 1;
constexpr uint8_t kFloat = 2, kBFloat = 4;

struct ExportedTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  const int64_t* shape;
  const int64_t* strides;  // in elements; nullptr: C order
  uint64_t byte_offset;
};

struct ExchangeTable {
  uint32_t major, minor;
  ExchangeTable* older;
  void* allocate;
  void* export_managed;
  void* import_managed;
  int (*export_tensor)(void* object, ExportedTensor* out);  // borrowed; -1: a Python exception is set
  void* current_stream;
};

constexpr int kMaxDimensions = 64;  // NumPy's

// What NumPy calls an element of the tensor.
py::dtype dtype_of(const ExportedTensor& tensor, int64_t index) {
  if (tensor.lanes == 1 && tensor.code == kFloat) {
    switch (tensor.bits) {
      case 16:
        return py::dtype(23);
      case 32:
        return py::dtype::of<float>();
      case 64:
        return py::dtype::of<double>();
      default:
        break;
    }
  }
  if (tensor.lanes == 1 && tensor.code == kBFloat && tensor.bits == 16)
    return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
  throw Rejected{"tensors", "dtype", index};
}

// Tensors of one type, which a Python class stands for.
class Exchange {
 public:
  explicit Exchange(const py::type& type) : type_(type) {
    const auto capsule = py::reinterpret_borrow<py::object>(type.attr("__dlpack_c_exchange_api__"));
    table_ = static_cast<ExchangeTable*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!table_) throw py::error_already_set();
    while (table_ && table_->major != kMajorVersion) table_ = table_->older;
    if (!table_) throw py::type_error("kitae: no DLPack exchange of version 1");
  }

  // An array of each tensor's memory, shape and strides, which keeps the tensor alive; None stays None.
  py::list arrays(const py::list& tensors) const {
    const auto count = static_cast<py::ssize_t>(tensors.size());
    py::list made(count);
    DescriptorOf last;
    for (py::ssize_t i = 0; i < count; ++i) {
      const py::handle tensor = PyList_GET_ITEM(tensors.ptr(), i);
      py::object array = tensor.is_none() ? py::none() : array_of(tensor, i, last);
      PyList_SET_ITEM(made.ptr(), i, array.release().ptr());
    }
    return made;
  }

  // The first place where a tensor is not the memory, dtype, shape and strides of a NumPy array; -1: all are.
  int64_t first_other(const py::list& tensors, const py::list& arrays) const {
    if (tensors.size() != arrays.size()) return 0;
    const auto count = static_cast<py::ssize_t>(tensors.size());
    const auto& api = py::detail::npy_api::get();
    Elements last;
    for (py::ssize_t i = 0; i < count; ++i) {
      const py::handle tensor = PyList_GET_ITEM(tensors.ptr(), i), array = PyList_GET_ITEM(arrays.ptr(), i);
      if (!api.PyArray_Check_(array.ptr()) || !is_same(exported(tensor, i), array, last)) return i;
    }
    return -1;
  }

 private:
  // The dtype of the tensor before: most lists have one.
  struct DescriptorOf {
    uint8_t code = 0, bits = 0;
    py::object dtype;
  };

  ExportedTensor exported(py::handle object, int64_t index) const {
    if (!PyObject_TypeCheck(object.ptr(), reinterpret_cast<PyTypeObject*>(type_.ptr())))
      throw Rejected{"tensors", "type", index};
    ExportedTensor tensor;
    if (table_->export_tensor(object.ptr(), &tensor) != 0) {
      PyErr_Clear();  // no memory to name: sparse, meta, quantized; its words are a native stack
      throw Rejected{"tensors", "memory", index};
    }
    if (tensor.device_type != kCpu) throw Rejected{"tensors", "device", index};
    return tensor;
  }

  // PyTorch may leave a view's minus sign to its readers, where DLPack has no word for it: the imaginary part of a
  // conjugated view. Asking every tensor would cost more than the rest; memory in C order comes from elsewhere.
  static bool may_be_negated(const ExportedTensor& tensor) {
    int64_t size = 1;
    bool in_order = true;
    for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
      in_order = in_order && (!tensor.strides || tensor.strides[axis] == size);
      size *= tensor.shape[axis];
    }
    return !in_order || size == 1;
  }

  py::object array_of(py::handle object, int64_t index, DescriptorOf& last) const {
    const ExportedTensor tensor = exported(object, index);
    if (may_be_negated(tensor) && object.attr("is_neg")().cast<bool>()) throw Rejected{"tensors", "negated", index};
    if (!last.dtype || last.code != tensor.code || last.bits != tensor.bits || tensor.lanes != 1)
      last = {tensor.code, tensor.bits, dtype_of(tensor, index)};
    if (tensor.ndim > kMaxDimensions) throw Rejected{"tensors", "shape", index};
    const int64_t itemsize = tensor.bits / 8;
    py::ssize_t strides[kMaxDimensions];
    bool empty = false;
    for (int axis = 0; axis < tensor.ndim; ++axis) {
      strides[axis] = tensor.strides ? tensor.strides[axis] * itemsize : 0;
      empty = empty || tensor.shape[axis] == 0;
    }
    char* const data = tensor.data ? static_cast<char*>(tensor.data) + tensor.byte_offset : nullptr;
    if (!data && !empty) throw Rejected{"tensors", "memory", index};  // a fake tensor
    const auto& api = py::detail::npy_api::get();
    Py_INCREF(last.dtype.ptr());  // the next call takes one
    auto array = py::reinterpret_steal<py::object>(api.PyArray_NewFromDescr_(
        api.PyArray_Type_, last.dtype.ptr(), tensor.ndim, reinterpret_cast<const py::ssize_t*>(tensor.shape),
        tensor.strides && data ? strides : nullptr, data, py::detail::npy_api::NPY_ARRAY_WRITEABLE_, nullptr));
    if (!array) throw py::error_already_set();
    if (data) api.PyArray_SetBaseObject_(array.ptr(), object.inc_ref().ptr());
    return array;
  }

  // What the elements of one descriptor are: most lists have one.
  struct Elements {
    PyObject* descriptor = nullptr;
    uint8_t code = 0;
    int64_t itemsize = 0;

    void look(PyObject* other) {
      if (other == descriptor) return;
      const auto dtype = py::reinterpret_borrow<py::dtype>(other);
      descriptor = other;
      itemsize = dtype.itemsize();
      code = itemsize == 2 && dtype.num() != 23 ? kBFloat : kFloat;
    }
  };

  static bool is_same(const ExportedTensor& tensor, py::handle object, Elements& elements) {
    const auto* array = py::detail::array_proxy(object.ptr());
    if (array->nd != tensor.ndim) return false;
    int64_t size = 1;
    for (int axis = 0; axis < tensor.ndim; ++axis) {
      if (array->dimensions[axis] != tensor.shape[axis]) return false;
      size *= tensor.shape[axis];
    }
    elements.look(array->descr);
    const int64_t itemsize = elements.itemsize;
    if (itemsize * 8 != tensor.bits || elements.code != tensor.code) return false;
    if (size == 0) return true;
    for (int axis = 0; tensor.strides && axis < tensor.ndim; ++axis)
      if (tensor.shape[axis] != 1 && array->strides[axis] != tensor.strides[axis] * itemsize) return false;
    return array->data == static_cast<char*>(tensor.data) + tensor.byte_offset;
  }

  py::type type_;
  const ExchangeTable* table_;
};

}  // namespace

void register_exchange(py::module_& module) {
  py::class_<Exchange>(module, "Exchange", "Tensors of one type of another library as NumPy arrays, without a copy.")
      .def(py::init<const py::type&>(), py::arg("type"))
      .def("arrays", &Exchange::arrays, py::arg("tensors"), "An array over each tensor's memory; None stays None.")
      .def("first_other", &Exchange::first_other, py::arg("tensors"), py::arg("arrays"),
           "The first place where a tensor is not the memory, dtype, shape and strides of a NumPy array; -1: none.");
}

}  // namespace kitae::bindings
