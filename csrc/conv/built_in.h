// PyTorch's own operator, for comparison: explain names it where it should be the faster.
#pragma once
#include "conv/params.h"

namespace torchconv {

// By the measure of ConvAlgorithm::cost, and coarsely.
double built_in_cost(const ConvParams& p, Direction direction);

}  // namespace torchconv
