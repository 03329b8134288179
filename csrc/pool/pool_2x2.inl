// Pooling of contiguous maps by windows of 2 by 2 that lie side by side and cover the map, which most networks use. No
// plane is turned: a vector of outputs is made of four vectors of inputs, whose even and odd columns are parted, and a
// vector of gradients is woven into four. Rows of outputs that are shorter than a vector lie so that several pairs of
// rows of inputs fill those four, if their length is a power of two; others end past their row, which the next mends.
//
//   max_pool, avg_pool, scatter and spread as in pool.inl, each output the same in every bit
#pragma once
#include "cpu/transpose.inl"
#include "pool/pool_backward.inl"
#include "pool/pool_forward.inl"
#include "pool/pool_planar.inl"
#include "pool/windows.inl"

namespace pooling {

// Of the lanes of a and then b, taken in blocks of N, the first of every two blocks, or the SECOND.
template <int N, int SECOND, class V, int... I>
inline V parted(V a, V b, Lanes<I...>) {
  return __builtin_shufflevector(a, b, (I / N * 2 * N + SECOND * N + I % N)...);
}
// And back: the first half, or the SECOND, of blocks of N lanes of a and of b by turns.
template <int N, int SECOND, class V, int... I>
inline V woven(V a, V b, Lanes<I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(
      a, b, ((SECOND * n + I) / N % 2 * n + (SECOND * n + I) / N / 2 * N + (SECOND * n + I) % N)...);
}

// Vectors [a, a + 2 * lanes) and so many from b on, to and from the four taps of a vector of windows. N: lanes of a
// pair of rows; a vector of them, if those at `a` are of the upper row and those at `b` of the lower.
template <int N, class T, class V = vector_t<accumulator_t<T>>>
inline void part_taps(const T* a, const T* b, V (&taps)[4]) {
  constexpr int n = lanes<accumulator_t<T>>;
  constexpr auto all = first_lanes<n>();
  const V a0 = load_widened(a), a1 = load_widened(a + n), b0 = load_widened(b), b1 = load_widened(b + n);
  const V even[2] = {parted<1, 0>(a0, a1, all), parted<1, 0>(b0, b1, all)};
  const V odd[2] = {parted<1, 1>(a0, a1, all), parted<1, 1>(b0, b1, all)};
  taps[0] = parted<N, 0>(even[0], even[1], all), taps[1] = parted<N, 0>(odd[0], odd[1], all);
  taps[2] = parted<N, 1>(even[0], even[1], all), taps[3] = parted<N, 1>(odd[0], odd[1], all);
}
template <int N, class T, class V = vector_t<accumulator_t<T>>>
inline void weave_taps(const V (&taps)[4], T* a, T* b) {
  constexpr int n = lanes<accumulator_t<T>>;
  constexpr auto all = first_lanes<n>();
  const V even[2] = {woven<N, 0>(taps[0], taps[2], all), woven<N, 1>(taps[0], taps[2], all)};
  const V odd[2] = {woven<N, 0>(taps[1], taps[3], all), woven<N, 1>(taps[1], taps[3], all)};
  store_narrowed(a, woven<1, 0>(even[0], odd[0], all)), store_narrowed(a + n, woven<1, 1>(even[0], odd[0], all));
  store_narrowed(b, woven<1, 0>(even[1], odd[1], all)), store_narrowed(b + n, woven<1, 1>(even[1], odd[1], all));
}

// One vector of windows: their inputs at `a` and `b`, their outputs at `at`. In `few`, so many of each exist.
template <class T, bool MAX>
struct ReducedPairs {
  using A = accumulator_t<T>;
  static constexpr int L = lanes<A>;
  const T* x;
  T* y;
  uint8_t* kept;
  A by;
  template <int N>
  void quad(int64_t a, int64_t b, int64_t at) const {
    vector_t<A> taps[4];
    part_taps<N>(x + a, x + b, taps);
    const auto tap = [&](int64_t t, int) { return taps[t]; };
    const Window w{.count = {1, 2, 2}, .step0 = 0, .step1 = 2, .step2 = 1, .code0 = 4, .code1 = 2, .first = 0};
    if constexpr (MAX) {
      Best<A> sums[1];
      reduce_window<2>(w, tap, sums);
      Maxima<T, uint8_t>{y, kept}.put(sums[0], at, by);
    } else {
      Total<A> sums[1];
      reduce_window<2>(w, tap, sums);
      Means<T>{y}.put(sums[0], at, by);
    }
  }
  template <int N>
  void few(int64_t a, int64_t b, int64_t each, int64_t at, int64_t outputs) const {
    T from[4 * L] = {}, to[L];
    uint8_t places[L];
    std::memcpy(from, x + a, sizeof(T) * each);
    std::memcpy(from + 2 * L, x + b, sizeof(T) * (4 * outputs - each));
    ReducedPairs{from, to, places, by}.template quad<N>(0, 2 * L, 0);
    std::memcpy(y + at, to, sizeof(T) * outputs);
    if constexpr (MAX) std::memcpy(kept + at, places, outputs);
  }
};
template <class T, bool MAX>
struct SpreadPairs {
  using A = accumulator_t<T>;
  static constexpr int L = lanes<A>;
  T* dx;
  const T* dy;
  const uint8_t* kept;
  A by;
  template <int N>
  void quad(int64_t a, int64_t b, int64_t at) const {
    vector_t<A> taps[4];
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) taps[t] = MAX ? Taken<T, uint8_t>{dy, kept}.at(at, t) : load_widened(dy + at) / by;
    weave_taps<N>(taps, dx + a, dx + b);
  }
  template <int N>
  void few(int64_t a, int64_t b, int64_t each, int64_t at, int64_t outputs) const {
    T to[4 * L], from[L] = {};
    uint8_t places[L] = {};
    std::memcpy(from, dy + at, sizeof(T) * outputs);
    if constexpr (MAX) std::memcpy(places, kept + at, outputs);
    SpreadPairs{to, from, places, by}.template quad<N>(0, 2 * L, 0);
    std::memcpy(dx + a, to, sizeof(T) * each);
    std::memcpy(dx + b, to + 2 * L, sizeof(T) * (4 * outputs - each));
  }
};

