// Pooling as functions, for operators that are made of it.
#pragma once
#include "torch.h"

namespace torchconv {

// The maxima alone, or max(0, ·) of them.
Tensor run_max_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                    IntArrayRef dilation, IntArrayRef output_size, bool relu);

Tensor run_avg_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                    IntArrayRef output_size, bool count_include_pad, std::optional<int64_t> divisor_override);

}  // namespace torchconv
