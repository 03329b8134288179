// Direct convolution of bfloat16 by the processor's dot product: the avx512 table with other kernels for that.
#pragma once
#include <cstring>

#include "cpu/kernels.h"

namespace torchconv {

#if defined(__x86_64__)
const KernelTable& avx512_bf16_table();
#endif

// Whether the table in use is that one.
inline bool multiplies_pairs() { return std::strcmp(kernel_table().capability, "avx512_bf16") == 0; }

}  // namespace torchconv
