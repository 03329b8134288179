// Which algorithm runs a convolution. Looks at shapes, layout and dtype; never at the batch or the number of threads,
// so that a sample's result depends on neither.
#pragma once
#include <string>
#include <vector>

#include "params.h"

namespace torchconv {

enum class Algorithm { depthwise, winograd, direct, gemm, reference };

struct Choice {
  Algorithm algorithm;
  std::string name;
  std::vector<std::string> refusals;  // "name: reason" of the candidates before it
};

// `asked` is "auto" for the first candidate that can run, or a candidate's name; raises where that one cannot.
Choice select(const ConvParams& params, Direction direction, const std::string& asked);

std::vector<std::string> algorithm_names();  // in the order they are tried

// "highest" forbids algorithms whose error exceeds direct summation's, "high" allows them.
void set_conv_precision(std::string precision);
std::string get_conv_precision();

}  // namespace torchconv
