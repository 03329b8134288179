#include "../kernels.h"
#include "capability.inl"
#define TORCHCONV_UNIT "depthwise.inl"
#include "../unit.inl"
