// What Winograd can run and what it costs, and its three directions.
#include "conv/winograd/winograd.h"

#include "conv/algorithm.h"
#include "conv/cost.h"
#include "conv/gathered.h"
#include "conv/winograd/blocks.h"

namespace torchconv {
namespace {

std::string refuse(const ConvParams& p, Direction) {
  if (p.dtype == ScalarType::Double) return "its transforms round, which float64 is asked for to avoid";
  for (int a = 1; a < 3; ++a) {
    if (p.stride[a] != 1) return str("needs stride 1, got ", p.stride[a]);
    if (p.kernel[a] == 1) continue;
    if (p.kernel[a] != 3 && p.kernel[a] != 5) return str("needs filters of 1, 3 or 5 a side, got ", p.kernel[a]);
    if (p.dilation[a] != 1) return str("needs dilation 1, got ", p.dilation[a]);
  }
  if (p.kernel[1] == 1 && p.kernel[2] == 1) return "has nothing to save on filters of one point";
  return "";
}

double cost(const ConvParams& p, Direction direction) {
  // Measured in multiply-adds of one vector: what comes with every product and point beside the products.
  constexpr double product = 1.1, plain_point = 12, contiguous = 3, grouped = 10, sum = 8, large_tiles = 5;
  const Channels c(p, direction);
  const auto& target = direction == Direction::input_grad ? p.input : p.output;
  double points = static_cast<double>(target[0]);  // of all tiles
  bool large = true;                               // tiles of more than 4 outputs: more arithmetic a point
  for (int a = 1; a < 3; ++a) {
    const int64_t tiles = winograd_tiles(p.kernel[a], target[a]);
    points *= static_cast<double>(target[a] + tiles * (p.kernel[a] - 1));
    large = large && target[a] > 4 * tiles;
  }
  const double slices = static_cast<double>(p.kernel[0]);
  // Channels-last, a group is part of every pixel: pieces of cache lines.
  const double point = plain_point + (large ? large_tiles : 0) +
                       (!p.channels_last ? contiguous
                        : p.groups > 1   ? grouped
                                         : 0);
  double multiplied = c.source;
  double sides = slices * c.filled_source + c.filled_target;  // transformed at every point
  double sums = c.filled_target;                              // loaded and stored at every point
  if (direction == Direction::weight_grad) {
    // Each side is transformed again for each block of channels of the other that a task takes: see correlate.cpp.
    const double block = c.source > 128 ? 64 : 128;
    sides = slices * (c.filled_source * std::ceil(c.target / block) + c.filled_target * std::ceil(c.source / 256));
    multiplied = c.filled_source;  // tiles of a few source channels' rows wait for their own sums
    sums = 0;
  }
  return static_cast<double>(p.groups) *
         (points * (slices * multiplied * c.filled_target * product + sides * point + sums * sum));
}

// Every plane's, channels filled up to whole vectors.
double filters(const ConvParams& p, Direction direction) {
  const Channels c(p, direction);
  const auto& target = direction == Direction::input_grad ? p.input : p.output;
  double planes = static_cast<double>(p.kernel[0]);
  for (int a = 1; a < 3; ++a)
    planes *= static_cast<double>(blocks_of(target[a], winograd_tiles(p.kernel[a], target[a])) + p.kernel[a] - 1);
  return static_cast<double>(p.groups) * planes * c.source * c.filled_target;
}

// The gathers that have taps.
template <class T>
void run(const ConvParams& p, const std::vector<TappedGather>& gathers, const T* source, const T* weight, const T* bias,
         T* target) {
  if constexpr (std::is_same_v<T, double>)
    TORCH_CHECK(false, "winograd refuses float64");
  else
    for (const TappedGather& g : gathers)
      if (g.gather.tap_count > 0) run_winograd(g.gather, p.channels_last, source, weight, bias, target);
}

int64_t workspace(const ConvParams& p, Direction direction) {
  int64_t bytes = 0;
  for_dtype("winograd", p.dtype, [&]<class T>(T) {
    if constexpr (!std::is_same_v<T, double>)
      for (const TappedGather& t : gathers_of(p, direction)) {
        if (t.gather.tap_count == 0) continue;
        bytes = std::max(bytes, direction == Direction::weight_grad
                                    ? winograd_correlate_workspace<T>(t.gather, p.channels_last)
                                    : winograd_workspace<T>(t.gather, p.channels_last));
      }
  });
  return bytes;
}

void forward(const ConvParams& p, const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu,
             const Tensor& y) {
  gathered_forward(p, x, weight, bias, relu, y,
                   [&](const auto& gathers, auto*... operands) { run(p, gathers, operands...); });
}

// One gather for each residue of the first axis' stride; a residue that no tap reaches is zeros.
void input_grad(const ConvParams& p, const Tensor& gy, const Tensor& weight, const Tensor& gx) {
  gathered_input_grad(p, gy, weight, gx, [&](const auto& gathers, auto*... operands) {
    const auto empty = [](const TappedGather& g) { return g.gather.tap_count == 0; };
    if (std::any_of(gathers.begin(), gathers.end(), empty)) gx.zero_();
    run(p, gathers, operands...);
  });
}

void weight_grad(const ConvParams& p, const Tensor& gy, const Tensor& x, const Tensor& gw) {
  const TappedGather g = forward_gather(p, view(x), view(gy), view(gw));
  for_dtype("winograd", p.dtype, [&]<class T>(T) {
    if constexpr (std::is_same_v<T, double>)
      TORCH_CHECK(false, "winograd refuses float64");
    else
      run_winograd_correlate<T>(g.gather, p.channels_last, data<T>(x), data<T>(gy), mutable_data<T>(gw));
  });
}

// ---- with prepared filters: transformed ----

// body(gather, T{}) of the forward pass.
template <class Body>
void with_gather(const ConvParams& p, const View* weight, bool relu, Body body) {
  auto gathers = gathers_of(p, Direction::forward, weight);
  Gather& g = gathers.front().gather;
  g.relu = relu;
  for_dtype("winograd", p.dtype, [&]<class T>(T) {
    if constexpr (std::is_same_v<T, double>)
      TORCH_CHECK(false, "winograd refuses float64");
    else
      body(g, T{});
  });
}

int64_t prepared_bytes(const ConvParams& p) {
  int64_t bytes = 0;
  with_gather(p, nullptr, false, [&]<class T>(const Gather& g, T) {
    bytes = winograd_filters<T>(g, p.channels_last) * sizeof(accumulator_t<T>);
  });
  return bytes;
}

void prepare(const ConvParams& p, const Tensor& weight, void* filters) {
  const View strides = view(weight);
  with_gather(p, &strides, false, [&]<class T>(const Gather& g, T) {
    prepare_winograd(g, p.channels_last, data<T>(weight), static_cast<accumulator_t<T>*>(filters));
  });
}

void run_prepared(const ConvParams& p, const Tensor& x, const void* filters, const void* bias, bool relu,
                  const Tensor& y) {
  with_gather(p, nullptr, relu, [&]<class T>(const Gather& g, T) {
    run_prepared_winograd(g, p.channels_last, data<T>(x), static_cast<const accumulator_t<T>*>(filters),
                          static_cast<const T*>(bias), mutable_data<T>(y));
  });
}

constexpr PreparedForward prepared_forward{prepared_bytes, prepare, run_prepared};

}  // namespace

constexpr ConvAlgorithm winograd_algorithm{
    .name = "winograd",
    .refuse = refuse,
    .cost = cost,
    .filters = filters,
    .workspace = workspace,
    .rounds = "by the largest value of its tile",
    .bound = 5e-6,
    .weight_grad_bound = 1.5e-5,
    .forward = forward,
    .input_grad = input_grad,
    .weight_grad = weight_grad,
    .prepared = &prepared_forward,
};

}  // namespace torchconv
