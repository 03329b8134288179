// The convolution kernels of one capability.
#pragma once
#include "conv/bias.inl"
#include "conv/direct/correlate.inl"
#include "conv/direct/direct.inl"
#include "conv/direct/planes.inl"
#include "conv/gemm/gemm.inl"

template <class T>
ConvKernels<T> conv_kernels() {
  return {panels_of<T>,
          packed_size<T>,
          pack_weight<T>,
          gemm_scratch<T>,
          gemm<T>,
          direct_scratch<T>,
          direct<T>,
          planes_scratch<T>,
          planes<T>,
          prefers_planes<T>,
          correlation_plan<T>,
          correlate_scratch<T>,
          correlate<T>,
          add_parts<accumulator_t<T>>,
          store_correlation<T>,
          bias_grad<T>,
          store_bias<T>};
}
TORCHCONV_EACH_TYPE(ConvKernels, conv_kernels)
