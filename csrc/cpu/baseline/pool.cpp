#include "cpu/kernels.h"
#include "capability.inl"
#define TORCHCONV_UNIT "pool/kernels.inl"
#include "cpu/unit.inl"
