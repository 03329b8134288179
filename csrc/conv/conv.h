// The convolution operators as functions, for the operators that are made of them.
#pragma once
#include "conv/params.h"

namespace torchconv {

Tensor run_convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                       const Window& window, std::string_view algorithm);
Tensor run_convolution_input_grad(const Tensor& grad, const Tensor& weight, IntArrayRef input_size,
                                  const Window& window, std::string_view algorithm);
Tensor run_convolution_weight_grad(const Tensor& grad, const Tensor& input, IntArrayRef weight_size,
                                   const Window& window, std::string_view algorithm);
Tensor run_convolution_bias_grad(const Tensor& grad);

}  // namespace torchconv
