// The convolution operators: check once, choose an algorithm, allocate, and run its kernel over blocks in parallel.
#include "conv.h"

#include <algorithm>

#include "compact.h"
#include "correlate.h"
#include "depthwise.h"
#include "dispatch.h"
#include "fft.h"
#include "gather.h"
#include "kernels/reference.h"
#include "params.h"
#include "select.h"
#include "winograd.h"

namespace torchconv {
namespace {

// ---- the reference in parallel ----

reference::Problem problem_of(const ConvParams& p, const View& x, const View& y, const View& weight) {
  reference::Problem r{};
  r.batch = p.batch, r.groups = p.groups, r.in_per_group = p.in_per_group(), r.out_per_group = p.out_per_group();
  copy(p.input, r.input), copy(p.output, r.output), copy(p.kernel, r.kernel);
  copy(p.stride, r.stride), copy(p.dilation, r.dilation), copy(p.before, r.before);
  r.x = x, r.y = y, r.weight_o = weight.n, r.weight_c = weight.c;
  std::copy(weight.s, weight.s + 3, r.weight_k);
  return r;
}

template <class Visit>
void for_pairs(int64_t outer, int64_t inner, Visit visit) {
  parallel_for(0, outer * inner, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(i / inner, i % inner);
  });
}

// ---- the three directions ----

template <class T>
void run_forward(const ConvParams& p, Algorithm algorithm, const Tensor& x, const Tensor& weight, const Tensor& biases,
                 bool relu, const Tensor& y) {
  const View vx = view(x), vy = view(y), vw = view(weight);
  const T *from = data<T>(x), *w = data<T>(weight), *bias = biases.defined() ? data<T>(biases) : nullptr;
  T* to = mutable_data<T>(y);
  switch (algorithm) {
    case Algorithm::reference: {
      auto r = problem_of(p, vx, vy, vw);
      r.relu = relu;
      return for_pairs(p.batch, p.out_channels,
                       [&](int64_t n, int64_t o) { reference::forward(r, n, o, from, w, bias, to); });
    }
    case Algorithm::depthwise: return depthwise_forward(p, x, weight, bias, relu, y);
    case Algorithm::fft: return fft_forward(p, x, weight, biases, relu, y);
    case Algorithm::winograd:
    case Algorithm::direct:
    case Algorithm::gemm: {
      TappedGather g = forward_gather(p, vx, vy, vw);
      g.gather.relu = relu;
      if (algorithm == Algorithm::winograd) return run_winograd<T>(g.gather, p.channels_last, from, w, bias, to);
      return run_gather<T>({g}, p.channels_last, algorithm, from, w, bias, to);
    }
  }
}

template <class T>
void run_input_grad(const ConvParams& p, Algorithm algorithm, const Tensor& gy, const Tensor& weight,
                    const Tensor& gx) {
  const View vx = view(gx), vy = view(gy), vw = view(weight);
  const T *from = data<T>(gy), *w = data<T>(weight);
  T* to = mutable_data<T>(gx);
  switch (algorithm) {
    case Algorithm::reference: {
      const auto r = problem_of(p, vx, vy, vw);
      return for_pairs(p.batch, p.in_channels,
                       [&](int64_t n, int64_t i) { reference::input_grad(r, n, i, from, w, to); });
    }
    case Algorithm::depthwise: return depthwise_input_grad(p, gy, weight, gx);
    case Algorithm::fft: return fft_input_grad(p, gy, weight, gx);
    case Algorithm::winograd: {
      const auto gathers = input_grad_gathers(p, vx, vy, vw);  // several where the first axis has strides
      const auto empty = [](const TappedGather& g) { return g.gather.tap_count == 0; };
      if (std::any_of(gathers.begin(), gathers.end(), empty)) gx.zero_();
      for (const TappedGather& g : gathers)
        if (!empty(g)) run_winograd<T>(g.gather, p.channels_last, from, w, nullptr, to);
      return;
    }
    case Algorithm::direct:
    case Algorithm::gemm:
      return run_gather<T>(input_grad_gathers(p, vx, vy, vw), p.channels_last, algorithm, from, w, nullptr, to);
  }
}

template <class T>
void run_weight_grad(const ConvParams& p, Algorithm algorithm, const Tensor& gy, const Tensor& x, const Tensor& gw) {
  const View vx = view(x), vy = view(gy), vw = view(gw);
  const T *grad = data<T>(gy), *from = data<T>(x);
  T* to = mutable_data<T>(gw);
  switch (algorithm) {
    case Algorithm::reference: {
      const auto r = problem_of(p, vx, vy, vw);
      return for_pairs(p.out_channels, p.in_per_group(),
                       [&](int64_t o, int64_t c) { reference::weight_grad(r, o, c, grad, from, to); });
    }
    case Algorithm::depthwise: return depthwise_weight_grad(p, gy, x, gw);
    case Algorithm::fft: return fft_weight_grad(p, gy, x, gw);
    case Algorithm::gemm: TORCH_CHECK(false, "gemm refuses weight gradients");
    case Algorithm::winograd:
      return run_winograd_correlate<T>(forward_gather(p, vx, vy, vw).gather, p.channels_last, from, grad, to);
    case Algorithm::direct:
      return run_correlate<T>(forward_gather(p, vx, vy, vw).gather, p.channels_last, from, grad, to);
  }
}

// ---- the same without what only the window makes large ----

// max(0, bias) or 0 where no tap meets an output.
void fill(const Tensor& y, const Tensor& bias, bool relu) {
  if (!bias.defined()) return void(y.zero_());
  std::vector<int64_t> shape(y.dim(), 1);
  shape[1] = -1;
  y.copy_((relu ? call("aten::relu", "", bias.alias()) : bias).view(shape));
}

Tensor empty_like(const Tensor& t, IntArrayRef sizes, const ConvParams& p) {
  return empty(sizes, t.scalar_type(), p.memory_format());
}

template <class T>
void run_forward(const Compact& c, Algorithm algorithm, const Tensor& x, const Tensor& weight, const Tensor& bias,
                 bool relu, const Tensor& y) {
  if (c.whole()) return run_forward<T>(c.params(), algorithm, x, weight, bias, relu, y);
  if (!c.whole_output()) fill(y, bias, relu);
  if (c.empty()) return;
  const Tensor left = c.whole_output() ? y : empty_like(y, c.params().output_sizes(), c.params());
  run_forward<T>(c.params(), algorithm, c.input(x), c.weight(weight), bias, relu, left);
  if (!c.whole_output()) c.put_output(left, y);
}

template <class T>
void run_input_grad(const Compact& c, Algorithm algorithm, const Tensor& gy, const Tensor& weight, const Tensor& gx) {
  if (c.whole()) return run_input_grad<T>(c.params(), algorithm, gy, weight, gx);
  if (c.empty()) return void(gx.zero_());
  const Tensor left = empty_like(gx, c.params().input_sizes(), c.params());
  run_input_grad<T>(c.params(), algorithm, c.output(gy), c.weight(weight), left);
  c.put_input(left, gx);
}

template <class T>
void run_weight_grad(const Compact& c, Algorithm algorithm, const Tensor& gy, const Tensor& x, const Tensor& gw) {
  if (c.whole()) return run_weight_grad<T>(c.params(), algorithm, gy, x, gw);
  if (c.empty()) return void(gw.zero_());
  const Tensor left = empty(c.weight_sizes(), gw.scalar_type());
  run_weight_grad<T>(c.params(), algorithm, c.output(gy), c.input(x), left);
  c.put_weight(left, gw);
}

// ---- operators ----

// The algorithm that runs: without products there is only the definition to follow.
Algorithm running(const ConvParams& p, const Choice& choice) {
  return p.batch > 0 && p.in_channels > 0 ? choice.algorithm : Algorithm::reference;
}

template <bool RELU>
Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, int64_t groups, std::string_view algorithm) {
  const ConvParams p = conv_params(input.sizes(), weight.sizes(), {stride, padding, dilation, groups},
                                   input.scalar_type(), answers_channels_last(input, weight));
  check_alike(p, input, "input", weight, "weight");
  const bool has_bias = bias.has_value();
  if (has_bias) {
    check_alike(p, input, "input", *bias, "bias");
    TORCH_CHECK(bias->dim() == 1 && bias->size(0) == p.out_channels, "conv", p.dims, "d: weight of shape ",
                weight.sizes(), " expects a bias of shape [", p.out_channels, "], got ", bias->sizes());
  }
  check_algorithm(p, Direction::forward, algorithm);
  Tensor y = empty(p.output_sizes(), input.scalar_type(), p.memory_format());
  if (y.numel() == 0) return y;  // its sides may be of any length, and nothing below is to look at them
  const Compact compact(p, Direction::forward);
  const Choice choice = select(p, compact.params(), Direction::forward, algorithm);
  const Tensor x = input.contiguous(p.memory_format());
  const Tensor b = has_bias ? bias->contiguous() : Tensor();
  for_dtype("convolution", p.dtype, [&](auto t) {
    using T = decltype(t);
    run_forward<T>(compact, running(p, choice), x, weight, b, RELU, y);
  });
  return y;
}

