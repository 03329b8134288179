// How a convolution through the Fourier transform is cut: into tiles of the result, by the shape alone.
#pragma once
#include "conv/params.h"

namespace torchconv::fft {

// One axis of a pass from patches of a source to tiles of a target, in positions of stride 1.
struct Axis {
  int64_t reach;         // points of the dilated filter
  int64_t points, tile;  // of a transform, and those of its result that are kept: points − reach + 1 at most
  int64_t total;         // target positions
  int64_t shift;         // source position = target position + shift + point
  int64_t first;         // the point of a tile's first position
  int64_t source_step, target_step;  // positions from one element to the next

  int64_t tiles() const { return (total + tile - 1) / tile; }
};
using Axes = std::array<Axis, 3>;

// The tiles that are taken.
Axes axes_of(const ConvParams& p, Direction direction);
// What they cost, as in ConvAlgorithm.
double cost_of(const ConvParams& p, const Axes& axes);
// Patches, each of a sample and a tile, that are transformed at once.
int64_t chunk_of(const ConvParams& p, const Axes& axes);

inline int64_t points(const Axes& axes) { return axes[0].points * axes[1].points * axes[2].points; }
inline int64_t frequencies(const Axes& axes) { return axes[0].points * axes[1].points * (axes[2].points / 2 + 1); }
inline int64_t tiles(const Axes& axes) { return axes[0].tiles() * axes[1].tiles() * axes[2].tiles(); }
inline std::array<int64_t, 3> each(const Axes& axes, int64_t Axis::* field) {
  return {axes[0].*field, axes[1].*field, axes[2].*field};
}

}  // namespace torchconv::fft
