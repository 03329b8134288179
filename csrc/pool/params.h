// What one pooling is: checked once and in one place, lifted to three axes, with the window tables kernels read.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "pool/pool_kernels.h"
#include "torch.h"

namespace torchconv {

// The windows as an operator receives them: one number an axis. A kernel_size of zeros stands for adaptive windows,
// where output o of an axis sees the inputs floor(o * input / output) to ceil((o + 1) * input / output); the other
// numbers are then not looked at. So do empty lists, but AOTInductor's packages make None of those.
struct PoolWindow {
  std::string name;  // of the operator, for messages
  IntArrayRef kernel_size, stride, padding, dilation;
  bool adaptive() const {
    return std::all_of(kernel_size.begin(), kernel_size.end(), [](int64_t k) { return k == 0; });
  }
};

// How a sum becomes a mean; a maximum has none.
struct PoolDivisor {
  bool include_padding = true;
  std::optional<int64_t> override = std::nullopt;
};

// Which way a pooling runs: from inputs to outputs; transposed, from outputs to inputs; or over positions that were
// kept, each of which names the input of its output.
enum class PoolDirection { forward, transposed, kept };

// The checked description of pooling [N, C, spatial...] to [N, C, output_size...], and how it runs; raises with the
// offending values otherwise. A maximum has no divisor. Owns the tables that geometry points into.
class PoolPlan {
 public:
  PoolPlan(const PoolWindow& window, ScalarType dtype, IntArrayRef input_size, IntArrayRef output_size,
           bool channels_last, PoolDirection direction, const std::optional<PoolDivisor>& divisor = std::nullopt);
  PoolPlan(const PoolPlan&) = delete;
  PoolPlan& operator=(const PoolPlan&) = delete;

  PoolGeometry geometry;
  std::vector<int64_t> output_sizes;  // [N, C, output_size...]
  ScalarType position_dtype;          // byte, short or int: the narrowest that holds a position in the window

 private:
  void fill_axis(int a, const PoolWindow& window, int64_t index, bool include_padding, bool empty);
  void fill_links(int a);
  void choose_path(int64_t lanes, bool narrow, bool channels_last, PoolDirection direction, bool mean);
  bool covers_2x2() const;
  bool keeps_3x3() const;
  bool sums_inputs();
  void choose_strips(bool transposed);
  void count_units(bool transposed);
  void count_scratch(bool transposed, bool mean, bool narrow);
  void fill_offsets();

  std::array<std::vector<int32_t>, 3> tables_;  // of an axis: origin, first, last, divisor and reach
  std::array<std::vector<PoolLink>, 3> links_;
  std::vector<int64_t> tap_offset_;
};

}  // namespace torchconv
