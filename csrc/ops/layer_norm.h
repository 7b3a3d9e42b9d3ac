// Layer normalization (Ba, Kiros and Hinton, 2016): statistics of each row, gamma and beta of each column, n columns:
//   xhat = (x - mean) / sqrt(variance + eps);  y = gamma xhat + beta
//   g  = gamma dout;  dbeta = sum of dout over the rows;  dgamma = sum of dout xhat over the rows
//   dx = inv_std (g - sum g / n - xhat sum (g xhat) / n), the sums along the row
//
// A row is a channel of batch_norm.h: its statistics, and xhat and dx by its steps with gamma = 1 and beta = 0, in the
// arithmetic type T. gamma and beta are rounded to T, the product with gamma and the sum with beta round once each: y
// is within 3 units in the last place at any mean, and exactly beta where a row is constant.
//
// Traffic: forward reads x and writes y, a row's second reading being a cache's; backward reads x and dout for both
// sums a block of rows at a time, again from a cache, and writes dx (where threads can't share the chunks of rows, it
// reads them for the columns' sums first). Accumulators in double, in the order of reduction_order.h: of a
// row as one channel (1, rows, columns), of a column as channels side by side (rows, columns, 1). Every element-wise
// step is rounded in T in the order written here: the same bits everywhere.
#pragma once

#include "ops/batch_norm.h"

namespace kitae {

// One row's numbers of the forward step.
template <class T>
struct NormalizeRow {
  Normalize<T> normalize;

  static KITAE_HD NormalizeRow from(const ChannelStatistics& s) { return {Normalize<T>::from(s, 1, 0)}; }
  KITAE_HD T xhat(T x) const { return normalize(x); }
  KITAE_HD T operator()(T x, T gamma, T beta) const { return xhat(x) * gamma + beta; }
};

// One row's numbers of the backward step.
template <class T>
struct RowGradient {
  InputGradient<T> gradient;

  // From the sums of g and g xhat.
  static KITAE_HD RowGradient from(const ChannelStatistics& s, double sum, double sum_of_products, double count) {
    return {InputGradient<T>::from(s, 1, sum_of_products, sum, count)};
  }
  static KITAE_HD T through(T dout, T gamma) { return dout * gamma; }
  KITAE_HD T operator()(T dout, T x, T gamma) const { return gradient(through(dout, gamma), x); }
};

// What an element adds to a column's (sum dout, sum dout xhat), and to a row's (sum g, sum g xhat). xhat is in T: its
// rounding is to the sums what any input's is.
using LayerGradientTerms = ProductTerms<2>;

}  // namespace kitae
