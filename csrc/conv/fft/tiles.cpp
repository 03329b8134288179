#include "conv/fft/tiles.h"

#include <algorithm>
#include <vector>

namespace torchconv::fft {
namespace {

constexpr int64_t chunk_elements = 1 << 21;  // of the larger side's patches transformed at once
constexpr int64_t most_patches = 256;        // transformed at once
constexpr int64_t longest = 1 << 13;         // points of a transform along an axis

// Whether transforms are fast at a length.
bool is_fast(int64_t n) {
  int64_t rest = n;
  for (const int64_t factor : {2, 3, 5})
    while (rest % factor == 0) rest /= factor;
  return rest == 1 && (n % 4 == 0 || n < 16);
}

// The least such length. Every call of a convolution asks for dozens, to know what this algorithm would cost.
int64_t fast_length(int64_t least) {
  static const std::vector<int64_t> known = [] {
    std::vector<int64_t> lengths;
    for (int64_t n = 1; n <= 2 * longest; ++n)
      if (is_fast(n)) lengths.push_back(n);
    return lengths;
  }();
  const auto next = std::lower_bound(known.begin(), known.end(), least);
  if (next != known.end()) return *next;
  int64_t best = INT64_MAX;
  for (int64_t five = 4; five < 5 * least; five *= 5)
    for (int64_t three = five; three < 3 * least; three *= 3) {
      int64_t n = three;
      while (n < least) n *= 2;
      best = std::min(best, n);
    }
  return best;
}

// The length that covers `total` positions with the fewest points in all; at most `most` points, or twice the reach.
int64_t points_of(int64_t total, int64_t reach, int64_t most) {
  if (reach == 1 && total == 1) return 1;
  int64_t best = 0, best_cost = 0;
  for (int64_t n = fast_length(reach + std::min(reach, total) - 1);; n = fast_length(n + 1)) {
    if (best != 0 && n > most) return best;
    const int64_t tile = n - reach + 1, cost = (total + tile - 1) / tile * n;
    if (best == 0 || cost < best_cost) best = n, best_cost = cost;
    if (tile >= total) return best;
  }
}

// With transforms of at most `most` points along an axis, where the filters allow.
Axes axes_within(const ConvParams& p, Direction direction, int64_t most) {
  Axes axes{};
  for (int a = 0; a < 3; ++a) {
    const int64_t reach = p.dilation[a] * (p.kernel[a] - 1) + 1, outputs = (p.output[a] - 1) * p.stride[a] + 1;
    const bool back = direction == Direction::input_grad;
    Axis& x = axes[a];
    x.reach = reach, x.total = back ? p.input[a] : outputs;
    x.points = points_of(x.total, reach, most), x.tile = std::min(x.total, x.points - reach + 1);
    x.shift = back ? p.before[a] - reach + 1 : -p.before[a];
    x.first = back ? reach - 1 : 0;
    x.source_step = back ? p.stride[a] : 1, x.target_step = back ? 1 : p.stride[a];
  }
  return axes;
}

}  // namespace

// Measured in multiply-adds of one element: a point of a transform there and back, where it is multiplied by matrices
// and where it is not; a frequency's product of a pair of channels; and a filter's point with its matrix, for a batch
// of `batch`.
double cost_of(const ConvParams& p, const Axes& axes) {
  constexpr double moved = 320, apart = 190, product = 16, filter = 1300, batch = 16;
  const double all = static_cast<double>(tiles(axes) * points(axes)), size = static_cast<double>(points(axes));
  const double channels = static_cast<double>(p.in_channels + p.out_channels);
  const double pairs = static_cast<double>(p.out_channels * p.in_per_group());
  if (p.in_per_group() == 1) return all * channels * apart + pairs * size * apart / batch;
  return all * (channels * moved + pairs / 2 * product) + pairs * size * filter / batch;
}

// The cheapest tiles whose transforms are not too long; longer ones where they save a twentieth: a loud value is in the
// rounding of all results of its tile.
Axes axes_of(const ConvParams& p, Direction direction) {
  Axes best = axes_within(p, direction, 8);
  const auto spans = [&](int64_t most) {  // one transform any axis: longer ones change nothing
    return std::all_of(best.begin(), best.end(), [&](const Axis& x) { return most >= 2 * (x.total + x.reach); });
  };
  for (int64_t most = 16; most <= longest && !spans(most / 2); most *= 2) {
    const Axes axes = axes_within(p, direction, most);
    if (points(axes) <= longest * 4 && cost_of(p, axes) < 0.95 * cost_of(p, best)) best = axes;
  }
  return best;
}

// Samples' patches transformed at once: by the shape alone.
int64_t chunk_of(const ConvParams& p, const Axes& axes) {
  const int64_t channels = std::max(p.in_channels, p.out_channels);
  return std::clamp<int64_t>(chunk_elements / (channels * points(axes)), 1, most_patches);
}

}  // namespace torchconv::fft
