// Rows of a contiguous map as accumulators among zeros, in whole vectors, each residue of their columns modulo the step
// apart: what depthwise_planes.inl and depthwise_planes_grad.inl read, and nothing of how they are summed.
#pragma once
#include "cpu/numeric.inl"
#include "cpu/transpose.inl"

template <class V, int... I>
inline V even_lanes(V a, V b, Lanes<I...>) {
  return __builtin_shufflevector(a, b, 2 * I...);
}
template <class V, int... I>
inline V odd_lanes(V a, V b, Lanes<I...>) {
  return __builtin_shufflevector(a, b, 2 * I + 1 ...);
}
template <class V, int... I>
inline V lower_pairs(V a, V b, Lanes<I...>) {
  return __builtin_shufflevector(a, b, (I / 2 + I % 2 * static_cast<int>(sizeof...(I)))...);
}
template <class V, int... I>
inline V upper_pairs(V a, V b, Lanes<I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (n / 2 + I / 2 + I % 2 * n)...);
}

template <class A, int... I>
inline typename Vector<A>::mask lane_numbers(Lanes<I...>) {
  return typename Vector<A>::mask{I...};
}
// All bits of the lanes [begin, end).
template <class A>
inline typename Vector<A>::mask lane_mask(int64_t begin, int64_t end) {
  using Mask = typename Vector<A>::mask;
  using Lane = decltype(Mask{}[0] + 0);
  const Mask lane = lane_numbers<A>(first_lanes<lanes<A>>());
  const Mask low = Mask{} + static_cast<Lane>(at_most(lanes<A>, at_least(0, begin)));
  const Mask high = Mask{} + static_cast<Lane>(at_most(lanes<A>, at_least(0, end)));
  return (lane >= low) & (lane < high);
}

// Where all elements of a tensor lie: as far as it is safe to read.
template <class T>
struct Whole {
  const T *begin, *end;
};

// A row of n elements among zeros, from column `at` on: in whole vectors, of which the first and the last are masked.
template <class A>
struct PaddedRow {
  using Mask = typename Vector<A>::mask;
  int64_t at, n, first, last;  // vectors that hold elements
  Mask first_mask, last_mask;

  PaddedRow(int64_t column, int64_t length) : at(column), n(length) {
    first = at / lanes<A>, last = n > 0 ? (at + n - 1) / lanes<A> : -1;
    first_mask = lane_mask<A>(at - first * lanes<A>, lanes<A>);
    last_mask = lane_mask<A>(0, at + n - last * lanes<A>);
  }
  template <class T>
  bool safe(const T* from, const Whole<T>& whole) const {
    return from - whole.begin >= at - first * lanes<A> && whole.end - from >= (last + 1) * lanes<A> - at;
  }
  // Vector v of the row whose element 0 is at `from`.
  template <class T>
  inline __attribute__((always_inline)) vector_t<A> vector(const T* from, int64_t v) const {
    if (v < first || v > last) return vector_t<A>{};
    Mask x = reinterpret_cast<Mask>(load_widened(from + v * lanes<A> - at));
    if (v == first) x &= first_mask;
    if (v == last) x &= last_mask;
    return reinterpret_cast<vector_t<A>>(x);
  }
};

constexpr int64_t fetch_distance = 1024;  // elements, at the least

// Asks for the cache lines of n elements. Always inlined: GCC takes a function that only asks for one without effect.
template <int FOR_WRITING, class T>
inline __attribute__((always_inline)) void fetch(const T* from, int64_t n) {
  for (int64_t j = 0; j < n; j += static_cast<int64_t>(64 / sizeof(T))) __builtin_prefetch(from + j, FOR_WRITING, 2);
}

// Element j of the row at to[(at + j) % phases][(at + j) / phases], among zeros; `pitch` from phase to phase.
template <class T, class A>
inline __attribute__((always_inline)) void stage_row(const PaddedRow<A>& padded, const T* from, const Whole<T>& whole,
                                                     int64_t phases, int64_t pitch, A* to) {
  const bool safe = padded.safe(from, whole);
  const int64_t vectors = pitch / lanes<A>;
  if (safe && phases == 1) {
    for (int64_t v = 0; v < vectors; ++v) store(to + v * lanes<A>, padded.vector(from, v));
  } else if (safe && phases == 2) {
    for (int64_t v = 0; v < vectors; ++v) {
      const vector_t<A> a = padded.vector(from, 2 * v), b = padded.vector(from, 2 * v + 1);
      store(to + v * lanes<A>, even_lanes(a, b, first_lanes<lanes<A>>()));
      store(to + pitch + v * lanes<A>, odd_lanes(a, b, first_lanes<lanes<A>>()));
    }
  } else {
    zero(to, phases * pitch);
    for (int64_t j = padded.at; j < padded.at + padded.n; ++j)
      to[j % phases * pitch + j / phases] = widen(from[j - padded.at]);
  }
}

// Rows of VECTORS vectors, all of which are safe to read, `ld` apart.
template <int VECTORS, class T, class A>
void stage_short_rows(const PaddedRow<A>& padded, const T* from, int64_t ld, int64_t rows, int64_t ahead, A* to) {
  typename Vector<A>::mask mask[VECTORS];
#pragma GCC unroll 4
  for (int v = 0; v < VECTORS; ++v)
    mask[v] = lane_mask<A>(padded.at - v * lanes<A>, padded.at + padded.n - v * lanes<A>);
  from -= padded.at;
  for (int64_t r = 0; r < rows; ++r, from += ld, to += VECTORS * lanes<A>) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      __builtin_prefetch(from + ahead + v * lanes<A>, 0, 2);
      const auto x = reinterpret_cast<typename Vector<A>::mask>(load_widened(from + v * lanes<A>)) & mask[v];
      store(to + v * lanes<A>, reinterpret_cast<vector_t<A>>(x));
    }
  }
}
