// The weight gradient of few channels, which would leave vectors of channels empty: positions fill the vectors.
//
//   sums[m][k] = Σ_rows Σ_lanes target[m][row][lane] · source[c][row · step + offset][lane + offset],  k = (tap, c)
//
// over blocks of whole rows, both sides copied to planes. A sum is a vector until the last block of its part; its lanes
// are then added in order. Taps that see every position, steps of one along the last axis alone. What stands in the
// lanes past the end of a row is masked away, so that it cannot make a NaN.
#pragma once
#include "conv/direct/correlate_copy.inl"
#include "conv/direct/correlate_plan.inl"
#include "cpu/numeric.inl"

template <class A>
constexpr int positions_rows = !tuned<A>                      ? 2  // target channels of a tile
                               : TORCHCONV_VECTOR_BYTES == 64 ? 6
                                                              : 3;
template <class A>
constexpr int positions_taps = !tuned<A>                      ? 2  // products k of a tile
                               : TORCHCONV_VECTOR_BYTES == 64 ? 4
                                                              : 3;

template <class A>
struct PositionsBlock {
  int64_t rows, vectors, pitch;  // of the target's planes [m][row][pitch]; vectors of a row
  const A *target, *source;      //
  const int64_t* starts;         // [rows] of the source, where the tap offset is zero
  const int64_t* offsets;        // [k]
  const A* masks;                // [2][lanes]: all ones; ones where the last vector of a row lies in it
};

