#include "drivers/gradients.h"

#include <algorithm>

#include "cpu/norms.h"
#include "cpu/rows.h"
#include "ops/global_norm.h"
#include "ops/gradient_terms.h"

namespace kitae {
namespace {

// Calls use(values, count) with the elements of a view, as they lie or through a buffer of the arithmetic type.
template <class Use>
void read_rows(const View& view, int64_t begin, int64_t count, bool zero_nonfinite, Use use) {
  visit_dtype(view.dtype, [&](auto zero) {
    using T = Compute<decltype(zero)>;
    const T* values = zero_nonfinite ? nullptr : cpu::direct<T>(view, begin);
    if (values) return use(values, count);
    T row[cpu::kRow];
    for (int64_t done = 0; done < count; done += cpu::kRow) {
      const int64_t length = count - done < cpu::kRow ? count - done : cpu::kRow;
      cpu::read_row(row, view, begin + done, length);
      if (zero_nonfinite)
        for (int64_t i = 0; i < length; ++i) row[i] = finite_or_zero(row[i]);
      use(static_cast<const T*>(row), length);
    }
  });
}

class CpuTensorList final : public TensorList {
 public:
  void finish() override {
    tiles_.assign(static_cast<int64_t>(views_.size()), [&](int64_t i) { return views_[static_cast<size_t>(i)].size; });
    has_float64_ = false;
    for (const View& view : views_) has_float64_ = has_float64_ || view.dtype == DType::float64;
  }

  const Norms& measure(bool zero_nonfinite, double* norms) override {
    measure(zero_nonfinite);
    write(norms);
    return norms_.get();
  }

  const Norms& clip(const Scaling& scaling, Nonfinite rule, double* norms) override {
    const bool zero = rule == Nonfinite::zero;
    measure(zero);
    write(norms);
    const bool must_stop = rule == Nonfinite::raise || rule == Nonfinite::skip;
    if (must_stop && norms_.get().first_nonfinite >= 0) return norms_.get();
    const auto factor = [&](double norm) { return gradient_factor(norm, scaling.max_norm, scaling.eps); };
    std::vector<double> factors;
    if (scaling.scope == Scope::tensor)
      for (const double norm : norms_.get().of_tensors) factors.push_back(factor(norm));
    else if (scaling.scope == Scope::layer)
      for (size_t i = 0; i + 1 < layers_.size(); ++i)
        factors.insert(factors.end(), static_cast<size_t>(layers_[i + 1] - layers_[i]),
                       factor(norms_.get().of_layers[i]));
    else
      factors.push_back(factor(norms_.get().of_all));
    const bool all_one = std::all_of(factors.begin(), factors.end(), [](double factor) { return factor == 1.0; });
    if (!all_one || zero) scale(factors, scaling.scope != Scope::all, zero);
    return norms_.get();
  }

  void clip_value(double limit) override {
    change([&](int64_t /*tensor*/, auto zero) {
      using T = decltype(zero);
      return [high = static_cast<T>(limit)](T value) {
        const T below = value < -high ? -high : value;
        return below > high ? high : below;
      };
    });
  }

 private:
  void measure(bool zero_nonfinite) {
    const auto row = [&](int64_t tensor, int64_t begin, int64_t count, auto use) {
      read_rows(views_[static_cast<size_t>(tensor)], begin, count, zero_nonfinite, use);
    };
    norms_.measure(tiles_, has_float64_, row, layers_);
  }

  void write(double* norms) const {
    if (!norms) return;
    norms[0] = norms_.get().of_all;
    for (size_t i = 0; i < places_.size(); ++i) norms[1 + places_[i]] = norms_.get().of_tensors[i];
    double* const of_layers = norms + 1 + after_places_;
    std::copy(norms_.get().of_layers.begin(), norms_.get().of_layers.end(), of_layers);
  }

  void scale(const std::vector<double>& factors, bool one_each, bool zero_nonfinite) {
    change([&](int64_t tensor, auto zero) {
      using T = decltype(zero);
      const T factor = static_cast<T>(factors[one_each ? static_cast<size_t>(tensor) : 0]);
      return [factor, zero_nonfinite](T value) {
        const T scaled = value * factor;
        return zero_nonfinite && nonfinite(value) ? T(0) : scaled;
      };
    });
  }

  // change(tensor, value) -> value, in place over the whole list.
  template <class Change>
  void change(Change change) {
    tiles_.for_each_piece([&](const cpu::Tiles::Piece& piece) {
      const View& view = views_[static_cast<size_t>(piece.tensor)];
      visit_dtype(view.dtype, [&](auto zero) {
        using T = Compute<decltype(zero)>;
        const auto element = change(piece.tensor, T(0));
        if (T* values = cpu::direct<T>(view, piece.begin)) {
          for (int64_t i = 0; i < piece.count; ++i) values[i] = element(values[i]);
          return;
        }
        T row[cpu::kRow];
        for (int64_t done = 0; done < piece.count; done += cpu::kRow) {
          const int64_t length = piece.count - done < cpu::kRow ? piece.count - done : cpu::kRow;
          cpu::read_row(row, view, piece.begin + done, length);
          for (int64_t i = 0; i < length; ++i) row[i] = element(row[i]);
          cpu::write_row(view, piece.begin + done, row, length);
        }
      });
    });
  }

  cpu::Tiles tiles_;
  cpu::ListNorms norms_;
  bool has_float64_ = false;
};

}  // namespace

std::unique_ptr<TensorList> make_tensor_list() { return std::make_unique<CpuTensorList>(); }

}  // namespace kitae
