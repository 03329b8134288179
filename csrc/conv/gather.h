// The three directions as gathers and a correlation: what the algorithms but the reference and fft sum.
#pragma once
#include <vector>

#include "conv/params.h"

namespace torchconv {

// The strides of a tensor lifted to three spatial axes.
View view(const Tensor& t);
void copy(const std::array<int64_t, 3>& from, int64_t (&to)[3]);

// A gather and the taps it points at: moved, not copied, or a copy would point at the taps of the first.
struct TappedGather {
  std::vector<Tap> taps;
  Gather gather;

  TappedGather() = default;
  TappedGather(TappedGather&&) = default;
  TappedGather& operator=(TappedGather&&) = default;
};

// y of x, and the correlation of ȳ and x.
TappedGather forward_gather(const ConvParams& p, const View& x, const View& y, const View& weight);
// x̄ of ȳ: one gather for each residue of the stride, in order.
std::vector<TappedGather> input_grad_gathers(const ConvParams& p, const View& x, const View& y, const View& weight);

// A list of one.
std::vector<TappedGather> alone(TappedGather gather);
// Of what a direction sums, of tensors that are not there but would be as the operators hold them: for plans. The
// weight's strides are a contiguous one's unless they are given.
std::vector<TappedGather> gathers_of(const ConvParams& p, Direction direction, const View* weight = nullptr);

}  // namespace torchconv