template <class A, int M, int K>
void positions_tile(const PositionsBlock<A>& b, int64_t m, int64_t k, A* sums, int64_t depth) {
  using Bits = typename Vector<A>::mask;
  vector_t<A> sum[M][K] = {};
  const int64_t plane = b.rows * b.pitch;
  const A* y = b.target + m * plane;
  for (int64_t row = 0; row < b.rows; ++row) {
    const A* x = b.source + b.starts[row];
    for (int64_t v = 0; v < b.vectors; ++v, x += lanes<A>, y += lanes<A>) {
      const Bits mask = reinterpret_cast<Bits>(load(b.masks + (v + 1 == b.vectors) * lanes<A>));
      vector_t<A> column[K];
#pragma GCC unroll 4
      for (int j = 0; j < K; ++j)
        column[j] = reinterpret_cast<vector_t<A>>(reinterpret_cast<Bits>(load(x + b.offsets[k + j])) & mask);
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r) {
        const vector_t<A> grad = load(y + r * plane);
#pragma GCC unroll 4
        for (int j = 0; j < K; ++j) sum[r][j] += grad * column[j];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < K; ++j) {
      A* to = sums + ((m + r) * depth + k + j) * lanes<A>;
      store(to, load(to) + sum[r][j]);
    }
}

template <class A, int M = positions_rows<A>, int K = positions_taps<A>>
void positions_tile_of(int64_t rows, int64_t taps, const PositionsBlock<A>& b, int64_t m, int64_t k, A* sums,
                       int64_t depth) {
  if (rows == M && taps == K) return positions_tile<A, M, K>(b, m, k, sums, depth);
  if constexpr (K > 1)
    if (taps < K) return positions_tile_of<A, M, K - 1>(rows, taps, b, m, k, sums, depth);
  if constexpr (M > 1) positions_tile_of<A, M - 1, K>(rows, taps, b, m, k, sums, depth);
}

// Scratch: starts | offsets | masks | sums | target's planes | source's planes; in elements, each piece at its end.
template <class A>
struct PositionsLayout {
  int64_t pitch, source_pitch, plane;  // of the target's rows, of the source's, of a source channel
  int64_t starts, offsets, masks, sums, target, source, end;

  PositionsLayout(const Gather& g, const CorrelationPlan& p) {
    constexpr int64_t line = 64 / sizeof(A), places = sizeof(int64_t) / sizeof(A);
    const int64_t rows = p.extent[0] * p.extent[1] * p.extent[2];
    const auto reach = [&](int a) {
      const TapSpan span = tap_span(g, a);
      return (p.extent[a + 1] - 1) * g.step[a] + span.high - span.low + 1;
    };
    pitch = round_up(p.extent[3], lanes<A>), source_pitch = round_up(reach(2), lanes<A>) + lanes<A>;
    plane = p.extent[0] * reach(0) * reach(1) * source_pitch;
    starts = 0;
    offsets = round_up(starts + rows * places, line);
    masks = round_up(offsets + g.depth() * places, line);
    sums = round_up(masks + 2 * lanes<A>, line);
    target = round_up(sums + g.m * g.depth() * lanes<A>, line);
    source = target + g.m * rows * pitch + lanes<A>;
    end = source + g.c * plane + 2 * lanes<A>;
  }
};

// Rows of the block as [channel][n][i0][i1][pitch]; zeros past the end of a row up to `fill`.
template <class T, class A>
void copy_rows(const View& v, const Block& block, int64_t channels, const T* from, int64_t pitch, int64_t plane,
               int64_t fill, A* to) {
  const int64_t width = block.size(3);
  for (int64_t n = block.low[0]; n < block.high[0]; ++n)
    for (int64_t i0 = block.low[1]; i0 < block.high[1]; ++i0)
      for (int64_t i1 = block.low[2]; i1 < block.high[2]; ++i1, to += pitch) {
        const T* row = from + n * v.n + i0 * v.s[0] + i1 * v.s[1] + block.low[3] * v.s[2];
        if (v.c == 1 && channels > 1 && v.s[2] != 1) {
          transpose<true, true>(row, v.s[2], width, channels, to, plane);
        } else {
          for (int64_t c = 0; c < channels; ++c)
            if (v.s[2] == 1)
              copy_row(row + c * v.c, width, to + c * plane);
            else
              copy_strided(row + c * v.c, v.s[2], width, to + c * plane);
        }
        for (int64_t c = 0; c < channels; ++c) zero(to + c * plane + width, fill - width);
      }
}

// The sums of blocks [begin, end) for each group of the block, put down as correlate does: [tap][c][ld of m].
template <class T>
void correlate_positions(const Gather& g, const CorrelationPlan& p, int64_t first_group, int64_t groups, int64_t begin,
                         int64_t end, const T* source, const T* target, accumulator_t<T>* out,
                         accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const PositionsLayout<A> at(g, p);
  int64_t* starts = reinterpret_cast<int64_t*>(scratch + at.starts);
  int64_t* offsets = reinterpret_cast<int64_t*>(scratch + at.offsets);
  A *masks = scratch + at.masks, *sums = scratch + at.sums, *y = scratch + at.target, *x = scratch + at.source;
  for (int64_t group = first_group; group < first_group + groups; ++group, out += p.group_sums) {
    zero(sums, g.m * g.depth() * lanes<A>);
    for (int64_t i = begin; i < end; ++i) {
      const Block block = block_of(g, p, i), seen = source_block(g, block, false);
      const int64_t width = block.size(3), rows = block.size(0) * block.size(1) * block.size(2);
      const int64_t pitch = round_up(width, lanes<A>), slices = seen.size(1), height = seen.size(2);
      for (int64_t k = 0; k < g.depth(); ++k) {
        const int64_t* offset = g.taps[k / g.c].offset;
        offsets[k] = k % g.c * at.plane + (offset[0] * height + offset[1]) * at.source_pitch + offset[2];
      }
      int64_t* start = starts;
      for (int64_t n = 0; n < block.size(0); ++n)
        for (int64_t t0 = block.low[1]; t0 < block.high[1]; ++t0)
          for (int64_t t1 = block.low[2]; t1 < block.high[2]; ++t1)
            *start++ = ((n * slices + t0 * g.step[0] - seen.low[1]) * height + t1 * g.step[1] - seen.low[2]) *
                           at.source_pitch +
                       block.low[3] - seen.low[3];
      std::memset(masks, 0xff, 2 * lanes<A> * sizeof(A));
      zero(masks + lanes<A> + width - (pitch - lanes<A>), pitch - width);
      copy_rows(g.target, block, g.m, target + group * g.m * g.target.c, pitch, rows * pitch, pitch, y);
      for (int64_t c = 0; c < g.c; ++c)
        copy_rows(g.source, seen, 1, source + (group * g.c + c) * g.source.c, at.source_pitch, at.plane, seen.size(3),
                  x + c * at.plane);
      const PositionsBlock<A> b{rows, pitch / lanes<A>, pitch, y, x, starts, offsets, masks};
      const int64_t m_tiles = (g.m + positions_rows<A> - 1) / positions_rows<A>;
      const int64_t k_tiles = (g.depth() + positions_taps<A> - 1) / positions_taps<A>;
      for (int64_t i_m = 0; i_m < m_tiles; ++i_m)
        for (int64_t i_k = 0; i_k < k_tiles; ++i_k) {
          const int64_t m = g.m * i_m / m_tiles, k = g.depth() * i_k / k_tiles;
          positions_tile_of<A>(g.m * (i_m + 1) / m_tiles - m, g.depth() * (i_k + 1) / k_tiles - k, b, m, k, sums,
                               g.depth());
        }
    }
    for (int64_t m = 0; m < g.m; ++m)
      for (int64_t k = 0; k < g.depth(); ++k) {
        A sum = 0;
        for (int l = 0; l < lanes<A>; ++l) sum += sums[(m * g.depth() + k) * lanes<A> + l];
        out[(k / g.c * p.row_chunk + k % g.c) * p.ld + m] = sum;
      }
  }
}
