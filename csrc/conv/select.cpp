#include "conv/select.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iterator>
#include <optional>

#include "conv/built_in.h"

namespace torchconv {
namespace {

std::atomic<bool> highest_precision{false};         // the process's
std::atomic<bool> batch_invariant{false};           // the process's
thread_local std::optional<bool> thread_precision;  // of a thread inside torchconv.precision(): "highest"?

// The cheapest that can run is taken. A new algorithm takes its place here: a folder beside this file, and a line.
constexpr const ConvAlgorithm* algorithms[] = {
    &depthwise_algorithm, &winograd_algorithm, &direct_algorithm, &fft_algorithm, &gemm_algorithm, &reference_algorithm,
};

// What was asked for, less how.
std::string_view name_of(std::string_view asked) { return asked.substr(0, asked.find(':')); }

bool by_cost(std::string_view asked) {
  const std::string_view name = name_of(asked);
  return (name == "auto" || name == "highest") && (name == asked || asked.substr(name.size()) == ":invariant");
}

// Whether only what sums an output's own products may run.
bool sums_only(std::string_view asked) {
  return name_of(asked) == "highest" || thread_precision.value_or(highest_precision);
}

// The cost of a sample. Filters cost their elements once a call: measured in multiply-adds of all threads.
double cost_of(const ConvAlgorithm& c, const ConvParams& p, Direction direction, std::string_view asked,
               Filters filters) {
  constexpr double read = 10, made = 15;
  const double cost = c.cost(p, direction);
  if (!c.filters || direction == Direction::weight_grad || batch_invariant || name_of(asked) != asked) return cost;
  const double each = filters == Filters::prepared ? read : read + made;
  return cost + each * c.filters(p, direction) / static_cast<double>(std::max<int64_t>(1, p.batch));
}

std::string refusal(const ConvAlgorithm& c, const ConvParams& p, Direction direction, bool highest) {
  if (highest && c.rounds)
    return str("rounds ", c.rounds, ", more than direct summation, and the precision asked for is 'highest'");
  return c.refuse(p, direction);
}

}  // namespace

std::vector<std::string> algorithm_names() {
  std::vector<std::string> names;
  for (const ConvAlgorithm* c : algorithms) names.emplace_back(c->name);
  return names;
}

namespace {

// Raises where there is none of that name.
const ConvAlgorithm& by_name(std::string_view name) {
  const auto found = std::find_if(std::begin(algorithms), std::end(algorithms),
                                  [&](const ConvAlgorithm* algorithm) { return name == algorithm->name; });
  if (found != std::end(algorithms)) return **found;
  std::string names;
  for (const ConvAlgorithm* algorithm : algorithms) names += str(", ", algorithm->name);
  TORCH_CHECK_VALUE(false, "algorithm '", name, "' is none of auto", names);
}

// The algorithm of that name, or null where any may run; raises where it cannot.
const ConvAlgorithm* named(const ConvParams& params, Direction direction, std::string_view asked) {
  if (by_cost(asked)) return nullptr;
  const ConvAlgorithm& algorithm = by_name(asked);
  const std::string reason = refusal(algorithm, params, direction, sums_only(asked));
  TORCH_CHECK(reason.empty(), "algorithm '", asked, "' cannot run this convolution: ", reason);
  return &algorithm;
}

}  // namespace

std::tuple<double, double> error_bounds(std::string_view name) {
  const ConvAlgorithm& algorithm = by_name(name);
  return {algorithm.bound, algorithm.weight_grad_bound};
}

void check_algorithm(const ConvParams& params, Direction direction, std::string_view asked) {
  named(params, direction, asked);
}

Choice select(const ConvParams& whole, const ConvParams& params, Direction direction, std::string_view asked,
              Filters filters) {
  const bool highest = sums_only(asked);
  if (const ConvAlgorithm* c = named(whole, direction, asked)) {
    const bool runs = refusal(*c, params, direction, highest).empty();
    return {runs ? c : &direct_algorithm, c->name, cost_of(*c, params, direction, asked, filters), highest};
  }
  Choice choice{};
  for (const ConvAlgorithm* c : algorithms) {
    if (!refusal(*c, params, direction, highest).empty()) continue;
    const double cost = cost_of(*c, params, direction, asked, filters);
    if (!choice.algorithm || cost * c->least_saving < choice.cost * choice.algorithm->least_saving)
      choice = {c, c->name, cost, highest};
  }
  return choice;
}

std::vector<std::string> refusals(const ConvParams& params, Direction direction, const Choice& choice,
                                  std::string_view asked) {
  std::vector<std::string> reasons;
  const auto estimate = [&](double cost) {
    return str("estimated at ", std::round(cost / choice.cost * 100) / 100, " times the cost");
  };
  for (const ConvAlgorithm* c : algorithms) {
    if (c == choice.algorithm || c == &reference_algorithm) continue;
    std::string reason = refusal(*c, params, direction, choice.highest);
    if (reason.empty()) {
      const double cost = cost_of(*c, params, direction, asked, Filters::made);
      reason = estimate(cost);
      if (cost < choice.cost && c->least_saving > 1)
        reason += str(", taken only at ", 1 / c->least_saving, ": it rounds ", c->rounds);
    }
    reasons.push_back(std::string(c->name) + ": " + reason);
  }
  // Whose filters have a cost of their own that nobody estimates.
  const double built_in = built_in_cost(params, direction), own = choice.algorithm->cost(params, direction);
  if (built_in < own) reasons.push_back("built-in: " + estimate(built_in / own * choice.cost));
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

void set_batch_invariant(bool invariant) { batch_invariant = invariant; }

bool get_batch_invariant() { return batch_invariant; }

std::string get_conv_precision() { return precision_name(thread_precision.value_or(highest_precision)); }

std::optional<std::string> swap_thread_precision(std::optional<std::string> precision) {
  const std::optional<bool> before = thread_precision;
  thread_precision = precision ? std::optional(is_highest("precision", *precision)) : std::nullopt;
  return before ? std::optional(precision_name(*before)) : std::nullopt;
}

}  // namespace torchconv
