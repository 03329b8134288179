// Depth-wise 3×3 windows, undilated, of channels-last maps, with steps of 1 or (weight gradients) 2. Walks down a column
// of tiles: each source pixel is loaded once and meets all the targets that see it, whose sums (gathers) or whose values
// (weight gradients) stay in registers. Strips of rows follow each other, so that memory is walked in order.

constexpr int window = 3;         // taps along either axis
constexpr int64_t walk_rows = 8;  // target rows of a strip, at most
template <int STEP>
constexpr int live_rows = (window + STEP - 1) / STEP;  // target rows that a source row meets

template <class T>
struct Walk {
  const T* source;                      // of a vector of channels: row 0, column 0
  int64_t ld_row, ld_pixel, extent[2];  // of the source
  int64_t offset[2];                    // where target 0 looks first, by row and column
  int64_t ld_target_row, ld_target;
  int64_t source_ahead, target_ahead;  // from here to what is taken later, asked for meanwhile
};

template <class T>
Walk<T> walk_of(const Gather& g) {
  return {nullptr,
          g.source.s[1],
          g.source.s[2],
          {g.extent[1], g.extent[2]},
          {tap_offset(g, 1, 0), tap_offset(g, 2, 0)},
          g.target.s[1] * g.spacing[1],
          g.target.s[2] * g.spacing[2],
          0,
          0};
}

// Targets side by side of one tile: as many as leave registers for the taps.
inline int64_t walk_tile(int64_t count) { return !wide_registers ? 4 : count % 8 == 0 && count % 7 ? 8 : 7; }

inline bool can_walk(const Gather& g) {
  if (g.tap_count != window * window || g.grid[1] != window || g.grid[2] != window || g.count[0] != 1) return false;
  if (g.extent[0] != 1 || g.step[1] != g.step[2] || g.step[1] > 2) return false;
  const int64_t tile = walk_tile(g.count[2]), over = (tile - g.count[2] % tile) % tile;
  return g.count[2] >= tile && over * 4 <= g.count[2] && tap_offset(g, 1, 1) - tap_offset(g, 1, 0) == 1 &&
         tap_offset(g, 2, 1) - tap_offset(g, 2, 0) == 1;
}

// With each source pixel of row q that targets [t, t + TILE) see: meet(x, d, k, i) for the targets i of rows d in
// [BEGIN, END), of those the row meets, which see it through tap k. Rows off the map meet none; zeros lie beside it.
template <int STEP, int TILE, bool EDGE, int BEGIN, int END, int S, class T, class F>
inline __attribute__((always_inline)) void meet_row(const Walk<T>& w, int64_t q, int64_t t, F meet) {
  if (static_cast<uint64_t>(q) >= static_cast<uint64_t>(w.extent[0])) return;
  const int64_t first = t * STEP + w.offset[1];
  const T* pixel = w.source + q * w.ld_row + first * w.ld_pixel;
#pragma GCC unroll 32
  for (int j = 0; j < (TILE - 1) * STEP + window; ++j) {
    const bool inside = !EDGE || static_cast<uint64_t>(first + j) < static_cast<uint64_t>(w.extent[1]);
    const vector_t<accumulator_t<T>> x = load_widened(inside ? pixel : zero_pixel<T>());
    if (END - BEGIN == live_rows<STEP> && j < TILE * STEP) __builtin_prefetch(pixel + w.source_ahead, 0, 2);
    next(pixel, w.ld_pixel);
#pragma GCC unroll 8
    for (int d = BEGIN; d < END; ++d) {
      const int k1 = window - STEP + S - d * STEP;
#pragma GCC unroll 8
      for (int k2 = 0; k2 < window; ++k2)
        if (k1 >= 0 && j >= k2 && (j - k2) % STEP == 0 && (j - k2) / STEP < TILE)
          meet(x, d, k1 * window + k2, (j - k2) / STEP);
    }
  }
}

