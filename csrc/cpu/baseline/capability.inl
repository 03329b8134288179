// What a file of this folder is compiled for. Headers come before: see kernels.h.
#define TORCHCONV_VECTOR_BYTES 16
#define TORCHCONV_CAPABILITY baseline
