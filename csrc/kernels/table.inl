// One capability's kernels and its table. The includer has set TORCHCONV_CAPABILITY and TORCHCONV_VECTOR_BYTES.
#define TORCHCONV_CONCAT_(a, b) a##b
#define TORCHCONV_CONCAT(a, b) TORCHCONV_CONCAT_(a, b)

namespace torchconv {
namespace TORCHCONV_CAPABILITY {
#include "numeric.inl"
#include "conv.inl"
#include "pool.inl"
#include "local.inl"
#include "lrn.inl"
#include "transform.inl"
#include "winograd.inl"
#include "norm.inl"
#include "complex.inl"

template <class T>
constexpr KernelSet<T> kernel_set() {
  if constexpr (sizeof(T) < sizeof(double))
    return {conv_kernels<T>(),  pool_kernels<T>(),       norm_kernels<T>(),      {complex_products<accumulator_t<T>>},
            local_kernels<T>(), local_norm_kernels<T>(), transform_kernels<T>(), winograd_kernels<T>()};
  else
    return {conv_kernels<T>(),  pool_kernels<T>(),       norm_kernels<T>(),     {complex_products<accumulator_t<T>>},
            local_kernels<T>(), local_norm_kernels<T>(), transform_kernels<T>()};
}
}  // namespace TORCHCONV_CAPABILITY

const KernelTable TORCHCONV_CONCAT(TORCHCONV_CAPABILITY, _table) = {
    TORCHCONV_CAPABILITY_NAME, TORCHCONV_CAPABILITY::kernel_set<float>(), TORCHCONV_CAPABILITY::kernel_set<double>(),
    TORCHCONV_CAPABILITY::kernel_set<bfloat16>()};
}  // namespace torchconv
