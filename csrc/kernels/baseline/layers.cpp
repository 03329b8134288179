#include "../kernels.h"
#include "capability.inl"
#define TORCHCONV_UNIT "layers.inl"
#include "../unit.inl"
