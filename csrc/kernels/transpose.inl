// Between planes [channel][position] and pixels [position][channel], in squares of registers.

template <int... I>
struct Lanes {};
template <int N>
using first_lanes = Lanes<__integer_pack(N)...>;

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

// to[j][i] = from[i][j] for i < rows, j < columns; row strides ld_from and ld_to; conversions as the types ask.
template <class From, class To>
void transpose(const From* from, int64_t ld_from, int64_t rows, int64_t columns, To* to, int64_t ld_to) {
  using A = accumulator_t<From>;
  constexpr int n = lanes<A>;
  for (int64_t i = 0; i < rows; i += n)
    for (int64_t j = 0; j < columns; j += n) {
      if (rows - i < n || columns - j < n) {
        for (int64_t r = i; r < at_most(i + n, rows); ++r)
          for (int64_t c = j; c < at_most(j + n, columns); ++c) narrow(widen(from[r * ld_from + c]), to + c * ld_to + r);
        continue;
      }
      vector_t<A> square[n];
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) square[r] = load_widened(from + (i + r) * ld_from + j);
      transpose_square<1>(square);
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) store_narrowed(to + (j + r) * ld_to + i, square[r]);
    }
}
