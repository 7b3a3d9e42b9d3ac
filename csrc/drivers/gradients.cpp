#include "drivers/gradients.h"

#include "drivers/norms.h"
#include "ops/gradient_terms.h"

namespace kitae {
namespace {

// Calls use(values, count) with the elements of a view, as they lie or through a buffer of the arithmetic type.
template <class Use>
void read_rows(const cpu::View& view, int64_t begin, int64_t count, bool zero_nonfinite, Use use) {
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

}  // namespace

void TensorList::finish() {
  tiles_.assign(static_cast<int64_t>(views_.size()), [&](int64_t i) { return views_[static_cast<size_t>(i)].size; });
  has_float64_ = false;
  for (const cpu::View& view : views_) has_float64_ = has_float64_ || view.dtype == DType::float64;
}

const Norms& TensorList::measure(bool zero_nonfinite) {
  norms_.measure(tiles_, has_float64_, [&](int64_t tensor, int64_t begin, int64_t count, auto use) {
    read_rows(views_[static_cast<size_t>(tensor)], begin, count, zero_nonfinite, use);
  });
  return norms_;
}

// change(tensor, value) -> value, in place over the whole list.
template <class Change>
void TensorList::change(Change change) {
  tiles_.for_each_piece([&](const cpu::Tiles::Piece& piece) {
    const cpu::View& view = views_[static_cast<size_t>(piece.tensor)];
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

void TensorList::scale(const std::vector<double>& factors, bool zero_nonfinite) {
  const bool one = factors.size() == 1;
  change([&](int64_t tensor, auto zero) {
    using T = decltype(zero);
    const T factor = static_cast<T>(factors[one ? 0 : static_cast<size_t>(tensor)]);
    return [factor, zero_nonfinite](T value) {
      const T scaled = value * factor;
      return zero_nonfinite && nonfinite(value) ? T(0) : scaled;
    };
  });
}

void TensorList::clip_value(double limit) {
  change([&](int64_t /*tensor*/, auto zero) {
    using T = decltype(zero);
    return [high = static_cast<T>(limit)](T value) {
      const T below = value < -high ? -high : value;
      return below > high ? high : below;
    };
  });
}

}  // namespace kitae
