// Winograd convolution of a gather or correlation whose last two axes have stride and dilation 1, float32 or bfloat16:
// see math.inl for the algorithm. The record is in winograd.cpp.
#pragma once
#include "conv/gather.h"

namespace torchconv {

// The forward pass, or the input gradient, as a gather that has taps.
template <class T>
void run_winograd(const Gather& g, bool channels_last, const T* source, const T* weight, const T* bias, T* target);
template <class T>
int64_t winograd_workspace(const Gather& g, bool channels_last);  // bytes, with one thread

// The forward pass with filters transformed beforehand: how many elements they become, the transform, and the rest.
template <class T>
int64_t winograd_filters(const Gather& g, bool channels_last);
template <class T>
void prepare_winograd(const Gather& g, bool channels_last, const T* weight, accumulator_t<T>* filters);
template <class T>
void run_prepared_winograd(const Gather& g, bool channels_last, const T* source, const accumulator_t<T>* filters,
                           const T* bias, T* target);

// The weight gradient, as a correlation. `target` is the output's gradient.
template <class T>
void run_winograd_correlate(const Gather& g, bool channels_last, const T* source, const T* target, T* weight);
template <class T>
int64_t winograd_correlate_workspace(const Gather& g, bool channels_last);

}  // namespace torchconv