// The source rows that target row r is the first to be done with, and that rows r + d, d in [BEGIN, END), see.
template <int STEP, int TILE, bool EDGE, int BEGIN, int END, class T, class F>
inline __attribute__((always_inline)) void meet_rows(const Walk<T>& w, int64_t r, int64_t t, F meet) {
  const int64_t q = r * STEP + w.offset[0] + window - STEP;
  meet_row<STEP, TILE, EDGE, BEGIN, END, 0>(w, q, t, meet);
  if constexpr (STEP == 2) meet_row<STEP, TILE, EDGE, BEGIN, END, 1>(w, q + 1, t, meet);
}

template <int ROWS, int TILE, class V>
inline __attribute__((always_inline)) void move_up(V (&rows)[ROWS][TILE]) {
#pragma GCC unroll 8
  for (int d = 0; d + 1 < ROWS; ++d)
#pragma GCC unroll 8
    for (int i = 0; i < TILE; ++i) rows[d][i] = rows[d + 1][i];
}

// Tiles [0, tiles) of a strip, and from each to what is to be asked for: the tile beside it, or what the strip below
// begins with; `below` and `target_below` lead there from this strip's first tile.
template <class T, class F>
void each_tile(Walk<T>& w, int64_t tile, int64_t step, int64_t count, int64_t tiles, int64_t below,
               int64_t target_below, F run) {
  for (int64_t u = 0; u < tiles; ++u) {
    const int64_t t = at_most(u * tile, count - tile), first = t * step + w.offset[1];
    const int64_t apart = u + 1 < tiles ? at_most((u + 1) * tile, count - tile) - t : -t;
    w.source_ahead = apart * step * w.ld_pixel + (u + 1 < tiles ? 0 : below);
    w.target_ahead = apart * w.ld_target + (u + 1 < tiles ? 0 : target_below);
    run(t, first < 0 || first + (tile - 1) * step + window > w.extent[1]);
  }
}

// ---- gathers ----

// target = max(floor, Σ over the window + bias) of [t, t + TILE) of rows [begin, end), the terms in the order of the taps.
// weight: [tap], ld_weight apart.
template <class T, int TILE, bool EDGE>
void walk_sums(const Walk<T>& w, int64_t t, int64_t begin, int64_t end, const accumulator_t<T>* weight,
               int64_t ld_weight, vector_t<accumulator_t<T>> bias, accumulator_t<T> floor, T* target) {
  using V = vector_t<accumulator_t<T>>;
  V tap[window * window], sum[window][TILE] = {};
#pragma GCC unroll 16
  for (int k = 0; k < window * window; ++k) tap[k] = load(weight + k * ld_weight);
  const V least = V{} + floor;
  for (int64_t r = begin - window + 1; r < end; ++r) {
    meet_rows<1, TILE, EDGE, 0, window>(
        w, r, t, [&](V x, int d, int k, int i) __attribute__((always_inline)) { sum[d][i] += tap[k] * x; });
    if (r >= begin) {
      T* to = target + r * w.ld_target_row + t * w.ld_target;
#pragma GCC unroll 8
      for (int i = 0; i < TILE; ++i) {
        const V y = sum[0][i] + bias;
        store_narrowed(to, y < least ? least : y);
        __builtin_prefetch(to + w.target_ahead, 1, 2);
        next(to, w.ld_target);
      }
    }
    move_up(sum);
#pragma GCC unroll 8
    for (int i = 0; i < TILE; ++i) sum[window - 1][i] = V{};
  }
}

