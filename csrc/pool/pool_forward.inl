// Pooling whose lanes are channels, a row of outputs at a time; and planes too, once they lie side by side as channels
// (pool_planar.inl). Whatever windows the tables describe:
//
//   reduce_row   y[o] = the reduction of x[origin[o] + t] over the taps t that lie in the input, in scan order
#pragma once
#include "pool/windows.inl"

namespace pooling {

// Where the rows of a map lie: row (i0, i1) of plane p begins at p * plane + i0 * axis0 + i1 * axis1 - start.
struct Rows {
  int64_t plane, axis0, axis1, start;
  int64_t at(int64_t p, int64_t i0, int64_t i1) const { return p * plane + i0 * axis0 + i1 * axis1 - start; }
};
inline Rows input_rows(const PoolGeometry& g) {
  const int64_t row = g.axis[2].input * g.channels;
  return {g.axis[0].input * g.axis[1].input * row, g.axis[1].input * row, row, 0};
}
inline Rows output_rows(const PoolGeometry& g) {
  const int64_t row = g.axis[2].output * g.channels;
  return {g.axis[0].output * g.axis[1].output * row, g.axis[1].output * row, row, 0};
}

template <int V>
struct Vectors {};

// ---- vectors of which only the first `n` lanes exist ----

template <class T>
inline vector_t<accumulator_t<T>> load_some(const T* p, int64_t n) {
  vector_t<accumulator_t<T>> v = {};
  for (int64_t l = 0; l < n; ++l) v[l] = widen(p[l]);
  return v;
}
template <class T, class V>
inline void store_some(T* p, V v, int64_t n) {
  for (int64_t l = 0; l < n; ++l) narrow(v[l], p + l);
}

template <class S>
constexpr bool kIsPosition = false;
template <>
constexpr bool kIsPosition<uint8_t> = true;
template <>
constexpr bool kIsPosition<int16_t> = true;
template <>
constexpr bool kIsPosition<int32_t> = true;

// Positions, in a byte or as they lie in a tile: as wide as the values. GCC takes a conversion of what is loaded or
// stored as it is element by element; of the result of some arithmetic it makes one instruction.
template <class A>
inline places_t<A> load_places(const uint8_t* from) {
  typename Vector<A>::bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes ^ 0x80, places_t<A>) ^ 0x80;
}
template <class A>
inline void store_bytes(uint8_t* to, places_t<A> v) {
  typedef uint8_t all_bytes __attribute__((vector_size(TORCHCONV_VECTOR_BYTES)));
  constexpr int64_t L = lanes<A>;
  if constexpr (TORCHCONV_VECTOR_BYTES == 64) {
    const auto bytes = __builtin_convertvector(v ^ 0x80, typename Vector<A>::bytes) ^ 0x80;
    std::memcpy(to, &bytes, L);
  } else if constexpr (TORCHCONV_VECTOR_BYTES == 32) {
    all_bytes low;
    for (int64_t l = 0; l < TORCHCONV_VECTOR_BYTES; ++l) low[l] = l < L ? l * sizeof(A) : 0;
    const all_bytes bytes = shuffled(reinterpret_cast<all_bytes>(v), low);
    std::memcpy(to, &bytes, L);
  } else {
    for (int64_t l = 0; l < L; ++l) to[l] = static_cast<uint8_t>(v[l]);
  }
}
template <class A, class P>
inline places_t<A> load_places(const P* from) {
  places_t<A> v = {};
  if constexpr (sizeof(P) == sizeof(A))
    std::memcpy(&v, from, sizeof v);
  else
    for (int64_t l = 0; l < lanes<A>; ++l) v[l] = from[l];
  return v;
}
template <class A, class P>
inline places_t<A> load_some_places(const P* from, int64_t n) {
  places_t<A> v = {};
  for (int64_t l = 0; l < n; ++l) v[l] = from[l];
  return v;
}
template <class A, class P>
inline void store_places(P* to, places_t<A> v) {
  if constexpr (sizeof(P) == sizeof(A)) {
    std::memcpy(to, &v, sizeof v);
  } else if constexpr (sizeof(P) == 1) {
    store_bytes<A>(to, v);
  } else {
    for (int64_t l = 0; l < lanes<A>; ++l) to[l] = static_cast<P>(v[l]);
  }
}

