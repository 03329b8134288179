// What a file of this folder is compiled for. Headers come before: see kernels.h.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define TORCHCONV_LEAN false
#define TORCHCONV_VECTOR_BYTES 64
#define TORCHCONV_CAPABILITY avx512
