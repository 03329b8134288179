// What the paths of pooling share: windows as the tables have them, what looks up kept positions, and the scatter and
// the spread for windows that overlap so much that to gather would be slower.
#pragma once
#include "cpu/numeric.inl"
#include "cpu/tile.inl"

namespace pooling {

constexpr int64_t kLoose = 16;  // most that is read or written past an end: a vector

inline int64_t volume(int64_t a, int64_t b, int64_t c) { return a * b * c; }
inline int64_t inputs(const PoolGeometry& g) { return volume(g.axis[0].input, g.axis[1].input, g.axis[2].input); }
inline int64_t outputs(const PoolGeometry& g) { return volume(g.axis[0].output, g.axis[1].output, g.axis[2].output); }

// The first tap in the input; of a window wholly in the padding, which has none, the first past the front padding.
inline int64_t first_tap(const PoolAxis& a, int64_t o) { return at_most(a.first[o], a.taps - 1); }
inline bool empty(const PoolAxis& a, int64_t o) { return a.first[o] >= a.last[o]; }

inline int64_t code(const PoolGeometry& g, int64_t t0, int64_t t1, int64_t t2) {
  return (t0 * g.axis[1].taps + t1) * g.axis[2].taps + t2;
}

inline int64_t divisor(const PoolGeometry& g, int64_t o0, int64_t o1, int64_t o2) {
  if (g.divisor_override != 0) return g.divisor_override;
  return volume(g.axis[0].divisor[o0], g.axis[1].divisor[o1], g.axis[2].divisor[o2]);
}

// As wide as the values, so that one mask selects both.
template <class A>
struct Index {
  using type = int32_t;
};
template <>
struct Index<double> {
  using type = int64_t;
};

template <class A>
using place_t = typename Index<A>::type;
template <class A>
using places_t = typename Vector<A>::mask;

// ---- what looks up kept positions, and sums as they say where that is not gathered ----

// What one unit covers: contiguous, kPoolPlanes planes, and channels-last, kPoolChannels
// channels of one.
struct Part {
  int64_t p0, p1, c0, c1;
};
inline Part part(const PoolGeometry& g, int64_t unit) {
  if (g.channels == 1) return {unit * kPoolPlanes, at_most((unit + 1) * kPoolPlanes, g.planes), 0, 1};
  const int64_t parts = (g.channels + kPoolChannels - 1) / kPoolChannels;
  const int64_t c0 = unit % parts * kPoolChannels;
  return {unit / parts, unit / parts + 1, c0, at_most(c0 + kPoolChannels, g.channels)};
}

// Where an output was taken from.
struct Kept {
  int64_t plane;     // positions of the part's planes before this one
  int64_t position;  // in the plane
  int64_t channel;
};

// Added to a position to say that there is none; two of them do not overflow.
constexpr int64_t kNowhere = INT64_MIN / 4;

// Calls body(element of the output map, where it was taken from) for all outputs of a part, with a position that is
// `if_empty` off for windows wholly in the padding, and kNowhere off for one that no window has.
template <bool kChannels, class P, class Body>
inline void walk_kept(const PoolGeometry& g, const Part& part, const P* positions, int64_t if_empty, Body body) {
  const PoolAxis a0 = g.axis[0], a1 = g.axis[1], a2 = g.axis[2];
  const int64_t c0 = kChannels ? part.c0 : 0, c1 = kChannels ? part.c1 : 1, channels = kChannels ? g.channels : 1;
  const int64_t size = inputs(g), *offset = g.tap_offset;
  const uint64_t window = static_cast<uint64_t>(g.window), known = window < kPoolOffsets ? window : kPoolOffsets;
  const auto offset_of = [&](uint64_t at) {
    return at < known ? offset[at] : at < window ? pool_offset(g, at) : kNowhere;
  };
  int64_t out = part.p0 * outputs(g) * channels;
  for (int64_t p = part.p0; p < part.p1; ++p)
    for (int64_t o0 = 0; o0 < a0.output; ++o0)
      for (int64_t o1 = 0; o1 < a1.output; ++o1) {
        const bool none = empty(a0, o0) || empty(a1, o1);
        const int64_t row = (a0.origin[o0] * a1.input + a1.origin[o1]) * a2.input;
        for (int64_t o2 = 0; o2 < a2.output; ++o2, out += channels) {
          const int64_t base = row + a2.origin[o2] + (none || empty(a2, o2) ? if_empty : 0);
          for (int64_t c = c0; c < c1; ++c) {
            const int64_t position = base + offset_of(static_cast<uint64_t>(positions[out + c]));
            body(out + c, Kept{(p - part.p0) * size, position, c});
          }
        }
      }
}
template <class P, class Body>
inline void for_each_kept(const PoolGeometry& g, const Part& part, const P* positions, int64_t if_empty, Body body) {
  if (g.channels == 1) return walk_kept<false>(g, part, positions, if_empty, body);
  walk_kept<true>(g, part, positions, if_empty, body);
}

// Calls body with the positions as what they are kept in.
template <class Body>
inline void with_positions(const PoolGeometry& g, const void* positions, Body body) {
  if (g.position_bytes == 1) return body(static_cast<const uint8_t*>(positions));
  if (g.position_bytes == 2) return body(static_cast<const int16_t*>(positions));
  return body(static_cast<const int32_t*>(positions));
}

// Where a part of dx is summed: dx itself, or for a storage type narrower than its accumulator the scratch. Position s
// of the part's planes, channel c is at[s * pitch + c - c0].
template <class A>
struct Sums {
  A* at;
  int64_t pitch;
};
template <class T>
constexpr bool kInPlace = sizeof(T) == sizeof(accumulator_t<T>);

template <class T>
inline Sums<accumulator_t<T>> open_sums(const PoolGeometry& g, const Part& p, T* dx, accumulator_t<T>* scratch) {
  const int64_t n = p.c1 - p.c0, positions = (p.p1 - p.p0) * inputs(g);
  Sums<accumulator_t<T>> sums{scratch, n};
  if constexpr (kInPlace<T>) sums = {dx + p.p0 * inputs(g) * g.channels + p.c0, g.channels};
  if (sums.pitch == n)
    std::memset(sums.at, 0, sizeof(*sums.at) * positions * n);
  else
    for (int64_t s = 0; s < positions; ++s) std::memset(sums.at + s * sums.pitch, 0, sizeof(*sums.at) * n);
  return sums;
}
template <class T>
inline void close_sums(const PoolGeometry& g, const Part& p, const Sums<accumulator_t<T>>& sums, T* dx) {
  if constexpr (kInPlace<T>) return;
  const int64_t n = p.c1 - p.c0, positions = (p.p1 - p.p0) * inputs(g);
  T* to = dx + p.p0 * inputs(g) * g.channels + p.c0;
  if (g.channels == n)
    for (int64_t i = 0; i < positions * n; ++i) narrow(sums.at[i], to + i);
  else
    for (int64_t s = 0; s < positions; ++s)
      for (int64_t c = 0; c < n; ++c) narrow(sums.at[s * n + c], to + s * g.channels + c);
}

template <class T, class P>
void scatter_kept(const PoolGeometry& g, const T* dy, const P* kept, T* dx, accumulator_t<T>* scratch, int64_t begin,
                  int64_t end) {
  const uint64_t size = static_cast<uint64_t>(inputs(g));
  for (int64_t unit = begin; unit < end; ++unit) {
    const Part p = part(g, unit);
    const auto sums = open_sums(g, p, dx, scratch);
    for_each_kept(g, p, kept, kNowhere, [=](int64_t out, const Kept& k) {
      // Positions are data that a caller hands in: whatever they hold, nothing outside the plane is touched.
      if (static_cast<uint64_t>(k.position) < size)
        sums.at[(k.plane + k.position) * sums.pitch + k.channel - p.c0] += widen(dy[out]);
    });
    close_sums(g, p, sums, dx);
  }
}

// Windows of a mean are never dilated: the taps of a row lie side by side.
template <bool kChannels, class A>
inline void add_to_window(const PoolGeometry& g, int64_t o0, int64_t o1, int64_t o2, const A* share, int64_t n, A* at,
                          int64_t pitch) {
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  for (int64_t t0 = a0.first[o0]; t0 < a0.last[o0]; ++t0)
    for (int64_t t1 = a1.first[o1]; t1 < a1.last[o1]; ++t1) {
      A* row = at + (((a0.origin[o0] + t0) * a1.input + a1.origin[o1] + t1) * a2.input + a2.origin[o2]) * pitch;
      if (!kChannels)
        for (int64_t t2 = a2.first[o2]; t2 < a2.last[o2]; ++t2) row[t2] += *share;
      else
        for (int64_t t2 = a2.first[o2]; t2 < a2.last[o2]; ++t2) TORCHCONV_INDEPENDENT
      for (int64_t c = 0; c < n; ++c) row[t2 * pitch + c] += share[c];
    }
}

template <class T>
void spread_windows(const PoolGeometry& g, const T* dy, T* dx, accumulator_t<T>* scratch, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  A share[kPoolChannels];  // [channel] what each element of the window gets
  for (int64_t unit = begin; unit < end; ++unit) {
    const Part part = pooling::part(g, unit);
    const auto sums = open_sums(g, part, dx, scratch);
    const T* from = dy + part.p0 * outputs(g) * g.channels + part.c0;
    const int64_t n = part.c1 - part.c0;
    for (int64_t p = part.p0; p < part.p1; ++p) {
      A* at = sums.at + (p - part.p0) * inputs(g) * sums.pitch;
      for (int64_t o0 = 0; o0 < g.axis[0].output; ++o0)
        for (int64_t o1 = 0; o1 < g.axis[1].output; ++o1)
          for (int64_t o2 = 0; o2 < g.axis[2].output; ++o2, from += g.channels) {
            const A by = static_cast<A>(divisor(g, o0, o1, o2));
            for (int64_t c = 0; c < n; ++c) share[c] = widen(from[c]) / by;
            if (g.channels == 1)
              add_to_window<false>(g, o0, o1, o2, share, n, at, sums.pitch);
            else
              add_to_window<true>(g, o0, o1, o2, share, n, at, sums.pitch);
          }
    }
    close_sums(g, part, sums, dx);
  }
}

}  // namespace pooling
