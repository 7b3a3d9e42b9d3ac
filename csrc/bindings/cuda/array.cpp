#include "bindings/array.h"

#include <atomic>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda/check.h"

namespace kitae::bindings {
namespace {

constexpr int kFloat16 = 23, kFloat32 = 11, kFloat64 = 12;  // NumPy's type numbers (its ABI)
constexpr int kNoDevice = -1;

// Of the bound call that this thread is in.
struct Call {
  int device = kNoDevice;
  std::vector<std::pair<const char*, py::handle>> seen;  // the first arrays, for an error's text
};
constexpr size_t kMostSeen = 8;
thread_local Call call;

std::atomic<uint64_t> used_devices{0};
std::mutex one_call_at_a_time;

// Python objects that are looked up once and kept for good.
py::handle attribute(const char* module, const char* name) {
  return py::object(py::module_::import(module).attr(name)).release();
}

py::handle cupy_ndarray() {
  static const py::handle type = attribute("cupy", "ndarray");
  return type;
}

cudaStream_t current_stream_of(int device) {
  static const py::handle get = attribute("cupy.cuda", "get_current_stream");
  return reinterpret_cast<cudaStream_t>(get(device).attr("ptr").cast<uintptr_t>());
}

// CuPy's current device is the runtime's.
int device_of_call() {
  if (call.device != kNoDevice) return call.device;
  int device = 0;
  KITAE_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

DType dtype_of(const py::dtype& dtype) {
  switch (dtype.num()) {
    case kFloat16:
      return DType::float16;
    case kFloat32:
      return DType::float32;
    case kFloat64:
      return DType::float64;
    default:
      return py::str(dtype.attr("name")).cast<std::string>() == "bfloat16" ? DType::bfloat16 : DType::other;
  }
}

struct Memory {
  void* data;
  int device;
};

// Of a cupy.ndarray; notes it for the call.
Memory memory_of(py::handle object, const char* argument, int64_t index) {
  const py::object pointer = object.attr("data");
  const Memory memory{reinterpret_cast<void*>(pointer.attr("ptr").cast<uintptr_t>()),
                      pointer.attr("device_id").cast<int>()};
  if (call.seen.size() < kMostSeen) call.seen.emplace_back(argument, object);
  if (call.device == kNoDevice)
    call.device = memory.device;
  else if (call.device != memory.device)
    throw Rejected{argument, "device", index};
  return memory;
}

// A numpy.ndarray at the same addresses: NumPy compares them without reading what is there.
py::array as_numpy(const Array& array) {
  const auto size = static_cast<py::ssize_t>(size_of(array.dtype));
  return py::array(py::dtype("V" + std::to_string(size)),
                   std::vector<py::ssize_t>(array.shape, array.shape + array.ndim),
                   std::vector<py::ssize_t>(array.strides, array.strides + array.ndim), array.data, py::none());
}

std::string arrays_of_call() {
  std::string text;
  for (const auto& [argument, object] : call.seen) {
    text += text.empty() ? "" : ", ";
    text += std::string(argument) + ": " + py::str(object.attr("shape")).cast<std::string>() + " " +
            py::str(object.attr("dtype")).cast<std::string>();
  }
  return text;
}

cuda::OnStream on_stream_of_call() {
  const int device = device_of_call();
  return cuda::OnStream(device, current_stream_of(device));
}

}  // namespace

Arguments::Arguments() {
  call.device = kNoDevice;
  call.seen.clear();
}

int device_of_arguments() { return device_of_call(); }

void set_device_of_arguments(int device) { call.device = device; }

NativeCall::NativeCall() : on_(on_stream_of_call()), alone_(one_call_at_a_time) {
  const int device = cuda::current_device();
  if (device < 64) used_devices.fetch_or(uint64_t{1} << device, std::memory_order_relaxed);
}

std::vector<int> devices_in_use() {
  std::vector<int> devices;
  const uint64_t used = used_devices.load(std::memory_order_relaxed);
  for (int device = 0; device < 64; ++device)
    if (used >> device & 1u) devices.push_back(device);
  return devices;
}

Array array_argument(py::handle object, const char* argument, Access access, int64_t index) {
  if (!py::type::handle_of(object).is(cupy_ndarray())) throw Rejected{argument, "type", index};
  Array array;
  array.dtype = dtype_of(py::dtype(object.attr("dtype")));
  if (array.dtype == DType::other) throw Rejected{argument, "dtype", index};
  const Memory memory = memory_of(object, argument, index);
  array.data = memory.data;
  const py::tuple shape = object.attr("shape"), strides = object.attr("strides");
  array.ndim = static_cast<int>(shape.size());
  auto numbers = std::shared_ptr<int64_t[]>(new int64_t[2 * shape.size() + 1]);
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    numbers[axis] = shape[axis].cast<int64_t>();
    numbers[shape.size() + axis] = strides[axis].cast<int64_t>();
  }
  array.shape = numbers.get();
  array.strides = numbers.get() + shape.size();
  array.owner = std::move(numbers);

