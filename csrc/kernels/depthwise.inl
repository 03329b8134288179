// The depth-wise kernels of one capability.
#include "tile.inl"
#include "patch.inl"
#include "transpose.inl"
#include "correlate_plan.inl"
#include "depthwise_pack.inl"
#include "depthwise_planes_rows.inl"
#include "depthwise_planes.inl"
#include "depthwise_planes_grad.inl"
#include "depthwise_pixels.inl"
#include "depthwise_pixels_grad.inl"

template <class T>
DepthwiseKernels<T> depthwise_kernels() {
  return {depthwise_pack<T>,        depthwise_planes_scratch<T>, depthwise_planes<T>, depthwise_planes_grad_scratch<T>,
          depthwise_planes_grad<T>, lanes<accumulator_t<T>>,     depthwise_pixels<T>, depthwise_pixels_grad<T>,
          depthwise_store_grad<T>};
}
TORCHCONV_EACH_TYPE(DepthwiseKernels, depthwise_kernels)
