// The definition, as naive loops with double accumulation: what every other algorithm is tested against.
#pragma once
#include "conv/conv_kernels.h"

namespace torchconv::reference {

// One (n, output channel) map of y = x * w + b; one (n, input channel) map of the input gradient; one (output channel,
// input channel of the group) filter plane of the weight gradient.
struct Problem {
  int64_t batch, groups, in_per_group, out_per_group;
  int64_t input[3], output[3], kernel[3], stride[3], dilation[3], before[3];
  View x, y;
  int64_t weight_o, weight_c, weight_k[3];
  bool relu;  // of forward
};

template <class T>
void forward(const Problem&, int64_t n, int64_t o, const T* x, const T* w, const T* bias, T* y);
template <class T>
void input_grad(const Problem&, int64_t n, int64_t i, const T* gy, const T* w, T* gx);
template <class T>
void weight_grad(const Problem&, int64_t o, int64_t c, const T* gy, const T* x, T* gw);

}  // namespace torchconv::reference