// ---- the reductions ----

// Whether some lane is NaN.
template <class A>
inline bool any_nan(vector_t<A> v) {
  const auto nan = v != v;
#if defined(__AVX512BW__) && TORCHCONV_VECTOR_BYTES == 64
  typedef int32_t ints __attribute__((vector_size(64)));
  return __builtin_ia32_ptestmd512(reinterpret_cast<ints>(nan), reinterpret_cast<ints>(nan), 0xffff) != 0;
#elif defined(__x86_64__) && TORCHCONV_VECTOR_BYTES == 32
  typedef float floats __attribute__((vector_size(32)));
  return __builtin_ia32_movmskps256(reinterpret_cast<floats>(nan)) != 0;
#elif defined(__x86_64__) && TORCHCONV_VECTOR_BYTES == 16
  typedef float floats __attribute__((vector_size(16)));
  return __builtin_ia32_movmskps(reinterpret_cast<floats>(nan)) != 0;
#else
  bool any = false;
  for (int64_t l = 0; l < lanes<A>; ++l) any |= nan[l] != 0;
  return any;
#endif
}

// As PyTorch: the first of equal ones, the last NaN, and the first tap if all are -inf.
template <class A>
struct Best {
  static constexpr A kPadding = -static_cast<A>(__builtin_inff());
  vector_t<A> value;
  places_t<A> place;
  void begin(place_t<A> first) {
    value = vector_t<A>{} + kPadding;
    place = places_t<A>{} + first;
  }
  template <class Place>
  void begin_with(vector_t<A> x, Place at) {
    value = x;
    place = places_t<A>{} + at;
  }
  void take(vector_t<A> x, place_t<A> at) {
    const auto wins = (x > value) | (x != x);
    value = wins ? x : value;
    place = wins ? places_t<A>{} + at : place;
  }
  // As take, where neither is a NaN: what meets one has to be done again.
  void take_number(vector_t<A> x, place_t<A> at) {
    const auto wins = x > value;
    value = wins ? x : value;
    place = wins ? places_t<A>{} + at : place;
  }
  // Numbers that come after these, `by` further on.
  void take_other(const Best& other, place_t<A> by) {
    const auto wins = other.value > value;
    value = wins ? other.value : value;
    place = wins ? other.place + by : place;
  }
};

template <class A>
struct Total {
  static constexpr A kPadding = 0;
  vector_t<A> value;
  void begin(place_t<A>) { value = vector_t<A>{}; }
  template <class Place>
  void begin_with(vector_t<A> x, Place) {
    value = x + 0;
  }
  void take(vector_t<A> x, place_t<A>) { value += x; }
};

// Where results go. `by`: what a sum is divided by.
template <class T, class P>
struct Maxima {
  using A = accumulator_t<T>;
  using Sum = Best<A>;
  T* y;
  P* positions;
  template <class By>
  void put(const Sum& s, int64_t at, By) {
    store_narrowed(y + at, s.value);
    store_places<A>(positions + at, s.place);
  }
  template <class By>
  void put_some(const Sum& s, int64_t at, By, int64_t n) {
    store_some(y + at, s.value, n);
    for (int64_t l = 0; l < n; ++l) positions[at + l] = static_cast<P>(s.place[l]);
  }
};
template <class T>
struct Means {
  using A = accumulator_t<T>;
  using Sum = Total<A>;
  T* y;
  template <class By>
  void put(const Sum& s, int64_t at, By by) {
    store_narrowed(y + at, s.value / by);
  }
  template <class By>
  void put_some(const Sum& s, int64_t at, By by, int64_t n) {
    store_some(y + at, s.value / by, n);
  }
};

// The taps of one window that lie in the input.
struct Window {
  int64_t count[3];             // along each axis
  int64_t step0, step1, step2;  // elements from one to the next
  int64_t code0, code1;         // positions from one to the next; along the last axis 1
  int64_t first;                // the first one's position
};

