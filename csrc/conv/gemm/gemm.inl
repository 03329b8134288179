// gather as a blocked matrix product: the patches of 192 positions, 256 rows of the inner product at a time, against
// the packed weight. Contiguous: weight rows broadcast against vectors of positions. Channels-last: patches broadcast
// against vectors of target channels. Either way the result leaves as it lies in memory.
//
// Slower than direct wherever both were measured, 1×1 included: auto never takes it, it is there to be asked for.
//
// Every output is the same chain of operations wherever its position stands in a block: blocks of depth_block products,
// each summed in order, then added in order. So neither the batch nor the number of threads can change a bit.
#pragma once
#include "conv/patch.inl"
#include "cpu/numeric.inl"
#include "cpu/tile.inl"
#include "cpu/transpose.inl"

template <class A>
constexpr int64_t line = 64 / sizeof(A);
template <class A>
constexpr int64_t patch_stride = gemm_positions + line<A>;  // odd in cache lines: no set conflicts
template <class A>
constexpr int64_t depth_stride = depth_block + line<A>;

// Where the widest vectors run as two halves, or on two of three ports, half a vector costs half as much. 0: not used.
template <class A>
constexpr int half_lanes = TORCHCONV_VECTOR_BYTES == 64 ? lanes<A> / 2 : 0;

template <class T>
int64_t panel_width(const Gather& g, Broadcast broadcast) {
  using A = accumulator_t<T>;
  if (broadcast == Broadcast::weight) return tile_rows;
  return broadcast == Broadcast::source_narrow && g.m <= half_lanes<A> ? half_lanes<A> : tile_columns<A>;
}

template <class T>
int64_t panels_of(const Gather& g, Broadcast broadcast) {
  const int64_t width = panel_width<T>(g, broadcast);
  return (g.m + width - 1) / width;
}

template <class T>
int64_t packed_size(const Gather& g, Broadcast broadcast) {
  return panels_of<T>(g, broadcast) * g.depth() * panel_width<T>(g, broadcast);
}

// to[next()][r] = from[r · ld + e] for e < count in order: the elements of `rows` filters as they lie in memory.
template <class T, class A, class Next>
void pack_line(const T* from, int64_t ld, int64_t rows, int64_t count, int64_t width, A* to, Next next) {
  constexpr int64_t widest = tile_rows > tile_columns<A> ? tile_rows : tile_columns<A>;
  A square[lanes<A> * widest];  // [element][filter], rows of the width
  for (int64_t e = 0; e < count; e += lanes<A>) {
    const int64_t some = at_most(lanes<A>, count - e);
    transpose<true, false>(from + e, ld, rows, some, square, width);
    for (int64_t i = 0; i < some; ++i) {
      A* row = to + next() * width;
      copy_row(square + i * width, rows, row);
      zero(row + rows, width - rows);
    }
  }
}

// Row (tap, c) of a panel holds its filters' elements: transposed in squares where a filter is dense in memory, by
// channels and then taps or the reverse.
template <class T>
void pack_weight(const Gather& g, Broadcast broadcast, int64_t group, const T* weight, int64_t panel_begin,
                 int64_t panel_end, accumulator_t<T>* packed) {
  const int64_t width = panel_width<T>(g, broadcast), taps = g.tap_count;
  bool dense = taps > 0 && g.weight_c == taps;
  for (int64_t tap = 0; tap < taps; ++tap) dense = dense && g.taps[tap].weight == tap;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    accumulator_t<T>* to = packed + panel * g.depth() * width;
    const T* from = weight + group * g.weight_g + panel * width * g.weight_m;
    const int64_t rows = at_most(width, g.m - panel * width);
    if (dense) {
      pack_line(from, g.weight_m, rows, g.depth(), width, to, [&, tap = int64_t{0}, c = int64_t{0}]() mutable {
        const int64_t row = tap * g.c + c;
        if (++tap == taps) tap = 0, ++c;
        return row;
      });
      continue;
    }
    for (int64_t tap = 0; tap < taps && g.weight_c == 1; ++tap)
      pack_line(from + g.taps[tap].weight, g.weight_m, rows, g.c, width, to,
                [row = tap * g.c]() mutable { return row++; });
    for (int64_t c = 0; c < g.c && g.weight_c != 1; ++c)
      for (int64_t tap = 0; tap < taps; ++tap) {
        const T* w = from + g.taps[tap].weight + c * g.weight_c;
        accumulator_t<T>* row = to + (tap * g.c + c) * width;
        if (g.weight_m == 1)
          copy_row(w, rows, row);
        else
          for (int64_t r = 0; r < rows; ++r) row[r] = widen(w[r * g.weight_m]);
        zero(row + rows, width - rows);
      }
  }
}

// Scratch: segments | patches [depth_block][patch_stride] or [gemm_positions][depth_stride] | results of all channels.
template <class A>
constexpr int64_t segment_space = (gemm_positions * sizeof(Segment) + 63) / 64 * 64 / sizeof(A);
template <class A>
constexpr int64_t patch_space =
    depth_block * patch_stride<A> > gemm_positions* depth_stride<A> ? depth_block * patch_stride<A>
                                                                    : gemm_positions * depth_stride<A>;

