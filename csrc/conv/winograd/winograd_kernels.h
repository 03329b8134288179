// What Winograd convolution asks of a kernel set: the problem as tiles, and the steps the driver puts together.
#pragma once
#include "conv/conv_kernels.h"

namespace torchconv {

constexpr int64_t winograd_points = 8;  // points along an axis, at the most: 6 outputs of 3 taps, 4 of 5

// One of the two axes that tiles are cut along: `tiles` tiles of `outputs` positions, the last of one less where they
// do not come out even.
struct WinogradAxis {
  int64_t taps;    // filter points, r: 1, 3 or 5
  int64_t low;     // source index of the first = target index + low
  int64_t count;   // target positions
  int64_t extent;  // source positions
  int64_t tiles;
  int64_t outputs;  // of the largest tile: count / tiles, rounded up

  int64_t points() const { return outputs + taps - 1; }  // of the largest tile
  int64_t small_tiles() const { return tiles * outputs - count; }
};

// A gather or correlation of stride and dilation 1 along its last two axes. The first axis is not transformed: its taps
// join the source channels, so that one inner product runs over depth() = (slice tap, channel).
struct Winograd {
  Gather g;
  WinogradAxis axis[2];
  bool channels_last;

  int64_t slice_taps() const { return g.grid[0]; }
  const Tap* taps(int64_t slice_tap) const { return g.taps + slice_tap * g.grid[1] * g.grid[2]; }  // of both axes
  int64_t planes() const { return axis[0].points() * axis[1].points(); }  // plane (i, j) is i · axis[1].points() + j
};

// m × m' outputs. A tile of m outputs uses the first m + r − 1 points, so the filter's transform serves tiles of either
// size, and a plane holds rows for the tiles alone that have its points: the last point along an axis is the large
// tiles' alone. Class (k, k'), at 2 k + k', is of the planes of the last point along the first axis (k) and second
// (k').
struct WinogradTile {
  int64_t n, slice;      // sample, and target slice along the axis that is not transformed
  int32_t y, x, my, mx;  // first target position, outputs
  int32_t row[4];        // its row in the planes of each class
};

struct WinogradBlock {
  const WinogradTile* tiles;
  int64_t count;
  int64_t rows[4];  // rows of the planes of each class
};

// A matrix for every plane: element (plane, row, column) at plane · pitch + row · ld + column.
template <class A>
struct WinogradPlanes {
  A* data;
  int64_t pitch, ld;
};

// Memory that a later step will read or write: `count` runs of `bytes`, `stride` bytes apart. While a product keeps the
// arithmetic busy, multiply and accumulate fetch it, `lines` cache lines between two tiles of theirs.
struct WinogradTouch {
  const char* begin;
  int64_t count, stride, bytes;
};
struct WinogradAhead {
  const WinogradTouch* runs;
  int64_t run_count, lines;
  int64_t run, i, byte;  // where it stands
};

// All for one group; source, target and weight point at the whole tensors.
template <class T>
struct WinogradKernels {
  using A = accumulator_t<T>;
  using Planes = WinogradPlanes<A>;

  int64_t columns;                                            // target channels of a panel
  int64_t rows;                                               // tiles, or source channels, of one step of a product
  int64_t vector;                                             // channels handled at once
  int64_t (*scratch)(const Winograd&, const WinogradBlock&);  // elements of A
  // What the block reads of the source or writes of the target, at most a run for each tile, of `channels` channels
  // from `base`; returns how many runs.
  int64_t (*touches)(const Winograd&, const WinogradBlock&, bool in_source, int64_t channels, const T* base,
                     WinogradTouch* out);

  // planes[tile][c - c_begin] = Bᵀ x B of one slice tap, for tiles [begin, end) of the block and channels from c_begin,
  // a multiple of `vector`. Channels up to the next multiple of `vector` are zeros.
  void (*source)(const Winograd&, const WinogradBlock&, int64_t begin, int64_t end, int64_t group, int64_t slice_tap,
                 int64_t c_begin, int64_t c_end, const T* source, Planes planes, A* scratch);
  // planes[c - c_begin][m - m_begin] = G w Gᵀ of one slice tap, for channels from c_begin and m_begin, multiples of
  // `vector`. Rows and columns beyond c_end and m_end up to the next multiples are zeros.
  void (*filter)(const Winograd&, int64_t group, int64_t slice_tap, int64_t c_begin, int64_t c_end, int64_t m_begin,
                 int64_t m_end, const T* weight, Planes planes);
  // product[tile][column] (+)= Σ_depth source[tile][depth] · filter[depth][column], columns of one panel at most.
  void (*multiply)(const Winograd&, const WinogradBlock&, int64_t depth, int64_t columns, Planes source, Planes filter,
                   Planes product, bool add, WinogradAhead& ahead);
  // target = Aᵀ product A + bias, of target channels [m_begin, m_end), the planes' columns from 0.
  void (*target)(const Winograd&, const WinogradBlock&, int64_t begin, int64_t end, int64_t group, int64_t m_begin,
                 int64_t m_end, Planes product, const T* bias, T* target, A* scratch);

  // The weight gradient. planes[tile][m - m_begin] = A ȳ Aᵀ; sums[c][m] (+)= Σ_tiles source[tile][c] · grad[tile][m];
  // out[c][tap][m] = Gᵀ sums G, rows of `ld`; weight[m, c, tap] of channels [c_begin, c_end) and [m_begin, m_end) =
  // Σ of `parts` such outs, `stride` apart, added in order.
  void (*grad)(const Winograd&, const WinogradBlock&, int64_t begin, int64_t end, int64_t group, int64_t m_begin,
               int64_t m_end, const T* grad, Planes planes, A* scratch);
  void (*accumulate)(const Winograd&, const WinogradBlock&, int64_t c, int64_t m, Planes source, Planes grad,
                     Planes sums, bool add, WinogradAhead& ahead);
  void (*weight)(const Winograd&, int64_t c, int64_t m, Planes sums, A* out, int64_t ld);
  void (*store)(const Winograd&, int64_t group, int64_t slice_tap, int64_t c_begin, int64_t c_end, int64_t m_begin,
                int64_t m_end, int64_t parts, int64_t stride, const A* sums, int64_t ld, T* weight);
};

}  // namespace torchconv
