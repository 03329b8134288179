// The kernels compiled for the avx512 capability. Headers come before the target pragma: see kernels.h.
#include "kernels.h"
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define TORCHCONV_VECTOR_BYTES 64
#define TORCHCONV_CAPABILITY avx512
#define TORCHCONV_CAPABILITY_NAME "avx512"
#include "table.inl"
#endif
