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

// The rows along the second axis that one unit covers where lanes are planes, those of the output, or for a transposed
// operator of the input; and the most pixels that a unit has of either map.
struct PoolStrips {
  int64_t rows, count;
  int64_t input, output;
};

// What the lanes of a vector are: channels; or planes (contiguous), turned into channels a block at a time.
enum class PoolLanes { channels, planes };

// Element (plane p, position s, channel c) of a map lies at (p * positions + s) * channels + c. Contiguous: planes are
// N * C and channels 1; channels-last: planes are N.
struct PoolGeometry {
  int64_t planes, channels;
  PoolAxis axis[3];
  PoolLanes lanes;
  bool gathers;       // a transposed operator sums what each input is given; else each output gives to its inputs
  PoolStrips strips;  // where lanes are planes
  int64_t ring[2];    // rows of shares kept along the first axes (powers of two), by a mean's transpose that gathers
  // A position in the window is its place in scan order, (t0 * taps1 + t1) * taps2 + t2, whichever taps lie in the
  // padding, kept in as few bytes as hold the last one.
  int64_t window;             // taps0 * taps1 * taps2
  int64_t position_bytes;     // 1 (unsigned), 2 or 4 (signed)
  const int64_t* tap_offset;  // pool_offset() of the first kPoolOffsets positions at most; for kept positions
  int64_t divisor_override;   // 0: none
};

// Planes that one unit covers: where the lanes are planes, and of what looks up kept positions in the contiguous
// layout. In channels-last that takes so many channels of one plane.
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

// Each does units begin <= u < end of the work: pool_units() of them of max_pool and avg_pool, pool_transpose_units()
// of scatter and spread, and pool_kept_units() of the others. scratch: pool_scratch() accumulators.
template <class T>
struct PoolKernels {
  using A = accumulator_t<T>;
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

inline int64_t pool_blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }
inline int64_t pool_power(int64_t least) {
  int64_t power = 1;
  while (power < least) power *= 2;
  return power;
}

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

inline int64_t pool_units(const PoolGeometry& g) {
  if (g.lanes == PoolLanes::planes) return pool_blocks(g.planes, kPoolPlanes) * g.axis[0].output * g.strips.count;
  return g.planes * g.axis[0].output * g.axis[1].output;
}

inline int64_t pool_kept_units(const PoolGeometry& g) {
  return g.channels == 1 ? pool_blocks(g.planes, kPoolPlanes) : g.planes * pool_blocks(g.channels, kPoolChannels);
}

// Gathering: rows of the input, of one plane or in strips of a block of planes; else as kept positions are walked.
inline int64_t pool_transpose_units(const PoolGeometry& g) {
  if (!g.gathers) return pool_kept_units(g);
  if (g.lanes == PoolLanes::planes) return pool_blocks(g.planes, kPoolPlanes) * g.axis[0].input * g.strips.count;
  return g.planes * g.axis[0].input * g.axis[1].input;
}

// Accumulators of scratch that a thread needs: where lanes are planes, tiles of both maps and of the positions.
inline int64_t pool_scratch(const PoolGeometry& g) {
  return g.lanes == PoolLanes::planes ? (g.strips.input + 2 * g.strips.output) * kPoolPlanes : 0;
}

// And of a transposed operator: those and the rows of shares, which are read a vector past the last; or a plane of
// sums, if dx is too narrow to sum in.
inline int64_t pool_transpose_scratch(const PoolGeometry& g, bool narrow) {
  const int64_t inputs = g.axis[0].input * g.axis[1].input * g.axis[2].input;
  const int64_t together = g.channels == 1 ? g.planes : g.channels,
                most = g.channels == 1 ? kPoolPlanes : kPoolChannels;
  if (!g.gathers) return narrow ? inputs * (together < most ? together : most) : 0;
  const int64_t shares = g.ring[0] * g.ring[1] * g.axis[2].output;
  return pool_scratch(g) + shares * (g.lanes == PoolLanes::planes ? kPoolPlanes : g.channels) + kPoolPlanes;
}

}  // namespace torchconv
