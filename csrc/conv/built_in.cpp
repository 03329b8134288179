#include "conv/built_in.h"

#include "conv/algorithm.h"
#include "conv/cost.h"
#include "conv/direct/direct.h"

namespace torchconv {

double built_in_cost(const ConvParams& p, Direction direction) {
  if (p.depthwise()) return 8 * depthwise_algorithm.cost(p, direction);
  const Channels c(p, direction);
  const double groups = static_cast<double>(p.groups), products = meetings(p) * groups;
  const double grouped = p.groups > 1 && c.source > 4 && c.source <= 16 ? 0.8 : 1;
  if (direction == Direction::weight_grad) return (grouped < 1 ? 0.95 : 1.05) * direct_algorithm.cost(p, direction);
  const double positions = volume(direction == Direction::input_grad ? p.input : p.output) * groups;
  return grouped * (products * std::ceil(c.source / products_at_once(p)) * c.filled_target * direct_product +
                    positions * c.filled_target * direct_position);
}

}  // namespace torchconv
