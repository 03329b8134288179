#include "../kernels.h"
#include "capability.inl"
#define TORCHCONV_UNIT "conv.inl"
#include "../unit.inl"