// Raises unless grad has the shape of the convolution's output.
void check_grad(const ConvParams& p, const Tensor& grad) {
  TORCH_CHECK(grad.sizes() == IntArrayRef(p.output_sizes()), "conv", p.dims, "d: expected an output gradient of shape ",
              IntArrayRef(p.output_sizes()), ", got ", grad.sizes());
}

Tensor convolution_input_grad(const Tensor& grad, const Tensor& weight, IntArrayRef input_size, IntArrayRef stride,
                              IntArrayRef padding, IntArrayRef dilation, int64_t groups, std::string_view algorithm) {
  const ConvParams p = conv_params(input_size, weight.sizes(), {stride, padding, dilation, groups}, grad.scalar_type(),
                                   answers_channels_last(grad, weight));
  check_alike(p, grad, "output gradient", weight, "weight");
  check_grad(p, grad);
  check_algorithm(p, Direction::input_grad, algorithm);
  Tensor gx = empty(p.input_sizes(), grad.scalar_type(), p.memory_format());
  if (gx.numel() == 0) return gx;
  const Compact compact(p, Direction::input_grad);
  const Choice choice = select(p, compact.params(), Direction::input_grad, algorithm);
  const Tensor gy = grad.contiguous(p.memory_format());
  for_dtype("convolution", p.dtype,
            [&](auto t) { run_input_grad<decltype(t)>(compact, running(p, choice), gy, weight, gx); });
  return gx;
}

