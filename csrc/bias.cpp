// The operators of the bias gradient: alone, or in one pass with the mask of the ReLU that follows a convolution.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "checked.h"
#include "conv.h"
#include "dispatch.h"
#include "kernels/kernels.h"
#include "params.h"

namespace torchconv {
namespace {

// The bias gradient of grad, and where there is an output, of what a ReLU with this output lets through: `masked`.
template <class T>
void run_bias_grad(bool channels_last, const at::Tensor& grad, const at::Tensor* output, const at::Tensor* masked,
                   const at::Tensor& bias) {
  const auto& k = kernels<T>().conv;
  // Samples of no element are as many as none: there may be more of them than can be counted through.
  BiasGrad b{grad.numel() > 0 ? grad.size(0) : 0, grad.size(1), 1, 1};
  for (int64_t a = 2; a < grad.dim(); ++a) b.positions *= grad.size(a);
  const int64_t rows = channels_last ? b.batch * b.positions : b.batch, elements = 1 << 17, most = 64;
  b.splits = std::max<int64_t>(1, std::min({rows, grad.numel() / elements, most}));
  const at::Tensor sums = at::empty({b.splits, b.channels}, at::kDouble);
  at::parallel_for(0, b.splits, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      k.bias_grad(channels_last, b, i, data<T>(grad), output ? data<T>(*output) : nullptr,
                  masked ? mutable_data<T>(*masked) : nullptr, mutable_data<double>(sums));
  });
  k.store_bias(b, mutable_data<double>(sums), mutable_data<T>(bias));
}

// The layout that the gradient of an output like this is read in.
at::MemoryFormat gradient_format(const at::Tensor& like) {
  TORCH_CHECK(like.dim() >= 3 && like.dim() <= 5, "bias gradient: expected 3 to 5 axes, got shape ", like.sizes());
  check_sizes("bias gradient", "gradient", like.sizes());
  if (like.dim() == 3 || !answers_channels_last(like, like)) return at::MemoryFormat::Contiguous;
  return like.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d;
}

at::Tensor convolution_bias_grad(const at::Tensor& grad) {
  const at::MemoryFormat format = gradient_format(grad);
  const at::Tensor gy = grad.contiguous(format);
  at::Tensor bias = at::empty({grad.size(1)}, grad.options());
  for_dtype("bias gradient", grad.scalar_type(), [&](auto t) {
    run_bias_grad<decltype(t)>(format != at::MemoryFormat::Contiguous, gy, nullptr, nullptr, bias);
  });
  return bias;
}

std::tuple<at::Tensor, at::Tensor> relu_bias_grad(const at::Tensor& grad, const at::Tensor& output) {
  TORCH_CHECK(grad.sizes() == output.sizes() && grad.scalar_type() == output.scalar_type(),
              "relu_bias_grad: the gradient is ", grad.scalar_type(), " of shape ", grad.sizes(), " but the output is ",
              output.scalar_type(), " of shape ", output.sizes());
  TORCH_CHECK(grad.device() == output.device(), "relu_bias_grad: the gradient is on ", grad.device(),
              " but the output is on ", output.device());
  const at::MemoryFormat format = gradient_format(output);
  const at::Tensor gy = grad.contiguous(format), y = output.contiguous(format);
  at::Tensor masked = at::empty(grad.sizes(), grad.options().memory_format(format));
  at::Tensor bias = at::empty({grad.size(1)}, grad.options());
  for_dtype("bias gradient", grad.scalar_type(),
            [&](auto t) { run_bias_grad<decltype(t)>(format != at::MemoryFormat::Contiguous, gy, &y, &masked, bias); });
  return {masked, bias};
}

}  // namespace

at::Tensor run_convolution_bias_grad(const at::Tensor& grad) { return convolution_bias_grad(grad); }

TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("convolution_bias_grad", convolution_bias_grad);
  m.impl("relu_bias_grad", relu_bias_grad);
}

}  // namespace torchconv
