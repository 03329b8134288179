// The depth-wise kernels of one capability.
#pragma once
#include "conv/depthwise/pack.inl"
#include "conv/depthwise/pixels.inl"
#include "conv/depthwise/pixels_grad.inl"
#include "conv/depthwise/planes.inl"
#include "conv/depthwise/planes_grad.inl"

template <class T>
DepthwiseKernels<T> depthwise_kernels() {
  return {.pack = depthwise_pack<T>,
          .planes_scratch = depthwise_planes_scratch<T>,
          .planes = depthwise_planes<T>,
          .planes_grad_scratch = depthwise_planes_grad_scratch<T>,
          .planes_grad = depthwise_planes_grad<T>,
          .channels = lanes<accumulator_t<T>>,
          .pixels = depthwise_pixels<T>,
          .pixels_grad = depthwise_pixels_grad<T>,
          .store_grad = depthwise_store_grad<T>};
}
TORCHCONV_EACH_TYPE(DepthwiseKernels, depthwise_kernels)
