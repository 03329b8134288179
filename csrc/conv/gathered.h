// From tensors to the driver of an algorithm that sums gathers: what direct, gemm and winograd have in common.
// run(gathers, source, weight, bias, target) has the kernels' pointers; bias is null where there is none.
#pragma once
#include "conv/gather.h"
#include "dispatch.h"

namespace torchconv {

template <class Run>
void gathered_forward(const ConvParams& p, const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu,
                      const Tensor& y, Run run) {
  TappedGather g = forward_gather(p, view(x), view(y), view(weight));
  g.gather.relu = relu;
  const std::vector<TappedGather> gathers = alone(std::move(g));
  for_dtype("convolution", p.dtype, [&]<class T>(T) {
    const T* biases = bias.defined() ? data<T>(bias) : nullptr;
    run(gathers, data<T>(x), data<T>(weight), biases, mutable_data<T>(y));
  });
}

template <class Run>
void gathered_input_grad(const ConvParams& p, const Tensor& gy, const Tensor& weight, const Tensor& gx, Run run) {
  const std::vector<TappedGather> gathers = input_grad_gathers(p, view(gx), view(gy), view(weight));
  for_dtype("convolution", p.dtype, [&]<class T>(T) {
    run(gathers, data<T>(gy), data<T>(weight), static_cast<const T*>(nullptr), mutable_data<T>(gx));
  });
}

}  // namespace torchconv
