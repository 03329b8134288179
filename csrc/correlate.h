// The weight gradient and the bias gradient, run over blocks in parallel.
#pragma once
#include "kernels/kernels.h"

namespace torchconv {

// weight[m, c, tap] = Σ over samples and positions of target · source; see Gather.
template <class T>
void run_correlate(const Gather& g, bool channels_last, const T* source, const T* target, T* weight);

// Bytes of workspace of that, with one thread.
template <class T>
int64_t correlate_workspace(const Gather& g, bool channels_last);

// out[c] = Σ over samples and positions of grad [batch, channels, positions].
template <class T>
void run_bias_grad(bool channels_last, int64_t batch, int64_t channels, int64_t positions, const T* grad, T* out);

}  // namespace torchconv
