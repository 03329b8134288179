// Which algorithm runs a convolution. Looks at shapes, layout and dtype; never at the batch or the number of threads,
// so that a sample's result depends on neither.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "conv/algorithm.h"

namespace torchconv {

struct Choice {
  const ConvAlgorithm* algorithm;  // that runs
  const char* name;                // that was asked for
  double cost;                     // as in ConvAlgorithm
  bool highest;                    // whether only direct summation was allowed
};

// `asked` is "auto" for the cheapest algorithm that can run, "highest" for the cheapest of those that sum directly,
// whatever the process's precision, or an algorithm's name; raises where that one cannot run `whole`. `params` is what
// is left of it (compact.h): where one asked for by name cannot run that, direct does.
Choice select(const ConvParams& whole, const ConvParams& params, Direction direction, std::string_view asked);

// Raises where an algorithm asked for by name cannot run.
void check_algorithm(const ConvParams& params, Direction direction, std::string_view asked);

// "name: reason" for the algorithms that were not chosen: why they cannot run, or what they would cost.
std::vector<std::string> refusals(const ConvParams& params, Direction direction, const Choice& choice);

std::vector<std::string> algorithm_names();
// bound and weight_grad_bound of the algorithm of that name.
std::tuple<double, double> error_bounds(std::string_view name);

// "highest" forbids the algorithms whose error exceeds direct summation's (winograd, fft), "high" allows them:
// process-wide, and what holds in this thread.
void set_conv_precision(std::string precision);
std::string get_conv_precision();
// Sets what holds in this thread, the process's where there is none, and returns what was set before.
std::optional<std::string> swap_thread_precision(std::optional<std::string> precision);

}  // namespace torchconv
