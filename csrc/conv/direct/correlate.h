// The weight gradient, run over blocks in parallel.
#pragma once
#include "cpu/kernels.h"

namespace torchconv {

// weight[m, c, tap] = Σ over samples and positions of target · source; see Gather.
template <class T>
void run_correlate(const Gather& g, bool channels_last, const T* source, const T* target, T* weight);

// Bytes of workspace of that, with one thread.
template <class T>
int64_t correlate_workspace(const Gather& g, bool channels_last);

}  // namespace torchconv