// Rows [begin, end) of targets of a sample. packed: [tap][channel].
template <class T, int TILE>
void walk_sample(const Gather& g, int64_t begin, int64_t end, const T* source, const accumulator_t<T>* packed,
                 const T* bias, T* target) {
  using A = accumulator_t<T>;
  Walk<T> w = walk_of<T>(g);
  const int64_t channels = g.groups, tiles = (g.count[2] + TILE - 1) / TILE;
  for (int64_t r = begin, r_end; r < end; r = r_end) {
    r_end = at_most(end, r + walk_rows);
    for (int64_t c = 0; c < channels; c += gather_channel_block) {
      const int64_t c_end = at_most(channels, c + gather_channel_block), beside = c_end - c;
      const int64_t below = c_end < channels ? beside : (r_end - r) * w.ld_row - c;
      const int64_t target_below = c_end < channels ? beside : (r_end - r) * w.ld_target_row - c;
      each_tile(w, TILE, 1, g.count[2], tiles, below, target_below, [&](int64_t t, bool edge) {
        for (int64_t v = c; v < c_end; v += lanes<A>) {
          const int64_t channel = at_most(v, channels - lanes<A>);
          w.source = source + channel;
          (edge ? walk_sums<T, TILE, true> : walk_sums<T, TILE, false>)(w, t, r, r_end, packed + channel, channels,
                                                                        bias ? load_widened(bias + channel)
                                                                             : vector_t<A>{} - A(0),
                                                                        floor_of<A>(g.relu), target + channel);
        }
      });
    }
  }
}

// As depthwise_pixels, where the window is one that can be walked.
template <class T>
void depthwise_rows(const Gather* gathers, int64_t count, int64_t n, int64_t begin, int64_t end, const T* source,
                    const accumulator_t<T>* packed, const T* bias, T* target) {
  const Gather& g = *gathers;
  if (count > 1 || g.step[1] > 1 || !can_walk(g))
    return depthwise_pixels(gathers, count, n, begin, end, source, packed, bias, target);
  source += n * g.source.n, target += n * g.target.n;
  if constexpr (!wide_registers)
    walk_sample<T, 4>(g, begin, end, source, packed, bias, target);
  else
    (walk_tile(g.count[2]) == 8 ? walk_sample<T, 8> : walk_sample<T, 7>)(g, begin, end, source, packed, bias, target);
}

// ---- the weight gradient ----

// sums[k] += Σ over targets y of [t, t + TILE) of rows [begin, end) of y · the pixel tap k looks at; `ld` apart.
template <class T, int STEP, int TILE, bool EDGE>
void walk_correlation(const Walk<T>& w, int64_t t, int64_t begin, int64_t end, const T* target, accumulator_t<T>* sums,
                      int64_t ld) {
  using V = vector_t<accumulator_t<T>>;
  constexpr int live = live_rows<STEP>;
  V y[live][TILE] = {}, sum[window * window] = {};
  const auto add = [&](V x, int d, int k, int i) __attribute__((always_inline)) { sum[k] += y[d][i] * x; };
  for (int64_t r = begin - live + 1; r < end; ++r) {
    move_up(y);
    if (r + live <= end) {
      const T* from = target + (r + live - 1) * w.ld_target_row + t * w.ld_target;
#pragma GCC unroll 8
      for (int i = 0; i < TILE; ++i) {
        y[live - 1][i] = load_widened(from);
        __builtin_prefetch(from + w.target_ahead, 0, 2);
        next(from, w.ld_target);
      }
    }
    if (r >= begin && r + live <= end) {
      meet_rows<STEP, TILE, EDGE, 0, live>(w, r, t, add);
      continue;
    }
    const int64_t low = begin - r, high = end - r;  // rows r + d outside [begin, end) are another strip's
    if (0 >= low && 0 < high) meet_rows<STEP, TILE, EDGE, 0, 1>(w, r, t, add);
    if (1 >= low && 1 < high) meet_rows<STEP, TILE, EDGE, 1, 2>(w, r, t, add);
    if constexpr (live > 2)
      if (2 >= low && 2 < high) meet_rows<STEP, TILE, EDGE, 2, 3>(w, r, t, add);
  }
#pragma GCC unroll 16
  for (int k = 0; k < window * window; ++k) store(sums + k * ld, load(sums + k * ld) + sum[k]);
}

