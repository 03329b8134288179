// The forward pass and the input gradient as gathers (kernels/conv_kernels.h), run over blocks in parallel.
#pragma once
#include <memory>
#include <vector>

#include "buffer.h"
#include "kernels/kernels.h"
#include "params.h"
#include "select.h"

namespace torchconv {

// The strides of a tensor lifted to three spatial axes.
View view(const Tensor& t);
void copy(const std::array<int64_t, 3>& from, int64_t (&to)[3]);

// A gather and the taps it points at.
struct TappedGather {
  std::shared_ptr<const std::vector<Tap>> taps;
  Gather gather;
};

// y of x, and the correlation of ȳ and x.
TappedGather forward_gather(const ConvParams& p, const View& x, const View& y, const View& weight);
// x̄ of ȳ: one gather for each residue of the stride, in order.
std::vector<TappedGather> input_grad_gathers(const ConvParams& p, const View& x, const View& y, const View& weight);

template <class T>
void run_gather(const std::vector<TappedGather>& gathers, bool channels_last, Algorithm algorithm, const T* source,
                const T* weight, const T* bias, T* target);
// Bytes beside the operands and the result, with one thread.
template <class T>
int64_t gather_workspace(const std::vector<TappedGather>& gathers, bool channels_last, Algorithm algorithm);

}  // namespace torchconv
