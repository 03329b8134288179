// What one convolution is: sizes and window, for 1-D to 3-D alike, checked once and in one place.
#pragma once

#include <array>
#include <string>

#include "conv/conv_kernels.h"
#include "torch.h"

namespace torchconv {

enum class Direction { forward, input_grad, weight_grad };

// A convolution lifted to three spatial axes: a 1-D or 2-D one has leading axes of size 1.
struct ConvParams {
  int64_t dims;                          // spatial axes of the tensors, 1 to 3
  int64_t batch, groups;                 //
  int64_t in_channels, out_channels;     // of all groups together
  std::array<int64_t, 3> input, output;  // spatial sizes
  std::array<int64_t, 3> kernel, stride, dilation;
  std::array<int64_t, 3> before, after;  // padding on the two sides of an axis; negative crops
  ScalarType dtype;
  bool channels_last;  // of activations: input, output and their gradients

  int64_t in_per_group() const { return in_channels / groups; }
  int64_t out_per_group() const { return out_channels / groups; }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  bool depthwise() const { return groups == in_channels && groups > 1; }

  std::vector<int64_t> input_sizes() const;   // [N, C, spatial...] in the tensors' own number of axes
  std::vector<int64_t> output_sizes() const;  // [N, O, spatial...]
  MemoryFormat memory_format() const;         // that activations are kept in
};

// The window's numbers as an operator receives them: one an axis, two for padding.
struct Window {
  IntArrayRef stride, padding, dilation;
  int64_t groups;
};

// The checked parameters of the convolution with this input and weight. Raises with the offending values otherwise.
ConvParams conv_params(IntArrayRef input_size, IntArrayRef weight_size, const Window& window, ScalarType dtype,
                       bool channels_last);

// Raises unless both operands are of one dtype and on one device.
void check_alike(const ConvParams& p, const Tensor& a, const char* a_name, const Tensor& b, const char* b_name);

// Raises unless a bias that is there has a number for each output channel, of the weight's dtype.
void check_bias(const ConvParams& p, const Tensor& weight, const std::optional<Tensor>& bias);

// Raises where a plan would be larger than any tensor in memory bounds it: they grow with the sides and the taps.
void check_plannable(const char* caller, const ConvParams& p);

// Whether PyTorch would answer with a channels-last result: an operand is channels-last and the batch is not empty.
bool answers_channels_last(const Tensor& activation, const Tensor& other);

}  // namespace torchconv
