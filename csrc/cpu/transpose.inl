// Between planes [channel][position] and pixels [position][channel], in squares of registers.
#pragma once
#include "cpu/numeric.inl"

template <int... I>
struct Lanes {};
#if defined(__clang__)
template <class, int... I>
using integer_lanes = Lanes<I...>;
template <int N>
using first_lanes = __make_integer_seq<integer_lanes, int, N>;
#else
template <int N>
using first_lanes = Lanes<__integer_pack(N)...>;
#endif

// One step of the square's transposition: lanes that differ in bit D change places between rows a and b.
template <int D, class V, int... I>
inline void exchange(V& a, V& b, Lanes<I...>) {
  constexpr int n = sizeof...(I);
  const V low = __builtin_shufflevector(a, b, (I & D ? n + I - D : I)...);
  b = __builtin_shufflevector(a, b, (I & D ? n + I : I + D)...);
  a = low;
}

template <int D, class V, int N>
inline __attribute__((always_inline)) void transpose_square(V (&rows)[N]) {
  if constexpr (D < N) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
      if (!(i & D)) exchange<D>(rows[i], rows[i + D], first_lanes<N>());
    transpose_square<2 * D>(rows);
  }
}

template <bool LOOSE, class From, class To>
void transpose_part(const From* from, int64_t ld_from, int64_t rows, int64_t columns, To* to, int64_t ld_to) {
  using A = accumulator_t<From>;
  constexpr int n = lanes<A>;
  const bool whole = rows >= n && columns >= n;
  if (!whole && !LOOSE) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) narrow(widen(from[i * ld_from + j]), to + j * ld_to + i);
    return;
  }
  vector_t<A> square[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) square[i] = load_widened(from + (LOOSE ? at_most(i, rows - 1) : i) * ld_from);
  transpose_square<1>(square);
  if (whole) {
#pragma GCC unroll 16
    for (int j = 0; j < n; ++j) store_narrowed(to + j * ld_to, square[j]);
  } else {
#pragma GCC unroll 16
    for (int j = 0; j < n; ++j)
      if (j < columns) store_narrowed(to + j * ld_to, square[j]);
  }
}

// to[j][i] = from[i][j] for i < rows, j < columns; row strides ld_from and ld_to; conversions as the types ask. The
// planes' side is walked along: the rows of `to` if PLANES_OUT, else those of `from`. The last squares overlap others.
// LOOSE: the planes may be read or written up to a vector past the end of a row.
template <bool PLANES_OUT, bool LOOSE, class From, class To>
void transpose(const From* from, int64_t ld_from, int64_t rows, int64_t columns, To* to, int64_t ld_to) {
  constexpr int n = lanes<accumulator_t<From>>;
  const int64_t outer = PLANES_OUT ? columns : rows, inner = PLANES_OUT ? rows : columns;
  for (int64_t u = 0; u < outer; u += n)
    for (int64_t v = 0; v < inner; v += n) {
      const int64_t i = at_least(0, at_most(PLANES_OUT ? v : u, rows - n));
      const int64_t j = at_least(0, at_most(PLANES_OUT ? u : v, columns - n));
      const From* a = from + i * ld_from + j;
      To* b = to + j * ld_to + i;
      if (LOOSE && outer >= n && inner < n)
        transpose_part<true>(a, ld_from, at_most(n, rows - i), at_most(n, columns - j), b, ld_to);
      else
        transpose_part<false>(a, ld_from, at_most(n, rows - i), at_most(n, columns - j), b, ld_to);
    }
}
