// The tables of kernels, from what the units of each capability compile. This file is compiled for every processor.
#include "kernels.h"

#define TORCHCONV_CAPABILITY baseline
#include "table.inl"
#undef TORCHCONV_CAPABILITY

#if defined(__x86_64__)
#define TORCHCONV_CAPABILITY avx2
#include "table.inl"
#undef TORCHCONV_CAPABILITY

#define TORCHCONV_CAPABILITY avx512
#include "table.inl"
#undef TORCHCONV_CAPABILITY
#endif

namespace torchconv {

const KernelTable& baseline_table() {
  static const KernelTable table = baseline::table("default");
  return table;
}
#if defined(__x86_64__)
const KernelTable& avx2_table() {
  static const KernelTable table = avx2::table("avx2");
  return table;
}
const KernelTable& avx512_table() {
  static const KernelTable table = avx512::table("avx512");
  return table;
}
#endif

}  // namespace torchconv
