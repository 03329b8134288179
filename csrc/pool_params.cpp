#include "pool_params.h"

#include <c10/util/Exception.h>

#include <algorithm>

namespace torchconv {
namespace {

constexpr int64_t kLargestAxis = INT32_MAX / 4;  // so that 32 bits hold any coordinate, padding included

// Short rows leave most of a vector empty: below this, lanes run over planes.
constexpr int64_t kShortRow = 8;

void check_numbers(const PoolWindow& w, int64_t dims) {
  const auto expect = [&](at::IntArrayRef values, const char* what, int64_t least) {
    TORCH_CHECK(static_cast<int64_t>(values.size()) == (w.adaptive() ? 0 : dims), w.name, ": ", what, " needs ",
                w.adaptive() ? 0 : dims, " numbers, got ", values);
    for (const int64_t v : values)
      TORCH_CHECK(v >= least && v <= kLargestAxis, w.name, ": ", what, " must be at least ", least, ", got ", values);
  };
  expect(w.kernel_size, "kernel_size", 1);
  expect(w.stride, "stride", 1);
  expect(w.padding, "padding", 0);
  expect(w.dilation, "dilation", 1);
  for (size_t a = 0; a < w.kernel_size.size(); ++a)
    TORCH_CHECK(2 * w.padding[a] <= (w.kernel_size[a] - 1) * w.dilation[a] + 1, w.name,
                ": padding must be at most half the window, got padding=", w.padding, ", kernel_size=", w.kernel_size,
                ", dilation=", w.dilation);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

PoolPlan::PoolPlan(const PoolWindow& w, at::IntArrayRef input_size, at::IntArrayRef output_size, bool channels_last,
                   const PoolDivisor& divisor)
    : geometry{}, output_sizes{} {
  const int64_t dims = static_cast<int64_t>(input_size.size()) - 2;
  TORCH_CHECK(dims >= 1 && dims <= 3, w.name, ": expected a batched input of 3 to 5 axes, got shape ", input_size);
  TORCH_CHECK(static_cast<int64_t>(output_size.size()) == dims, w.name, ": output_size needs ", dims, " numbers, got ",
              output_size);
  check_numbers(w, dims);
  TORCH_CHECK(divisor.override != 0, w.name, ": divisor_override must not be 0");

  output_sizes = {input_size[0], input_size[1]};
  output_sizes.insert(output_sizes.end(), output_size.begin(), output_size.end());
  PoolGeometry& g = geometry;
  g.planes = channels_last ? input_size[0] : input_size[0] * input_size[1];
  g.channels = channels_last ? input_size[1] : 1;
  g.divisor_override = divisor.override.value_or(0);
  for (int a = 0; a < 3; ++a) {
    const int64_t index = a - (3 - dims);  // among the tensors' own axes; negative: an axis of size 1 put in front
    PoolAxis& axis = g.axis[a];
    axis = {1, 1, 1, 1, 1, nullptr, nullptr, nullptr, nullptr};
    if (index >= 0) {
      axis.input = input_size[2 + index];
      axis.output = output_size[index];
      TORCH_CHECK(axis.input >= 1 && axis.input <= kLargestAxis, w.name, ": input of shape ", input_size,
                  " has an empty or too long spatial axis");
      TORCH_CHECK(axis.output >= 0 && axis.output <= kLargestAxis, w.name, ": output_size must not be negative, got ",
                  output_size);
    }
    fill_axis(a, w, index, divisor.include_padding);
  }
  const bool short_rows = g.axis[2].output < kShortRow;
  g.lanes = g.channels > 1 ? PoolLanes::channels : short_rows ? PoolLanes::planes : PoolLanes::row;
  if (g.lanes == PoolLanes::row) fill_runs();
  g.window = g.axis[0].taps * g.axis[1].taps * g.axis[2].taps;
  TORCH_CHECK(g.window <= INT32_MAX, w.name, ": a window of ", g.window, " elements is too large");
  g.position_bytes = g.window <= 256 ? 1 : g.window <= 32768 ? 2 : 4;
  position_dtype = g.position_bytes == 1 ? at::kByte : g.position_bytes == 2 ? at::kShort : at::kInt;
}

void PoolPlan::fill_axis(int a, const PoolWindow& w, int64_t index, bool include_padding) {
  PoolAxis& axis = geometry.axis[a];
  const bool adaptive = index >= 0 && w.adaptive();
  const bool regular = index >= 0 && !adaptive;
  const int64_t stride = regular ? w.stride[index] : 1, padding = regular ? w.padding[index] : 0;
  if (regular) {
    axis.taps = w.kernel_size[index];
    axis.dilation = w.dilation[index];
    TORCH_CHECK((axis.output - 1) * stride < axis.input + padding && axis.output > 0, w.name, ": output_size ",
                axis.output, " has windows that start past an input of size ", axis.input, " with padding ", padding,
                " at stride ", stride, ", or none");
  } else if (adaptive && axis.output > 0) {
    // No window is wider; where output divides input all are one narrower, unless output is 1.
    axis.taps = (axis.input + axis.output - 2) / axis.output + 1;
  }
  for (int64_t o = 0; o < axis.output; ++o) {
    const int64_t origin = adaptive ? o * axis.input / axis.output : o * stride - padding;
    const int64_t seen = adaptive ? ceil_div((o + 1) * axis.input, axis.output) - origin : axis.taps;
    const int64_t first = origin < 0 ? ceil_div(-origin, axis.dilation) : 0;
    const int64_t last = std::min(seen, ceil_div(std::max<int64_t>(axis.input - origin, 0), axis.dilation));
    // The built-in counts padding's zeros up to the far padding's end, not where a ceil-mode window hangs over it.
    const int64_t with_padding = std::min(seen, axis.input + padding - origin);
    origin_[a].push_back(static_cast<int32_t>(origin));
    first_[a].push_back(static_cast<int32_t>(first));
    last_[a].push_back(static_cast<int32_t>(last));
    divisor_[a].push_back(static_cast<int32_t>(std::max<int64_t>(include_padding ? with_padding : last - first, 1)));
  }
  axis.origin = origin_[a].data();
  axis.first = first_[a].data();
  axis.last = last_[a].data();
  axis.divisor = divisor_[a].data();
  axis.stride = adaptive ? (axis.output > 0 && axis.input % axis.output == 0 ? axis.input / axis.output : 0) : stride;
}

// Of a regular window one run a tap; of adaptive ones, whose widths alternate, the last taps may have several.
void PoolPlan::fill_runs() {
  const PoolAxis& axis = geometry.axis[2];
  for (int32_t tap = 0; tap < axis.taps; ++tap)
    for (int32_t o = 0; o < axis.output; ++o) {
      if (tap < axis.first[o] || tap >= axis.last[o]) continue;
      if (!runs_.empty() && runs_.back().tap == tap && runs_.back().end == o)
        ++runs_.back().end;
      else
        runs_.push_back({tap, o, o + 1});
    }
  geometry.runs = runs_.data();
  geometry.run_count = static_cast<int64_t>(runs_.size());
}

void PoolPlan::fill_offsets() {
  const PoolAxis &a0 = geometry.axis[0], &a1 = geometry.axis[1], &a2 = geometry.axis[2];
  tap_offset_.reserve(geometry.window);
  for (int64_t t0 = 0; t0 < a0.taps; ++t0)
    for (int64_t t1 = 0; t1 < a1.taps; ++t1)
      for (int64_t t2 = 0; t2 < a2.taps; ++t2)
        tap_offset_.push_back((t0 * a0.dilation * a1.input + t1 * a1.dilation) * a2.input + t2 * a2.dilation);
  geometry.tap_offset = tap_offset_.data();
}

}  // namespace torchconv
