// What the transform-invariant convolution asks of a kernel set: the map from filters to their transformed copies, its
// transpose and its derivative to its own weights; and what reduces a filter's T output maps to one.
#pragma once
#include "cpu/numeric.h"

namespace torchconv {

constexpr int64_t transform_block = 16;       // channels of filters that are transformed side by side
constexpr int64_t shuffle_size = 2 * 3 * 16;  // of a slot of transform_shuffles.inl, in floats, at the most
constexpr int64_t shuffle_taps = 2 * 16;      // and of its filters
constexpr int64_t shuffle_slots = 1 << 13;    // of all transforms

// A sparse linear map in rows: transformed tap p of transform t is row t·out_taps + p, the sum over its entries
// pointers[row] <= e < pointers[row + 1] of values[e] · tap columns[e]. It acts on `filters` · `channels` filters.
struct FilterMap {
  int64_t filters, channels, transforms, taps, out_taps;
  const int64_t* pointers;              // [transforms · out_taps + 1]
  const int64_t* columns;               // [entries]
  int64_t row_entries, column_entries;  // most in a row, and of one transform in a column
  int64_t items() const { return (filters * channels + transform_block - 1) / transform_block; }
  int64_t slots(bool transposed) const { return transposed ? column_entries : row_entries; }
  // Whether there is room for a table of shuffles, whose size is that of the longest row or column times transforms.
  bool shuffles(bool transposed) const {
    return taps <= shuffle_taps && out_taps <= shuffle_taps && transforms * slots(transposed) <= shuffle_slots;
  }
  // In elements: a block of filters before and after, or a table of shuffles.
  int64_t scratch(bool transposed) const {
    const int64_t block = (taps + out_taps) * transform_block;
    if (!shuffles(transposed)) return block;
    const int64_t table = transforms * slots(transposed) * shuffle_size;
    return block > table ? block : table;
  }
};

// `outer` times T vectors of `inner` elements, reduced to one vector: [outer, T, inner] -> [outer, inner].
struct Reduction {
  int64_t outer, transforms, inner;
};

template <class T>
struct TransformKernels {
  using A = accumulator_t<T>;
  // weight: [filters, channels, taps], out and grad: [filters, transforms, channels, out_taps]; items [begin, end);
  // scratch: [map.scratch()], aligned to a cache line
  void (*apply)(const FilterMap& map, int64_t begin, int64_t end, const T* values, const T* weight, T* out, A* scratch);
  void (*transpose)(const FilterMap& map, int64_t begin, int64_t end, const T* values, const T* grad, T* weight,
                    A* scratch);
  // Adds the items' share of values' gradient to sums: [entries]; scratch: [map.scratch()]
  void (*values_grad)(const FilterMap& map, int64_t begin, int64_t end, const T* grad, const T* weight, double* sums,
                      A* scratch);

  // z: [outer, T, inner], y and winners: [outer, inner]; for begin <= outer < end
  void (*max)(const Reduction& r, const T* z, T* y, uint8_t* winners, int64_t begin, int64_t end);
  void (*select)(const Reduction& r, const T* z, const uint8_t* winners, T* y, int64_t begin, int64_t end);
  void (*scatter)(const Reduction& r, const T* grad, const uint8_t* winners, T* z, int64_t begin, int64_t end);
  void (*euclidean_norm)(const Reduction& r, const T* z, T* y, int64_t begin, int64_t end);
  // z becomes its gradient, given that of its norm y.
  void (*euclidean_norm_grad)(const Reduction& r, const T* grad, const T* y, T* z, int64_t begin, int64_t end);
};

}  // namespace torchconv