  const int64_t item = size_of(array.dtype);
  array.size = 1;
  for (int axis = 0; axis < array.ndim; ++axis) array.size *= array.shape[axis];
  array.contiguous = true;
  bool aligned = reinterpret_cast<uintptr_t>(array.data) % static_cast<uintptr_t>(item) == 0;
  for (int64_t axis = array.ndim - 1, next = item; axis >= 0; --axis) {
    if (array.shape[axis] == 1) continue;
    array.contiguous = array.contiguous && array.strides[axis] == next;
    aligned = aligned && array.strides[axis] % item == 0;
    next *= array.shape[axis];
  }
  array.contiguous = array.contiguous || array.size == 0;
  if (!aligned && array.size > 0) throw Rejected{argument, "aligned", index};
  if (access == Access::write && repeats_elements(array)) throw Rejected{argument, "repeats", index};
  return array;
}

Array optional_array_argument(py::handle object, const char* argument, Access access, int64_t index) {
  return object.is_none() ? Array{} : array_argument(object, argument, access, index);
}

uint8_t* bytes_argument(py::handle object, int64_t bytes, const char* argument, Access /*access*/) {
  if (object.is_none()) return nullptr;
  if (!py::type::handle_of(object).is(cupy_ndarray())) throw Rejected{argument, "type"};
  if (py::dtype(object.attr("dtype")).num() != py::detail::npy_api::NPY_UBYTE_) throw Rejected{argument, "dtype"};
  const py::tuple shape = object.attr("shape"), strides = object.attr("strides");
  if (shape.size() != 1 || shape[0].cast<int64_t>() != bytes) throw Rejected{argument, "shape"};
  if (bytes > 1 && strides[0].cast<int64_t>() != 1) throw Rejected{argument, "contiguous"};
  return static_cast<uint8_t*>(memory_of(object, argument, -1).data);
}

bool overlap(const Array& a, py::handle /*a_object*/, const Array& b, py::handle /*b_object*/) {
  const Extent first = extent(a), second = extent(b);
  if (first.end <= second.begin || second.end <= first.begin) return false;
  return py::module_::import("numpy").attr("shares_memory")(as_numpy(a), as_numpy(b)).cast<bool>();
}

void register_errors(py::module_& /*module*/) {
  py::register_local_exception_translator([](std::exception_ptr raised) {
    try {
      if (raised) std::rethrow_exception(raised);
    } catch (const Rejected& rejected) {
      const py::object type = py::module_::import("kitae._checks").attr("Rejected");
      const py::object error = type(rejected.argument, rejected.reason, rejected.index);
      PyErr_SetObject(type.ptr(), error.ptr());
    } catch (const cuda::CudaError& error) {
      const py::object words = py::module_::import("kitae._checks").attr("device_error");
      const py::object told = words(error.expression, error.name, error.message, arrays_of_call());
      PyErr_SetObject(py::type::handle_of(told).ptr(), told.ptr());
    }
  });
}

}  // namespace kitae::bindings
