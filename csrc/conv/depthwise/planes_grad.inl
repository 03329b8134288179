// Depth-wise weight gradient of contiguous tensors: w[k] = Σ over samples and targets t of ȳ[t] · x[t · step + offset
// k], an output channel at a time. Source and target rows are staged as in depthwise_planes.inl; the sums of several
// taps stay in registers, a lane for each position in a vector, down a column of vectors. The lanes are added once a
// map.
#pragma once
#include "conv/depthwise/planes.inl"
#include "conv/depthwise/planes_rows.inl"
#include "conv/patch.inl"
#include "cpu/numeric.inl"

constexpr int correlation_sums = TORCHCONV_VECTOR_BYTES == 64 ? 25 : 10;  // registers
constexpr int64_t lane_terms = 1024;  // summed in one lane before the sum goes to a double: bounds the error

// Strips of ROWS target rows, one below another: sums[c][k] += Σ over rows o of y[o] · x[o · STRIDE + k][shift c +
// lane] in the lanes of `mask`.
template <class A>
struct StripCorrelation {
  const A *x, *y;
  int64_t unit, ldy;                // between x's rows, between y's
  int64_t x_strip, y_strip, count;  // from strip to strip, and how many
  const int64_t* shift;             // [COLUMNS]
  typename Vector<A>::mask mask;
  A* sums;  // [COLUMNS][ld], vectors
  int64_t ld;
};

template <class A, int STRIDE, int TAPS, int COLUMNS, int ROWS>
void correlate_strips(const StripCorrelation<A>& s) {
  using Mask = typename Vector<A>::mask;
  vector_t<A> sum[COLUMNS][TAPS];
#pragma GCC unroll 8
  for (int c = 0; c < COLUMNS; ++c)
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; ++k) sum[c][k] = load(s.sums + (c * s.ld + k) * lanes<A>);
  const A *x = s.x, *y = s.y;
  const Mask mask = s.mask;
  const int64_t unit = s.unit;
  for (int64_t n = 0; n < s.count; ++n, x += s.x_strip, y += s.y_strip) {
    vector_t<A> g[ROWS];
#pragma GCC unroll 8
    for (int o = 0; o < ROWS; ++o) g[o] = load(y + o * s.ldy);
#pragma GCC unroll 8
    for (int c = 0; c < COLUMNS; ++c) {
      const A* column = x + s.shift[c];
#pragma GCC unroll 32
      for (int i = 0; i < STRIDE * (ROWS - 1) + TAPS; ++i) {
        const vector_t<A> v = reinterpret_cast<vector_t<A>>(reinterpret_cast<Mask>(load(column)) & mask);
        column += unit;
        asm("" : "+r"(column));  // or each row's address takes a register of its own
#pragma GCC unroll 8
        for (int o = 0; o < ROWS; ++o)
          if (i - STRIDE * o >= 0 && i - STRIDE * o < TAPS) sum[c][i - STRIDE * o] += g[o] * v;
      }
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < COLUMNS; ++c)
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; ++k) store(s.sums + (c * s.ld + k) * lanes<A>, sum[c][k]);
}

// As many of the `left` columns of taps as there are registers for; returns how many.
template <class A, int STRIDE, int TAPS, int ROWS, int COLUMNS = 5>
int64_t correlate_columns(int64_t left, const StripCorrelation<A>& s) {
  if constexpr (COLUMNS * TAPS <= correlation_sums || COLUMNS == 1)
    if (left >= COLUMNS) return correlate_strips<A, STRIDE, TAPS, COLUMNS, ROWS>(s), COLUMNS;
  if constexpr (COLUMNS > 1) return correlate_columns<A, STRIDE, TAPS, ROWS, COLUMNS == 5 ? 3 : COLUMNS - 1>(left, s);
  return 1;
}

// A band of target rows [0, rows) staged at `y` (of pitch sum_pitch) against TAPS taps of axis 1.
template <class A, int STRIDE, int TAPS, int ROWS>
void correlate_turn(const PlanesPlan& p, const RowTaps& taps, const A* x, int64_t first, int64_t map_begin,
                    int64_t map_end, const A* y, int64_t row_begin, int64_t strips, A* sums, int64_t ld) {
  StripCorrelation<A> s{};
  const int64_t tall = p.g->step[1] * p.turn * ROWS;  // staged rows from strip to strip
  int64_t at = first + row_begin * p.g->step[1];
  while (strips > 0 && at + ((ROWS - 1) * p.stride + TAPS - 1) * p.unit < map_begin)
    --strips, at += tall, row_begin += p.turn * ROWS;
  while (strips > 0 && at + (strips - 1) * tall >= map_end) --strips;
  if (strips == 0) return;
  s.unit = p.unit * (STRIDE == p.stride ? 1 : p.stride) * p.row, s.ldy = p.turn * p.sum_pitch, s.ld = ld;
  s.x_strip = tall * p.row, s.y_strip = p.turn * ROWS * p.sum_pitch, s.count = strips;
  for (int64_t v = 0; v < p.vectors; ++v) {
    s.mask = lane_mask<A>(0, p.g->count[2] - v * lanes<A>);
    s.x = x + at * p.row + v * lanes<A>, s.y = y + row_begin * p.sum_pitch + v * lanes<A>;
    for (int64_t k = taps.ranges[2 * v]; k < taps.ranges[2 * v + 1];) {
      s.shift = taps.shift + k, s.sums = sums + k * ld * lanes<A>;
      k += correlate_columns<A, STRIDE, TAPS, ROWS>(taps.ranges[2 * v + 1] - k, s);
    }
  }
}

