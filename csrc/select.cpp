#include "select.h"

#include <c10/util/Exception.h>

#include <atomic>

#include "winograd.h"

namespace torchconv {
namespace {

std::atomic<bool> highest_precision{false};

using Reason = std::string;  // why a candidate refuses; empty where it can run

Reason refuse_depthwise(const ConvParams& p, Direction) {
  if (!p.depthwise())
    return c10::str("needs one input channel a group, got ", p.in_channels, " channels in ", p.groups, " groups");
  return "";
}

Reason refuse_winograd(const ConvParams& p, Direction) {
  if (highest_precision) return "rounds more than direct summation, and the precision asked for is 'highest'";
  return winograd_refusal(p);
}

Reason refuse_direct(const ConvParams&, Direction direction) {
  return direction == Direction::weight_grad ? "has no weight gradient" : "";
}

Reason never(const ConvParams&, Direction) { return ""; }

struct Candidate {
  const char* name;
  Algorithm algorithm;
  Reason (*refuse)(const ConvParams&, Direction);
};

// In the order tried. A new algorithm takes its place here, its kernel in kernels/, its call in conv.cpp's run_*.
constexpr Candidate candidates[] = {
    {"depthwise", Algorithm::depthwise, refuse_depthwise},
    {"winograd", Algorithm::winograd, refuse_winograd},
    {"direct", Algorithm::direct, refuse_direct},
    {"gemm", Algorithm::gemm, never},
    {"reference", Algorithm::reference, never},
};

}  // namespace

std::vector<std::string> algorithm_names() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates) names.emplace_back(c.name);
  return names;
}

Choice select(const ConvParams& params, Direction direction, const std::string& asked) {
  Choice choice;
  for (const Candidate& c : candidates) {
    if (asked != "auto" && asked != c.name) continue;
    const Reason reason = c.refuse(params, direction);
    if (reason.empty()) {
      choice.algorithm = c.algorithm;
      choice.name = c.name;
      return choice;
    }
    TORCH_CHECK(asked == "auto", "algorithm '", asked, "' cannot run this convolution: ", reason);
    choice.refusals.push_back(std::string(c.name) + ": " + reason);
  }
  TORCH_CHECK_VALUE(false, "algorithm '", asked, "' is none of auto, ", c10::Join(", ", algorithm_names()));
}

void set_conv_precision(std::string precision) {
  TORCH_CHECK_VALUE(precision == "high" || precision == "highest",
                    "set_conv_precision: expected 'high' or 'highest', got '", precision, "'");
  highest_precision = precision == "highest";
}

std::string get_conv_precision() { return highest_precision ? "highest" : "high"; }

}  // namespace torchconv
