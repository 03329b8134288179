// Depth-wise convolution, run over maps, rows or channels in parallel.
#pragma once

#include "params.h"

namespace torchconv {

// Tensors are of the layout and dtype that p names. bias: of p.dtype, or null; relu as in Gather.
void depthwise_forward(const ConvParams& p, const Tensor& x, const Tensor& weight, const void* bias, bool relu,
                       const Tensor& y);
void depthwise_input_grad(const ConvParams& p, const Tensor& gy, const Tensor& weight, const Tensor& gx);
void depthwise_weight_grad(const ConvParams& p, const Tensor& gy, const Tensor& x, const Tensor& gw);

// Bytes of workspace with one thread.
int64_t depthwise_workspace(const ConvParams& p, Direction direction);

}  // namespace torchconv
