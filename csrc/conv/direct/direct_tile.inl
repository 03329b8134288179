// The microkernel of direct: a tile of positions against vectors of target channels, all sums in registers while the
// taps that the positions see run by.
#pragma once
#include "conv/gemm/gemm.inl"
#include "cpu/numeric.inl"
#include "cpu/tile.inl"

// `length` products: source elements from `source` on, counted from a position's own, and packed rows from `weight` on.
struct TapRun {
  int64_t source, weight, length;
  bool ends_block;
};

// Where a position's source (tap offset zero, maybe off the map) and its target lie.
struct Place {
  int64_t source, target;
};

// Positions of one axis, [begin, end), that see the same taps [first, last).
struct Span {
  int64_t begin, end, first, last;
};

// Positions that see the same taps: places [first, first + count) of the box.
struct Alike {
  int64_t residue, first, count;
  Span seen[3];
};

// Panels side by side in one tile, with as many fewer rows: broadcasts are fewer, and pixels' addresses stay in
// registers.
constexpr int tile_panels = TORCHCONV_VECTOR_BYTES == 64 ? 2 : 1;
constexpr int direct_tile_rows(int vectors) {
  if (TORCHCONV_VECTOR_BYTES < 64 || vectors == 1) return tile_rows;
  return vectors < 4 ? 8 : 6;
}

template <class T, int N, int VECTORS>
inline __attribute__((always_inline)) void put_pixel(const part_t<N, accumulator_t<T>> (&sum)[VECTORS], int64_t columns,
                                                     T* to) {
  constexpr int width = VECTORS * N;
  if (columns >= width) {
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) store_part<N>(to + j * N, sum[j]);
  } else {
    accumulator_t<T> row[width];
    for (int j = 0; j < VECTORS; ++j) store_part<N>(row + j * N, sum[j]);
    for (int64_t l = 0; l < columns; ++l) narrow(row[l], to + l);
  }
}

// ROWS positions, VECTORS vectors of N channels. w: [depth][tile_columns], or [depth][N] if N is half a vector; bias,
// which the sums begin with: [tile_panels · tile_columns], then the floor that no result is below; total: zeros
// [tile_rows][tile_columns], or null if there is but one block. While a line of each pixel is multiplied, that `ahead`
// elements on is fetched for the next tile, unless that is 0: the rows of a tile hide from the processor that they are
// read in order.
template <class T, int N, int ROWS, int VECTORS>
void direct_tile(const accumulator_t<T>* source, const Place* places, const TapRun* run, const TapRun* runs_end,
                 const accumulator_t<T>* w, int64_t next_panel, const accumulator_t<T>* bias, accumulator_t<T>* total,
                 int64_t columns, int64_t ahead, T* target) {
  using A = accumulator_t<T>;
  constexpr int width = N < lanes<A> ? N : tile_columns<A>;
  const A* pixel[ROWS];
  part_t<N, A> sum[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    pixel[r] = source + places[r].source;
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) {
      __builtin_prefetch(target + places[r].target + j * N, 1);
      sum[r][j] = load_part<N, A>(bias + j * N);
    }
  }
  while (run < runs_end) {
    for (bool ends_block = false; !ends_block; ++run) {
      const A* row = w + run->weight * width;
      const int64_t end = run->source + run->length;
      for (int64_t k = run->source; k < end;) {
        const int64_t stop = ahead == 0 ? end : at_most(end, k + line<A>);
        if (ahead != 0) {
#pragma GCC unroll 16
          for (int r = 0; r < ROWS; ++r) __builtin_prefetch(pixel[r] + k + ahead);
        }
        for (; k < stop; ++k, row += width) {
          part_t<N, A> column[VECTORS];
#pragma GCC unroll 4
          for (int j = 0; j < VECTORS; ++j) column[j] = load_part<N, A>(row + j / 2 * next_panel + j % 2 * N);
#pragma GCC unroll 16
          for (int r = 0; r < ROWS; ++r) {
            const A x = pixel[r][k];
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j) sum[r][j] = add_product(sum[r][j], x, column[j]);
          }
        }
      }
      ends_block = run->ends_block;
    }
    if (!total) break;  // a single block
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) {
        A* t = total + (r * VECTORS + j) * N;
        store_part<N>(t, load_part<N, A>(t) + sum[r][j]);
        sum[r][j] = run < runs_end ? part_t<N, A>{} : load_part<N, A>(t);
      }
  }
  const A floor = bias[tile_panels * tile_columns<A>];
  if (floor == 0) {  // else nothing is below it
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) sum[r][j] = raised(sum[r][j], part_t<N, A>{});
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) put_pixel<T, N, VECTORS>(sum[r], columns, target + places[r].target);
}

template <class T, int N, int VECTORS, int ROWS = direct_tile_rows(VECTORS)>
void direct_rows(int64_t rows, const accumulator_t<T>* source, const Place* places, const TapRun* run,
                 const TapRun* runs_end, const accumulator_t<T>* w, int64_t next_panel, const accumulator_t<T>* bias,
                 accumulator_t<T>* total, int64_t columns, int64_t ahead, T* target) {
  if (rows == ROWS)
    return direct_tile<T, N, ROWS, VECTORS>(source, places, run, runs_end, w, next_panel, bias, total, columns, ahead,
                                            target);
  if constexpr (ROWS > 1) {
    constexpr int fewer = fewer_rows<T>(ROWS);
    if (!tuned<T> && rows > fewer) {  // no body for so many: two tiles
      direct_tile<T, N, fewer, VECTORS>(source, places, run, runs_end, w, next_panel, bias, total, columns, ahead,
                                        target);
      rows -= fewer, places += fewer, total += total ? fewer * VECTORS * N : 0;
    }
    direct_rows<T, N, VECTORS, fewer>(rows, source, places, run, runs_end, w, next_panel, bias, total, columns, ahead,
                                      target);
  }
}

// Vectors of a tile of so many, with a body for it.
template <class T>
int64_t direct_tile_vectors(int64_t vectors) {
  return !tuned<T> && vectors == 3 ? 4 : vectors;
}

template <class T, int VECTORS = tile_panels * tile_vectors, class... Rest>
void direct_vectors(int64_t vectors, Rest... rest) {
  if (vectors == VECTORS) return direct_rows<T, lanes<accumulator_t<T>>, VECTORS>(rest...);
  if constexpr (VECTORS > 1) direct_vectors<T, VECTORS == 4 && !tuned<T> ? 2 : VECTORS - 1>(vectors, rest...);
}
