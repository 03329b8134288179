#include "../kernels.h"
#if defined(__x86_64__)
#include "capability.inl"
#define TORCHCONV_UNIT "conv.inl"
#include "../unit.inl"
#endif
