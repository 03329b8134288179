// One unit of one capability's kernels, by files that have set TORCHCONV_CAPABILITY, TORCHCONV_VECTOR_BYTES,
// TORCHCONV_LEAN and TORCHCONV_UNIT. A unit ends with the function that names its kernels, for each type; kernels.cpp
// makes tables of them.
#define TORCHCONV_EACH_TYPE(KERNELS, FUNCTION) \
  template KERNELS<float> FUNCTION<float>();   \
  template KERNELS<double> FUNCTION<double>(); \
  template KERNELS<bfloat16> FUNCTION<bfloat16>();

namespace torchconv {
namespace TORCHCONV_CAPABILITY {
#include "cpu/numeric.inl"
#include TORCHCONV_UNIT
}  // namespace TORCHCONV_CAPABILITY
}  // namespace torchconv

#if defined(TORCHCONV_PUSHED)  // by Clang's attribute, of which none may be left at the end of a file
#pragma clang attribute pop
#endif
