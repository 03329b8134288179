// The convolution kernels of one capability.
#include "tile.inl"
#include "patch.inl"
#include "transpose.inl"
#include "gemm.inl"
#include "direct.inl"
#include "planes.inl"
#include "correlate_plan.inl"
#include "correlate_copy.inl"
#include "correlate_positions.inl"
#include "correlate.inl"
#include "bias.inl"

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