// Calls take(tap's position, v, x) for the K * K taps of two axes, V vectors of lanes.
template <int K, int V, class Load, class Take>
inline __attribute__((always_inline)) void for_taps(const Window& w, Load load, Take take) {
#pragma GCC unroll 3
  for (int t1 = 0; t1 < K; ++t1)
#pragma GCC unroll 3
    for (int t2 = 0; t2 < K; ++t2)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) take(t1 * K + t2, v, load(t1 * w.step1 + t2 * w.step2, v));
}

// The taps of a maximum, all of them for the time being numbers: to test each for NaN would take as long as to compare
// it. `odd` becomes NaN where one is not, or is infinite; then all is done again.
template <int K, int V, class A, class Load>
inline void reduce_square(const Window& w, Load load, Best<A> (&sums)[V]) {
  vector_t<A> odd[V];
  for_taps<K, V>(w, load, [&](int at, int v, vector_t<A> x) {
    odd[v] = at == 0 ? x * 0 : odd[v] + x * 0;
    at == 0 ? sums[v].begin_with(x, 0) : sums[v].take_number(x, at);
  });
#pragma GCC unroll 4
  for (int v = 1; v < V; ++v) odd[0] += odd[v];
  if (__builtin_expect(!any_nan<A>(odd[0]), 1)) return;
  for_taps<K, V>(w, load,
                 [&](int at, int v, vector_t<A> x) { at == 0 ? sums[v].begin_with(x, 0) : sums[v].take(x, at); });
}
template <int K, int V, class A, class Load>
inline void reduce_square(const Window& w, Load load, Total<A> (&sums)[V]) {
  for_taps<K, V>(w, load,
                 [&](int at, int v, vector_t<A> x) { at == 0 ? sums[v].begin_with(x, 0) : sums[v].take(x, at); });
}

// V vectors of lanes. K: the taps along both of two axes, or 0: as the window says.
template <int K, int V, class Sum, class Load>
inline void reduce_window(const Window& w, Load load, Sum (&sums)[V]) {
  if constexpr (K != 0) {
    reduce_square<K>(w, load, sums);
  } else {
    for (int v = 0; v < V; ++v) sums[v].begin(w.first);
    for (int64_t t0 = 0; t0 < w.count[0]; ++t0)
      for (int64_t t1 = 0; t1 < w.count[1]; ++t1) {
        int64_t from = t0 * w.step0 + t1 * w.step1, code = w.first + t0 * w.code0 + t1 * w.code1;
        for (int64_t t2 = 0; t2 < w.count[2]; ++t2, from += w.step2, ++code)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sums[v].take(load(from, v), code);
      }
  }
}

// V vectors of outputs, side by side from `at` on, from x, their first taps, and `pitch` from one to the next.
template <int K, int V, class S, class R>
inline void reduce_vectors(const Window& w, const S* x, int64_t pitch, int64_t at, typename R::A by, R& r) {
  typename R::Sum sums[V];
  reduce_window<K>(w, [&](int64_t tap, int v) { return load_widened(x + tap + v * pitch); }, sums);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) r.put(sums[v], at + v * lanes<typename R::A>, by);
}

// Within what a vector may be read and be written past the last channel: the end of x, and of the outputs in order.
template <class S>
struct Ends {
  const S* x;
  int64_t output;
};

// All channels of one output.
template <int K, class S, class R>
inline void reduce_point(const Window& w, const S* x, const Ends<S>& ends, int64_t channels, int64_t at,
                         typename R::A by, R& r) {
  using A = typename R::A;
  constexpr int64_t L = lanes<A>;
  int64_t c = 0;
  for (; c + 4 * L <= channels; c += 4 * L) reduce_vectors<K, 4>(w, x + c, L, at + c, by, r);
  for (; c + L <= channels; c += L) reduce_vectors<K, 1>(w, x + c, L, at + c, by, r);
  if (c == channels) return;
  if (c > 0) {  // again some of the last vector's
    c = channels - L;
    return reduce_vectors<K, 1>(w, x + c, L, at + c, by, r);
  }
  const int64_t span = (w.count[0] - 1) * w.step0 + (w.count[1] - 1) * w.step1 + (w.count[2] - 1) * w.step2;
  if (ends.x - x >= span + L && at + L <= ends.output) return reduce_vectors<K, 1>(w, x, L, at, by, r);
  typename R::Sum sums[1];
  reduce_window<0>(w, [&](int64_t tap, int) { return load_some(x + tap, channels); }, sums);
  r.put_some(sums[0], at, by, channels);
}

