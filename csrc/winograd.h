// Winograd convolution of a gather or correlation whose last two axes have stride and dilation 1: see
// kernels/winograd_math.inl for the algorithm.
#pragma once
#include "params.h"

namespace torchconv {

// Why Winograd cannot run this convolution; empty where it can.
std::string winograd_refusal(const ConvParams& p);

// Tiles along an axis of `count` positions, the fewest that the points allow: the larger the tiles, the fewer products.
int64_t winograd_tiles(int64_t taps, int64_t count);

// The forward pass, or the input gradient, as a gather.
template <class T>
void run_winograd(const Gather& g, bool channels_last, const T* source, const T* weight, const T* bias, T* target);

// The weight gradient, as a correlation. `target` is the output's gradient.
template <class T>
void run_winograd_correlate(const Gather& g, bool channels_last, const T* source, const T* target, T* weight);

// Bytes of workspace with one thread.
template <class T>
int64_t winograd_workspace(const Gather& g, bool channels_last, bool correlate);

}  // namespace torchconv
