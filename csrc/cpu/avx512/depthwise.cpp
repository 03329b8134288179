#include "cpu/kernels.h"
#if defined(__x86_64__)
#include "capability.inl"
#define TORCHCONV_UNIT "conv/depthwise/kernels.inl"
#include "cpu/unit.inl"
#endif