template <class A, int STRIDE, int TAPS>
void correlate_taps(const PlanesPlan& p, const RowTaps& taps, const A* x, int64_t first, int64_t map_begin,
                    int64_t map_end, const A* y, int64_t rows, A* sums, int64_t ld) {
  constexpr int tall = 4;
  for (int64_t r = 0; r < at_most(p.turn, rows); ++r) {
    const int64_t all = (rows - r + p.turn - 1) / p.turn, strips = all / tall, done = strips * tall;
    const auto run = [&](auto kernel, int64_t from, int64_t count) {
      kernel(p, taps, x, first, map_begin, map_end, y, r + from * p.turn, count, sums, ld);
    };
    constexpr bool sevens = tuned<A> && TAPS <= 3;
    if (sevens && all % 7 == 0) {
      run(correlate_turn < A, STRIDE, TAPS, sevens ? 7 : tall >, 0, all / 7);
    } else {
      run(correlate_turn<A, STRIDE, TAPS, tall>, 0, strips);
      run(correlate_turn<A, STRIDE, TAPS, 1>, done, all - done);
    }
  }
}

template <class A, int STRIDE>
void correlate_chunk(int64_t taps, const PlanesPlan& p, const RowTaps& row, const A* x, int64_t first,
                     int64_t map_begin, int64_t map_end, const A* y, int64_t rows, A* sums, int64_t ld) {
  auto run = taps == 3 ? correlate_taps<A, STRIDE, 3> : correlate_taps<A, 1, 1>;
  if constexpr (tuned<A>)
    run = taps == 7   ? correlate_taps<A, STRIDE, 7>
          : taps == 5 ? correlate_taps<A, STRIDE, 5>
          : taps == 2 ? correlate_taps<A, STRIDE, 2>
                      : run;
  run(p, row, x, first, map_begin, map_end, y, rows, sums, ld);
}

// Rows of the output's gradient, zeros to the right.
template <class T, class A>
void stage_targets(const PlanesPlan& p, const T* from, const Whole<T>& whole, int64_t rows, int64_t ahead, A* to) {
  const PaddedRow<A> padded(0, p.g->count[2]);
  const int64_t ld = p.g->target.s[1], pitch = p.sum_pitch;
  if (p.vectors <= 4 && whole.end - (from + (rows - 1) * ld) >= pitch) {
    const auto run = p.vectors == 1   ? stage_short_rows<1, T, A>
                     : p.vectors == 2 ? stage_short_rows<2, T, A>
                     : p.vectors == 3 ? stage_short_rows<3, T, A>
                                      : stage_short_rows<4, T, A>;
    return run(padded, from, ld, rows, ahead, to);
  }
  for (int64_t r = 0; r < rows; ++r, from += ld, to += pitch) {
    fetch<0>(from + ahead, padded.n);
    stage_row(padded, from, whole, 1, pitch, to);
  }
}

template <class A>
void add_lanes(A* sums, int64_t count, double* total) {
  for (int64_t i = 0; i < count; ++i) {
    A* lane = sums + i * lanes<A>;
    for (int width = lanes<A> / 2; width > 0; width /= 2)
      for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
    total[i] += lane[0];
  }
  zero(sums, count * lanes<A>);
}

// A map of the input and one of the output's gradient, and how far from them those lie that are taken next.
template <class T>
struct MapPair {
  const T *x, *y;
  Whole<T> all_x, all_y;
  int64_t next_x = 0, next_y = 0;
};

