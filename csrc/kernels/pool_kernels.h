// What pooling asks of a kernel set.
#pragma once
#include "numeric.h"

namespace torchconv {

template <class T>
struct PoolKernels {};

}  // namespace torchconv
