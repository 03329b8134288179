// What a file of this folder is compiled for. Headers come before: see kernels.h.
#pragma GCC target("avx2,fma")
#define TORCHCONV_LEAN false
#define TORCHCONV_VECTOR_BYTES 32
#define TORCHCONV_CAPABILITY avx2
