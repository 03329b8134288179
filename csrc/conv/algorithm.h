// An algorithm of convolution: what it can run, what that costs, and its three directions. Each is one record, at the
// end of its folder's .cpp; select.cpp lists them.
#pragma once
#include "conv/params.h"

namespace torchconv {

// `filters` begins on a cache line; bias is of the operands' dtype, or null.
struct PreparedForward {
  int64_t (*bytes)(const ConvParams&);
  void (*prepare)(const ConvParams&, const Tensor& weight, void* filters);
  void (*run)(const ConvParams&, const Tensor& x, const void* filters, const void* bias, bool relu, const Tensor& y);
};

struct ConvAlgorithm {
  const char* name;
  // Why it cannot run this convolution in this direction; empty where it can.
  std::string (*refuse)(const ConvParams&, Direction);
  // Of one sample: the multiply-adds that would take as long at the processor's peak.
  double (*cost)(const ConvParams&, Direction);
  // Elements that the filters become before they are multiplied, once a call, whatever the batch. Null: too few to
  // count.
  double (*filters)(const ConvParams&, Direction) = nullptr;
  // Bytes beside the operands and the result, with one thread.
  int64_t (*workspace)(const ConvParams&, Direction);
  // How many times cheaper than another it must be to be taken instead.
  double least_saving = 1;
  // Why an output may err by more than a sum of its own products does; null where it may not.
  const char* rounds = nullptr;
  // The most that ‖y − y64‖ / ‖y64‖ comes to in float32: of outputs and input gradients, and of weight gradients.
  double bound, weight_grad_bound;

  // Tensors are of the layout and dtype that the parameters name; the last one is written, and not empty. Weights and
  // their gradients may have any strides, which say nothing along axes of one element. Only the reference meets empty
  // operands. bias: undefined where there is none. relu: max(0, the output), where NaN and −0 stay. The bits of a
  // result depend neither on the number of threads nor, of outputs and input gradients, on the rest of the batch.
  void (*forward)(const ConvParams&, const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu,
                  const Tensor& y);
  void (*input_grad)(const ConvParams&, const Tensor& gy, const Tensor& weight, const Tensor& gx);
  void (*weight_grad)(const ConvParams&, const Tensor& gy, const Tensor& x, const Tensor& gw);

  // Of `forward`: what the filters become, to be kept between calls (prepared.h); and the rest, with that in place of
  // the weight. Null where nothing is gained by keeping it.
  const PreparedForward* prepared = nullptr;
};

extern const ConvAlgorithm depthwise_algorithm, winograd_algorithm, direct_algorithm, fft_algorithm, gemm_algorithm,
    reference_algorithm;

// Of those that can run anything.
inline std::string never(const ConvParams&, Direction) { return ""; }

}  // namespace torchconv
