// What the estimates of cost have in common. They count multiply-adds of one sample at the processor's peak.
#pragma once
#include <algorithm>
#include <cmath>

#include "conv/params.h"
#include "cpu/kernels.h"

namespace torchconv {

// Up to whole vectors.
inline double filled(double channels) {
  const double vector = static_cast<double>(kernel_table().vector);
  return std::ceil(channels / vector) * vector;
}

// Channels on either side of one group. Kernels work on whole vectors of them.
struct Channels {
  double source, target, filled_source, filled_target;

  Channels(const ConvParams& p, Direction direction) {
    const bool back = direction == Direction::input_grad;
    source = static_cast<double>(back ? p.out_per_group() : p.in_per_group());
    target = static_cast<double>(back ? p.in_per_group() : p.out_per_group());
    filled_source = filled(source), filled_target = filled(target);
  }
};

inline double volume(const std::array<int64_t, 3>& sides) {
  return static_cast<double>(sides[0] * sides[1] * sides[2]);
}

// Positions along an axis times the filter taps that each meets inside the map, of the output.
inline double meetings(const ConvParams& p, int axis) {
  double total = 0;
  for (int64_t k = 0; k < p.kernel[axis]; ++k) {
    const int64_t offset = k * p.dilation[axis] - p.before[axis], stride = p.stride[axis];
    const int64_t first = offset < 0 ? (-offset + stride - 1) / stride : 0;
    const int64_t last = offset < p.input[axis] ? (p.input[axis] - 1 - offset) / stride + 1 : 0;
    total += static_cast<double>(std::max<int64_t>(0, std::min(last, p.output[axis]) - first));
  }
  return total;
}
inline double meetings(const ConvParams& p) { return meetings(p, 0) * meetings(p, 1) * meetings(p, 2); }

}  // namespace torchconv
