#include "pool/params.h"

#include <algorithm>

#include "checked.h"
#include "cpu/kernels.h"
#include "dispatch.h"

namespace torchconv {
namespace {

constexpr int64_t kLargest = INT32_MAX;  // of what the tables hold, which are of 32 bits

// Windows that reach one input: to sum over more of them is slower than to add to each window's inputs.
constexpr int64_t kMostReaching = 16;

// Positions of a row that is worth cutting.
constexpr int64_t kLongRow = 4096;

// Pixels that the tiles of a strip are aimed at, so that a cache holds them.
constexpr int64_t kStripPixels = 512;

// The built-in's bounds: 32 bits, but for a maximum along one axis 64.
void check_numbers(const PoolWindow& w, int64_t dims, bool mean) {
  const bool adaptive = w.adaptive();
  const int64_t length = w.kernel_size.empty() ? 0 : dims, largest = dims == 1 && !mean ? INT64_MAX : kLargest;
  const auto expect = [&](IntArrayRef values, const char* what, int64_t least) {
    TORCH_CHECK(static_cast<int64_t>(values.size()) == length, w.name, ": ", what, " needs ", length, " numbers, got ",
                values);
    for (const int64_t v : values) {
      if (adaptive) break;
      TORCH_CHECK(v >= least, w.name, ": ", what, " must be at least ", least, ", got ", values);
      TORCH_CHECK(v <= largest, w.name, ": ", what, " must be at most ", largest, ", got ", values);
    }
  };
  expect(w.kernel_size, "kernel_size", 1);
  expect(w.stride, "stride", 1);
  expect(w.padding, "padding", 0);
  expect(w.dilation, "dilation", 1);
  if (adaptive) return;
  for (size_t a = 0; a < w.kernel_size.size(); ++a) {
    const Checked length = Checked(w.dilation[a]) * (w.kernel_size[a] - 1) + 1;
    TORCH_CHECK(length.fits, w.name, ": a window's length must be at most ", INT64_MAX,
                ", got kernel_size=", w.kernel_size, ", dilation=", w.dilation);
    TORCH_CHECK(w.padding[a] <= length.value / 2, w.name,
                ": padding must be at most half the window, got padding=", w.padding, ", kernel_size=", w.kernel_size,
                ", dilation=", w.dilation);
  }
}

int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

int64_t power_of_two(int64_t least) {
  int64_t power = 1;
  while (power < least) power *= 2;
  return power;
}

// An axis that is not there, or as if.
bool alone(const PoolAxis& a) { return a.input == 1 && a.taps == 1 && a.output == 1; }

// The most rows that look(range) gives for strips of `height` rows.
template <class Look>
int64_t most(int64_t rows, int64_t height, Look look) {
  int64_t size = 0;
  for (int64_t row = 0; row < rows; row += height)
    size = std::max(size, look(PoolRange{row, std::min(row + height, rows)}).size());
  return size;
}

}  // namespace

PoolPlan::PoolPlan(const PoolWindow& w, ScalarType dtype, IntArrayRef input_size, IntArrayRef output_size,
                   bool channels_last, PoolDirection direction, const std::optional<PoolDivisor>& divisor)
    : geometry{}, output_sizes{} {
  int64_t lanes = 0;
  bool narrow = false;  // than what it is summed in
  for_dtype(w.name, dtype,
            [&]<class T>(T) { lanes = kernels<T>().pool.lanes, narrow = sizeof(T) < sizeof(accumulator_t<T>); });
  const int64_t dims = static_cast<int64_t>(input_size.size()) - 2;
  TORCH_CHECK(dims >= 1 && dims <= 3, w.name, ": expected a batched input of 3 to 5 axes, got shape ", input_size);
  TORCH_CHECK(static_cast<int64_t>(output_size.size()) == dims, w.name, ": output_size needs ", dims, " numbers, got ",
              output_size);
  check_numbers(w, dims, divisor.has_value());
  TORCH_CHECK(!divisor || divisor->override != 0, w.name, ": divisor_override must not be 0");

  output_sizes = {input_size[0], input_size[1]};
  output_sizes.insert(output_sizes.end(), output_size.begin(), output_size.end());
  check_sizes(w.name, "input", input_size);
  check_sizes(w.name, "output", output_sizes);
  const auto check_sides = [&](IntArrayRef sides, const char* what, int64_t least) {
    for (const int64_t side : sides)
      TORCH_CHECK(side >= least && side <= kLargest, w.name, ": ", what, " must have from ", least, " to ", kLargest,
                  " positions along each axis, got spatial size ", sides);
  };
  check_sides(input_size.slice(2), "an input", 1);
  check_sides(output_size, "an output", w.adaptive() ? 0 : 1);
  PoolGeometry& g = geometry;
  channels_last = channels_last && input_size[1] > 1;  // of one channel or none the layouts are the same
  g.planes = channels_last ? input_size[0] : input_size[0] * input_size[1];
  g.channels = channels_last ? input_size[1] : 1;
  g.divisor_override = divisor ? divisor->override.value_or(0) : 0;
  // Strips are cut along the second axis, where a single axis therefore goes if it is long.
  const bool along_second = dims == 1 && std::max(input_size[2], output_size[0]) > kLongRow;
  const bool empty = std::count(output_sizes.begin(), output_sizes.end(), 0) > 0;
  for (int a = 0; a < 3; ++a) {
    const int64_t index = a - (3 - dims) + along_second;  // among the tensors' own; another is an axis of size 1
    const bool own = index >= 0 && index < dims;
    g.axis[a].input = own ? input_size[2 + index] : 1, g.axis[a].output = own ? output_size[index] : 1;
    fill_axis(a, w, own ? index : -1, divisor && divisor->include_padding, empty);
  }
  if (divisor) {
    Checked elements = 1;  // those in the padding, too
    for (const int64_t side : w.kernel_size) elements = elements * side;
    TORCH_CHECK(elements.fits, w.name, ": a window of more than ", INT64_MAX, " elements: kernel_size=", w.kernel_size);
  }
  const Checked window = Checked(g.axis[0].taps) * g.axis[1].taps * g.axis[2].taps;
  g.window = or_most(window);
  if (!divisor)
    TORCH_CHECK(g.window <= kLargest, w.name, ": a window reaches ", g.axis[0].taps, " x ", g.axis[1].taps, " x ",
                g.axis[2].taps, " elements, more than positions of 32 bits tell apart");
  g.position_bytes = g.window <= 256 ? 1 : g.window <= 32768 ? 2 : 4;
  position_dtype = g.position_bytes == 1   ? ScalarType::Byte
                   : g.position_bytes == 2 ? ScalarType::Short
                                           : ScalarType::Int;
  choose_path(lanes, narrow, channels_last, direction, divisor.has_value());
}

void PoolPlan::fill_axis(int a, const PoolWindow& w, int64_t index, bool include_padding, bool empty) {
  PoolAxis& axis = geometry.axis[a];
  const bool adaptive = index >= 0 && w.adaptive(), regular = index >= 0 && !adaptive;
  const int64_t stride = regular ? w.stride[index] : 1, padding = regular ? w.padding[index] : 0;
  const int64_t kernel = regular ? w.kernel_size[index] : 1, dilation = kernel > 1 ? w.dilation[index] : 1;
  int64_t lead = 0;
  axis.taps = axis.dilation = 1, axis.stride = stride;
  if (regular) {
    const Checked start = Checked(axis.output - 1) * stride;  // of the last window, from the first one's
    TORCH_CHECK(start.fits && start.value < axis.input + padding && start.value <= kLargest, w.name, ": output_size ",
                axis.output, " has windows that start past an input of size ", axis.input, " with padding ", padding,
                " at stride ", stride, ", or farther than ", kLargest);
    // A window may be far longer than the map: of its taps only those count that some output may have in the input,
    // and the `lead` ones before them, in the padding of every output, do not.
    lead = ceil_div(std::max<int64_t>(padding - start.value, 0), dilation);
    axis.taps = std::min(kernel, (axis.input - 1 + start.value) / dilation + 2);
    axis.dilation = std::min(dilation, axis.input + start.value);
    if (axis.output == 1) axis.stride = std::min(stride, kLargest);
  } else if (adaptive) {
    // No window is wider; where output divides input all are one narrower, unless output is 1.
    if (axis.output > 0) axis.taps = (axis.input + axis.output - 2) / axis.output + 1;
    axis.stride = axis.output > 0 && axis.input % axis.output == 0 ? axis.input / axis.output : 0;
  }
  if (empty) axis.output = 0;  // of an empty output no axis has a position: the others may be of any length
  auto& table = tables_[a];
  table.resize(4 * axis.output);
  int32_t *const origins = table.data(), *const firsts = origins + axis.output, *const lasts = firsts + axis.output,
                 *const divisors = lasts + axis.output;
  const auto narrow = [](int64_t v) { return static_cast<int32_t>(std::min(v, kLargest)); };
  for (int64_t o = 0; o < axis.output; ++o) {
    const int64_t origin = adaptive ? o * axis.input / axis.output : o * stride - padding;
    const int64_t seen = adaptive ? ceil_div((o + 1) * axis.input, axis.output) - origin : kernel;
    const int64_t first = origin < 0 ? ceil_div(-origin, dilation) : 0;
    const int64_t last = std::min(seen, ceil_div(std::max<int64_t>(axis.input - origin, 0), dilation));
    // The built-in counts padding's zeros up to the far padding's end, not where a ceil-mode window hangs over it.
    const int64_t with_padding = std::min(seen, axis.input + padding - origin);
    origins[o] = narrow(origin + lead * dilation);
    firsts[o] = narrow(first - lead);
    lasts[o] = narrow(last - lead);
    divisors[o] = narrow(std::max<int64_t>(include_padding ? with_padding : last - first, 1));
  }
  axis.origin = origins, axis.first = firsts, axis.last = lasts, axis.divisor = divisors;
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

// Windows of 2 by 2 that lie side by side and cover the map.
bool PoolPlan::covers_2x2() const {
  const auto halves = [](const PoolAxis& a) {
    return a.taps == 2 && a.stride == 2 && a.dilation == 1 && a.input == 2 * a.output && a.origin[0] == 0;
  };
  return alone(geometry.axis[0]) && halves(geometry.axis[1]) && halves(geometry.axis[2]);
}

// Windows of 3 by 3 one step apart, padded so that a map keeps its size.
bool PoolPlan::keeps_3x3() const {
  const auto keeps = [](const PoolAxis& a) {
    return a.taps == 3 && a.stride == 1 && a.dilation == 1 && a.output == a.input && a.input > 1 && a.origin[0] == -1;
  };
  return alone(geometry.axis[0]) && keeps(geometry.axis[1]) && keeps(geometry.axis[2]);
}

void PoolPlan::choose_path(int64_t lanes, bool narrow, bool channels_last, PoolDirection direction, bool mean) {
  PoolGeometry& g = geometry;
  const bool transposed = direction == PoolDirection::transposed;
  if (direction == PoolDirection::kept)
    g.path = PoolPath::outputs;
  else if (lanes > 0 && !channels_last && covers_2x2())
    g.path = PoolPath::planes_2x2;
  else if (lanes > 0 && channels_last && !transposed && !mean && g.channels >= lanes && keeps_3x3())
    g.path = PoolPath::channels_3x3;
  else if (transposed && !sums_inputs())
    g.path = PoolPath::outputs;
  else
    g.path = channels_last ? PoolPath::channels : PoolPath::planes;
  if (g.path == PoolPath::planes || g.path == PoolPath::planes_2x2)
    choose_strips(transposed && g.path == PoolPath::planes);
  if (g.path == PoolPath::outputs && !mean) fill_offsets();
  count_units(transposed);
  count_scratch(transposed, mean, narrow);
}

void PoolPlan::count_units(bool transposed) {
  PoolGeometry& g = geometry;
  const auto along = [&](int a) { return transposed ? g.axis[a].input : g.axis[a].output; };
  switch (g.path) {
    case PoolPath::channels:
    case PoolPath::channels_3x3: g.units = g.planes * along(0) * along(1); return;
    case PoolPath::planes:
    case PoolPath::planes_2x2: g.units = ceil_div(g.planes, kPoolPlanes) * along(0) * g.strips.count; return;
    case PoolPath::outputs:
      g.units = g.channels == 1 ? ceil_div(g.planes, kPoolPlanes) : g.planes * ceil_div(g.channels, kPoolChannels);
  }
}

void PoolPlan::count_scratch(bool transposed, bool mean, bool narrow) {
  PoolGeometry& g = geometry;
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  g.scratch = 0;
  if (g.path == PoolPath::outputs) {  // a plane of sums, [input][planes or channels], if dx is too narrow to sum in
    const int64_t together = g.channels == 1 ? std::min(g.planes, kPoolPlanes) : std::min(g.channels, kPoolChannels);
    if (transposed && narrow) g.scratch = a0.input * a1.input * a2.input * together;
    return;
  }
  if (g.path == PoolPath::planes)  // tiles of both maps and of the positions
    g.scratch = (g.strips.input + 2 * g.strips.output) * kPoolPlanes;
  if (transposed && mean && g.path != PoolPath::planes_2x2) {  // rows of shares, which are read a vector past the last
    const int64_t lanes = g.path == PoolPath::planes ? kPoolPlanes : g.channels;
    g.scratch += g.ring[0] * g.ring[1] * a2.output * lanes + kPoolPlanes;
  }
}

// Whether a transposed pooling sums, of each input, what the windows that reach it give: where these are few. Then
// fills the links from inputs to windows.
bool PoolPlan::sums_inputs() {
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
  bool few = reaching <= kMostReaching;
  for (int a = 0; a < 3; ++a)  // the links of an axis are counted in 32 bits
    few &= g.axis[a].stride > 0 && most[a] <= kLargest / g.axis[a].input;
  few &= g.planes * g.channels > 0;  // or nothing runs, and tables as long as the map are for nothing
  if (!few) return false;
  for (int a = 0; a < 3; ++a) fill_links(a);
  for (int a = 0; a < 2; ++a) g.ring[a] = power_of_two(most[a]);
  return true;
}

// Cuts the rows along the second axis, of the output or transposed of the input, into strips whose tiles are small.
void PoolPlan::choose_strips(bool transposed) {
  PoolGeometry& g = geometry;
  PoolStrips& s = g.strips;
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  const int64_t rows = transposed ? a1.input : a1.output;
  if (rows == 0) return void(s = {1, 0, kPoolPlanes, kPoolPlanes});  // of an empty output
  const auto other = [&](const PoolAxis& a, int64_t height) {        // of the other map, most that belong to a strip
    return transposed ? most(a.input, height, [&](PoolRange r) { return pool_reached(a, r); })
                      : most(a.output, height, [&](PoolRange r) { return pool_seen(a, r); });
  };
  const auto measure = [&](int64_t height) {
    const int64_t here = height * (transposed ? a2.input : a2.output);
    const int64_t there = other(a0, 1) * other(a1, height) * (transposed ? a2.output : a2.input);
    s = {height, ceil_div(rows, height), transposed ? here : there, transposed ? there : here};
  };
  measure(rows);
  const int64_t pixels = std::max(s.input, s.output);
  if (pixels > kStripPixels) measure(std::clamp<int64_t>(rows * kStripPixels / pixels, 1, rows));
  s.input += kPoolPlanes, s.output += kPoolPlanes;  // to be read past
}

void PoolPlan::fill_offsets() {
  tap_offset_.resize(std::min(geometry.window, kPoolOffsets));
  for (size_t t = 0; t < tap_offset_.size(); ++t) tap_offset_[t] = pool_offset(geometry, t);
  geometry.tap_offset = tap_offset_.data();
}

}  // namespace torchconv
