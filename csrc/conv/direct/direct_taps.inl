// Direct summation of few positions, tap after tap: at each tap the positions that see it make full tiles, and its
// weights are read from memory once, where tiles of positions that see the same taps would be small and many, and would
// each read them anew. Their sums wait in memory between the taps.
//
// An output is the same chain of operations as in direct_tile.inl: more than half a block of channels keeps every block
// of the chain within a tap.
#pragma once
#include "conv/direct/direct_tile.inl"

constexpr int64_t few_positions = 64;  // of a box, whose sums stay in the first-level cache

inline bool by_taps(const Gather& g, int64_t positions) { return positions <= few_positions && 2 * g.c > depth_block; }

// ---- one block of one tap ----

// A position's pixel, what its sum begins with, and its total, [tile_panels · tile_columns] each.
template <class A>
struct Row {
  const A *pixel, *start;
  A* total;
};

// total += start + Σ over k < length of pixel[k] · w[k], of ROWS positions and VECTORS vectors. w:
// [length][tile_columns] of each panel. The first `fetched` rows that follow `ahead` are fetched meanwhile.
template <class A, int VECTORS, int ROWS>
void add_block(const Row<A>* rows, int64_t length, const A* w, int64_t next_panel, const A* ahead, int64_t fetched) {
  constexpr int width = tile_columns<A>;
  const A* pixel[ROWS];
  vector_t<A> sum[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    pixel[r] = rows[r].pixel;
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) sum[r][j] = load(rows[r].start + j * lanes<A>);
  }
  for (int64_t k = 0; k < length; ++k, w += width) {
    if (k < fetched) {
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j += tile_vectors)
        __builtin_prefetch(ahead + k * width + j / tile_vectors * next_panel, 0, 2);
    }
    vector_t<A> column[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) column[j] = load(w + j / 2 * next_panel + j % 2 * lanes<A>);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const A x = pixel[r][k];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) sum[r][j] = add_product(sum[r][j], x, column[j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) {
      A* total = rows[r].total + j * lanes<A>;
      store(total, load(total) + sum[r][j]);
    }
}

template <class A, int VECTORS, int ROWS = direct_tile_rows(VECTORS), class... Rest>
void add_block_rows(int64_t count, const Rest&... rest) {
  if (count == ROWS) return add_block<A, VECTORS, ROWS>(rest...);
  if constexpr (ROWS > 1) add_block_rows<A, VECTORS, ROWS - 1>(count, rest...);
}

template <class A, int VECTORS = tile_panels * tile_vectors, class... Rest>
void add_block_vectors(int64_t vectors, const Rest&... rest) {
  if (vectors == VECTORS) return add_block_rows<A, VECTORS>(rest...);
  if constexpr (VECTORS > 1) add_block_vectors<A, VECTORS - 1>(vectors, rest...);
}

// ---- all taps ----

// The places that see tap (j0, j1, j2); returns how many.
inline int64_t find_seeing(const Alike* alike, int64_t count, const int64_t (&tap)[3], int64_t* seeing) {
  int64_t found = 0;
  for (const Alike* a = alike; a < alike + count; ++a) {
    bool sees = true;
    for (int axis = 0; axis < 3; ++axis)
      sees = sees && a->seen[axis].first <= tap[axis] && tap[axis] < a->seen[axis].last;
    for (int64_t i = 0; sees && i < a->count; ++i) seeing[found++] = a->first + i;
  }
  return found;
}

// All positions of a box for one panel's channels: as direct_panel, of a gather that goes by_taps. w: the panel's
// packed weight; bias, columns, to: as direct_tile's.
template <class T>
void direct_panel_by_taps(const Gather& g, const View& read, const accumulator_t<T>* source, const Alike* alike,
                          int64_t count, const Place* places, const accumulator_t<T>* w, const accumulator_t<T>* bias,
                          int64_t vectors, int64_t columns, T* to) {
  using A = accumulator_t<T>;
  constexpr int64_t width = tile_columns<A>, ld = tile_panels * width;
  const int64_t next_panel = g.depth() * width, most = direct_tile_rows(vectors);
  const A zeros[ld] = {};
  A totals[few_positions * ld];
  for (A& total : totals) total = -A(0);  // to which the first block adds without a change
  bool begun[few_positions] = {};
  int64_t seeing[few_positions], tap[3];
  Row<A> rows[few_positions];
  for (tap[0] = 0; g.tap_count > 0 && tap[0] < g.grid[0]; ++tap[0])
    for (tap[1] = 0; tap[1] < g.grid[1]; ++tap[1])
      for (tap[2] = 0; tap[2] < g.grid[2]; ++tap[2]) {
        const int64_t seen = find_seeing(alike, count, tap, seeing);
        const int64_t k = (tap[0] * g.grid[1] + tap[1]) * g.grid[2] + tap[2];
        int64_t offset = 0;
        for (int a = 0; a < 3; ++a) offset += g.taps[k].offset[a] * read.s[a];
        for (int64_t c = 0; seen > 0 && c < g.c; c += depth_block) {
          for (int64_t i = 0; i < seen; ++i) {
            const int64_t p = seeing[i];
            rows[i] = {source + places[p].source + offset + c, begun[p] ? zeros : bias, totals + p * ld};
            begun[p] = true;
          }
          const int64_t length = at_most(depth_block, g.c - c);
          const int64_t tiles = (seen + most - 1) / most, few = seen / tiles, more = seen % tiles;
          const A *block = w + (k * g.c + c) * width, *next = block + length * width;
          for (int64_t i = 0, at = 0, n; i < tiles; ++i, at += n) {
            n = few + (i < more);
            const int64_t begin = length * i / tiles, fetched = length * (i + 1) / tiles - begin;
            add_block_vectors<A>(vectors, n, rows + at, length, block, next_panel, next + begin * width, fetched);
          }
        }
      }
  for (const Alike* a = alike; a < alike + count; ++a)
    for (int64_t p = a->first; p < a->first + a->count; ++p) {
      A* total = totals + p * ld;
      for (int64_t j = 0; j < ld; ++j) total[j] = raised(begun[p] ? total[j] : bias[j], bias[ld]);
      for (int64_t j = 0; j < columns; ++j) narrow(total[j], to + places[p].target + j);
    }
}
