// The operators of locally connected layers: check once, allocate, and run the kernel over units in parallel.

#include <algorithm>

#include "buffer.h"
#include "checked.h"
#include "dispatch.h"
#include "cpu/kernels.h"

namespace torchconv {
namespace {

constexpr int64_t kFarthest = int64_t{1} << 60;  // that a coordinate may be from the map's first

// A layer as an operator receives it: one number an axis, padding two (before, after).
struct LocalWindow {
  IntArrayRef stride, padding, dilation;
  int64_t groups;
};

// The checked description; raises with the offending values otherwise.
Local local_of(IntArrayRef input, IntArrayRef weight, const LocalWindow& w) {
  const size_t dims = weight.size() == 4 ? 1 : 2;
  TORCH_CHECK(weight.size() == 4 || weight.size() == 6,
              "locally connected: expected a weight [O, C/groups, kernel..., output...] of 4 or 6 axes, got shape ",
              weight);
  const std::string name = "local_conv" + std::to_string(dims) + "d";
  TORCH_CHECK(input.size() == dims + 2, name, ": expected a batched input of ", dims + 2, " axes, got shape ", input);
  TORCH_CHECK(w.stride.size() == dims && w.dilation.size() == dims && w.padding.size() == 2 * dims, name, ": expected ",
              dims, " strides and dilations and ", 2 * dims, " paddings, got ", w.stride, ", ", w.dilation, " and ",
              w.padding);
  TORCH_CHECK(w.groups >= 1 && weight[0] >= 1 && weight[0] % w.groups == 0, name, ": weight of shape ", weight, " has ",
              weight[0], " output channels, which groups=", w.groups, " does not divide");
  const Checked channels = Checked(weight[1]) * w.groups;
  TORCH_CHECK(channels.fits && input[1] == channels.value, name, ": weight of shape ", weight,
              " with groups=", w.groups, " expects ", channels.value, " input channels, got input of shape ", input);
  check_sizes(name, "input", input);
  check_sizes(name, "weight", weight);
  Local g{};
  g.batch = input[0], g.groups = w.groups, g.in_per_group = weight[1], g.out_per_group = weight[0] / w.groups;
  g.input[0] = g.output[0] = g.kernel[0] = g.stride[0] = g.dilation[0] = 1;
  for (size_t a = 0; a < dims; ++a) {
    const size_t to = 2 - dims + a;
    g.input[to] = input[2 + a], g.kernel[to] = weight[2 + a], g.output[to] = weight[2 + dims + a];
    g.stride[to] = w.stride[a], g.dilation[to] = w.dilation[a], g.before[to] = w.padding[2 * a];
    TORCH_CHECK(g.stride[to] >= 1 && g.dilation[to] >= 1 && g.kernel[to] >= 1 && g.input[to] >= 1, name,
                ": stride, dilation, kernel and input sides must be at least 1, got ", w.stride, ", ", w.dilation, ", ",
                weight.slice(2, dims), " and ", input.slice(2));
    // Kernels add up coordinates, a step and the padding before: none may be far.
    const auto near = [](Checked c) { return c.fits && c.value <= kFarthest && c.value >= -kFarthest; };
    const Checked span = Checked(g.dilation[to]) * (g.kernel[to] - 1) + 1;
    const Checked padded = Checked(g.input[to]) + g.before[to] + w.padding[2 * a + 1];
    TORCH_CHECK(near(span) && near(padded) && near(g.before[to]), name, ": sides beyond 2^60: weight of shape ", weight,
                ", dilation ", w.dilation, ", input of shape ", input, ", padding ", w.padding);
    const int64_t room = padded.value - span.value, side = room < 0 ? 0 : room / g.stride[to] + 1;
    TORCH_CHECK(side == g.output[to] && side >= 1, name, ": weight of shape ", weight, " is for outputs of side ",
                g.output[to], " along axis ", a, ", but input of shape ", input, " gives ", side, " (stride ", w.stride,
                ", padding ", w.padding, ", dilation ", w.dilation, ")");
    if (side == 1) g.stride[to] = std::min(g.stride[to], g.input[to]);
    if (g.kernel[to] == 1) g.dilation[to] = 1;
  }
  g.pixels = g.input[0] * g.input[1], g.positions = g.output[0] * g.output[1];
  g.taps = g.kernel[0] * g.kernel[1], g.terms = g.taps * g.in_per_group;
  check_sizes(name, "output", std::vector<int64_t>{g.batch, weight[0], g.positions});
  return g;
}

std::vector<int64_t> output_sizes(const Local& g, size_t axes) {
  std::vector<int64_t> size{g.batch, g.groups * g.out_per_group};
  size.insert(size.end(), g.output + 4 - axes, g.output + 2);
  return size;
}

void check_dtypes(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  for_dtype("locally connected", a.scalar_type(), [](auto) {});
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), "locally connected: ", a_name, " is ", a.scalar_type(), " but ",
              b_name, " is ", b.scalar_type());
}

void check_grad(const Local& g, const Tensor& grad, size_t axes) {
  TORCH_CHECK(grad.sizes() == IntArrayRef(output_sizes(g, axes)),
              "locally connected: expected an output gradient of shape ", IntArrayRef(output_sizes(g, axes)), ", got ",
              grad.sizes());
}

