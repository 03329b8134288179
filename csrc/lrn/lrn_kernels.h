// What local response normalisation asks of a kernel set.
#pragma once
#include "cpu/numeric.h"

namespace torchconv {

// Element (sample n, channel c, position p) lies at (n * channels + c) * positions + p, or in channels-last at
// (n * positions + p) * channels + c.
struct ResponseNorm {
  int64_t batch, channels, positions;
  bool channels_last;
  double size;            // what the sum of squares is divided by
  int64_t before, after;  // channels of a window before its own and after it, no more than there are
  double alpha, beta, k;
  int64_t window() const { return before + 1 + after; }
};

constexpr int64_t kLrnPositions = 256;  // one unit covers: so many positions of a sample, or in channels-last
constexpr int64_t kLrnPixels = 32;      // so many of all samples' together

inline int64_t lrn_units(const ResponseNorm& g) {
  return g.channels_last ? (g.batch * g.positions + kLrnPixels - 1) / kLrnPixels
                         : g.batch * ((g.positions + kLrnPositions - 1) / kLrnPositions);
}

// Accumulators of scratch a thread needs.
inline int64_t lrn_scratch(const ResponseNorm& g) {
  return g.channels_last ? 7 * g.channels + 2 * g.window() : (3 * g.window() + 3) * kLrnPositions;
}

// Each does units begin <= u < end of the work.
template <class T>
struct LocalNormKernels {
  void (*forward)(const ResponseNorm&, const T* x, T* y, accumulator_t<T>* scratch, int64_t begin, int64_t end);
  void (*grad)(const ResponseNorm&, const T* dy, const T* x, T* dx, accumulator_t<T>* scratch, int64_t begin,
               int64_t end);
};

}  // namespace torchconv
