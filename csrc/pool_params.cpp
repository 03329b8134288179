#include "pool_params.h"

#include <c10/util/Exception.h>

#include <algorithm>

namespace torchconv {
namespace {

constexpr int64_t kLargestAxis = INT32_MAX / 4;  // so that 32 bits hold any coordinate, padding included

// Windows that reach one input: to sum over more of them is slower than to add to each window's inputs.
constexpr int64_t kMostReaching = 16;

// Pixels that the tiles of a strip are aimed at, so that a cache holds them.
constexpr int64_t kStripPixels = 512;

void check_numbers(const PoolWindow& w, int64_t dims) {
  const bool adaptive = w.adaptive();
  const int64_t length = w.kernel_size.empty() ? 0 : dims;
  const auto expect = [&](at::IntArrayRef values, const char* what, int64_t least) {
    TORCH_CHECK(static_cast<int64_t>(values.size()) == length, w.name, ": ", what, " needs ", length, " numbers, got ",
                values);
    for (const int64_t v : values)
      TORCH_CHECK(adaptive || (v >= least && v <= kLargestAxis), w.name, ": ", what, " must be at least ", least,
                  ", got ", values);
  };
  expect(w.kernel_size, "kernel_size", 1);
  expect(w.stride, "stride", 1);
  expect(w.padding, "padding", 0);
  expect(w.dilation, "dilation", 1);
  if (adaptive) return;
  for (size_t a = 0; a < w.kernel_size.size(); ++a)
    TORCH_CHECK(2 * w.padding[a] <= (w.kernel_size[a] - 1) * w.dilation[a] + 1, w.name,
                ": padding must be at most half the window, got padding=", w.padding, ", kernel_size=", w.kernel_size,
                ", dilation=", w.dilation);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The most rows that look(range) gives for strips of `height` rows.
template <class Look>
int64_t most(int64_t rows, int64_t height, Look look) {
  int64_t size = 0;
  for (int64_t row = 0; row < rows; row += height)
    size = std::max(size, look(PoolRange{row, std::min(row + height, rows)}).size());
  return size;
}

}  // namespace

PoolPlan::PoolPlan(const PoolWindow& w, at::IntArrayRef input_size, at::IntArrayRef output_size, bool channels_last,
                   PoolDirection direction, const PoolDivisor& divisor)
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
    axis = {1, 1, 1, 1, 1, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
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
  g.window = g.axis[0].taps * g.axis[1].taps * g.axis[2].taps;
  TORCH_CHECK(g.window <= INT32_MAX, w.name, ": a window of ", g.window, " elements is too large");
  g.position_bytes = g.window <= 256 ? 1 : g.window <= 32768 ? 2 : 4;
  position_dtype = g.position_bytes == 1 ? at::kByte : g.position_bytes == 2 ? at::kShort : at::kInt;
  g.lanes = channels_last && g.channels > 1 ? PoolLanes::channels : PoolLanes::planes;
  if (direction == PoolDirection::transposed) choose_gather();
  if (g.lanes == PoolLanes::planes)
    choose_strips(direction == PoolDirection::forward ? g.axis[1].output : g.axis[1].input);
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
  auto& table = tables_[a];
  table.resize(4 * axis.output);
  int32_t *const origins = table.data(), *const firsts = origins + axis.output, *const lasts = firsts + axis.output,
                 *const divisors = lasts + axis.output;
  for (int64_t o = 0; o < axis.output; ++o) {
    const int64_t origin = adaptive ? o * axis.input / axis.output : o * stride - padding;
    const int64_t seen = adaptive ? ceil_div((o + 1) * axis.input, axis.output) - origin : axis.taps;
    const int64_t first = origin < 0 ? ceil_div(-origin, axis.dilation) : 0;
    const int64_t last = std::min(seen, ceil_div(std::max<int64_t>(axis.input - origin, 0), axis.dilation));
    // The built-in counts padding's zeros up to the far padding's end, not where a ceil-mode window hangs over it.
    const int64_t with_padding = std::min(seen, axis.input + padding - origin);
    origins[o] = static_cast<int32_t>(origin);
    firsts[o] = static_cast<int32_t>(first);
    lasts[o] = static_cast<int32_t>(last);
    divisors[o] = static_cast<int32_t>(std::max<int64_t>(include_padding ? with_padding : last - first, 1));
  }
  axis.origin = origins, axis.first = firsts, axis.last = lasts, axis.divisor = divisors;
  axis.stride = adaptive ? (axis.output > 0 && axis.input % axis.output == 0 ? axis.input / axis.output : 0) : stride;
}

// Of each input of an axis the windows it is in, and as which of their taps.
void PoolPlan::fill_links(int a) {
  PoolAxis& axis = geometry.axis[a];
  auto& table = tables_[a];
  auto& links = links_[a];
  table.resize(4 * axis.output + axis.input + 1);
  const int32_t *const origin = table.data(), *const first = origin + axis.output, *const last = first + axis.output;
  int32_t* const reach = table.data() + 4 * axis.output;
  const auto for_taps = [&](auto run) {
    for (int64_t o = 0; o < axis.output; ++o)
      for (int64_t t = first[o]; t < last[o]; ++t) run(origin[o] + t * axis.dilation, o, t);
  };
  for_taps([&](int64_t i, int64_t, int64_t) { ++reach[i + 1]; });
  for (int64_t i = 0; i < axis.input; ++i) reach[i + 1] += reach[i];
  links.resize(reach[axis.input]);
  for_taps([&](int64_t i, int64_t o, int64_t t) {  // leaves reach[i] where reach[i + 1] was
    links[reach[i]++] = {static_cast<int32_t>(o), static_cast<int32_t>(t)};
  });
  for (int64_t i = axis.input; i > 0; --i) reach[i] = reach[i - 1];
  reach[0] = 0;
  axis.origin = origin, axis.first = first, axis.last = last, axis.divisor = last + axis.output;
  axis.reach = reach, axis.links = links.data();
}

// Whether few windows reach an input, and how many rows of them do.
void PoolPlan::choose_gather() {
  PoolGeometry& g = geometry;
  int64_t reaching = 1, most[3];
  for (int a = 0; a < 3; ++a) {  // windows overlap by at most as many as begin within one's length
    const PoolAxis& axis = g.axis[a];
    const int64_t length = (axis.taps - 1) * axis.dilation + 1;
    const int64_t step =
        axis.stride > 0 ? axis.stride : std::max<int64_t>(axis.input / std::max<int64_t>(axis.output, 1), 1);
    most[a] = std::min({ceil_div(length, step), axis.taps, axis.output});
    reaching *= std::max<int64_t>(most[a], 1);
  }
  g.gathers = reaching <= kMostReaching && g.axis[0].stride > 0 && g.axis[1].stride > 0 && g.axis[2].stride > 0;
  if (!g.gathers) return;
  for (int a = 0; a < 3; ++a) fill_links(a);
  for (int a = 0; a < 2; ++a) g.ring[a] = pool_power(most[a]);
}

// Cuts `rows` along the second axis into strips whose tiles are small.
void PoolPlan::choose_strips(int64_t rows) {
  PoolGeometry& g = geometry;
  PoolStrips& s = g.strips;
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  const bool transposed = a0.reach != nullptr;
  const auto other = [&](const PoolAxis& a, int64_t height) {  // of the other map, most that belong to a strip
    return transposed ? most(a.input, height, [&](PoolRange r) { return pool_reached(a, r); })
                      : most(a.output, height, [&](PoolRange r) { return pool_seen(a, r); });
  };
  const auto measure = [&](int64_t height) {
    const int64_t here = height * (transposed ? a2.input : a2.output);
    const int64_t there = other(a0, 1) * other(a1, height) * (transposed ? a2.output : a2.input);
    s = {height, ceil_div(rows, height), transposed ? here : there, transposed ? there : here};
  };
  measure(std::max<int64_t>(rows, 1));
  const int64_t pixels = std::max(s.input, s.output);
  if (pixels > kStripPixels) measure(std::clamp<int64_t>(rows * kStripPixels / pixels, 1, rows));
  s.input += kPoolPlanes, s.output += kPoolPlanes;  // to be read past
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