// run(scratch, begin, end) over blocks of the units, in parallel where the multiply-adds are worth it.
template <class A, class Run>
void parallel(const Local& g, int64_t units, int64_t scratch_size, Run run) {
  constexpr int64_t kWorthAThread = 1 << 18;
  const int64_t work = or_most(Checked(g.batch) * g.groups * g.out_per_group * g.terms * g.positions);
  const int64_t unit = std::max<int64_t>(work / units, 1);
  parallel_for(0, units, std::max<int64_t>(kWorthAThread / unit, 1), [&](int64_t begin, int64_t end) {
    const Buffer<A> scratch(scratch_size);
    run(scratch.get(), begin, end);
  });
}

Tensor local_convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                         IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  const Local g = local_of(input.sizes(), weight.sizes(), {stride, padding, dilation, groups});
  check_dtypes(input, "input", weight, "weight");
  const auto size = output_sizes(g, input.dim());
  const bool has_bias = bias.has_value();
  if (has_bias) {
    check_dtypes(input, "input", *bias, "bias");
    const IntArrayRef expected = IntArrayRef(size).slice(1);
    TORCH_CHECK(bias->sizes() == expected, "locally connected: weight of shape ", weight.sizes(),
                " expects a bias of shape ", expected, ", got ", bias->sizes());
  }
  const Tensor y = empty(size, input.scalar_type());
  const Tensor x = input.contiguous(), w = weight.contiguous(), b = has_bias ? bias->contiguous() : Tensor();
  if (y.numel() > 0)
    for_dtype("locally connected", input.scalar_type(), [&]<class T>(T) {
      const auto& k = kernels<T>().local;
      parallel<accumulator_t<T>>(g, k.forward_units(g), k.forward_scratch(g),
                                 [&](auto* scratch, int64_t i, int64_t end) {
                                   k.forward(g, data<T>(x), data<T>(w), b.defined() ? data<T>(b) : nullptr,
                                             mutable_data<T>(y), scratch, i, end);
                                 });
    });
  return y;
}

Tensor local_convolution_input_grad(const Tensor& grad, const Tensor& weight, IntArrayRef input_size,
                                    IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  const Local g = local_of(input_size, weight.sizes(), {stride, padding, dilation, groups});
  check_dtypes(grad, "output gradient", weight, "weight");
  check_grad(g, grad, input_size.size());
  const Tensor dy = grad.contiguous(), w = weight.contiguous();
  const Tensor dx = empty(input_size, grad.scalar_type());
  if (dx.numel() > 0)
    for_dtype("locally connected", grad.scalar_type(), [&]<class T>(T) {
      const auto& k = kernels<T>().local;
      parallel<accumulator_t<T>>(g, k.input_grad_units(g), k.input_grad_scratch(g),
                                 [&](auto* scratch, int64_t i, int64_t end) {
                                   k.input_grad(g, data<T>(dy), data<T>(w), mutable_data<T>(dx), scratch, i, end);
                                 });
    });
  return dx;
}

Tensor local_convolution_weight_grad(const Tensor& grad, const Tensor& input, IntArrayRef weight_size,
                                     IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  const Local g = local_of(input.sizes(), weight_size, {stride, padding, dilation, groups});
  check_dtypes(grad, "output gradient", input, "input");
  check_grad(g, grad, input.dim());
  const Tensor dy = grad.contiguous(), x = input.contiguous();
  const Tensor dw = empty(weight_size, grad.scalar_type());
  if (dw.numel() > 0)
    for_dtype("locally connected", grad.scalar_type(), [&]<class T>(T) {
      const auto& k = kernels<T>().local;
      parallel<accumulator_t<T>>(g, k.weight_grad_units(g), k.weight_grad_scratch(g),
                                 [&](auto* scratch, int64_t i, int64_t end) {
                                   k.weight_grad(g, data<T>(dy), data<T>(x), mutable_data<T>(dw), scratch, i, end);
                                 });
    });
  return dw;
}

// Bytes of scratch beside the operands and the result, with one thread, for explain.
int64_t local_workspace(std::string_view direction, IntArrayRef input_size, IntArrayRef weight_size, IntArrayRef stride,
                        IntArrayRef padding, IntArrayRef dilation, int64_t groups, ScalarType dtype) {
  TORCH_CHECK_VALUE(direction == "forward" || direction == "input_grad" || direction == "weight_grad",
                    "local_workspace: direction '", direction, "' is none of forward, input_grad, weight_grad");
  const Local g = local_of(input_size, weight_size, {stride, padding, dilation, groups});
  int64_t bytes = 0;
  for_dtype("locally connected", dtype, [&]<class T>(T) {
    const auto& k = kernels<T>().local;
    const auto scratch = direction == "forward"      ? k.forward_scratch
                         : direction == "input_grad" ? k.input_grad_scratch
                                                     : k.weight_grad_scratch;
    bytes = scratch(g) * sizeof(accumulator_t<T>);
  });
  return bytes;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("local_convolution", boxed<local_convolution>);
  m.impl("local_convolution_input_grad", boxed<local_convolution_input_grad>);
  m.impl("local_convolution_weight_grad", boxed<local_convolution_weight_grad>);
}

STABLE_TORCH_LIBRARY_IMPL(torchconv, CompositeExplicitAutograd, m) {
  m.impl("_local_workspace", boxed<local_workspace>);
}

}  // namespace torchconv
