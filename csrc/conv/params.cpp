#include "conv/params.h"

#include <algorithm>

#include "checked.h"
#include "dispatch.h"

namespace torchconv {
namespace {

// No coordinate is farther from the map's first element than this, so that kernels may add and subtract a few of them.
constexpr int64_t farthest = int64_t{1} << 60;

// One number an axis, lifted to three axes by leading `fill`s.
std::array<int64_t, 3> lift(IntArrayRef values, int64_t fill) {
  std::array<int64_t, 3> out{fill, fill, fill};
  std::copy(values.begin(), values.end(), out.end() - values.size());
  return out;
}

void check_window(const std::string& name, int64_t dims, const Window& w, IntArrayRef weight_size) {
  const auto expect = [&](IntArrayRef values, const char* what, int64_t length, int64_t least) {
    TORCH_CHECK(static_cast<int64_t>(values.size()) == length, name, ": ", what, " needs ", length, " numbers, got ",
                values);
    for (const int64_t v : values)
      TORCH_CHECK(v >= least, name, ": ", what, " must be at least ", least, ", got ", values);
  };
  expect(w.stride, "stride", dims, 1);
  expect(w.dilation, "dilation", dims, 1);
  expect(weight_size.slice(2), "kernel size", dims, 1);
  expect(w.padding, "padding (before and after each axis)", 2 * dims, INT64_MIN);
  TORCH_CHECK(w.groups >= 1, name, ": groups must be at least 1, got ", w.groups,
              " (non-positive groups is not supported)");
}

// PyTorch's own words for a kernel that does not fit, for which people's tests look.
std::string larger_than_input(const ConvParams& p) {
  std::string padded, kernel;
  for (int64_t a = 3 - p.dims; a < 3; ++a) {
    const char* between = a > 3 - p.dims ? " x " : "";
    padded += between + std::to_string((Checked(p.input[a]) + p.before[a] + p.after[a]).value);
    kernel += between + std::to_string((Checked(p.dilation[a]) * (p.kernel[a] - 1) + 1).value);
  }
  return "Calculated padded input size per channel: (" + padded + "). Kernel size: (" + kernel +
         "). Kernel size can't be greater than actual input size";
}

// The output's side along axis a. Where there is one output or one tap, the step from it to the next is never taken:
// it becomes one that fits the map.
void fit_axis(ConvParams& p, int64_t a, IntArrayRef input_size, IntArrayRef weight_size, const Window& w,
              const std::string& name) {
  TORCH_CHECK(p.input[a] > 0, name, ": input of shape ", input_size, " has an empty spatial axis");
  const Checked span = Checked(p.dilation[a]) * (p.kernel[a] - 1) + 1;
  const Checked padded = Checked(p.input[a]) + p.before[a] + p.after[a];
  const auto near = [](Checked c) { return c.fits && c.value <= farthest && c.value >= -farthest; };
  TORCH_CHECK(near(span) && near(padded) && near(p.before[a]) && near(p.after[a]), name,
              ": sides beyond 2^60: kernel of shape ", weight_size.slice(2), ", dilation ", w.dilation,
              ", input of shape ", input_size, ", padding ", w.padding);
  TORCH_CHECK(padded.value >= span.value, name, ": kernel of shape ", weight_size.slice(2), " with dilation ",
              w.dilation, " is larger than the padded input: input of shape ", input_size, ", padding ", w.padding,
              " (", larger_than_input(p), ")");
  p.output[a] = (padded.value - span.value) / p.stride[a] + 1;
  if (p.output[a] == 1) p.stride[a] = std::min(p.stride[a], p.input[a]);
  if (p.kernel[a] == 1) p.dilation[a] = 1;
}

}  // namespace

ConvParams conv_params(IntArrayRef input_size, IntArrayRef weight_size, const Window& w, ScalarType dtype,
                       bool channels_last) {
  const int64_t dims = static_cast<int64_t>(weight_size.size()) - 2;
  TORCH_CHECK(dims >= 1 && dims <= 3, "convolution: expected a weight of 3 to 5 axes, got shape ", weight_size);
  const std::string name = "conv" + std::to_string(dims) + "d";
  TORCH_CHECK(static_cast<int64_t>(input_size.size()) == dims + 2, name, ": expected a batched input of ", dims + 2,
              " axes, got shape ", input_size);
  check_window(name, dims, w, weight_size);
  TORCH_CHECK(weight_size[0] % w.groups == 0, name, ": weight of shape ", weight_size, " has ", weight_size[0],
              " output channels, which groups=", w.groups, " does not divide (expected weight to be ",
              weight_size[0] < w.groups ? "at least " : "divisible by ", w.groups, " at dimension 0)");
  TORCH_CHECK(weight_size[0] > 0, name, ": weight of shape ", weight_size, " has no output channel");
  for_dtype(name, dtype, [](auto) {});
  check_sizes(name, "input", input_size);
  check_sizes(name, "weight", weight_size);
  TORCH_CHECK(input_size[1] == weight_size[1] * w.groups, name, ": weight of shape ", weight_size,
              " with groups=", w.groups, " expects ", weight_size[1] * w.groups, " input channels, got input of shape ",
              input_size, " (Given groups=", w.groups, ", weight of size ", weight_size, ", expected input", input_size,
              " to have ", weight_size[1] * w.groups, " channels, but got ", input_size[1], " channels instead)");

  ConvParams p{};
  p.dims = dims;
  p.batch = input_size[0];
  p.groups = w.groups;
  p.in_channels = input_size[1];
  p.out_channels = weight_size[0];
  p.input = lift(input_size.slice(2), 1);
  p.kernel = lift(weight_size.slice(2), 1);
  p.stride = lift(w.stride, 1);
  p.dilation = lift(w.dilation, 1);
  p.dtype = dtype;
  p.channels_last = channels_last && dims > 1;
  for (int64_t a = 0; a < dims; ++a) {
    p.before[3 - dims + a] = w.padding[2 * a];
    p.after[3 - dims + a] = w.padding[2 * a + 1];
  }
  for (int64_t a = 0; a < 3; ++a) fit_axis(p, a, input_size, weight_size, w, name);
  check_sizes(name, "output", p.output_sizes());
  return p;
}

std::vector<int64_t> sizes(int64_t dims, int64_t batch, int64_t channels, const std::array<int64_t, 3>& spatial) {
  std::vector<int64_t> out{batch, channels};
  out.insert(out.end(), spatial.end() - dims, spatial.end());
  return out;
}

std::vector<int64_t> ConvParams::input_sizes() const { return sizes(dims, batch, in_channels, input); }
std::vector<int64_t> ConvParams::output_sizes() const { return sizes(dims, batch, out_channels, output); }

MemoryFormat ConvParams::memory_format() const {
  if (!channels_last) return MemoryFormat::Contiguous;
  return dims == 3 ? MemoryFormat::ChannelsLast3d : MemoryFormat::ChannelsLast;
}

void check_alike(const ConvParams& p, const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), "conv", p.dims, "d: ", a_name, " is ", a.scalar_type(), " but ",
              b_name, " is ", b.scalar_type());
}

