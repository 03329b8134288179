#include "conv/compact.h"

#include <algorithm>
#include <numeric>

namespace torchconv {
namespace {

using Table = std::vector<int64_t>;

// Windows of smaller numbers cost the algorithms little. An input gradient has a gather for each residue of the stride.
constexpr int64_t far = 64, far_residues = 8;
constexpr int64_t far_dilation = 4096, few_taps = 8;

bool reaches_far(const ConvParams& p, int a, Direction direction) {
  const int64_t stride = direction == Direction::input_grad ? far_residues : far;
  return p.stride[a] >= stride || p.dilation[a] >= far || p.before[a] >= far || p.after[a] >= far;
}

int64_t quotient_up(int64_t a, int64_t b) { return a / b + (a % b > 0); }

// The outputs [first, last) along an axis that meet tap k.
struct Met {
  int64_t first, last;
};
Met met(const ConvParams& p, int a, int64_t k) {
  const int64_t offset = k * p.dilation[a] - p.before[a], room = p.input[a] - offset;
  return {std::max<int64_t>(0, quotient_up(-offset, p.stride[a])),
          std::min(p.output[a], room > 0 ? quotient_up(room, p.stride[a]) : 0)};
}

// The taps that meet an output, and the outputs that meet a tap, in order.
struct Live {
  Table taps, outputs;
};
Live live(const ConvParams& p, int a) {
  Live l;
  Table change(p.output[a] + 1);  // of the number of taps that an output meets, from the output before
  for (int64_t k = 0; k < p.kernel[a]; ++k) {
    const Met m = met(p, a, k);
    if (m.first >= m.last) continue;
    l.taps.push_back(k);
    ++change[m.first], --change[m.last];
  }
  for (int64_t t = 0, taps = 0; t < p.output[a]; ++t)
    if ((taps += change[t]) > 0) l.outputs.push_back(t);
  return l;
}

Table range(int64_t begin, int64_t end) {
  Table table(end - begin);
  std::iota(table.begin(), table.end(), begin);
  return table;
}

bool is_range(const Table& table) { return table.back() - table.front() + 1 == static_cast<int64_t>(table.size()); }

// Whether the table is a slice: elements a positive step apart. Returns the step, or 0.
int64_t step_of(const Table& table) {
  if (table.front() < 0) return 0;
  const int64_t step = table.size() > 1 ? table[1] - table[0] : 1;
  for (size_t i = 1; i < table.size(); ++i)
    if (table[i] - table[i - 1] != step || table[i] < 0) return 0;
  return std::max<int64_t>(step, 0);
}

Tensor slice(const Tensor& t, int64_t dim, const Table& table, int64_t step) {
  return t.slice(dim, table.front(), table.back() + 1, step);
}

Tensor indices(const Table& table) {
  return from_blob(const_cast<int64_t*>(table.data()), static_cast<int64_t>(table.size()), ScalarType::Long);
}

Tensor copied_indices(const Table& table) {
  return empty(static_cast<int64_t>(table.size()), ScalarType::Long).copy_(indices(table));
}

// Element j along `dim` is t's element table[j], or 0.
Tensor take(const Tensor& t, int64_t dim, const Table& table) {
  if (const int64_t step = step_of(table)) return slice(t, dim, table, step);
  Table from, zero;
  for (size_t j = 0; j < table.size(); ++j) {
    from.push_back(std::max<int64_t>(0, table[j]));
    if (table[j] < 0) zero.push_back(static_cast<int64_t>(j));
  }
  Tensor taken = call("aten::index_select", "", t.alias(), dim, indices(from));
  if (!zero.empty()) call("aten::index_fill_", "int_Tensor", taken, dim, indices(zero), zeros({}, taken.scalar_type()));
  return taken;
}

// The reverse: element table[j] of `size` is t's element j, the others 0.
Tensor spread(const Tensor& t, int64_t dim, const Table& table, int64_t size) {
  if (const int64_t step = step_of(table)) {
    if (static_cast<int64_t>(table.size()) == size) return t;
    std::vector<int64_t> sizes = t.sizes().vec();
    sizes[dim] = size;
    Tensor whole = zeros(sizes, t.scalar_type());
    slice(whole, dim, table, step).copy_(t);
    return whole;
  }
  Table back(size, -1);
  for (size_t j = 0; j < table.size(); ++j)
    if (table[j] >= 0) back[table[j]] = static_cast<int64_t>(j);
  return take(t, dim, back);
}

}  // namespace

// One position of one tap: the axis' shape without a window.
void Compact::set_without_window(ConvParams& left, int a, int64_t positions) {
  left.input[a] = left.output[a] = positions;
  left.kernel[a] = left.stride[a] = left.dilation[a] = 1;
  left.before[a] = left.after[a] = 0;
}

// The elements as [tap][output].
Compact::Axis Compact::folded(const ConvParams& p, int a, Table taps, Table outputs, Axis axis, ConvParams& left) {
  const auto element = [&](int64_t t, int64_t k) { return t * p.stride[a] + k * p.dilation[a] - p.before[a]; };
  const int64_t t0 = outputs.front(), t1 = outputs.back(), k0 = taps.front(), k1 = taps.back();
  axis.whole = false, axis.folded = true;
  axis.first = element(t0, k0), axis.tap = p.dilation[a], axis.position = p.stride[a];
  const bool inside = axis.first >= 0 && element(t1, k1) < p.input[a];
  if (!inside || !is_range(taps) || !is_range(outputs))
    for (const int64_t k : taps)
      for (const int64_t t : outputs) {
        const int64_t i = element(t, k);
        axis.x.push_back(i >= 0 && i < p.input[a] ? i : -1);
      }
  left.in_channels *= static_cast<int64_t>(taps.size());
  set_without_window(left, a, static_cast<int64_t>(outputs.size()));
  axis.w = std::move(taps), axis.y = std::move(outputs);
  return axis;
}

// Taps k0 to k1 and outputs t0 to t1, and of the elements every `common`th, the others being seen by no tap.
Compact::Axis Compact::thinned(const ConvParams& p, int a, const Table& taps, const Table& outputs, Axis axis,
                               ConvParams& left) {
  const int64_t common = std::gcd(p.stride[a], p.dilation[a]), t0 = outputs.front(), k0 = taps.front();
  const int64_t low = t0 * p.stride[a] + k0 * p.dilation[a] - p.before[a];
  axis.whole = false;
  axis.first = (low % common + common) % common, axis.position = common;
  axis.y = range(t0, outputs.back() + 1), axis.w = range(k0, taps.back() + 1);
  left.input[a] = quotient_up(p.input[a] - axis.first, common);
  left.output[a] = static_cast<int64_t>(axis.y.size()), left.kernel[a] = axis.taps();
  left.stride[a] = p.stride[a] / common, left.dilation[a] = p.dilation[a] / common;
  left.before[a] = (axis.first - low) / common;
  left.after[a] = (left.output[a] - 1) * left.stride[a] + (left.kernel[a] - 1) * left.dilation[a] + 1 - left.input[a] -
                  left.before[a];
  return axis;
}

// What is left along the axis, told in `left` too, whose channels the folded axes multiply.
Compact::Axis Compact::axis_of(const ConvParams& p, int a, Direction direction, ConvParams& left) {
  Axis axis;
  axis.input = p.input[a], axis.output = p.output[a], axis.kernel = p.kernel[a];
  if (!reaches_far(p, a, direction)) return axis;
  Live l = live(p, a);
  if (l.taps.empty()) {
    set_without_window(left, a, 1);
    axis.whole = false;
    return axis;
  }
  const int64_t taps = static_cast<int64_t>(l.taps.size()), outputs = static_cast<int64_t>(l.outputs.size());
  const int64_t common = std::gcd(p.stride[a], p.dilation[a]), reach = (p.kernel[a] - 1) * p.dilation[a] + 1;
  const bool all = taps == p.kernel[a] && 2 * outputs > p.output[a];
  if (direction != Direction::input_grad && all && p.dilation[a] < far && p.stride[a] <= 2 * reach) return axis;
  // t·stride + k·dilation is the same for two pairs only if their t differ by a multiple of dilation / common.
  const bool once = taps == 1 || outputs == 1 || l.taps.back() - l.taps.front() < p.stride[a] / common ||
                    l.outputs.back() - l.outputs.front() < p.dilation[a] / common;
  // A weight gradient copies what lies between taps, a block of outputs at a time: of a few far ones, patches are less.
  const bool patches = direction == Direction::weight_grad && p.dilation[a] >= far_dilation && taps <= few_taps;
  if (once || patches) return folded(p, a, std::move(l.taps), std::move(l.outputs), axis, left);
  return common == 1 && all ? axis : thinned(p, a, l.taps, l.outputs, axis, left);
}

Compact::Compact(const ConvParams& whole, Direction direction) : params_(whole) {
  if (whole.batch == 0 || whole.in_channels == 0) return;
  for (int a = 0; a < 3; ++a) {
    axes_[a] = axis_of(whole, a, direction, params_);
    whole_ = whole_ && axes_[a].whole;
    empty_ = empty_ || (!axes_[a].whole && axes_[a].w.empty());
  }
}

bool Compact::whole_output() const {
  return !empty_ && std::all_of(axes_.begin(), axes_.end(), [](const Axis& axis) { return axis.whole_output(); });
}

int64_t Compact::folded_taps() const {
  int64_t taps = 1;
  for (const Axis& axis : axes_) taps *= axis.folded ? static_cast<int64_t>(axis.w.size()) : 1;
  return taps;
}

std::vector<int64_t> Compact::weight_sizes() const {
  std::vector<int64_t> sizes{params_.out_channels, params_.in_per_group()};
  sizes.insert(sizes.end(), params_.kernel.end() - params_.dims, params_.kernel.end());
  return sizes;
}

Tensor Compact::windows(const Tensor& x) const {
  std::vector<int64_t> sizes{x.size(0), x.size(1)}, strides{x.stride(0), x.stride(1)}, last_sizes, last_strides;
  int64_t offset = 0;
  for (int a = 3 - static_cast<int>(params_.dims); a < 3; ++a) {
    const Axis& axis = axes_[a];
    const int64_t step = x.stride(dim(a));
    const bool table = !axis.x.empty();
    if (axis.folded) sizes.push_back(axis.taps()), strides.push_back((table ? params_.input[a] : axis.tap) * step);
    last_sizes.push_back(params_.input[a]), last_strides.push_back((table ? 1 : axis.position) * step);
    offset += table ? 0 : axis.first * step;
  }
  sizes.insert(sizes.end(), last_sizes.begin(), last_sizes.end());
  strides.insert(strides.end(), last_strides.begin(), last_strides.end());
  return x.as_strided(sizes, strides, offset);
}

Tensor Compact::by_taps(const Tensor& x) const {
  std::vector<int64_t> channels{params_.in_channels / folded_taps()};
  for (const Axis& axis : axes_)
    if (axis.folded) channels.push_back(axis.taps());
  return x.unflatten(1, channels);
}

Tensor Compact::input(const Tensor& x) const {
  Tensor t = x;
  for (int a = 0; a < 3; ++a)
    if (!axes_[a].x.empty()) t = take(t, dim(a), axes_[a].x);
  Tensor left = torchconv::empty(params_.input_sizes(), x.scalar_type(), params_.memory_format());
  by_taps(left).copy_(windows(t));
  return left;
}

void Compact::put_input(const Tensor& x, const Tensor& to) const {
  std::vector<int64_t> sizes = to.sizes().vec();
  bool tables = false;
  for (int a = 0; a < 3; ++a)
    if (!axes_[a].x.empty()) tables = true, sizes[dim(a)] = static_cast<int64_t>(axes_[a].x.size());
  Tensor t = tables ? torchconv::empty(sizes, to.scalar_type()) : to;
  if (x.numel() < t.numel()) t.zero_();
  windows(t).copy_(by_taps(x));
  if (!tables) return;
  for (int a = 0; a < 3; ++a)
    if (!axes_[a].x.empty()) t = spread(t, dim(a), axes_[a].x, axes_[a].input);
  to.copy_(t);
}

Tensor Compact::weight_by_taps(const Tensor& w) const {
  std::vector<int64_t> order{0, 1}, last;
  for (int a = 3 - static_cast<int>(params_.dims); a < 3; ++a) (axes_[a].folded ? order : last).push_back(dim(a));
  order.insert(order.end(), last.begin(), last.end());
  return w.permute(order);
}

Tensor Compact::weight(const Tensor& w) const {
  Tensor t = w;
  for (int a = 0; a < 3; ++a)
    if (!axes_[a].whole) t = take(t, dim(a), axes_[a].w);
  return weight_by_taps(t).contiguous().view(weight_sizes());
}

void Compact::put_weight(const Tensor& w, const Tensor& to) const {
  std::vector<int64_t> sizes = to.sizes().vec();
  for (int a = 0; a < 3; ++a)
    if (!axes_[a].whole) sizes[dim(a)] = axes_[a].taps();
  Tensor t = torchconv::empty(sizes, to.scalar_type());
  const Tensor from = weight_by_taps(t);
  from.copy_(w.view(from.sizes()));
  for (int a = 0; a < 3; ++a)
    if (!axes_[a].whole) t = spread(t, dim(a), axes_[a].w, axes_[a].kernel);
  to.copy_(t);
}

Tensor Compact::output(const Tensor& y) const {
  Tensor t = y;
  for (int a = 0; a < 3; ++a)
    if (!axes_[a].whole_output()) t = take(t, dim(a), axes_[a].y);
  return t.contiguous(params_.memory_format());
}

// A slice of the tensor where the outputs are one along every axis, places one by one elsewhere.
void Compact::put_output(const Tensor& y, const Tensor& to) const {
  Tensor target = to;
  std::vector<std::optional<Tensor>> places;
  bool slices = true;
  for (int a = 3 - static_cast<int>(params_.dims); a < 3; ++a) {
    if (axes_[a].whole_output()) continue;
    if (const int64_t step = step_of(axes_[a].y))
      target = slice(target, dim(a), axes_[a].y, step);
    else
      slices = false;
  }
  if (slices) return void(target.copy_(y));
  places.push_back(std::nullopt), places.push_back(std::nullopt);
  for (int a = 3 - static_cast<int>(params_.dims); a < 3; ++a) {
    const int64_t behind = 2 - a;  // axes after this one, over which its places are the same
    std::vector<int64_t> shape(1 + behind, 1);
    shape[0] = -1;
    Table own = axes_[a].y;
    if (axes_[a].whole_output() || step_of(own)) own = range(0, params_.output[a]);
    places.push_back(copied_indices(own).view(shape));
  }
  call("aten::index_put_", "", target, places, y, false);
}

int64_t Compact::copied() const {
  if (whole_) return 0;
  const auto volume = [](const std::vector<int64_t>& sizes) {
    return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
  };
  return volume(params_.input_sizes()) + volume(params_.output_sizes()) + volume(weight_sizes());
}

}  // namespace torchconv
