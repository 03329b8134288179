// Which of the compiled kernel tables this process uses: the fastest the processor runs, unless
// TORCHCONV_CPU_CAPABILITY=default|avx2|avx512|avx512_bf16 caps it.

#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/dot_bf16.h"
#include "torch.h"

namespace torchconv {
namespace {

// The tables this processor can run, narrowest first.
std::vector<const KernelTable*> supported() {
  std::vector<const KernelTable*> tables{&baseline_table()};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2) tables.push_back(&avx2_table());
#if defined(TORCHCONV_EMULATE_AVX512)
  if (avx2) tables.push_back(&avx512_table());
#else
  if (avx2 && avx512) tables.push_back(&avx512_table());
#endif
  if (avx2 && avx512 && __builtin_cpu_supports("avx512bf16")) tables.push_back(&avx512_bf16_table());
#endif
  return tables;
}

// Whether the dot product of bfloat16 is worth its own table. An Intel processor of 2023 was measured to run it at half
// the rate of float32's multiply-adds, counted in multiplications. AMD's, from Zen 4 on, are taken to run it at twice
// the rate, as published tables of instructions have it; none was measured. By the vendor, not by timing it: results
// may not change from one start to the next.
bool prefers_dot_product() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd");
#else
  return false;
#endif
}

const KernelTable& pick() {
  const auto tables = supported();
  const char* cap = std::getenv("TORCHCONV_CPU_CAPABILITY");
  if (cap == nullptr || *cap == '\0') {
    const bool dots = std::string(tables.back()->capability) == "avx512_bf16";
    return *tables[tables.size() - (dots && !prefers_dot_product() ? 2 : 1)];
  }
  for (const char* known : {"default", "avx2", "avx512", "avx512_bf16"}) {
    if (std::string(cap) != known) continue;
    for (const KernelTable* table : tables)
      if (std::string(table->capability) == cap) return *table;
    return *tables.back();  // a cap above what the processor has does not bind
  }
  TORCH_CHECK_VALUE(false, "TORCHCONV_CPU_CAPABILITY is '", cap, "': expected default, avx2, avx512 or avx512_bf16");
}

}  // namespace

const KernelTable& kernel_table() {
  static const KernelTable& table = pick();
  return table;
}

}  // namespace torchconv
