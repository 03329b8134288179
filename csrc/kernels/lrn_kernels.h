// What local response normalisation asks of a kernel set.
#pragma once
#include "numeric.h"

namespace torchconv {

// Element (sample n, channel c, position p) lies at (n * channels + c) * positions + p, or in channels-last at
// (n * positions + p) * channels + c.
struct LocalNorm {
  int64_t batch, channels, positions;
  bool channels_last;
  int64_t size;  // channels in a window: size / 2 before its own, itself, and (size - 1) / 2 after
  double alpha, beta, k;
};

constexpr int64_t kLrnPositions = 256;  // one unit covers: so many positions of a sample, or in channels-last
constexpr int64_t kLrnPixels = 32;      // so many of all samples' together

inline int64_t lrn_units(const LocalNorm& g) {
  return g.channels_last ? (g.batch * g.positions + kLrnPixels - 1) / kLrnPixels
                         : g.batch * ((g.positions + kLrnPositions - 1) / kLrnPositions);
}

// Accumulators of scratch a thread needs.
inline int64_t lrn_scratch(const LocalNorm& g) {
  return g.channels_last ? 7 * g.channels + 2 * g.size : (3 * g.size + 3) * kLrnPositions;
}

// Each does units begin <= u < end of the work.
template <class T>
struct LocalNormKernels {
  void (*forward)(const LocalNorm&, const T* x, T* y, accumulator_t<T>* scratch, int64_t begin, int64_t end);
  void (*grad)(const LocalNorm&, const T* dy, const T* x, T* dx, accumulator_t<T>* scratch, int64_t begin, int64_t end);
};

}  // namespace torchconv