// Of any window; apart, or the body of each K would hold it too.
template <class S, class R>
__attribute__((noinline)) void reduce_any_point(const Window& w, const S* x, const Ends<S>& ends, int64_t channels,
                                                int64_t at, typename R::A by, R& r) {
  reduce_point<0>(w, x, ends, channels, at, by, r);
}

// The taps along an axis that output o has in the input.
inline int64_t taps_of(const PoolAxis& a, int64_t o) { return at_least(a.last[o] - a.first[o], 0); }

// A row of outputs.
template <int K, class S, class R>
void reduce_row(const PoolGeometry& g, int64_t channels, int64_t o0, int64_t o1, const S* x, const Ends<S>& ends,
                const Rows& rows, int64_t p, int64_t at, R& r) {
  constexpr int64_t L = lanes<typename R::A>;
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  Window w;
  w.count[0] = taps_of(a0, o0), w.count[1] = taps_of(a1, o1);
  w.step0 = rows.axis0 * a0.dilation, w.step1 = rows.axis1 * a1.dilation, w.step2 = channels * a2.dilation;
  w.code0 = a1.taps * a2.taps, w.code1 = a2.taps;
  const int64_t first = code(g, first_tap(a0, o0), first_tap(a1, o1), 0);
  const int64_t i0 = a0.origin[o0] + first_tap(a0, o0) * a0.dilation;
  const int64_t i1 = a1.origin[o1] + first_tap(a1, o1) * a1.dilation;
  const int64_t row = rows.at(p, i0, i1);
  const bool whole = w.count[1] == K && w.count[0] == 1;
  for (int64_t o2 = 0; o2 < a2.output; ++o2, at += channels) {
    const int64_t t2 = first_tap(a2, o2);
    const S* from = x + row + (a2.origin[o2] + t2 * a2.dilation) * channels;
    const auto by = static_cast<typename R::A>(divisor(g, o0, o1, o2));
    w.count[2] = taps_of(a2, o2), w.first = first + t2;
    if constexpr (K != 0)
      if (channels == L && a2.stride > 0 && whole && w.count[2] == K && o2 + 4 <= a2.output &&
          taps_of(a2, o2 + 3) == K) {
        reduce_vectors<K, 4>(w, from, a2.stride * L, at, by, r);
        o2 += 3, at += 3 * L;
        continue;
      }
    if (K != 0 && whole && w.count[2] == K)
      reduce_point<K>(w, from, ends, channels, at, by, r);
    else
      reduce_any_point(w, from, ends, channels, at, by, r);
  }
}

// The taps along both of two axes if reduce_row has a body for so many, else 0.
inline int64_t unrolled(const PoolGeometry& g) {
  const int64_t taps = g.axis[1].taps;
  return g.axis[0].taps == 1 && g.axis[2].taps == taps && (taps == 2 || taps == 3) ? taps : 0;
}

template <int K, class T, class R>
void reduce_channels(const PoolGeometry& g, const T* x, R& r, int64_t begin, int64_t end) {
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1];
  const Rows rows = input_rows(g);
  const int64_t row = g.axis[2].output * g.channels;
  const Ends<T> ends{x + g.planes * rows.plane, end * row};
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t o1 = unit % a1.output, o0 = unit / a1.output % a0.output, p = unit / (a1.output * a0.output);
    reduce_row<K>(g, g.channels, o0, o1, x, ends, rows, p, unit * row, r);
  }
}

}  // namespace pooling
