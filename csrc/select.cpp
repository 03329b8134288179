#include "select.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iterator>
#include <optional>

#include "fft.h"
#include "kernels/dot_bf16.h"
#include "winograd.h"

namespace torchconv {
namespace {

std::atomic<bool> highest_precision{false};         // the process's
thread_local std::optional<bool> thread_precision;  // of a thread inside torchconv.precision(): "highest"?

// ---- what can run ----

using Reason = std::string;  // why a candidate refuses; empty where it can run

Reason refuse_depthwise(const ConvParams& p, Direction) {
  if (!p.depthwise())
    return str("needs one input channel a group, got ", p.in_channels, " channels in ", p.groups, " groups");
  return "";
}

Reason refuse_winograd(const ConvParams& p, Direction) { return winograd_refusal(p); }

Reason refuse_gemm(const ConvParams&, Direction direction) {
  return direction == Direction::weight_grad ? "has no weight gradient" : "";
}

Reason never(const ConvParams&, Direction) { return ""; }

// ---- what it costs: multiply-adds of a sample that would take as long, at the processor's peak ----

// Channels on either side of one group, and how many lie in a vector: a kernel works on whole vectors.
struct Channels {
  double source, target, filled_source, filled_target;  // filled: rounded up to whole vectors
};

double filled(double channels) {
  const double vector = static_cast<double>(kernel_table().f32.winograd.vector);
  return std::ceil(channels / vector) * vector;
}

Channels channels(const ConvParams& p, Direction direction) {
  const bool back = direction == Direction::input_grad;
  const double c = static_cast<double>(back ? p.out_per_group() : p.in_per_group());
  const double m = static_cast<double>(back ? p.in_per_group() : p.out_per_group());
  return {c, m, filled(c), filled(m)};
}

// Positions along an axis times the filter taps that each meets inside the map, of the output.
double meetings(const ConvParams& p, int axis) {
  double total = 0;
  for (int64_t k = 0; k < p.kernel[axis]; ++k) {
    const int64_t offset = k * p.dilation[axis] - p.before[axis], stride = p.stride[axis];
    const int64_t first = offset < 0 ? (-offset + stride - 1) / stride : 0;
    const int64_t last = offset < p.input[axis] ? (p.input[axis] - 1 - offset) / stride + 1 : 0;
    total += static_cast<double>(std::max<int64_t>(0, std::min(last, p.output[axis]) - first));
  }
  return total;
}

double volume(const std::array<int64_t, 3>& sides) { return static_cast<double>(sides[0] * sides[1] * sides[2]); }

// Measured in multiply-adds of one vector: what comes with every product, position or point beside the products.
constexpr double direct_product = 1.1, direct_position = 6;
constexpr double correlate_product = 1.2, correlate_position = 4;
constexpr double winograd_product = 1.1, winograd_point = 12, winograd_contiguous = 3, winograd_grouped = 10,
                 winograd_sum = 8, winograd_large = 5;
constexpr double depthwise_product = 1.2, depthwise_element = 4, depthwise_copy = 16;

// Source channels, or positions of a weight gradient, that direct and the built-in multiply at once.
double products_at_once(const ConvParams& p) { return p.dtype == ScalarType::BFloat16 && multiplies_pairs() ? 2 : 1; }

double cost_direct(const ConvParams& p, Direction direction, double at_once) {
  const Channels c = channels(p, direction);
  const double groups = static_cast<double>(p.groups), products = meetings(p, 0) * meetings(p, 1) * meetings(p, 2);
  if (direction == Direction::weight_grad)
    return groups *
           (products / at_once * std::min(c.source * c.filled_target, c.filled_source * c.target) * correlate_product +
            volume(p.output) * (c.filled_source + c.filled_target) * correlate_position);
  const double targets = direction == Direction::forward ? volume(p.output) : volume(p.input);
  // Few: positions fill the vectors instead, or half vectors are enough.
  const double half = static_cast<double>(kernel_table().f32.winograd.vector) / 2;
  const double target = c.target <= half ? 1.4 * half : c.filled_target, few = 2 * c.target + 1;
  return groups * std::min(products * std::ceil(c.source / at_once) * target * direct_product +
                               targets * target * direct_position,
                           products * c.source * few * direct_product + targets * few * direct_position);
}

double cost_direct(const ConvParams& p, Direction direction) { return cost_direct(p, direction, products_at_once(p)); }

double cost_winograd(const ConvParams& p, Direction direction) {
  const Channels c = channels(p, direction);
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
  const double point = winograd_point + (large ? winograd_large : 0) +
                       (!p.channels_last ? winograd_contiguous
                        : p.groups > 1   ? winograd_grouped
                                         : 0);
  double multiplied = c.source;
  double sides = slices * c.filled_source + c.filled_target;  // transformed at every point
  double sums = c.filled_target;                              // loaded and stored at every point
  if (direction == Direction::weight_grad) {
    // Each side is transformed again for each block of channels of the other that a task takes: see winograd.cpp.
    const double block = c.source > 128 ? 64 : 128;
    sides = slices * (c.filled_source * std::ceil(c.target / block) + c.filled_target * std::ceil(c.source / 256));
    multiplied = c.filled_source;  // tiles of a few source channels' rows wait for their own sums
    sums = 0;
  }
  return static_cast<double>(p.groups) *
         (points * (slices * multiplied * c.filled_target * winograd_product + sides * point + sums * winograd_sum));
}

double cost_gemm(const ConvParams& p, Direction direction) {  // patches besides
  return 1.3 * cost_direct(p, direction, 1);
}

// Memory's time and a row's beside the products; contiguous rows are filled up to whole vectors. With several filters a
// map, or fewer maps than a vector, channels-last tensors are copied to contiguous ones and back.
double cost_depthwise(const ConvParams& p, Direction) {
  const double elements =
      static_cast<double>(p.in_channels) * volume(p.input) + static_cast<double>(p.out_channels) * volume(p.output);
  const double products = static_cast<double>(p.out_channels) * meetings(p, 0) * meetings(p, 1) * meetings(p, 2);
  const bool pixels = p.channels_last && p.out_per_group() == 1 && filled(p.in_channels) < 2 * p.in_channels;
  const double width = static_cast<double>(p.output[2]);
  const double whole = pixels ? 1 : filled(width) / width;
  const double copies = p.channels_last && !pixels ? depthwise_copy : 0;
  return products * whole * depthwise_product + elements * (depthwise_element + copies);
}

// PyTorch's own operator, by the same measure and coarsely: explain names it where it should be the faster.
double cost_built_in(const ConvParams& p, Direction direction) {
  const Channels c = channels(p, direction);
  const double products = meetings(p, 0) * meetings(p, 1) * meetings(p, 2) * static_cast<double>(p.groups);
  if (p.depthwise()) return 8 * cost_depthwise(p, direction);
  const double grouped = p.groups > 1 && c.source > 4 && c.source <= 16 ? 0.8 : 1;
  if (direction == Direction::weight_grad) return (grouped < 1 ? 0.95 : 1.05) * cost_direct(p, direction);
  const double positions =
      volume(direction == Direction::input_grad ? p.input : p.output) * static_cast<double>(p.groups);
  return grouped * (products * std::ceil(c.source / products_at_once(p)) * c.filled_target * direct_product +
                    positions * c.filled_target * direct_position);
}

double cost_reference(const ConvParams& p, Direction direction) { return 100 * cost_direct(p, direction, 1); }

struct Candidate {
  const char* name;
  Algorithm algorithm;
  Reason (*refuse)(const ConvParams&, Direction);
  double (*cost)(const ConvParams&, Direction);
  double least_saving;  // how many times cheaper than another it must be to be taken instead
  const char* rounds;   // why an output may err by more than a sum of its own products does; null where it may not
};

// The cheapest that can run is taken. A new algorithm takes its place here, its kernel in kernels/, its call in
// conv.cpp's run_*.
constexpr Candidate candidates[] = {
    {"depthwise", Algorithm::depthwise, refuse_depthwise, cost_depthwise, 1, nullptr},
    {"winograd", Algorithm::winograd, refuse_winograd, cost_winograd, 1, "by the largest value of its tile"},
    {"direct", Algorithm::direct, never, cost_direct, 1, nullptr},
    {"fft", Algorithm::fft, never, fft_cost, 2, "by the loudest value of its transform"},
    {"gemm", Algorithm::gemm, refuse_gemm, cost_gemm, 1, nullptr},
    {"reference", Algorithm::reference, never, cost_reference, 1, nullptr},
};

// Whether only what sums an output's own products may run.
bool sums_only(std::string_view asked) { return asked == "highest" || thread_precision.value_or(highest_precision); }

Reason refusal(const Candidate& c, const ConvParams& p, Direction direction, bool highest) {
  if (highest && c.rounds)
    return str("rounds ", c.rounds, ", more than direct summation, and the precision asked for is 'highest'");
  return c.refuse(p, direction);
}

}  // namespace

std::vector<std::string> algorithm_names() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates) names.emplace_back(c.name);
  return names;
}

