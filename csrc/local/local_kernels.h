// What locally connected layers ask of a kernel set, and how one is described to it: two spatial axes, of which 1-D
// leaves the first at size 1. All tensors are contiguous.
#pragma once
#include "cpu/numeric.h"

namespace torchconv {

struct Local {
  int64_t batch, groups, in_per_group, out_per_group;
  int64_t input[2], output[2], kernel[2], stride[2], dilation[2], before[2];

  int64_t pixels, positions;  // of an input map and of an output map
  int64_t taps, terms;        // of a filter on one map, and of the sum that an output is
};

// The work is cut into chunks of so many positions (256 bytes of accumulators) and blocks of samples, channels and
// terms, so that scratch stays below a few MB and what is read again stays in cache. Results do not depend on them,
// but for the order in which an input gradient's terms are added, which depends on the chunks, and so on shapes alone.
template <class A>
constexpr int64_t local_chunk = 256 / sizeof(A);
constexpr int64_t kLocalSamples = 16;
constexpr int64_t kLocalTerms = 128;       // terms of a sum
constexpr int64_t kLocalNearTerms = 32;    // terms of a sum whose chunk is in the nearest cache
constexpr int64_t kLocalOutputs = 64;      // output channels of a unit of the forward pass
constexpr int64_t kLocalRows = 64;         // pairs of a channel and a tap of the input gradient
constexpr int64_t kLocalInputs = 4;        // input channels of a unit of the input gradient
constexpr int64_t kLocalPixels = 1 << 16;  // of all planes of the input gradient that are summed at once, if one fits
constexpr int64_t kLocalGradOutputs = 64, kLocalGradTerms = 32, kLocalGradSamples = 32;  // of the weight gradient

// Each does units begin <= u < end of the work; scratch is what local_*_scratch says. W: [groups, out_per_group,
// in_per_group, taps, positions], bias: [groups, out_per_group, positions] or null.
template <class T>
struct LocalKernels {
  int64_t (*forward_units)(const Local&);
  int64_t (*forward_scratch)(const Local&);
  void (*forward)(const Local&, const T* x, const T* weight, const T* bias, T* y, accumulator_t<T>* scratch,
                  int64_t begin, int64_t end);
  int64_t (*input_grad_units)(const Local&);
  int64_t (*input_grad_scratch)(const Local&);
  void (*input_grad)(const Local&, const T* dy, const T* weight, T* dx, accumulator_t<T>* scratch, int64_t begin,
                     int64_t end);
  int64_t (*weight_grad_units)(const Local&);
  int64_t (*weight_grad_scratch)(const Local&);
  void (*weight_grad)(const Local&, const T* dy, const T* x, T* dw, accumulator_t<T>* scratch, int64_t begin,
                      int64_t end);
};

}  // namespace torchconv
