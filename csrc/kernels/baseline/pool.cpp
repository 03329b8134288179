#include "../kernels.h"
#include "capability.inl"
#define TORCHCONV_UNIT "pool.inl"
#include "../unit.inl"
