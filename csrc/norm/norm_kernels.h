// What batch normalisation asks of a kernel set.
#pragma once
#include "cpu/numeric.h"

namespace torchconv {

// An activation as rows of `width` elements. Apart: each element of a row has constants of its own (channels-last,
// where a row is a pixel; and small contiguous maps, where it is a sample). Together: a row is one map, all of one
// channel, and row r of channel r % channels.
struct NormRows {
  int64_t rows, width, channels;
  bool together, relu;
  int64_t splits;  // of the rows where apart, for sums: by the shape alone

  int64_t constants() const { return together ? channels : width; }
};

// y = max(0, (x − mean) · scale + bias), the maximum where there is a ReLU; arrays [constants], readable a vector
// beyond.
template <class A>
struct NormConstants {
  const A *mean, *scale, *bias;
  const A *grad_mean, *slope;  // of the gradient alone: dx = scale · (g − grad_mean − (x − mean) · slope)
};

template <class T>
struct NormKernels {
  using A = typename Accumulator<T>::type;

  // Where apart, of split `unit`; where together, of channel `unit`: means and sums of squares about them, [constants].
  void (*moments)(const NormRows&, int64_t unit, const T* x, double* mean, double* squares);
  // Rows [begin, end).
  void (*normalise)(const NormRows&, int64_t begin, int64_t end, const NormConstants<A>&, const T* x, T* y);
  // As moments: Σ g and Σ g · (x − mean), where g is what the ReLU lets through of dy.
  void (*grad_sums)(const NormRows&, int64_t unit, const NormConstants<A>&, const T* dy, const T* x, double* grad,
                    double* product);
  void (*input_grad)(const NormRows&, int64_t begin, int64_t end, const NormConstants<A>&, const T* dy, const T* x,
                     T* dx);
};

}  // namespace torchconv