// Sums of one map of the output's gradient into `sums`, [grid 0][grid 2][grid 1] vectors, and from there to total.
template <class T, class A>
void correlate_map(const PlanesPlan& p, const RowTaps& taps, const MapPair<T>& m, A* staged, A* rows, A* sums,
                   double* total, int64_t& terms) {
  const Gather& g = *p.g;
  for (int64_t t0 = 0; t0 < g.count[0]; ++t0)
    for (int64_t t = 0; t < g.count[1]; t += p.band) {
      const int64_t here = at_most(p.band, g.count[1] - t), map = t * g.step[1] + p.low[1];
      // Next is the band below, or the first of the next map.
      const bool below = t + p.band < g.count[1];
      const int64_t y_ahead = below ? p.band * g.target.s[1] : m.next_y - t * g.target.s[1];
      const int64_t x_ahead = below ? p.band * g.step[1] * g.source.s[1] : m.next_x - t * g.step[1] * g.source.s[1];
      stage_targets(p, m.y + t0 * g.target.s[0] + t * g.target.s[1], m.all_y, here, y_ahead, rows);
      for (int64_t k0 = 0; k0 < g.grid[0]; ++k0) {
        const int64_t i0 = t0 * g.step[0] + tap_offset(g, 0, k0);
        if (i0 < 0 || i0 >= g.extent[0]) continue;
        stage(p, m.x + i0 * g.source.s[0], m.all_x, map, (here - 1) * g.step[1] + p.high1 - p.low[1] + 1, x_ahead,
              staged);
        for (int64_t k = 0, chunk; k < g.grid[1]; k += chunk) {
          chunk = chunk_of<A>(p, g.grid[1] - k);
          const auto run = p.stride == 2 ? correlate_chunk<A, 2> : correlate_chunk<A, 1>;
          run(chunk, p, taps, staged, tap_offset(g, 1, k) - p.low[1], -map, g.extent[1] - map, rows, here,
              sums + (k0 * g.grid[1] * g.grid[2] + k) * lanes<A>, g.grid[1]);
        }
      }
      terms += here * p.vectors;
      if (terms < lane_terms) continue;
      add_lanes(sums, g.tap_count, total);
      terms = 0;
    }
}

// The filter of one output channel from its totals, [grid 0][grid 2][grid 1].
template <class T>
void store_filter(const Gather& g, int64_t channel, const double* total, T* weight) {
  weight += channel / g.m * g.weight_g + channel % g.m * g.weight_m;
  for (int64_t tap = 0; tap < g.tap_count; ++tap) {
    const int64_t k2 = tap % g.grid[2], k1 = tap / g.grid[2] % g.grid[1], k0 = tap / g.grid[2] / g.grid[1];
    narrow(static_cast<accumulator_t<T>>(total[(k0 * g.grid[2] + k2) * g.grid[1] + k1]), weight + g.taps[tap].weight);
  }
}

constexpr int64_t most_channels_together = 8;

// Channels whose maps are taken in turn, sample by sample: small maps that lie side by side, with sums that stay in
// cache.
inline int64_t channels_together(const Gather& g, int64_t sums) {
  const int64_t map = g.extent[0] * g.extent[1] * g.extent[2];
  return at_least(1, at_most(most_channels_together, at_most(4096 / map, 8192 / sums)));
}

// The weights of output channels [begin, end). scratch: staged rows, target rows, sums, totals, tables.
template <class T>
void depthwise_planes_grad(const Gather& g, int64_t begin, int64_t end, const T* source, const T* target, T* weight,
                           accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const PlanesPlan p = planes_plan<A>(&g, 1);
  const int64_t sum = g.tap_count * lanes<A>, together = channels_together(g, sum);
  A *staged = scratch, *rows = staged + planes_staged<A>(p), *sums = rows + planes_sums<A>(p);
  double* total = reinterpret_cast<double*>(sums + together * sum);
  const RowTaps taps = row_taps<A>(p, g, reinterpret_cast<int64_t*>(total + together * g.tap_count));
  const Whole<T> all_x = whole_of(source, g.batch, g.groups, g.extent);
  const Whole<T> all_y = whole_of(target, g.batch, g.groups * g.m, g.count);
  for (int64_t first = begin, last; first < end; first = last) {
    last = at_most(end, first + together);
    zero(sums, together * sum), zero(total, together * g.tap_count);
    int64_t terms[most_channels_together] = {};
    for (int64_t n = 0; n < g.batch; ++n)
      for (int64_t channel = first; channel < last; ++channel) {
        const int64_t i = channel - first;
        MapPair<T> maps{source + n * g.source.n + channel / g.m * g.source.c,
                        target + n * g.target.n + channel * g.target.c, all_x, all_y};
        const bool beside = channel + 1 < last;
        maps.next_x = beside ? ((channel + 1) / g.m - channel / g.m) * g.source.c
                             : g.source.n - (channel / g.m - first / g.m) * g.source.c;
        maps.next_y = beside ? g.target.c : g.target.n - i * g.target.c;
        correlate_map(p, taps, maps, staged, rows, sums + i * sum, total + i * g.tap_count, terms[i]);
      }
    add_lanes(sums, together * g.tap_count, total);
    for (int64_t channel = first; channel < last; ++channel)
      store_filter(g, channel, total + (channel - first) * g.tap_count, weight);
  }
}

template <class T>
int64_t depthwise_planes_grad_scratch(const Gather& g) {
  using A = accumulator_t<T>;
  const PlanesPlan p = planes_plan<A>(&g, 1);
  const int64_t sum = g.tap_count * lanes<A>, together = channels_together(g, sum);
  const int64_t totals = g.tap_count * static_cast<int64_t>(sizeof(double) / sizeof(A));
  return planes_staged<A>(p) + planes_sums<A>(p) + together * (sum + totals) + planes_tables<A>(p);
}
