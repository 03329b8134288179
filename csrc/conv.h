// The convolution operators as functions, for the operators that are made of them.
#pragma once
#include "params.h"

namespace torchconv {

at::Tensor run_convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                           const Window& window, std::string_view algorithm);
at::Tensor run_convolution_input_grad(const at::Tensor& grad, const at::Tensor& weight, at::IntArrayRef input_size,
                                      const Window& window, std::string_view algorithm);
at::Tensor run_convolution_weight_grad(const at::Tensor& grad, const at::Tensor& input, at::IntArrayRef weight_size,
                                       const Window& window, std::string_view algorithm);
at::Tensor run_convolution_bias_grad(const at::Tensor& grad);

}  // namespace torchconv
