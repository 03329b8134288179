#include "../kernels.h"
#include "capability.inl"
#define TORCHCONV_UNIT "winograd.inl"
#include "../unit.inl"