Tensor convolution_weight_grad(const Tensor& grad, const Tensor& input, IntArrayRef weight_size, IntArrayRef stride,
                               IntArrayRef padding, IntArrayRef dilation, int64_t groups, std::string_view algorithm,
                               MemoryFormat memory_format) {
  const ConvParams p = conv_params(input.sizes(), weight_size, {stride, padding, dilation, groups}, grad.scalar_type(),
                                   answers_channels_last(input, grad));
  check_alike(p, grad, "output gradient", input, "input");
  check_grad(p, grad);
  check_algorithm(p, Direction::weight_grad, algorithm);
  Tensor gw = empty(weight_size, grad.scalar_type(), memory_format);
  if (gw.numel() == 0) return gw;
  if (input.numel() == 0) return gw.zero_();
  const Compact compact(p, Direction::weight_grad);
  const Choice choice = select(p, compact.params(), Direction::weight_grad, algorithm);
  const Tensor x = input.contiguous(p.memory_format()), gy = grad.contiguous(p.memory_format());
  for_dtype("convolution", p.dtype,
            [&](auto t) { run_weight_grad<decltype(t)>(compact, running(p, choice), gy, x, gw); });
  return gw;
}

// ---- what explain shows ----

// Bytes of workspace beside the operands and the result, with one thread.
int64_t workspace(const ConvParams& p, Direction direction, Algorithm algorithm) {
  if (algorithm == Algorithm::fft) return fft_workspace(p, direction);
  int64_t bytes = 0;
  for_dtype("convolution", p.dtype, [&](auto t) {
    using T = decltype(t);
    const View none{};
    if (algorithm == Algorithm::depthwise) {
      bytes = depthwise_workspace(p, direction);
    } else if (algorithm != Algorithm::reference && direction == Direction::weight_grad) {
      const auto forward = forward_gather(p, none, none, none);
      bytes = algorithm == Algorithm::winograd ? winograd_workspace<T>(forward.gather, p.channels_last, true)
                                               : correlate_workspace<T>(forward.gather, p.channels_last);
    } else if (algorithm != Algorithm::reference) {
      std::vector<TappedGather> gathers;
      if (direction == Direction::forward)
        gathers.push_back(forward_gather(p, none, none, none));
      else
        gathers = input_grad_gathers(p, none, none, none);
      if (algorithm != Algorithm::winograd) bytes = gather_workspace<T>(gathers, p.channels_last, algorithm);
      for (const TappedGather& g : gathers)
        if (algorithm == Algorithm::winograd && g.gather.tap_count > 0)
          bytes = std::max(bytes, winograd_workspace<T>(g.gather, p.channels_last, false));
    }
  });
  return bytes;
}

