// Pooling. Every window, regular or adaptive, is what PoolGeometry's tables say.
//
//   max_pool   p[o] = argmax over t of x[origin[o] + t], y[o] = x[p[o]]
//   scatter    dx[p[o]] += dy[o]          gather  y[o] = x[p[o]]
//   avg_pool   y[o] = (sum over t of x[origin[o] + t]) / divisor[o]
//   spread     dx[origin[o] + t] += dy[o] / divisor[o]
//
// One body runs over channels (pool_points.inl, and pool_gather.inl for what is transposed), but for maxima of 3 by 3 a
// step apart (pool_triples.inl); contiguous planes are first turned into channels (pool_turned.inl), but for windows of
// 2 by 2 side by side (pool_pairs.inl). In this file are the operators, what looks up kept positions, and the scatter
// and the spread for windows that overlap so much that to gather would be slower.
//
// Each output is reduced in scan order by itself, and what an input is given is summed in the order of the outputs: no
// result depends on how the units are divided among threads, or on what else is in the batch.

#include "tile.inl"
#include "transpose.inl"

namespace pooling {

constexpr int64_t kLoose = 16;  // most that is read or written past an end: a vector

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t volume(int64_t a, int64_t b, int64_t c) { return a * b * c; }
inline int64_t inputs(const PoolGeometry& g) { return volume(g.axis[0].input, g.axis[1].input, g.axis[2].input); }
inline int64_t outputs(const PoolGeometry& g) { return volume(g.axis[0].output, g.axis[1].output, g.axis[2].output); }

// The first tap in the input; of a window wholly in the padding, which has none, the first past the front padding.
inline int64_t first_tap(const PoolAxis& a, int64_t o) { return smaller(a.first[o], a.taps - 1); }
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
  if (g.channels == 1) return {unit * kPoolPlanes, smaller((unit + 1) * kPoolPlanes, g.planes), 0, 1};
  const int64_t parts = (g.channels + kPoolChannels - 1) / kPoolChannels;
  const int64_t c0 = unit % parts * kPoolChannels;
  return {unit / parts, unit / parts + 1, c0, smaller(c0 + kPoolChannels, g.channels)};
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
        for (int64_t t2 = a2.first[o2]; t2 < a2.last[o2]; ++t2)
#pragma GCC ivdep
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

#include "pool_points.inl"
#include "pool_triples.inl"
#include "pool_gather.inl"
#include "pool_turned.inl"
#include "pool_pairs.inl"

// ---- the operators ----

namespace pooling {

// Calls body(Vectors<K>) with the taps that a reduction is unrolled for.
template <class Body>
inline void with_taps(const PoolGeometry& g, Body body) {
  const int64_t taps = unrolled(g);
  if (taps == 2) return body(Vectors<2>());
  if (taps == 3) return body(Vectors<3>());
  body(Vectors<0>());
}

template <class T>
void max_pool(const PoolGeometry& g, const T* x, T* y, void* positions, accumulator_t<T>* scratch, int64_t begin,
              int64_t end) {
  using A = accumulator_t<T>;
  if (in_pairs(g))
    return pool_pairs(g, ReducedPairs<T, true>{x, y, static_cast<uint8_t*>(positions), A(1)}, begin, end);
  with_taps(g, [&]<int K>(Vectors<K>) {
    with_positions(g, positions, [&]<class P>(const P*) {
      P* const kept = static_cast<P*>(positions);
      Maxima<T, P> maxima{y, kept};
      if constexpr (sizeof(P) == 1)
        if (in_triples<A>(g)) return pool_triples(g, x, maxima, begin, end);
      if (g.lanes == PoolLanes::channels) return reduce_channels<K>(g, x, maxima, begin, end);
      const Tiles<A> tiles(g, scratch);
      Maxima<A, place_t<A>> in_tiles{tiles.output, tiles.places};
      reduce_planes<K>(g, x, tiles, in_tiles, begin, end, [&](const Block& out, int64_t p, int64_t planes) {
        out.turned_back(static_cast<const A*>(tiles.output), p, planes, y);
        out.turned_back(tiles.place_bits(), p, planes, kept);
      });
    });
  });
}

template <class T>
void avg_pool(const PoolGeometry& g, const T* x, T* y, accumulator_t<T>* scratch, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  if (in_pairs(g))
    return pool_pairs(g, ReducedPairs<T, false>{x, y, nullptr, static_cast<A>(divisor(g, 0, 0, 0))}, begin, end);
  with_taps(g, [&]<int K>(Vectors<K>) {
    Means<T> means{y};
    if (g.lanes == PoolLanes::channels) return reduce_channels<K>(g, x, means, begin, end);
    const Tiles<A> tiles(g, scratch);
    Means<A> in_tiles{tiles.output};
    reduce_planes<K>(g, x, tiles, in_tiles, begin, end, [&](const Block& out, int64_t p, int64_t planes) {
      out.turned_back(static_cast<const A*>(tiles.output), p, planes, y);
    });
  });
}

template <class T>
void scatter(const PoolGeometry& g, const T* dy, const void* positions, T* dx, accumulator_t<T>* scratch, int64_t begin,
             int64_t end) {
  if (in_pairs(g)) {
    const auto* kept = static_cast<const uint8_t*>(positions);
    return pool_pairs(g, SpreadPairs<T, true>{dx, dy, kept, accumulator_t<T>(1)}, begin, end);
  }
  with_positions(g, positions, [&](auto* kept) {
    if (!g.gathers) return scatter_kept(g, dy, kept, dx, scratch, begin, end);
    if (g.lanes == PoolLanes::planes) return scatter_planes(g, dy, kept, dx, scratch, begin, end);
    scatter_channels(g, dy, kept, dx, begin, end);
  });
}

template <class T>
void spread(const PoolGeometry& g, const T* dy, T* dx, accumulator_t<T>* scratch, int64_t begin, int64_t end) {
  if (in_pairs(g)) {
    const auto by = static_cast<accumulator_t<T>>(divisor(g, 0, 0, 0));
    return pool_pairs(g, SpreadPairs<T, false>{dx, dy, nullptr, by}, begin, end);
  }
  if (!g.gathers) return spread_windows(g, dy, dx, scratch, begin, end);
  if (g.lanes == PoolLanes::planes) return spread_planes(g, dy, dx, scratch, begin, end);
  spread_channels(g, dy, dx, scratch, begin, end);
}

template <class T>
void gather(const PoolGeometry& g, const T* x, const void* positions, T* y, int64_t begin, int64_t end) {
  const uint64_t size = static_cast<uint64_t>(inputs(g));
  for (int64_t unit = begin; unit < end; ++unit) {
    const Part p = part(g, unit);
    const T* from = x + p.p0 * inputs(g) * g.channels;
    const int64_t channels = g.channels;
    with_positions(g, positions, [&](auto* kept) {
      for_each_kept(g, p, kept, kNowhere, [=](int64_t out, const Kept& k) {
        y[out] = static_cast<uint64_t>(k.position) < size ? from[(k.plane + k.position) * channels + k.channel] : T{};
      });
    });
  }
}

inline void indices(const PoolGeometry& g, const void* positions, int64_t* indices, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit)
    with_positions(g, positions, [&](auto* kept) {
      for_each_kept(g, part(g, unit), kept, 0, [=](int64_t out, const Kept& k) { indices[out] = k.position; });
    });
}

}  // namespace pooling

template <class T>
PoolKernels<T> pool_kernels() {
  return {pooling::max_pool<T>, pooling::avg_pool<T>, pooling::scatter<T>,
          pooling::spread<T>,   pooling::gather<T>,   pooling::indices};
}
TORCHCONV_EACH_TYPE(PoolKernels, pool_kernels)
