// Depth-wise convolution, run over maps, rows or channels in parallel.
#pragma once
#include <ATen/core/Tensor.h>

#include "params.h"

namespace torchconv {

// Tensors are of the layout and dtype that p names. bias: of p.dtype, or null; relu as in Gather.
void depthwise_forward(const ConvParams& p, const at::Tensor& x, const at::Tensor& weight, const void* bias, bool relu,
                       const at::Tensor& y);
void depthwise_input_grad(const ConvParams& p, const at::Tensor& gy, const at::Tensor& weight, const at::Tensor& gx);
void depthwise_weight_grad(const ConvParams& p, const at::Tensor& gy, const at::Tensor& x, const at::Tensor& gw);

// Bytes of workspace with one thread.
int64_t depthwise_workspace(const ConvParams& p, Direction direction);

}  // namespace torchconv
