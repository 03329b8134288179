#include "cpu/kernels.h"
#include "capability.inl"
#define TORCHCONV_UNIT "cpu/layers.inl"
#include "cpu/unit.inl"
