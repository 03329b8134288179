#include "cpu/kernels.h"
#include "capability.inl"
#define TORCHCONV_UNIT "conv/kernels.inl"
#include "cpu/unit.inl"
