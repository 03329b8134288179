#include "conv/gather.h"

#include <algorithm>

namespace torchconv {

View view(const Tensor& t) {
  const int64_t lifted = 5 - t.dim(), map = t.size(2) * t.stride(2);
  View v{t.stride(0), t.stride(1), {map, map, map}};  // an axis put in front is stepped over a map at a time
  for (int64_t a = lifted; a < 3; ++a) v.s[a] = t.stride(2 + a - lifted);
  return v;
}

void copy(const std::array<int64_t, 3>& from, int64_t (&to)[3]) { std::copy(from.begin(), from.end(), to); }

namespace {

// One axis: the kernel positions that take part, and where each looks.
struct AxisTap {
  int64_t k, offset;
};
using AxisTaps = std::array<std::vector<AxisTap>, 3>;

// The axes' taps multiplied out, with where each lies in the weight tensor.
void set_taps(TappedGather& to, const AxisTaps& axes, const View& weight) {
  for (const AxisTap& a0 : axes[0])
    for (const AxisTap& a1 : axes[1])
      for (const AxisTap& a2 : axes[2])
        to.taps.push_back(
            {a0.k * weight.s[0] + a1.k * weight.s[1] + a2.k * weight.s[2], {a0.offset, a1.offset, a2.offset}});
  to.gather.taps = to.taps.data(), to.gather.tap_count = static_cast<int64_t>(to.taps.size());
  for (int a = 0; a < 3; ++a) to.gather.grid[a] = to.gather.tap_count > 0 ? static_cast<int64_t>(axes[a].size()) : 0;
}

// The taps of each residue of the stride along an axis, of ascending offsets.
std::vector<std::vector<AxisTap>> residue_taps(const ConvParams& p, int a) {
  std::vector<std::vector<AxisTap>> taps(std::min(p.stride[a], p.input[a]));
  for (int64_t k = p.kernel[a] - 1; k >= 0; --k) {
    const int64_t at = k * p.dilation[a] - p.before[a], residue = (at % p.stride[a] + p.stride[a]) % p.stride[a];
    if (residue < static_cast<int64_t>(taps.size())) taps[residue].push_back({k, (residue - at) / p.stride[a]});
  }
  return taps;
}

// x̄ of ȳ at the input positions i ≡ residue (mod stride): there i = residue + t · stride, and tap k sees ȳ at
// t + (residue + before − k · dilation) / stride, for the taps where that is whole.
TappedGather input_grad_gather(const ConvParams& p, const View& x, const View& y, const View& weight,
                               const std::array<int64_t, 3>& residue, const AxisTaps& axes) {
  TappedGather result;
  result.gather = {};
  set_taps(result, axes, weight);
  Gather& g = result.gather;
  g.batch = p.batch, g.groups = p.groups, g.m = p.in_per_group(), g.c = p.out_per_group();
  for (int a = 0; a < 3; ++a) {
    g.base[a] = residue[a], g.spacing[a] = p.stride[a], g.step[a] = 1;
    g.count[a] = (p.input[a] - residue[a] + p.stride[a] - 1) / p.stride[a];
  }
  copy(p.output, g.extent);
  g.source = y, g.target = x;
  g.weight_g = g.c * weight.n, g.weight_m = weight.c, g.weight_c = weight.n;
  return result;
}

}  // namespace

// Source index = t · stride + (k · dilation − before).
TappedGather forward_gather(const ConvParams& p, const View& x, const View& y, const View& weight) {
  TappedGather result;
  result.gather = {};
  AxisTaps axes;
  for (int a = 0; a < 3; ++a)
    for (int64_t k = 0; k < p.kernel[a]; ++k) axes[a].push_back({k, k * p.dilation[a] - p.before[a]});
  set_taps(result, axes, weight);
  Gather& g = result.gather;
  g.batch = p.batch, g.groups = p.groups, g.m = p.out_per_group(), g.c = p.in_per_group();
  for (int a = 0; a < 3; ++a) g.spacing[a] = 1;
  copy(p.output, g.count), copy(p.input, g.extent), copy(p.stride, g.step);
  g.source = x, g.target = y;
  g.weight_g = g.m * weight.n, g.weight_m = weight.n, g.weight_c = weight.c;
  return result;
}

std::vector<TappedGather> input_grad_gathers(const ConvParams& p, const View& x, const View& y, const View& weight) {
  std::vector<TappedGather> gathers;
  const auto t0 = residue_taps(p, 0), t1 = residue_taps(p, 1), t2 = residue_taps(p, 2);
  for (size_t r0 = 0; r0 < t0.size(); ++r0)
    for (size_t r1 = 0; r1 < t1.size(); ++r1)
      for (size_t r2 = 0; r2 < t2.size(); ++r2)
        gathers.push_back(input_grad_gather(
            p, x, y, weight, {static_cast<int64_t>(r0), static_cast<int64_t>(r1), static_cast<int64_t>(r2)},
            {t0[r0], t1[r1], t2[r2]}));
  return gathers;
}

std::vector<TappedGather> alone(TappedGather gather) {
  std::vector<TappedGather> one;
  one.push_back(std::move(gather));
  return one;
}

namespace {

// Of a tensor [N, C, sides...] of its own memory.
View view_of(int64_t channels, const std::array<int64_t, 3>& sides, bool channels_last) {
  const int64_t between = channels_last ? channels : 1;  // neighbours of a row
  const int64_t row = sides[2] * between, plane = sides[1] * row, map = sides[0] * plane;
  return {channels_last ? map : channels * map, channels_last ? 1 : map, {plane, row, between}};
}

}  // namespace

std::vector<TappedGather> gathers_of(const ConvParams& p, Direction direction, const View* given) {
  const View x = view_of(p.in_channels, p.input, p.channels_last),
             y = view_of(p.out_channels, p.output, p.channels_last);
  const View weight = given ? *given : view_of(p.in_per_group(), p.kernel, false);
  return direction == Direction::input_grad ? input_grad_gathers(p, x, y, weight)
                                            : alone(forward_gather(p, x, y, weight));
}

}  // namespace torchconv
