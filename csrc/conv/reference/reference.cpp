// The definition as an algorithm: its loops over maps in parallel.
#include "conv/algorithm.h"
#include "conv/direct/direct.h"
#include "conv/gather.h"
#include "conv/reference/loops.h"
#include "dispatch.h"

namespace torchconv {
namespace {

reference::Problem problem_of(const ConvParams& p, const Tensor& x, const Tensor& y, const Tensor& weight) {
  reference::Problem r{};
  r.batch = p.batch, r.groups = p.groups, r.in_per_group = p.in_per_group(), r.out_per_group = p.out_per_group();
  copy(p.input, r.input), copy(p.output, r.output), copy(p.kernel, r.kernel);
  copy(p.stride, r.stride), copy(p.dilation, r.dilation), copy(p.before, r.before);
  const View w = view(weight);
  r.x = view(x), r.y = view(y), r.weight_o = w.n, r.weight_c = w.c;
  std::copy(w.s, w.s + 3, r.weight_k);
  return r;
}

template <class Visit>
void for_pairs(int64_t outer, int64_t inner, Visit visit) {
  parallel_for(0, outer * inner, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(i / inner, i % inner);
  });
}

double cost(const ConvParams& p, Direction direction) { return 100 * direct_cost(p, direction, 1); }

int64_t workspace(const ConvParams&, Direction) { return 0; }

void forward(const ConvParams& p, const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu,
             const Tensor& y) {
  auto r = problem_of(p, x, y, weight);
  r.relu = relu;
  for_dtype("reference", p.dtype, [&]<class T>(T) {
    const T* biases = bias.defined() ? data<T>(bias) : nullptr;
    for_pairs(p.batch, p.out_channels, [&](int64_t n, int64_t o) {
      reference::forward(r, n, o, data<T>(x), data<T>(weight), biases, mutable_data<T>(y));
    });
  });
}

void input_grad(const ConvParams& p, const Tensor& gy, const Tensor& weight, const Tensor& gx) {
  const auto r = problem_of(p, gx, gy, weight);
  for_dtype("reference", p.dtype, [&]<class T>(T) {
    for_pairs(p.batch, p.in_channels, [&](int64_t n, int64_t i) {
      reference::input_grad(r, n, i, data<T>(gy), data<T>(weight), mutable_data<T>(gx));
    });
  });
}

void weight_grad(const ConvParams& p, const Tensor& gy, const Tensor& x, const Tensor& gw) {
  const auto r = problem_of(p, x, gy, gw);
  for_dtype("reference", p.dtype, [&]<class T>(T) {
    for_pairs(p.out_channels, p.in_per_group(), [&](int64_t o, int64_t c) {
      reference::weight_grad(r, o, c, data<T>(gy), data<T>(x), mutable_data<T>(gw));
    });
  });
}

}  // namespace

constexpr ConvAlgorithm reference_algorithm{
    .name = "reference",
    .refuse = never,
    .cost = cost,
    .workspace = workspace,
    .bound = 2e-6,
    .weight_grad_bound = 1e-5,
    .forward = forward,
    .input_grad = input_grad,
    .weight_grad = weight_grad,
};

}  // namespace torchconv
