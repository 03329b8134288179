// The register tile under gemm and correlate: c[r][j] (+)= Σ_k a[r][k] · b[k][j] for ROWS rows and VECTORS vectors of
// columns, all sums in registers while k runs.
#pragma once
#include "cpu/numeric.inl"

constexpr int tile_rows =
    TORCHCONV_VECTOR_BYTES == 64 ? 12 : 6;  // 24 or 12 sums: all the registers there are, less b's
constexpr int tile_vectors = 2;
template <class A>
constexpr int tile_columns = tile_vectors * lanes<A>;

// N accumulators: a vector, or a part of one.
template <int N, class A>
struct Part {
  typedef A type __attribute__((vector_size(N * sizeof(A))));
  typedef A unaligned __attribute__((vector_size(N * sizeof(A)), aligned(alignof(A)), may_alias));
};
template <int N, class A>
using part_t = typename Part<N, A>::type;
template <int N, class A, class T>
inline part_t<N, A> load_part(const T* p) {
  if constexpr (sizeof(T) == sizeof(A)) return *reinterpret_cast<const typename Part<N, A>::unaligned*>(p);
  A wide[N];
  for (int l = 0; l < N; ++l) wide[l] = widen(p[l]);
  return *reinterpret_cast<const typename Part<N, A>::unaligned*>(wide);
}
template <int N, class T, class V>
inline void store_part(T* to, V v) {
  using A = accumulator_t<T>;
  if constexpr (N == lanes<A>)
    store_narrowed(to, v);
  else if constexpr (sizeof(T) == sizeof(A))
    *reinterpret_cast<typename Part<N, A>::unaligned*>(to) = v;
  else
    for (int l = 0; l < N; ++l) narrow(v[l], to + l);
}

template <class A, class V>
inline V add_product(V sum, A x, V column) {
  return sum + x * column;
}

template <class A>
struct Tile {
  int64_t depth;
  const A* a;  // [rows][depth] by these strides
  int64_t a_row, a_k;
  const A* b;  // [depth][columns], row stride ldb
  int64_t ldb;
  A* c;  // [rows][columns], row stride ldc
  int64_t ldc;
  bool add;  // to what c holds
};

// PACKED: a is [depth][tile_rows], so that its strides are constants.
template <class A, int ROWS, int VECTORS, bool PACKED>
void run_tile(const Tile<A>& t) {
  vector_t<A> sum[ROWS][VECTORS] = {};
  const int64_t a_row = PACKED ? 1 : t.a_row, a_k = PACKED ? tile_rows : t.a_k;
  const A* a = t.a;
  const A* b = t.b;
  for (int64_t k = 0; k < t.depth; ++k, a += a_k, b += t.ldb) {
    vector_t<A> column[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) column[j] = load(b + j * lanes<A>);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const A x = a[r * a_row];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) sum[r][j] += x * column[j];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) {
      A* c = t.c + r * t.ldc + j * lanes<A>;
      store(c, t.add ? load(c) + sum[r][j] : sum[r][j]);
    }
  }
}

// The next smaller tile that there is a body for: of all, or of the powers of two, of which one is always enough for
// what it leaves of a tile that has no body.
template <class T>
constexpr int fewer_rows(int rows) {
  int fewer = tuned<T> ? rows - 1 : 1;
  while (2 * fewer < rows) fewer *= 2;
  return fewer;
}

// A tile of `rows` (at most ROWS) rows; several where there is no body for so many.
template <class A, int VECTORS, bool PACKED, int ROWS = tile_rows>
void run_rows(int64_t rows, const Tile<A>& t) {
  if (rows == ROWS) return run_tile<A, ROWS, VECTORS, PACKED>(t);
  if constexpr (ROWS > 1) {
    constexpr int fewer = fewer_rows<A>(ROWS);
    if (tuned<A> || rows <= fewer) return run_rows<A, VECTORS, PACKED, fewer>(rows, t);
    Tile<A> rest = t;
    rest.a += fewer * (PACKED ? 1 : t.a_row), rest.c += fewer * t.ldc;
    run_tile<A, fewer, VECTORS, PACKED>(t);
    run_rows<A, VECTORS, PACKED, fewer>(rows - fewer, rest);
  }
}

template <class A, bool PACKED>
void run(int64_t rows, int64_t columns, const Tile<A>& t) {
  if (columns > lanes<A>) return run_rows<A, 2, PACKED>(rows, t);
  run_rows<A, 1, PACKED>(rows, t);
}
