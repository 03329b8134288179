// What pooling asks of a kernel set, and how a pooling is described to it: three axes, of which 1-D and 2-D leave the
// first ones at size 1, and the same tables for regular, ceil-mode and adaptive windows.
#pragma once
#include "numeric.h"

namespace torchconv {

// One axis. Tap t of output o's window is input coordinate origin[o] + t * dilation; it lies in the input, and not in
// the padding, for first[o] <= t < last[o].
struct PoolAxis {
  int64_t input, output;  // sizes
  int64_t taps;           // taps of the widest window, those in the padding included
  int64_t dilation;
  int64_t stride;          // origin[o] == origin[0] + o * stride, or 0: the origins follow no such rule (adaptive)
  const int32_t* origin;   // [output]
  const int32_t* first;    // [output]
  const int32_t* last;     // [output]
  const int32_t* divisor;  // [output] what a sum is divided by, this axis's factor of it
};

// The outputs begin <= o < end of the last axis for which this tap lies in the input.
struct PoolRun {
  int32_t tap, begin, end;
};

// What the innermost loops run over: outputs of a row, channels (channels-last), planes (contiguous, short rows), or
// outputs of a row and their channels together (pool_pairs.inl: maxima alone).
enum class PoolLanes { row, channels, planes, pairs };

// Element (plane p, position s, channel c) of a map lies at (p * positions + s) * channels + c. Contiguous: planes are
// N * C and channels 1; channels-last: planes are N.
struct PoolGeometry {
  int64_t planes, channels;
  PoolAxis axis[3];
  PoolLanes lanes;
  const PoolRun* runs;  // [run_count], by tap; for lanes along a row
  int64_t run_count;
  // A position in the window is its place in scan order, (t0 * taps1 + t1) * taps2 + t2, whichever taps lie in the
  // padding, kept in as few bytes as hold the last one.
  int64_t window;             // taps0 * taps1 * taps2
  int64_t position_bytes;     // 1 (unsigned), 2 or 4 (signed)
  const int64_t* tap_offset;  // [window] from the element at the origin to the one at the tap; for kept positions
  int64_t divisor_override;   // 0: none
};

// Planes that one unit covers: where the lanes are planes, and of a transposed operator (scatter, gather, spread) in
// the contiguous layout. In channels-last those take so many channels of one plane.
constexpr int64_t kPoolPlanes = 16;
constexpr int64_t kPoolChannels = 64;

// Each does units begin <= u < end of the work: pool_units() or pool_transpose_units() of them.
template <class T>
struct PoolKernels {
  // x: [input map], y: [output map], positions: [output map]
  void (*max_pool)(const PoolGeometry&, const T* x, T* y, void* positions, int64_t begin, int64_t end);
  void (*avg_pool)(const PoolGeometry&, const T* x, T* y, int64_t begin, int64_t end);
  // dy: [output map], dx: [input map], scratch: pool_scratch() sums, for bfloat16 alone
  void (*scatter)(const PoolGeometry&, const T* dy, const void* positions, T* dx, accumulator_t<T>* scratch,
                  int64_t begin, int64_t end);
  void (*gather)(const PoolGeometry&, const T* x, const void* positions, T* y, int64_t begin, int64_t end);
  void (*spread)(const PoolGeometry&, const T* dy, T* dx, accumulator_t<T>* scratch, int64_t begin, int64_t end);
  // indices: [output map] of flat indices into the input's plane
  void (*indices)(const PoolGeometry&, const void* positions, int64_t* indices, int64_t begin, int64_t end);
};

// The pixels of a row that a row of windows spans at a step of two, those in the padding included.
inline int64_t pool_span(const PoolAxis& a) { return 2 * (a.output - 1) + (a.taps - 1) * a.dilation + 1; }

// Whether a maximum of regular windows may have lanes of pairs: what its buffers hold is kPairRows rows of a window, of each kPairLanes
// elements at even places and as many at odd ones. Fewer than kPairLeast lanes leave most of a vector empty.
constexpr int64_t kPairRows = 4, kPairLanes = 1024, kPairLeast = 8;
inline bool serves_pairs(const PoolGeometry& g) {
  const PoolAxis& a2 = g.axis[2];
  return a2.stride == 2 && a2.output > 0 && g.position_bytes == 1 && g.channels <= kPoolChannels &&
         a2.output * g.channels >= kPairLeast && g.axis[0].taps * g.axis[1].taps <= kPairRows &&
         (pool_span(a2) / 2 + 1) * g.channels <= kPairLanes;
}

inline int64_t pool_blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

inline int64_t pool_units(const PoolGeometry& g) {
  const int64_t groups = g.lanes == PoolLanes::planes ? pool_blocks(g.planes, kPoolPlanes) : g.planes;
  return groups * g.axis[0].output * g.axis[1].output;
}

inline int64_t pool_transpose_units(const PoolGeometry& g) {
  return g.channels == 1 ? pool_blocks(g.planes, kPoolPlanes) : g.planes * pool_blocks(g.channels, kPoolChannels);
}

inline int64_t pool_scratch(const PoolGeometry& g) {
  return g.axis[0].input * g.axis[1].input * g.axis[2].input * (g.channels == 1 ? kPoolPlanes : kPoolChannels);
}

}  // namespace torchconv