template <class T>
int64_t gemm_scratch(const Gather& g) {
  using A = accumulator_t<T>;
  const int64_t padded = at_least(round_up(g.m, tile_rows), round_up(g.m, tile_columns<A>));  // in either layout
  const int64_t channels = at_most(gemm_channels, padded) + line<A>;
  return segment_space<A> + patch_space<A> + channels * patch_stride<A>;
}

// Results [channel][position] to a contiguous target.
template <class T, class A>
void store_columns(const Gather& g, const Segment* runs, int64_t run_count, int64_t m_begin, int64_t m_end,
                   const T* bias, const A* results, int64_t ld, T* target) {
  const int64_t stride = g.spacing[2] * g.target.s[2];
  const A floor = floor_of<A>(g.relu);
  for (int64_t i = 0; i < run_count; ++i) {
    T* at = target + target_offset(g, runs[i]);
    for (int64_t m = m_begin; m < m_end; ++m) {
      const A* from = results + (m - m_begin) * ld + runs[i].first;
      const A b = bias ? widen(bias[m]) : A(0);
      T* to = at + m * g.target.c;
      if (stride == 1)
        for (int64_t l = 0; l < runs[i].length; ++l) narrow(raised(bias ? from[l] + b : from[l], floor), to + l);
      else
        for (int64_t l = 0; l < runs[i].length; ++l)
          narrow(raised(bias ? from[l] + b : from[l], floor), to + l * stride);
    }
  }
}

// Results [position][channel] to a channels-last target.
template <class T, class A>
void store_rows(const Gather& g, const Segment* runs, int64_t run_count, int64_t m_begin, int64_t m_end, const T* bias,
                const A* results, int64_t ld, T* target) {
  const A floor = floor_of<A>(g.relu);
  for (int64_t i = 0; i < run_count; ++i) {
    T* to = target + target_offset(g, runs[i]) + m_begin;
    const A* from = results + runs[i].first * ld;
    for (int64_t l = 0; l < runs[i].length; ++l, from += ld, to += g.spacing[2] * g.target.s[2]) {
      if (bias)
        for (int64_t m = 0; m < m_end - m_begin; ++m) narrow(raised(from[m] + widen(bias[m_begin + m]), floor), to + m);
      else
        for (int64_t m = 0; m < m_end - m_begin; ++m) narrow(raised(from[m], floor), to + m);
    }
  }
}

template <class T>
void gemm(const Gather& g, bool channels_last, int64_t group, const T* source, const accumulator_t<T>* packed,
          const T* bias, T* target, int64_t begin, int64_t end, int64_t panel_begin, int64_t panel_end,
          accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  Segment* runs = reinterpret_cast<Segment*>(scratch);
  A* patches = scratch + segment_space<A>;
  A* results = patches + patch_space<A>;
  const int64_t positions = end - begin, depth = g.depth();
  const int64_t width = panel_width<T>(g, channels_last ? Broadcast::source : Broadcast::weight);
  const int64_t m_begin = panel_begin * width, m_end = at_most(panel_end * width, g.m);
  const int64_t ldc = channels_last ? round_up(m_end - m_begin, width) + line<A> : patch_stride<A>;
  const int64_t run_count = segments(g, begin, end, runs);
  source += group * g.c * g.source.c;
  target += group * g.m * g.target.c;
  if (bias) bias += group * g.m;

  if (depth == 0) zero(results, channels_last ? positions * ldc : (m_end - m_begin) * ldc);
  for (int64_t k = 0; k < depth; k += depth_block) {
    const int64_t rows = at_most(depth_block, depth - k);
    const bool add = k > 0;
    if (channels_last) {
      pack_rows(g, runs, run_count, source, k, k + rows, patches, depth_stride<A>);
      for (int64_t panel = panel_begin; panel < panel_end; ++panel)
        for (int64_t p = 0; p < positions; p += tile_rows)
          run<A, false>(at_most(tile_rows, positions - p), m_end - panel * width,
                        {rows, patches + p * depth_stride<A>, depth_stride<A>, 1, packed + (panel * depth + k) * width,
                         width, results + p * ldc + (panel - panel_begin) * width, ldc, add});
    } else {
      pack_columns(g, runs, run_count, source, k, k + rows, positions, round_up(positions, lanes<A>), patches,
                   patch_stride<A>);
      for (int64_t panel = panel_begin; panel < panel_end; ++panel)
        for (int64_t p = 0; p < positions; p += tile_columns<A>)
          run<A, true>(at_most(tile_rows, m_end - panel * width), positions - p,
                       {rows, packed + (panel * depth + k) * width, 1, tile_rows, patches + p, patch_stride<A>,
                        results + (panel - panel_begin) * width * ldc + p, ldc, add});
    }
  }
  if (channels_last)
    store_rows(g, runs, run_count, m_begin, m_end, bias, results, ldc, target);
  else
    store_columns(g, runs, run_count, m_begin, m_end, bias, results, ldc, target);
}
