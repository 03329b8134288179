// The kernels compiled for the avx2 capability. Headers come before the target pragma: see kernels.h.
#include "kernels.h"
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define TORCHCONV_VECTOR_BYTES 32
#define TORCHCONV_CAPABILITY avx2
#define TORCHCONV_CAPABILITY_NAME "avx2"
#include "table.inl"
#endif