// Rows of `width` outputs, as many as `count` outputs are, the first at `at`: N of them, a power of two under a vector.
template <int N, class Pairs>
void pool_packed(const Pairs& pairs, int64_t width, int64_t at, int64_t count) {
  if constexpr (N < Pairs::L) {
    if (N < width) return pool_packed<2 * N>(pairs, width, at, count);
    constexpr int64_t L = Pairs::L;
    if (count < L) {
      const int64_t each = at_most(4 * count, 2 * L);
      return pairs.template few<N>(4 * at, 4 * at + each, each, at, count);
    }
    for (int64_t j = 0; j < count; j += L) {
      const int64_t o = at + at_most(j, count - L);
      pairs.template quad<N>(4 * o, 4 * o + 2 * L, o);
    }
  }
}

// And of any other width.
template <class Pairs>
void pool_rows(const Pairs& pairs, int64_t width, int64_t at, int64_t count) {
  constexpr int64_t L = Pairs::L;
  const int64_t end = at + count;
  for (; at < end; at += width) {
    const int64_t a = 4 * at, b = a + 2 * width;
    if (width < L && (at + L > end || b + 2 * L > 4 * end))
      pairs.template few<L>(a, b, 2 * width, at, width);
    else
      for (int64_t j = 0; j < width; j += L) {
        const int64_t o = at_least(0, at_most(j, width - L));
        pairs.template quad<L>(a + 2 * o, b + 2 * o, at + o);
      }
  }
}

// Units are blocks of planes, cut into as many as they have strips.
template <class Pairs>
void pool_pairs(const PoolGeometry& g, const Pairs& pairs, int64_t begin, int64_t end) {
  const int64_t width = g.axis[2].output, map = outputs(g), strips = g.strips.count;
  const auto cut = [&](int64_t unit) {  // where a unit's planes begin
    return at_most(unit / strips * kPoolPlanes + unit % strips * kPoolPlanes / strips, g.planes);
  };
  const int64_t at = cut(begin) * map, count = cut(end) * map - at;
  if (width < Pairs::L && (width & (width - 1)) == 0)
    pool_packed<1>(pairs, width, at, count);
  else
    pool_rows(pairs, width, at, count);
}

}  // namespace pooling
