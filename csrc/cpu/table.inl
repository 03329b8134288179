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
  return {.conv = conv_kernels<T>(),
          .depthwise = depthwise_kernels<T>(),
          .pool = pool_kernels<T>(),
          .norm = norm_kernels<T>(),
          .complex = complex_kernels<accumulator_t<T>>(),
          .local = local_kernels<T>(),
          .local_norm = local_norm_kernels<T>(),
          .transform = transform_kernels<T>()};
}

inline KernelTable table(const char* name, int64_t vector_bytes) {
  return {.capability = name,
          .vector = vector_bytes / static_cast<int64_t>(sizeof(float)),
          .f32 = {common_kernels<float>(), winograd_kernels<float>()},
          .f64 = {common_kernels<double>()},
          .bf16 = {common_kernels<bfloat16>(), winograd_kernels<bfloat16>()}};
}

}  // namespace TORCHCONV_CAPABILITY
}  // namespace torchconv