// "depthwise, winograd, ...".
std::string joined_names() {
  std::string names;
  for (const Candidate& c : candidates) names += (names.empty() ? "" : ", ") + std::string(c.name);
  return names;
}

// The candidate of that name, or null where any may run; raises where it cannot.
const Candidate* named(const ConvParams& params, Direction direction, std::string_view asked) {
  if (asked == "auto" || asked == "highest") return nullptr;
  const auto* c = std::find_if(std::begin(candidates), std::end(candidates),
                               [&](const Candidate& candidate) { return asked == candidate.name; });
  TORCH_CHECK_VALUE(c != std::end(candidates), "algorithm '", asked, "' is none of auto, ", joined_names());
  const Reason reason = refusal(*c, params, direction, sums_only(asked));
  TORCH_CHECK(reason.empty(), "algorithm '", asked, "' cannot run this convolution: ", reason);
  return c;
}

void check_algorithm(const ConvParams& params, Direction direction, std::string_view asked) {
  named(params, direction, asked);
}

Choice select(const ConvParams& whole, const ConvParams& params, Direction direction, std::string_view asked) {
  const bool highest = sums_only(asked);
  if (const Candidate* c = named(whole, direction, asked)) {
    const bool runs = refusal(*c, params, direction, highest).empty();
    return {runs ? c->algorithm : Algorithm::direct, c->name, c->cost(params, direction), highest};
  }
  const Candidate* best = nullptr;
  Choice choice{};
  for (const Candidate& c : candidates) {
    if (!refusal(c, params, direction, highest).empty()) continue;
    const double cost = c.cost(params, direction);
    if (!best || cost * c.least_saving < choice.cost * best->least_saving)
      best = &c, choice = {c.algorithm, c.name, cost, highest};
  }
  return choice;
}