// Plans grow with the sides and the taps, and here no tensor in memory bounds those.
void check_explained(const ConvParams& p, IntArrayRef input_size, IntArrayRef weight_size) {
  constexpr int64_t most_elements = int64_t{1} << 30, most_side = 1 << 25;
  const auto volume = [](const std::array<int64_t, 3>& sides) { return sides[0] * sides[1] * sides[2]; };
  int64_t longest = p.taps();
  for (int a = 0; a < 3; ++a) longest = std::max({longest, p.input[a], p.output[a]});
  TORCH_CHECK(p.in_channels * volume(p.input) <= most_elements && p.out_channels * volume(p.output) <= most_elements &&
                  p.out_channels * p.in_per_group() * p.taps() <= most_elements && longest <= most_side,
              "explain: more than 2^30 elements in a tensor of one sample, or 2^25 taps or positions along an axis: "
              "input of shape ",
              input_size, ", weight of shape ", weight_size, ", output of shape ", p.output_sizes());
}

std::tuple<std::string, std::vector<std::string>, int64_t, double> explain(
    std::string_view direction, IntArrayRef input_size, IntArrayRef weight_size, IntArrayRef stride,
    IntArrayRef padding, IntArrayRef dilation, int64_t groups, ScalarType dtype, bool channels_last,
    std::string_view algorithm) {
  TORCH_CHECK_VALUE(direction == "forward" || direction == "input_grad" || direction == "weight_grad",
                    "explain: direction '", direction, "' is none of forward, input_grad, weight_grad");
  const Direction d = direction == "forward"      ? Direction::forward
                      : direction == "input_grad" ? Direction::input_grad
                                                  : Direction::weight_grad;
  const ConvParams p = conv_params(input_size, weight_size, {stride, padding, dilation, groups}, dtype, channels_last);
  check_explained(p, input_size, weight_size);
  const Compact compact(p, d);
  const Choice choice = select(p, compact.params(), d, algorithm);
  const int64_t copies = compact.copied() * element_size(dtype);
  return {choice.name, refusals(compact.params(), d, choice),
          copies + workspace(compact.params(), d, running(p, choice)), choice.cost};
}

}  // namespace

Tensor run_convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                       const Window& window, std::string_view algorithm) {
  return convolution<false>(input, weight, bias, window.stride, window.padding, window.dilation, window.groups,
                            algorithm);
}

Tensor run_convolution_input_grad(const Tensor& grad, const Tensor& weight, IntArrayRef input_size,
                                  const Window& window, std::string_view algorithm) {
  return convolution_input_grad(grad, weight, input_size, window.stride, window.padding, window.dilation, window.groups,
                                algorithm);
}

Tensor run_convolution_weight_grad(const Tensor& grad, const Tensor& input, IntArrayRef weight_size,
                                   const Window& window, std::string_view algorithm) {
  return convolution_weight_grad(grad, input, weight_size, window.stride, window.padding, window.dilation,
                                 window.groups, algorithm, MemoryFormat::Contiguous);
}

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("convolution", boxed<convolution<false>>);
  m.impl("convolution_relu", boxed<convolution<true>>);
  m.impl("convolution_input_grad", boxed<convolution_input_grad>);
  m.impl("convolution_weight_grad", boxed<convolution_weight_grad>);
}

STABLE_TORCH_LIBRARY_IMPL(torchconv, CompositeExplicitAutograd, m) { m.impl("_explain", boxed<explain>); }

}  // namespace torchconv
