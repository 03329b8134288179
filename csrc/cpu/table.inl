// Included once per capability, outside of every namespace: its units' kernels, declared, and the table of them.
namespace torchconv {
namespace TORCHCONV_CAPABILITY {

template <class T>
ConvKernels<T> conv_kernels();
template <class T>
DepthwiseKernels<T> depthwise_kernels();
template <class T>
PoolKernels<T> pool_kernels();
template <class T>
NormKernels<T> norm_kernels();
template <class A>
ComplexKernels<A> complex_kernels();
template <class T>
LocalKernels<T> local_kernels();
template <class T>
LocalNormKernels<T> local_norm_kernels();
template <class T>
TransformKernels<T> transform_kernels();
template <class T>
WinogradKernels<T> winograd_kernels();

template <class T>
CommonKernels<T> common_kernels() {
  return {conv_kernels<T>(),
          depthwise_kernels<T>(),
          pool_kernels<T>(),
          norm_kernels<T>(),
          complex_kernels<accumulator_t<T>>(),
          local_kernels<T>(),
          local_norm_kernels<T>(),
          transform_kernels<T>()};
}

inline KernelTable table(const char* name, int64_t vector_bytes) {
  return {name,
          vector_bytes / static_cast<int64_t>(sizeof(float)),
          {common_kernels<float>(), winograd_kernels<float>()},
          {common_kernels<double>()},
          {common_kernels<bfloat16>(), winograd_kernels<bfloat16>()}};
}

}  // namespace TORCHCONV_CAPABILITY
}  // namespace torchconv