std::vector<std::string> refusals(const ConvParams& params, Direction direction, const Choice& choice) {
  std::vector<std::string> reasons;
  const auto estimate = [&](double cost) {
    return str("estimated at ", std::round(cost / choice.cost * 100) / 100, " times the cost");
  };
  for (const Candidate& c : candidates) {
    if (c.algorithm == choice.algorithm || c.algorithm == Algorithm::reference) continue;
    Reason reason = refusal(c, params, direction, choice.highest);
    if (reason.empty()) {
      const double cost = c.cost(params, direction);
      reason = estimate(cost);
      if (cost < choice.cost && c.least_saving > 1)
        reason += str(", taken only at ", 1 / c.least_saving, ": it rounds ", c.rounds);
    }
    reasons.push_back(std::string(c.name) + ": " + reason);
  }
  if (cost_built_in(params, direction) < choice.cost)
    reasons.push_back("built-in: " + estimate(cost_built_in(params, direction)));
  return reasons;
}

namespace {

bool is_highest(const char* caller, std::string_view precision) {
  TORCH_CHECK_VALUE(precision == "high" || precision == "highest", caller, ": expected 'high' or 'highest', got '",
                    precision, "'");
  return precision == "highest";
}

std::string precision_name(bool highest) { return highest ? "highest" : "high"; }

}  // namespace

void set_conv_precision(std::string precision) { highest_precision = is_highest("set_conv_precision", precision); }

std::string get_conv_precision() { return precision_name(thread_precision.value_or(highest_precision)); }

std::optional<std::string> swap_thread_precision(std::optional<std::string> precision) {
  const std::optional<bool> before = thread_precision;
  thread_precision = precision ? std::optional(is_highest("precision", *precision)) : std::nullopt;
  return before ? std::optional(precision_name(*before)) : std::nullopt;
}

}  // namespace torchconv
