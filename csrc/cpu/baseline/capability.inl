// What a file of this folder is compiled for. Headers come before: see kernels.h.
#if defined(__x86_64__)
#define TORCHCONV_LEAN true
#else
#define TORCHCONV_LEAN false
#endif
#define TORCHCONV_VECTOR_BYTES 16
#define TORCHCONV_CAPABILITY baseline
