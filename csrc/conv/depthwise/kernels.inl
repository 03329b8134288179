// The depth-wise kernels of one capability.
#pragma once
#include "conv/depthwise/pack.inl"
#include "conv/depthwise/pixels.inl"
#include "conv/depthwise/pixels_grad.inl"
#include "conv/depthwise/planes.inl"
#include "conv/depthwise/planes_grad.inl"

template <class T>
DepthwiseKernels<T> depthwise_kernels() {
  return {depthwise_pack<T>,        depthwise_planes_scratch<T>, depthwise_planes<T>, depthwise_planes_grad_scratch<T>,
          depthwise_planes_grad<T>, lanes<accumulator_t<T>>,     depthwise_pixels<T>, depthwise_pixels_grad<T>,
          depthwise_store_grad<T>};
}
TORCHCONV_EACH_TYPE(DepthwiseKernels, depthwise_kernels)
