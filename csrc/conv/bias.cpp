// The operators of the bias gradient: alone, or in one pass with the mask of the ReLU that follows a convolution.

#include "checked.h"
#include "conv/conv.h"
#include "dispatch.h"
#include "cpu/kernels.h"
#include "conv/params.h"

namespace torchconv {
namespace {

// The bias gradient of grad, and where there is an output, of what a ReLU with this output lets through: `masked`.
template <class T>
void run_bias_grad(bool channels_last, const Tensor& grad, const Tensor* output, const Tensor* masked,
                   const Tensor& bias) {
  const auto& k = kernels<T>().conv;
  // Samples of no element are as many as none: there may be more of them than can be counted through.
  BiasGrad b{grad.numel() > 0 ? grad.size(0) : 0, grad.size(1), 1, 1};
  for (int64_t a = 2; a < grad.dim(); ++a) b.positions *= grad.size(a);
  const int64_t rows = channels_last ? b.batch * b.positions : b.batch, elements = 1 << 17, most = 64;
  b.splits = std::max<int64_t>(1, std::min({rows, grad.numel() / elements, most}));
  const Tensor sums = empty({b.splits, b.channels}, ScalarType::Double);
  parallel_for(0, b.splits, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      k.bias_grad(channels_last, b, i, data<T>(grad), output ? data<T>(*output) : nullptr,
                  masked ? mutable_data<T>(*masked) : nullptr, mutable_data<double>(sums));
  });
  k.store_bias(b, mutable_data<double>(sums), mutable_data<T>(bias));
}

// The layout that the gradient of an output like this is read in.
MemoryFormat gradient_format(const Tensor& like) {
  TORCH_CHECK(like.dim() >= 3 && like.dim() <= 5, "bias gradient: expected 3 to 5 axes, got shape ", like.sizes());
  check_sizes("bias gradient", "gradient", like.sizes());
  if (like.dim() == 3 || !answers_channels_last(like, like)) return MemoryFormat::Contiguous;
  return like.dim() == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d;
}

Tensor convolution_bias_grad(const Tensor& grad) {
  const MemoryFormat format = gradient_format(grad);
  const Tensor gy = grad.contiguous(format);
  Tensor bias = empty({grad.size(1)}, grad.scalar_type());
  for_dtype("bias gradient", grad.scalar_type(), [&](auto t) {
    run_bias_grad<decltype(t)>(format != MemoryFormat::Contiguous, gy, nullptr, nullptr, bias);
  });
  return bias;
}

std::tuple<Tensor, Tensor> relu_bias_grad(const Tensor& grad, const Tensor& output) {
  TORCH_CHECK(grad.sizes() == output.sizes() && grad.scalar_type() == output.scalar_type(),
              "relu_bias_grad: the gradient is ", grad.scalar_type(), " of shape ", grad.sizes(), " but the output is ",
              output.scalar_type(), " of shape ", output.sizes());
  const MemoryFormat format = gradient_format(output);
  const Tensor gy = grad.contiguous(format), y = output.contiguous(format);
  Tensor masked = empty(grad.sizes(), grad.scalar_type(), format);
  Tensor bias = empty({grad.size(1)}, grad.scalar_type());
  for_dtype("bias gradient", grad.scalar_type(),
            [&](auto t) { run_bias_grad<decltype(t)>(format != MemoryFormat::Contiguous, gy, &y, &masked, bias); });
  return {masked, bias};
}

}  // namespace

Tensor run_convolution_bias_grad(const Tensor& grad) { return convolution_bias_grad(grad); }

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("convolution_bias_grad", boxed<convolution_bias_grad>);
  m.impl("relu_bias_grad", boxed<relu_bias_grad>);
}

}  // namespace torchconv
