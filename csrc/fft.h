// Convolution through the Fourier transform: see fft.cpp.
#pragma once
#include "params.h"

namespace torchconv {

// y = x * w + bias, and max(0, y) where asked; bias may be undefined. Tensors as the operators hold them.
void fft_forward(const ConvParams& p, const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu,
                 const Tensor& y);
void fft_input_grad(const ConvParams& p, const Tensor& gy, const Tensor& weight, const Tensor& gx);
void fft_weight_grad(const ConvParams& p, const Tensor& gy, const Tensor& x, const Tensor& gw);

int64_t fft_workspace(const ConvParams& p, Direction direction);  // bytes beside operands and result

// Multiply-adds of a sample that would take as long.
double fft_cost(const ConvParams& p, Direction direction);

}  // namespace torchconv
