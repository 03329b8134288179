// The convolution operators: check once, choose an algorithm, allocate, and run its kernel over blocks in parallel.
#include "conv/conv.h"

#include <algorithm>

#include "conv/compact.h"
#include "dispatch.h"
#include "conv/params.h"
#include "conv/select.h"

namespace torchconv {
namespace {

// ---- an algorithm, without what only the window makes large ----

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

void run_forward(const Compact& c, const ConvAlgorithm& a, const Tensor& x, const Tensor& weight, const Tensor& bias,
                 bool relu, const Tensor& y) {
  if (c.whole()) return a.forward(c.params(), x, weight, bias, relu, y);
  if (!c.whole_output()) fill(y, bias, relu);
  if (c.empty()) return;
  const Tensor left = c.whole_output() ? y : empty_like(y, c.params().output_sizes(), c.params());
  a.forward(c.params(), c.input(x), c.weight(weight), bias, relu, left);
  if (!c.whole_output()) c.put_output(left, y);
}

void run_input_grad(const Compact& c, const ConvAlgorithm& a, const Tensor& gy, const Tensor& weight,
                    const Tensor& gx) {
  if (c.whole()) return a.input_grad(c.params(), gy, weight, gx);
  if (c.empty()) return void(gx.zero_());
  const Tensor left = empty_like(gx, c.params().input_sizes(), c.params());
  a.input_grad(c.params(), c.output(gy), c.weight(weight), left);
  c.put_input(left, gx);
}

void run_weight_grad(const Compact& c, const ConvAlgorithm& a, const Tensor& gy, const Tensor& x, const Tensor& gw) {
  if (c.whole()) return a.weight_grad(c.params(), gy, x, gw);
  if (c.empty()) return void(gw.zero_());
  const Tensor left = empty(c.weight_sizes(), gw.scalar_type());
  a.weight_grad(c.params(), c.output(gy), c.input(x), left);
  c.put_weight(left, gw);
}

// ---- operators ----

// The algorithm that runs: without products there is only the definition to follow.
const ConvAlgorithm& running(const ConvParams& p, const Choice& choice) {
  return p.batch > 0 && p.in_channels > 0 ? *choice.algorithm : reference_algorithm;
}

template <bool RELU>
Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, int64_t groups, std::string_view algorithm) {
  const ConvParams p = conv_params(input.sizes(), weight.sizes(), {stride, padding, dilation, groups},
                                   input.scalar_type(), answers_channels_last(input, weight));
  check_alike(p, input, "input", weight, "weight");
  check_bias(p, weight, bias);
  check_algorithm(p, Direction::forward, algorithm);
  Tensor y = empty(p.output_sizes(), input.scalar_type(), p.memory_format());
  if (y.numel() == 0) return y;  // its sides may be of any length, and nothing below is to look at them
  const Compact compact(p, Direction::forward);
  const Choice choice = select(p, compact.params(), Direction::forward, algorithm);
  const Tensor x = input.contiguous(p.memory_format());
  const Tensor b = bias ? bias->contiguous() : Tensor();
  run_forward(compact, running(p, choice), x, weight, b, RELU, y);
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
  run_input_grad(compact, running(p, choice), gy, weight, gx);
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
  run_weight_grad(compact, running(p, choice), gy, x, gw);
  return gw;
}

// ---- what explain shows ----

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
  check_plannable("explain", p);
  const Compact compact(p, d);
  const Choice choice = select(p, compact.params(), d, algorithm);
  const int64_t copies = compact.copied() * element_size(dtype);
  return {choice.name, refusals(compact.params(), d, choice, algorithm),
          copies + running(p, choice).workspace(compact.params(), d), choice.cost};
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
