// Patches: what each target position sees of the source, copied to where the tiles read it, a block at a time.
#pragma once
#include "cpu/numeric.inl"

// A run of consecutive target positions in one row of one sample's map.
struct Segment {
  int64_t first, length;  // where it stands in the block
  int64_t n, t[3];        // its first position
};

// Positions [begin, end), counted over (n, t0, t1, t2), as runs; returns how many. `out` holds end - begin at the most.
inline int64_t segments(const Gather& g, int64_t begin, int64_t end, Segment* out) {
  int64_t count = 0;
  for (int64_t p = begin; p < end; ++count) {
    int64_t row = p / g.count[2];
    Segment& s = out[count];
    s.first = p - begin;
    s.t[2] = p % g.count[2];
    s.length = at_most(g.count[2] - s.t[2], end - p);
    s.t[1] = row % g.count[1];
    row /= g.count[1];
    s.t[0] = row % g.count[0];
    s.n = row / g.count[0];
    p += s.length;
  }
  return count;
}

// The offset of tap j along one axis; they ascend with j.
inline int64_t tap_offset(const Gather& g, int axis, int64_t j) {
  const int64_t inner = axis == 0 ? g.grid[1] * g.grid[2] : axis == 1 ? g.grid[2] : 1;
  return g.taps[j * inner].offset[axis];
}

// Where a tap meets a segment: lanes [low, high) read inside the map, the first of all lanes at `origin`.
struct Reach {
  int64_t origin, low, high;
};

inline Reach reach(const Gather& g, const Segment& s, const Tap& tap) {
  const int64_t i0 = s.t[0] * g.step[0] + tap.offset[0], i1 = s.t[1] * g.step[1] + tap.offset[1];
  const int64_t i2 = s.t[2] * g.step[2] + tap.offset[2], step = g.step[2];
  if (i0 < 0 || i0 >= g.extent[0] || i1 < 0 || i1 >= g.extent[1]) return {0, s.length, s.length};
  const int64_t low = at_most(i2 < 0 ? (-i2 + step - 1) / step : 0, s.length);
  const int64_t high = at_least(low, at_most(i2 < g.extent[2] ? (g.extent[2] - i2 + step - 1) / step : 0, s.length));
  const View& v = g.source;
  return {s.n * v.n + i0 * v.s[0] + i1 * v.s[1] + i2 * v.s[2], low, high};
}

template <class T, class A>
inline void copy_strided(const T* from, int64_t stride, int64_t length, A* to) {
  if (stride == 1)
    for (int64_t i = 0; i < length; ++i) to[i] = widen(from[i]);
  else
    for (int64_t i = 0; i < length; ++i) to[i] = widen(from[i * stride]);
}

template <int N, class A>
inline void copy_overlapping(const A* from, int64_t length, A* to) {  // N <= length <= 2 N
  A first[N], last[N];
  std::memcpy(first, from, sizeof first);
  std::memcpy(last, from + length - N, sizeof last);
  std::memcpy(to, first, sizeof first);
  std::memcpy(to + length - N, last, sizeof last);
}

// A short row. Not by memcpy: a call for each would take longer than the copy.
template <class A>
inline void copy_row(const A* from, int64_t length, A* to) {
  if (length > 32)
    for (int64_t l = 0; l < length; l += 16) {
      const int64_t at = at_most(l, length - 16);
      A part[16];
      std::memcpy(part, from + at, sizeof part);
      std::memcpy(to + at, part, sizeof part);
    }
  else if (length >= 16)
    copy_overlapping<16>(from, length, to);
  else if (length >= 8)
    copy_overlapping<8>(from, length, to);
  else if (length >= 4)
    copy_overlapping<4>(from, length, to);
  else if (length >= 2)
    copy_overlapping<2>(from, length, to);
  else if (length == 1)
    *to = *from;
}
inline void copy_row(const bfloat16* from, int64_t length, float* to) { copy_strided(from, 1, length, to); }
inline void copy_row(const float* from, int64_t length, bfloat16* to) {
  for (int64_t l = 0; l < length; ++l) narrow(from[l], to + l);
}

// Rows k in [k_begin, k_end) of the patch matrix: out[k - k_begin][position], row stride ld, zeros up to `width`.
// source points at the group's first channel.
template <class T, class A>
void pack_columns(const Gather& g, const Segment* runs, int64_t run_count, const T* source, int64_t k_begin,
                  int64_t k_end, int64_t positions, int64_t width, A* out, int64_t ld) {
  const int64_t stride = g.step[2] * g.source.s[2];
  for (int64_t k = k_begin; k < k_end;) {
    const int64_t tap = k / g.c, c_begin = k % g.c, c_end = at_most(g.c, c_begin + k_end - k);
    for (int64_t i = 0; i < run_count; ++i) {
      const Segment& s = runs[i];
      const Reach r = reach(g, s, g.taps[tap]);
      const T* from = source + r.origin + c_begin * g.source.c + r.low * stride;
      A* to = out + (k - k_begin) * ld + s.first;
      for (int64_t c = c_begin; c < c_end; ++c, to += ld, from += g.source.c) {
        zero(to, r.low);
        if (r.high > r.low) copy_strided(from, stride, r.high - r.low, to + r.low);
        zero(to + r.high, s.length - r.high);
      }
    }
    k += c_end - c_begin;
  }
  for (int64_t k = k_begin; k < k_end && width > positions; ++k)
    zero(out + (k - k_begin) * ld + positions, width - positions);
}

// The same matrix transposed, for channels-last sources: out[position][k - k_begin], row stride ld.
template <class T, class A>
void pack_rows(const Gather& g, const Segment* runs, int64_t run_count, const T* source, int64_t k_begin, int64_t k_end,
               A* out, int64_t ld) {
  const int64_t stride = g.step[2] * g.source.s[2];
  for (int64_t i = 0; i < run_count; ++i) {
    const Segment& s = runs[i];
    for (int64_t k = k_begin; k < k_end;) {
      const int64_t tap = k / g.c, c_begin = k % g.c, length = at_most(g.c - c_begin, k_end - k);
      const Reach r = reach(g, s, g.taps[tap]);
      A* to = out + s.first * ld + (k - k_begin);
      for (int64_t l = 0; l < s.length; ++l, to += ld) {
        if (l < r.low || l >= r.high)
          zero(to, length);
        else
          copy_strided(source + r.origin + l * stride + c_begin * g.source.c, g.source.c, length, to);
      }
      k += length;
    }
  }
}

// Where the segment's first target element of the group's channel 0 lies; the next one is spacing[2] · s[2] further.
inline int64_t target_offset(const Gather& g, const Segment& s) {
  int64_t at = s.n * g.target.n;
  for (int a = 0; a < 3; ++a) at += (g.base[a] + s.t[a] * g.spacing[a]) * g.target.s[a];
  return at;
}
