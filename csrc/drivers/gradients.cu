#include <map>
#include <memory>
#include <mutex>

#include "cuda/for_each.h"
#include "cuda/launch.h"
#include "cuda/list_norms.h"
#include "cuda/uploads.h"
#include "drivers/gradients.h"
#include "ops/gradient_terms.h"

namespace kitae {
namespace {

using namespace cuda;

// g *= factor. Traffic: nothing where every factor is 1.
struct Scale {
  const double* factors;
  const FoundNorm* found;
  bool per_tensor, zero_nonfinite;

  KITAE_DEVICE bool nothing() const { return found->stop != 0 || (!per_tensor && nothing(0)); }
  KITAE_DEVICE bool nothing(int32_t tensor) const { return !zero_nonfinite && factor(tensor) == 1.0; }
  KITAE_DEVICE double factor(int32_t tensor) const { return factors[per_tensor ? tensor : 0]; }

  template <class T>
  struct Element {
    T factor;
    bool zero_nonfinite;
    KITAE_DEVICE T operator()(T value) const {
      const T scaled = value * factor;
      return zero_nonfinite && nonfinite(value) ? T(0) : scaled;
    }
  };
  template <class T>
  KITAE_DEVICE Element<T> of(int32_t tensor) const {
    return {static_cast<T>(factor(tensor)), zero_nonfinite};
  }
};

struct ClipValue {
  double limit;

  KITAE_DEVICE bool nothing() const { return false; }
  KITAE_DEVICE bool nothing(int32_t) const { return false; }

  template <class T>
  struct Element {
    T high;
    KITAE_DEVICE T operator()(T value) const {
      const T below = value < -high ? -high : value;
      return below > high ? high : below;
    }
  };
  template <class T>
  KITAE_DEVICE Element<T> of(int32_t) const {
    return {static_cast<T>(limit)};
  }
};

// Tables of calls, which come from any thread.
void upload_once(cudaStream_t stream, void* to, const Blob& blob) {
  if (blob.size() == 0) return;
  if (capturing(stream)) {  // the graph reads it at every replay
    auto* const kept = new PinnedBuffer(blob.size());
    std::memcpy(kept->as<char>(), blob.data(), blob.size());
    return upload(stream, to, kept->as<char>(), blob.size());
  }
  static std::mutex mutex;
  static auto* const uploads = new std::map<int, Uploads>;
  const std::lock_guard<std::mutex> lock(mutex);
  Uploads& own = (*uploads)[current_device()];
  std::memcpy(own.memory(blob.size()), blob.data(), blob.size());
  own.send(stream, to, blob.size());
}

class CudaTensorList final : public TensorList {
 public:
  void finish() override {
    std::vector<Tensor> tensors;
    std::vector<Source> sources;
    for (size_t i = 0; i < views_.size(); ++i) {
      const View& view = views_[i];
      const auto number = static_cast<int32_t>(i);
      tensors.push_back({view.size, number, 1, static_cast<int32_t>(places_[i]), view.dtype == DType::float64});
      sources.push_back(source_of(view, layouts_));
      has_float64_ = has_float64_ || view.dtype == DType::float64;
    }
    const std::vector<int64_t> first_chunk = chunk_numbers(views_.size(), [&](size_t i) { return views_[i].size; });
    const size_t at_chunks = blob_.add(first_chunk), at_tensors = blob_.add(tensors), at_sources = blob_.add(sources),
                 at_layouts = blob_.add(layouts_.words()), at_layers = blob_.add(layers_);
    const NormMemory norms(views_.size());
    const size_t bytes = blob_.size() + norms.bytes();
    char* const memory = static_cast<char*>(workspace(current_stream(), bytes + layers_.size() * sizeof(double)));
    upload_once(current_stream(), memory, blob_);
    norm_memory_ = memory + blob_.size();
    if (!layers_.empty())
      on_device_ = {reinterpret_cast<const int64_t*>(memory + at_layers), static_cast<int64_t>(layers_.size()) - 1,
                    after_places_, reinterpret_cast<double*>(memory + bytes)};
    list_.first_chunk = reinterpret_cast<const int64_t*>(memory + at_chunks);
    list_.tensors = reinterpret_cast<const Tensor*>(memory + at_tensors);
    list_.sources = reinterpret_cast<const Source*>(memory + at_sources);
    list_.layouts = reinterpret_cast<const int64_t*>(memory + at_layouts);
    list_.chunks = first_chunk.back();
    list_.count = static_cast<int32_t>(views_.size());
  }

  const Norms& measure(bool zero_nonfinite, double* norms) override {
    const Nonfinite rule = zero_nonfinite ? Nonfinite::zero : Nonfinite::propagate;
    launch_norms({Scope::all, 1.0, 0.0}, rule, norms);
    return wait_unless(norms);
  }

  const Norms& clip(const Scaling& scaling, Nonfinite rule, double* norms) override {
    const Scope scope = scaling.scope == Scope::none ? Scope::all : scaling.scope;
    // A caller who waits is told; the device's flag is for those who don't.
    const Nonfinite on_device = !norms && rule == Nonfinite::raise ? Nonfinite::skip : rule;
    const FoundNorms found = launch_norms({scope, scaling.max_norm, scaling.eps}, on_device, norms);
    change(Scale{found.factors, found.found, scope != Scope::all, rule == Nonfinite::zero});
    return wait_unless(norms);
  }

  void clip_value(double limit) override { change(ClipValue{limit}); }

 private:
  FoundNorms launch_norms(const Scaling& scaling, Nonfinite rule, double* norms) {
    found_ = cuda::launch_norms(list_, has_float64_, scaling, rule, norm_memory_, norms, on_device_);
    return found_;
  }

  template <class Change>
  void change(const Change& change) {
    using Kernel = ChangeKernel<Change>;
    const int64_t most = int64_t{sm_count()} * Kernel::kBlocksPerSM;
    Shape shape;
    shape.blocks = list_.chunks < most ? list_.chunks : most;
    launch(Kernel{list_, change}, shape, current_stream());
  }

  const Norms& wait_unless(const double* norms) {
    if (norms) {
      norms_ = Norms{};
      norms_.of_all = std::numeric_limits<double>::quiet_NaN();
      return norms_;
    }
    FoundNorm found{};
    norms_.of_tensors.resize(views_.size());
    const cudaStream_t stream = current_stream();
    download(stream, &found, found_.found, sizeof(found));
    download(stream, norms_.of_tensors.data(), found_.of_tensors, views_.size() * sizeof(double));
    norms_.of_layers.resize(static_cast<size_t>(on_device_.count));
    download(stream, norms_.of_layers.data(), on_device_.of_layers, norms_.of_layers.size() * sizeof(double));
    KITAE_CUDA_CHECK(cudaStreamSynchronize(stream));
    norms_.of_all = found.norm;
    norms_.first_nonfinite = found.first_nonfinite;
    return norms_;
  }

  Layouts layouts_;
  Blob blob_;
  List list_{};
  FoundNorms found_{};
  Layers on_device_{};
  char* norm_memory_ = nullptr;
  Norms norms_;
  bool has_float64_ = false;
};

}  // namespace

std::unique_ptr<TensorList> make_tensor_list() { return std::make_unique<CudaTensorList>(); }

}  // namespace kitae
