// Filters of a few taps under transforms, each filter in V registers: a transformed filter is the sum of a few shuffles
// of it, where slot k of a tap p is the k-th entry of p's row,
//   out[p] = Σ_k value_k[p] · in[from_k[p]]
// and so is the transpose, where slot k of tap q is the k-th entry of column q within a transform. The sums run in the
// order of transform.inl's, so their bits are the same.
#pragma once
#include "cpu/numeric.inl"

namespace transforms {

template <class A>
struct Shuffle {
  typename Vector<A>::mask from, used;  // used: whether the lane has a k-th entry
  vector_t<A> value;
};
static_assert(2 * sizeof(Shuffle<float>) <= shuffle_size * sizeof(float));

// Registers that either filter takes; 0 if more than two, or where there is no instruction for a shuffle.
template <class A>
int64_t registers(const FilterMap& map) {
#if defined(__clang__)
  return 0;
#endif
  if (TORCHCONV_VECTOR_BYTES < 32) return 0;
  const int64_t taps = map.taps > map.out_taps ? map.taps : map.out_taps;
  return taps <= lanes<A> ? 1 : taps <= 2 * lanes<A> ? 2 : 0;
}

// table [transform][slot][register] of the map, or of its transpose.
template <int V, class T>
void fill_shuffles(const FilterMap& map, bool transposed, const T* values, Shuffle<accumulator_t<T>>* table) {
  using A = accumulator_t<T>;
  const int64_t slots = map.slots(transposed);
  std::memset(static_cast<void*>(table), 0, sizeof(Shuffle<A>) * map.transforms * slots * V);
  for (int64_t t = 0; t < map.transforms; ++t, table += slots * V) {
    int64_t taken[V * lanes<A>] = {};
    for (int64_t p = 0; p < map.out_taps; ++p)
      for (int64_t e = map.pointers[t * map.out_taps + p]; e < map.pointers[t * map.out_taps + p + 1]; ++e) {
        const int64_t to = transposed ? map.columns[e] : p, from = transposed ? p : map.columns[e];
        Shuffle<A>& s = table[taken[to]++ * V + to / lanes<A>];
        s.from[to % lanes<A>] = from, s.used[to % lanes<A>] = -1, s.value[to % lanes<A>] = widen(values[e]);
      }
  }
}

// sum[v] += the filter x under one transform.
template <int V, class A>
inline void add_shuffled(const Shuffle<A>* table, int64_t slots, const vector_t<A>* x, vector_t<A>* sum) {
  for (int64_t k = 0; k < slots; ++k)
    for (int v = 0; v < V; ++v, ++table) {
      const vector_t<A> moved = V == 1 ? shuffled(x[0], table->from) : shuffled(x[0], x[V - 1], table->from);
      sum[v] = table->used ? sum[v] + table->value * moved : sum[v];
    }
}

// The taps at p, and whatever follows them before `end`.
template <int V, class T>
inline void load_taps(const T* p, int64_t taps, const T* end, vector_t<accumulator_t<T>>* x) {
  constexpr int64_t L = lanes<accumulator_t<T>>;
  for (int v = 0; v < V; ++v)
    x[v] = end - p >= (v + 1) * L ? load_widened(p + v * L)
                                  : load_some(p + v * L, taps < v * L       ? 0
                                                         : taps - v * L < L ? taps - v * L
                                                                            : L);
}

// As many at p; where there is room, of `room` elements, whole registers.
template <int V, class T>
inline void store_taps(const vector_t<accumulator_t<T>>* x, int64_t taps, int64_t room, T* p) {
  constexpr int64_t L = lanes<accumulator_t<T>>;
  for (int v = 0; v < V; ++v)
    if (room >= V * L)
      store_narrowed(p + v * L, x[v]);
    else
      for (int64_t l = 0; l < L && v * L + l < taps; ++l) narrow(x[v][l], p + v * L + l);
}

// The items' pairs of a filter and a channel, [first, last), as runs of one filter's: visit(filter, channel, channels).
template <class Visit>
void for_runs(const FilterMap& map, int64_t begin, int64_t end, Visit visit) {
  const int64_t all = map.filters * map.channels, last = end * transform_block < all ? end * transform_block : all;
  for (int64_t pair = begin * transform_block; pair < last;) {
    const int64_t filter = pair / map.channels, stop = (filter + 1) * map.channels;
    const int64_t next = stop < last ? stop : last;
    visit(filter, pair - filter * map.channels, next - filter * map.channels);
    pair = next;
  }
}

// `count` filters of neighbouring channels. Each register overhangs what the next filter is written to.
template <int V, class T>
void apply_run(const Shuffle<accumulator_t<T>>* table, int64_t slots, int64_t count, int64_t taps, int64_t out_taps,
               const T* in, const T* end, T* out) {
  for (; count > 0; --count, in += taps, out += out_taps) {
    vector_t<accumulator_t<T>> x[V], y[V] = {};
    load_taps<V>(in, taps, end, x);
    add_shuffled<V>(table, slots, x, y);
    store_taps<V>(y, out_taps, count * out_taps, out);
  }
}

// The same of the transpose: the sums of all transforms, `pitch` apart.
template <int V, class T>
void transpose_run(const Shuffle<accumulator_t<T>>* table, int64_t slots, int64_t transforms, int64_t pitch,
                   int64_t count, int64_t taps, int64_t out_taps, const T* grad, const T* end, T* weight) {
  for (; count > 0; --count, grad += out_taps, weight += taps) {
    vector_t<accumulator_t<T>> x[V], y[V] = {};
    const Shuffle<accumulator_t<T>>* at = table;
    for (int64_t t = 0; t < transforms; ++t, at += slots * V) {
      load_taps<V>(grad + t * pitch, out_taps, end, x);
      add_shuffled<V>(at, slots, x, y);
    }
    store_taps<V>(y, taps, count * taps, weight);
  }
}

template <int V, class T>
void apply_shuffles(const FilterMap& map, int64_t begin, int64_t end, const T* values, const T* weight, T* out,
                    Shuffle<accumulator_t<T>>* table) {
  const int64_t slots = map.slots(false), pitch = map.channels * map.out_taps;
  fill_shuffles<V>(map, false, values, table);
  for_runs(map, begin, end, [&](int64_t d, int64_t c, int64_t c_end) {
    for (int64_t t = 0; t < map.transforms; ++t)
      apply_run<V>(table + t * slots * V, slots, c_end - c, map.taps, map.out_taps,
                   weight + (d * map.channels + c) * map.taps, weight + map.filters * map.channels * map.taps,
                   out + (d * map.transforms + t) * pitch + c * map.out_taps);
  });
}

template <int V, class T>
void transpose_shuffles(const FilterMap& map, int64_t begin, int64_t end, const T* values, const T* grad, T* weight,
                        Shuffle<accumulator_t<T>>* table) {
  const int64_t pitch = map.channels * map.out_taps;
  fill_shuffles<V>(map, true, values, table);
  for_runs(map, begin, end, [&](int64_t d, int64_t c, int64_t c_end) {
    transpose_run<V>(table, map.slots(true), map.transforms, pitch, c_end - c, map.taps, map.out_taps,
                     grad + d * map.transforms * pitch + c * map.out_taps, grad + map.filters * map.transforms * pitch,
                     weight + (d * map.channels + c) * map.taps);
  });
}

}  // namespace transforms
