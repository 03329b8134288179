#include "cpu/kernels.h"
#include "capability.inl"
#define TORCHCONV_UNIT "conv/winograd/kernels.inl"
#include "cpu/unit.inl"