// The columns [t, g.count[2]) that no whole tile covers, of target row r.
template <class T>
void correlate_rest(const Gather& g, const PixelRow<T>& any, int64_t t, int64_t r, int64_t channel, const T* source,
                    const T* y, accumulator_t<T>* sums, int64_t ld) {
  const PixelRow<T> row = pixel_row_at<T>(g, any, 0, r, source);
  const auto run = row_correlation(any);
  for (int64_t k = 0; k < row.count[1]; ++k)
    run(row, row.source + k * row.ld[1] + channel, y + r * g.target.s[1] + channel, t, g.count[2],
        sums + (row.tap + k * window) * ld, ld);
}

// The strip of rows [r, r_end) of one sample, channels [c, c_end): into sums, [tap][depthwise_grad_channels].
template <class T, int STEP, int TILE>
void correlate_strip(const Gather& g, int64_t r, int64_t r_end, int64_t c, int64_t c_end, const T* source,
                     const T* target, accumulator_t<T>* sums) {
  constexpr int64_t width = lanes<accumulator_t<T>>, ld = depthwise_grad_channels;
  Walk<T> w = walk_of<T>(g);
  const PixelRow<T> any = pixel_row<T>(g);
  const int64_t tiles = g.count[2] / TILE, below = (r_end - r) * STEP * w.ld_row;
  each_tile(w, TILE, STEP, g.count[2], tiles, below, (r_end - r) * w.ld_target_row, [&](int64_t t, bool edge) {
    for (int64_t v = c; v < c_end; v += width) {
      const int64_t channel = at_most(v, g.groups - width);
      w.source = source + channel;
      (edge ? walk_correlation<T, STEP, TILE, true>
            : walk_correlation<T, STEP, TILE, false>)(w, t, r, r_end, target + channel, sums + v - c, ld);
    }
  });
  if (tiles * TILE == g.count[2]) return;
  for (int64_t v = c; v < c_end; v += width)
    for (int64_t i = r; i < r_end; ++i)
      correlate_rest(g, any, tiles * TILE, i, at_most(v, g.groups - width), source, target, sums + v - c, ld);
}

// The sums of depthwise_pixels_grad, a strip at a time.
template <class T>
void walk_grad(const Gather& g, int64_t block, int64_t begin, int64_t end, const T* source, const T* target,
               double* total, accumulator_t<T>* sums) {
  const int64_t c = block * depthwise_grad_channels, c_end = at_most(g.groups, c + depthwise_grad_channels);
  const int64_t rows = g.count[1];
  const bool twice = g.step[1] == 2;
  auto run = twice ? correlate_strip<T, 2, 7> : correlate_strip<T, 1, 7>;
  if (walk_tile(g.count[2]) == 8) run = twice ? correlate_strip<T, 2, 8> : correlate_strip<T, 1, 8>;
  zero(sums, g.tap_count * depthwise_grad_channels);
  for (int64_t tap = 0; tap < g.tap_count; ++tap) zero(total + tap * g.groups + c, c_end - c);
  int64_t terms = 0;
  for (int64_t i = begin, last; i < end; i = last) {
    const int64_t n = i / rows, r = i - n * rows;
    last = at_most(at_most(end, (n + 1) * rows), i + walk_rows);
    run(g, r, r + last - i, c, c_end, source + n * g.source.n, target + n * g.target.n, sums);
    terms += (last - i) * g.count[2];
    if (terms < lane_terms && last < end) continue;
    add_to_total<T>(g, c, c_end, sums, total);
    zero(sums, g.tap_count * depthwise_grad_channels);
    terms = 0;
  }
}

// As depthwise_pixels_grad, where the window is one that can be walked, and there are registers for targets and sums.
template <class T>
void depthwise_rows_grad(const Gather& g, int64_t block, int64_t begin, int64_t end, const T* source, const T* target,
                         double* total, accumulator_t<T>* sums) {
  if constexpr (wide_registers)
    if (can_walk(g)) return walk_grad(g, block, begin, end, source, target, total, sums);
  depthwise_pixels_grad(g, block, begin, end, source, target, total, sums);
}
