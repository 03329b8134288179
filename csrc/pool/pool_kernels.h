// What pooling asks of a kernel set, and how a pooling is described to it: three axes, of which 1-D and 2-D leave the
// first ones at size 1, and the same tables for regular, ceil-mode and adaptive windows.
#pragma once
#include "cpu/numeric.h"

namespace torchconv {

// A window that an input is in, and the tap of it that the input is.
struct PoolLink {
  int32_t output, tap;
};

// One axis. Tap t of output o's window is input coordinate origin[o] + t * dilation; it lies in the input, and not in
// the padding, for first[o] <= t < last[o].
struct PoolAxis {
  int64_t input, output;  // sizes
  int64_t taps;  // of the widest window, those in the padding included as far as some window has them in the input
  int64_t dilation;
  int64_t stride;          // origin[o] == origin[0] + o * stride, or 0: the origins follow no such rule (adaptive)
  const int32_t* origin;   // [output], never falling
  const int32_t* first;    // [output]
  const int32_t* last;     // [output]
  const int32_t* divisor;  // [output] what a sum is divided by, this axis's factor of it
  // Of input i the links [reach[i], reach[i + 1]), by output: for the transposed operators, where they gather.
  const int32_t* reach;   // [input + 1]
  const PoolLink* links;  // [reach[input]]
};

// The rows along the second axis that one unit covers, those of the output, or for PoolPath::planes transposed of the
// input; and the most pixels that a unit has of either map.
struct PoolStrips {
  int64_t rows, count;
  int64_t input, output;
};

// How a pooling runs; PoolPlan chooses. A unit of work is
//   channels      a row of the output, or transposed of the input: the vectors hold channels
//   channels_3x3  the same, of maxima of 3 by 3 one step apart (pool_3x3_s1.inl)
//   planes        a strip of kPoolPlanes contiguous planes, which are turned into channels (pool_planar.inl)
//   planes_2x2    the same, not turned: windows of 2 by 2 side by side (pool_2x2.inl)
//   outputs       kPoolPlanes planes, or kPoolChannels channels of a plane, whose outputs are taken one by one: each
//                 looks up, or adds to, the inputs of its window
enum class PoolPath { channels, channels_3x3, planes, planes_2x2, outputs };

// Element (plane p, position s, channel c) of a map lies at (p * positions + s) * channels + c. Contiguous: planes are
// N * C and channels 1; channels-last: planes are N.
struct PoolGeometry {
  int64_t planes, channels;
  PoolAxis axis[3];
  PoolPath path;
  int64_t units;      // of work, on this path
  int64_t scratch;    // accumulators that a thread needs for them
  PoolStrips strips;  // of the paths over planes
  int64_t ring[2];    // rows of shares kept along the first axes (powers of two), by a mean's transpose over rows
  // A position in the window is its place in scan order, (t0 * taps1 + t1) * taps2 + t2, whichever taps lie in the
  // padding, kept in as few bytes as hold the last one.
  int64_t window;             // taps0 * taps1 * taps2
  int64_t position_bytes;     // 1 (unsigned), 2 or 4 (signed)
  const int64_t* tap_offset;  // pool_offset() of the first kPoolOffsets positions at most; for kept positions
  int64_t divisor_override;   // 0: none
};

// Of one unit.
constexpr int64_t kPoolPlanes = 16;
constexpr int64_t kPoolChannels = 64;
constexpr int64_t kPoolOffsets = 4096;

// From the element at a window's origin to the one at a position in it.
inline int64_t pool_offset(const PoolGeometry& g, uint64_t position) {
  const PoolAxis &a1 = g.axis[1], &a2 = g.axis[2];
  const uint64_t row = position / a2.taps, t2 = position % a2.taps, t1 = row % a1.taps, t0 = row / a1.taps;
  const int64_t i0 = t0 * g.axis[0].dilation, i1 = t1 * a1.dilation, i2 = t2 * a2.dilation;
  return (i0 * a1.input + i1) * a2.input + i2;
}

// Each does units begin <= u < end of PoolGeometry::units, with its scratch. gather and indices know outputs alone.
template <class T>
struct PoolKernels {
  using A = accumulator_t<T>;
  int64_t lanes;  // accumulators in a vector; 0: T has no path for windows of one kind alone
  // x: [input map], y: [output map], positions: [output map]
  void (*max_pool)(const PoolGeometry&, const T* x, T* y, void* positions, A* scratch, int64_t begin, int64_t end);
  void (*avg_pool)(const PoolGeometry&, const T* x, T* y, A* scratch, int64_t begin, int64_t end);
  // dy: [output map], dx: [input map]
  void (*scatter)(const PoolGeometry&, const T* dy, const void* positions, T* dx, A* scratch, int64_t begin,
                  int64_t end);
  void (*spread)(const PoolGeometry&, const T* dy, T* dx, A* scratch, int64_t begin, int64_t end);
  void (*gather)(const PoolGeometry&, const T* x, const void* positions, T* y, int64_t begin, int64_t end);
  // indices: [output map] of flat indices into the input's plane
  void (*indices)(const PoolGeometry&, const void* positions, int64_t* indices, int64_t begin, int64_t end);
};

// Rows [begin, end) along an axis.
struct PoolRange {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The inputs that the outputs of a range see, and the outputs that its inputs reach.
inline PoolRange pool_seen(const PoolAxis& a, PoolRange outputs) {
  const int64_t origin = a.origin[outputs.begin], past = a.origin[outputs.end - 1] + (a.taps - 1) * a.dilation + 1;
  const int64_t begin = origin < 0 ? 0 : origin < a.input ? origin : a.input, end = past < a.input ? past : a.input;
  return {begin, begin < end ? end : begin};
}
inline PoolRange pool_reached(const PoolAxis& a, PoolRange inputs) {
  PoolRange o{a.output, 0};
  for (int64_t i = inputs.begin; i < inputs.end; ++i)
    if (a.reach[i] < a.reach[i + 1]) {
      const int64_t first = a.links[a.reach[i]].output, past = a.links[a.reach[i + 1] - 1].output + 1;
      o = {first < o.begin ? first : o.begin, past > o.end ? past : o.end};
    }
  return o.begin < o.end ? o : PoolRange{0, 0};
}

}  // namespace torchconv
