// The kernels compiled for the default capability. Headers come before the target pragma: see kernels.h.
#include "kernels.h"
#define TORCHCONV_VECTOR_BYTES 16
#define TORCHCONV_CAPABILITY baseline
#define TORCHCONV_CAPABILITY_NAME "default"
#include "table.inl"
