// Which algorithm runs a convolution. Looks at shapes, layout and dtype, never at the number of threads, so that no
// result depends on it; and at the batch, unless a sample's result is not to depend on that either.
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
  double cost;                     // as in ConvAlgorithm, with each sample's share of the filters' where that counts
  bool highest;                    // whether only direct summation was allowed
};

// Whether what the filters become is at hand (prepared.h), or made in the call.
enum class Filters { made, prepared };

// `asked` is "auto" for the cheapest algorithm that can run, "highest" for the cheapest of those that sum directly,
// whatever the process's precision, or an algorithm's name; raises where that one cannot run `whole`. "auto:invariant"
// and "highest:invariant" do not look at the batch, whatever the process asks for. `params` is what is left of `whole`
// (compact.h): where one asked for by name cannot run that, direct does.
Choice select(const ConvParams& whole, const ConvParams& params, Direction direction, std::string_view asked,
              Filters filters = Filters::made);

// Raises where an algorithm asked for by name cannot run.
void check_algorithm(const ConvParams& params, Direction direction, std::string_view asked);

// "name: reason" for the algorithms that were not chosen: why they cannot run, or what they would cost.
std::vector<std::string> refusals(const ConvParams& params, Direction direction, const Choice& choice,
                                  std::string_view asked);

std::vector<std::string> algorithm_names();
// bound and weight_grad_bound of the algorithm of that name.
std::tuple<double, double> error_bounds(std::string_view name);

// "highest" forbids the algorithms whose error exceeds direct summation's (winograd, fft), "high" allows them:
// process-wide, and what holds in this thread.
void set_conv_precision(std::string precision);
std::string get_conv_precision();
// Whether a sample's result may not depend on the batch it is in; process-wide.
void set_batch_invariant(bool invariant);
bool get_batch_invariant();
// Sets what holds in this thread, the process's where there is none, and returns what was set before.
std::optional<std::string> swap_thread_precision(std::optional<std::string> precision);

}  // namespace torchconv
