// The tables of kernels, from what the units of each capability compile. This file is compiled for every processor.
#include "cpu/kernels.h"

#define TORCHCONV_CAPABILITY baseline
#include "cpu/table.inl"
#undef TORCHCONV_CAPABILITY

#if defined(__x86_64__)
#define TORCHCONV_CAPABILITY avx2
#include "cpu/table.inl"
#undef TORCHCONV_CAPABILITY

#define TORCHCONV_CAPABILITY avx512
#include "cpu/table.inl"
#undef TORCHCONV_CAPABILITY
#endif

namespace torchconv {

const KernelTable& baseline_table() {
  static const KernelTable table = baseline::table("default", 16);
  return table;
}
#if defined(__x86_64__)
const KernelTable& avx2_table() {
  static const KernelTable table = avx2::table("avx2", 32);
  return table;
}
const KernelTable& avx512_table() {
  static const KernelTable table = avx512::table("avx512", 64);
  return table;
}
#endif

}  // namespace torchconv
