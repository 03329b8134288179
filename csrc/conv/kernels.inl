// The convolution kernels of one capability.
#pragma once
#include "conv/bias.inl"
#include "conv/direct/correlate.inl"
#include "conv/direct/direct.inl"
#include "conv/direct/planes.inl"
#include "conv/gemm/gemm.inl"

template <class T>
ConvKernels<T> conv_kernels() {
  return {.panels = panels_of<T>,
          .packed_size = packed_size<T>,
          .pack_weight = pack_weight<T>,
          .gemm_scratch = gemm_scratch<T>,
          .gemm = gemm<T>,
          .direct_scratch = direct_scratch<T>,
          .direct = direct<T>,
          .planes_scratch = planes_scratch<T>,
          .planes = planes<T>,
          .prefers_planes = prefers_planes<T>,
          .correlation_plan = correlation_plan<T>,
          .correlate_scratch = correlate_scratch<T>,
          .correlate = correlate<T>,
          .add_parts = add_parts<accumulator_t<T>>,
          .store_correlation = store_correlation<T>,
          .bias_grad = bias_grad<T>,
          .store_bias = store_bias<T>};
}
TORCHCONV_EACH_TYPE(ConvKernels, conv_kernels)