void check_bias(const ConvParams& p, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (!bias) return;
  TORCH_CHECK(bias->scalar_type() == p.dtype, "conv", p.dims, "d: input is ", p.dtype, " but bias is ",
              bias->scalar_type());
  TORCH_CHECK(bias->dim() == 1 && bias->size(0) == p.out_channels, "conv", p.dims, "d: weight of shape ",
              weight.sizes(), " expects a bias of shape [", p.out_channels, "], got ", bias->sizes());
}

void check_plannable(const char* caller, const ConvParams& p) {
  constexpr int64_t most_elements = int64_t{1} << 30, most_side = 1 << 25;
  const auto volume = [](const std::array<int64_t, 3>& sides) { return sides[0] * sides[1] * sides[2]; };
  int64_t longest = p.taps();
  for (int a = 0; a < 3; ++a) longest = std::max({longest, p.input[a], p.output[a]});
  TORCH_CHECK(p.in_channels * volume(p.input) <= most_elements && p.out_channels * volume(p.output) <= most_elements &&
                  p.out_channels * p.in_per_group() * p.taps() <= most_elements && longest <= most_side,
              caller, ": more than 2^30 elements in a tensor of one sample, or 2^25 taps or positions along an axis: ",
              "input of shape ", IntArrayRef(p.input_sizes()), ", ", p.out_channels, " filters of ", p.taps(),
              " taps, output of shape ", IntArrayRef(p.output_sizes()));
}

bool answers_channels_last(const Tensor& activation, const Tensor& other) {
  if (activation.dim() == 0 || activation.size(0) == 0)
    return false;  // as the built-in: an empty batch comes back contiguous
  return is_channels_last(activation.suggest_memory_format()) || is_channels_last(other.suggest_memory_format());
}

}  // namespace torchconv
