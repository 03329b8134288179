// The microkernel of planes.inl: the weight of a few target channels broadcast against vectors of positions.
#pragma once
#include "cpu/numeric.inl"
#include "cpu/tile.inl"

// Where a vector of positions begins.
struct Start {
  int64_t source, target;
};

constexpr int planes_vectors(int rows) {
  const int vectors = tile_rows * tile_vectors / rows;
  return vectors > 8 ? 8 : vectors;
}

// ROWS channels, VECTORS vectors of positions; target rows ld apart.
template <class A>
struct PlanesTile {
  int64_t depth;
  const A* w;  // [depth][tile_rows]
  const A* source;
  const int64_t* offsets;  // [depth]
  A* target;
  int64_t ld;
  const A* bias;  // [tile_rows]
  A floor;        // that no result is below
  A* total;       // [tile_rows * tile_vectors] vectors, for sums of several blocks
};

template <class A, int ROWS, int VECTORS>
void planes_tile(const PlanesTile<A>& t, const Start* starts) {
  const A* from[VECTORS];
#pragma GCC unroll 8
  for (int j = 0; j < VECTORS; ++j) from[j] = t.source + starts[j].source;
  const A* w = t.w;
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; ++j) __builtin_prefetch(t.target + starts[j].target + r * t.ld, 1);
  for (int64_t k = 0, end; k == 0 || k < t.depth; k = end) {
    vector_t<A> sum[ROWS][VECTORS] = {};
    end = at_most(t.depth, k + depth_block);
    for (int64_t i = k; i < end; ++i, w += tile_rows) {
      const int64_t offset = t.offsets[i];
      vector_t<A> x[VECTORS];
#pragma GCC unroll 8
      for (int j = 0; j < VECTORS; ++j) x[j] = load(from[j] + offset);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; ++j) sum[r][j] += w[r] * x[j];
      }
    }
    if (k > 0) {
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; ++j) sum[r][j] = load(t.total + (r * VECTORS + j) * lanes<A>) + sum[r][j];
    }
    if (end < t.depth) {
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; ++j) store(t.total + (r * VECTORS + j) * lanes<A>, sum[r][j]);
      continue;
    }
    const vector_t<A> floor = vector_t<A>{} + t.floor;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const A bias = t.bias[r];
#pragma GCC unroll 8
      for (int j = 0; j < VECTORS; ++j) store(t.target + starts[j].target + r * t.ld, raised(sum[r][j] + bias, floor));
    }
    break;
  }
}

template <class A, int ROWS, int VECTORS = planes_vectors(ROWS)>
void planes_starts(const PlanesTile<A>& t, const Start* starts, int64_t count) {
  for (; count >= VECTORS; count -= VECTORS, starts += VECTORS) planes_tile<A, ROWS, VECTORS>(t, starts);
  if constexpr (VECTORS > 1)
    if (count > 0) planes_starts<A, ROWS, tuned<A> ? VECTORS / 2 : 1>(t, starts, count);
}

template <class A, int ROWS = tile_rows>
void planes_rows(int64_t rows, const PlanesTile<A>& t, const Start* starts, int64_t count) {
  if (rows == ROWS) return planes_starts<A, ROWS>(t, starts, count);
  if constexpr (ROWS > 1) {
    constexpr int fewer = fewer_rows<A>(ROWS);
    if (tuned<A> || rows <= fewer) return planes_rows<A, fewer>(rows, t, starts, count);
    PlanesTile<A> rest = t;  // no body for so many: two tiles
    rest.w += fewer, rest.bias += fewer, rest.target += fewer * t.ld;
    planes_starts<A, fewer>(t, starts, count);
    planes_rows<A, fewer>(rows - fewer, rest, starts, count);
  }
}
