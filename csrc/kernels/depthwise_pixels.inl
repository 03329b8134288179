// Depth-wise gathers and weight gradients of channels-last tensors with one filter a map and at least a vector of maps.
// Vectors run along channels (the last one overlaps the one before), and the sums of a tile of target pixels in a row
// stay in registers, so that each vector of weights serves them all. Whole columns of tiles are walked downwards, with
// the source rows of a window in cache.

constexpr int64_t pixel_tile_room = 64 << 10;  // bytes of source rows that a column of tiles may keep in use
constexpr int64_t gather_channel_block = 64;  // channels a column of tiles takes at once
constexpr bool wide_registers = TORCHCONV_VECTOR_BYTES == 64;

// The window of one row of targets, for one vector of channels.
template <class T>
struct PixelRow {
  const T* source;                  // of the first tap row on the map: its column 0
  const accumulator_t<T>* weight;   // of that tap row
  int64_t tap;                      // its first tap
  int64_t count[2], ld[2], ldw[2];  // tap rows along axes 0 and 1; source and weights from one to the next
  int64_t taps, apart, offset;      // of a row: how many, columns between them, where the first looks from target 0
  int64_t step, extent, ld_pixel, ld_weight, ld_target;
  int64_t ahead, ld_row, ld_target_row;  // source rows to fetch for the next row of targets; from row to row
};

// On to the next pixel; hides from the compiler that addresses are multiples of a step, each of which it would keep in a
// register of its own.
template <class P>
inline void next(P*& pointer, int64_t step) {
  pointer += step;
  asm("" : "+r"(pointer));
}

// A vector of zeros: a pixel off the map.
template <class T>
inline const T* zero_pixel() {
  alignas(64) static const T zeros[lanes<accumulator_t<T>>] = {};
  return zeros;
}

// The pixels of columns first, first + 1, …; zeros for those off the map where EDGE says that there are such.
template <bool EDGE, class T, class V, int N>
inline __attribute__((always_inline)) void load_pixels(V (&x)[N], const T* row, int64_t first, int64_t extent,
                                                       int64_t ld) {
  const T* pixel = row + first * ld;
#pragma GCC unroll 32
  for (int j = 0; j < N; ++j) {
    const bool inside = !EDGE || static_cast<uint64_t>(first + j) < static_cast<uint64_t>(extent);
    x[j] = load_widened(inside ? pixel : zero_pixel<T>());
    next(pixel, ld);
  }
}

// Asks for what the tile below needs: processors do not see these strides coming, and the memory's latency is then most
// of the time.
template <int TILE, class T>
inline __attribute__((always_inline)) void fetch_ahead(const PixelRow<T>& r, int64_t channel, int64_t t,
                                                       const T* target) {
  const T* row = r.source + channel + (r.count[1] - 1) * r.ld[1] + t * r.step * r.ld_pixel;
  for (int64_t i = 0; i < r.ahead; ++i) {
    const T* pixel = row += r.ld_row;
    for (int64_t j = 0; j < TILE * r.step; ++j, pixel += r.ld_pixel) __builtin_prefetch(pixel, 0, 2);
  }
  target += r.ld_target_row;
  for (int i = 0; i < TILE; ++i, target += r.ld_target) __builtin_prefetch(target, 1, 2);
}

// Targets [t, t + TILE) of a vector of channels from `channel` on. TAPS: how many are taken at once, if they are columns side by side and targets STEP columns
// apart; 0 for any. EDGE: some columns lie off the map.
template <class T, int TAPS, int STEP, int TILE, bool EDGE>
void sum_pixels(const PixelRow<T>& r, int64_t channel, int64_t t, vector_t<accumulator_t<T>> bias,
                accumulator_t<T> floor, T* target) {
  using A = accumulator_t<T>;
  vector_t<A> sum[TILE] = {};
  const int64_t first = t * r.step + r.offset;
  for (int64_t k0 = 0; k0 < r.count[0]; ++k0)
    for (int64_t k1 = 0; k1 < r.count[1]; ++k1) {
      const T* row = r.source + channel + k0 * r.ld[0] + k1 * r.ld[1];
      const A* w = r.weight + channel + k0 * r.ldw[0] + k1 * r.ldw[1];
      int64_t k = 0, column = first;
      if constexpr (TAPS > 0)
        for (; k + TAPS <= r.taps; k += TAPS, column += TAPS) {
          vector_t<A> x[(TILE - 1) * STEP + TAPS];
          load_pixels<EDGE>(x, row, column, r.extent, r.ld_pixel);
#pragma GCC unroll 8
          for (int j = 0; j < TAPS; ++j) {
            const vector_t<A> v = load(w);
            next(w, r.ld_weight);
#pragma GCC unroll 8
            for (int i = 0; i < TILE; ++i) sum[i] += v * x[i * STEP + j];
          }
        }
      for (; k < r.taps; ++k, column += r.apart, w += r.ld_weight) {
        const vector_t<A> v = load(w);
        const T* pixel = row + column * r.ld_pixel;
#pragma GCC unroll 8
        for (int i = 0; i < TILE; ++i) {
          if (!EDGE || static_cast<uint64_t>(column + i * r.step) < static_cast<uint64_t>(r.extent))
            sum[i] += v * load_widened(pixel);
          next(pixel, r.step * r.ld_pixel);
        }
      }
    }
  const vector_t<A> least = vector_t<A>{} + floor;
  target += channel + t * r.ld_target;
  fetch_ahead<TILE>(r, channel, t, target);
#pragma GCC unroll 8
  for (int i = 0; i < TILE; ++i) {
    const vector_t<A> y = sum[i] + bias;
    store_narrowed(target, y < least ? least : y);
    next(target, r.ld_target);
  }
}

template <class T, int TAPS, int STEP, int TILE>
void sum_tile(const PixelRow<T>& r, int64_t channel, int64_t t, vector_t<accumulator_t<T>> bias, accumulator_t<T> floor,
              T* target) {
  const int64_t first = t * r.step + r.offset, last = first + (TILE - 1) * r.step + (r.taps - 1) * r.apart;
  (first >= 0 && last < r.extent ? sum_pixels<T, TAPS, STEP, TILE, false>
                                 : sum_pixels<T, TAPS, STEP, TILE, true>)(r, channel, t, bias, floor, target);
}

template <class T>
using TileKernel = void (*)(const PixelRow<T>&, int64_t, int64_t, vector_t<accumulator_t<T>>, accumulator_t<T>, T*);

template <class T, int STEP, int TILE>
TileKernel<T> dense_kernel(int64_t taps) {
  if constexpr (TILE >= (wide_registers ? 7 : 4)) {
    if (taps >= 7) return sum_tile<T, 7, STEP, TILE>;
    if (taps >= 5) return sum_tile<T, 5, STEP, TILE>;
    if (taps >= 3) return sum_tile<T, 3, STEP, TILE>;
    if (STEP == 1 && taps == 1) return sum_tile<T, 1, STEP, TILE>;
    if (STEP == 1 && taps == 2) return sum_tile<T, 2, STEP, TILE>;
  }
  return sum_tile<T, 0, 1, TILE>;
}

template <class T, int TILE>
TileKernel<T> tile_kernel(const PixelRow<T>& r) {
  if (r.apart != 1 || r.step > 2) return sum_tile<T, 0, 1, TILE>;
  return r.step == 1 ? dense_kernel<T, 1, TILE>(r.taps) : dense_kernel<T, 2, TILE>(r.taps);
}

// The tile that covers `count` targets with the fewest sums; the last one overlaps the one before.
inline int64_t tile_of(int64_t count) {
  constexpr int64_t tiles[] = {2, 4, 7, 8};
  int64_t best = 1;
  for (const int64_t tile : tiles) {
    if (tile > count || (tile > 4 && !wide_registers)) break;
    if ((count + tile - 1) / tile * (tile + 2) <= (count + best - 1) / best * (best + 2)) best = tile;
  }
  return best;
}

template <class T>
TileKernel<T> tile_kernel(const PixelRow<T>& r, int64_t tile) {
  if constexpr (wide_registers) {
    if (tile == 8) return tile_kernel<T, 8>(r);
    if (tile == 7) return tile_kernel<T, 7>(r);
  }
  return tile == 4 ? tile_kernel<T, 4>(r) : tile == 2 ? tile_kernel<T, 2>(r) : tile_kernel<T, 1>(r);
}

// The taps of an axis that target t meets on the map: [begin, end).
inline void taps_on_map(const Gather& g, int axis, int64_t t, int64_t& begin, int64_t& end) {
  begin = 0, end = g.grid[axis];
  while (begin < end && t * g.step[axis] + tap_offset(g, axis, begin) < 0) ++begin;
  while (end > begin && t * g.step[axis] + tap_offset(g, axis, end - 1) >= g.extent[axis]) --end;
}

// What of the window does not change along an axis of targets.
template <class T>
PixelRow<T> pixel_row(const Gather& g) {
  PixelRow<T> r{};
  r.taps = g.tap_count ? g.grid[2] : 0, r.step = g.step[2], r.extent = g.extent[2];
  r.offset = g.tap_count ? tap_offset(g, 2, 0) : 0;
  r.apart = r.taps > 1 ? tap_offset(g, 2, 1) - r.offset : 1;
  r.ahead = g.step[1], r.ld_row = g.source.s[1], r.ld_target_row = g.target.s[1] * g.spacing[1];
  r.ld_pixel = g.source.s[2], r.ld_weight = g.groups, r.ld_target = g.target.s[2] * g.spacing[2];
  const int64_t channels = g.groups;
  r.ldw[0] = g.grid[1] * g.grid[2] * channels, r.ldw[1] = g.grid[2] * channels;
  for (int a = 0; a < 2; ++a)
    r.ld[a] = (g.grid[a] > 1 && g.tap_count ? tap_offset(g, a, 1) - tap_offset(g, a, 0) : 0) * g.source.s[a];
  return r;
}

// The window of the row of targets (t0, t1).
template <class T>
PixelRow<T> pixel_row_at(const Gather& g, PixelRow<T> r, int64_t t0, int64_t t1, const T* source) {
  if (g.tap_count == 0) return r.ahead = 0, r;
  int64_t begin[2], end[2];
  taps_on_map(g, 0, t0, begin[0], end[0]), taps_on_map(g, 1, t1, begin[1], end[1]);
  r.source = source;
  for (int a = 0; a < 2; ++a) {
    r.count[a] = end[a] - begin[a];
    if (r.count[a] <= 0) return r.ahead = 0, r;
    const int64_t i = (a ? t1 : t0) * g.step[a] + tap_offset(g, a, begin[a]);
    r.source += i * g.source.s[a], r.tap += begin[a] * r.ldw[a] / r.ld_weight;
  }
  return r;
}

// Targets whose source rows fill the room, at least one tile.
inline int64_t tile_column(const Gather& g, int64_t tile, int64_t channels, int64_t size) {
  const int64_t pixels = pixel_tile_room / (at_least(1, g.grid[1]) * channels * size);
  return at_least(1, (pixels - g.grid[2]) / (g.step[2] * tile)) * tile;
}

// A row of targets [u, u + column) of some channels.
template <class T>
void sum_row(const Gather& g, const PixelRow<T>& row, int64_t u, int64_t column, int64_t tile, TileKernel<T> run,
             int64_t channel_begin, int64_t channel_end, const T* bias, T* target) {
  using A = accumulator_t<T>;
  const A floor = floor_of<A>(g.relu);
  const int64_t count = g.count[2], end = at_most(u + column, count);
  for (int64_t c = channel_begin; c < channel_end; c += lanes<A>) {
    const int64_t channel = at_most(c, channel_end - lanes<A>);
    const vector_t<A> b = bias ? load_widened(bias + channel) : vector_t<A>{} - A(0);
    for (int64_t t = u; t < end; t += tile) run(row, channel, at_most(t, count - tile), b, floor, target);
  }
}

// Rows [begin, end) of targets of sample n: t0 · count 1 + t1 of the first residue, and of the others where they have it.
// packed: [residue][tap][channel].
template <class T>
void depthwise_pixels(const Gather* gathers, int64_t count, int64_t n, int64_t begin, int64_t end, const T* source,
                      const accumulator_t<T>* packed, const T* bias, T* target) {
  const int64_t channels = gathers->groups;
  const Gather& widest = *gathers;
  const int64_t column = tile_column(widest, 8, at_most(channels, gather_channel_block), sizeof(T));
  source += n * widest.source.n, target += n * widest.target.n;
  for (int64_t c = 0; c < channels; c += gather_channel_block) {
    const int64_t c_end = at_most(channels, c + gather_channel_block);
    const int64_t c_begin = at_least(0, at_most(c, c_end - lanes<accumulator_t<T>>));
    for (int64_t u = 0; u < widest.count[2]; u += column)
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t0 = i / widest.count[1], t1 = i % widest.count[1];
        const accumulator_t<T>* w = packed;
        for (const Gather* g = gathers; g < gathers + count; w += g->tap_count * channels, ++g) {
          if (t0 >= g->count[0] || t1 >= g->count[1] || u >= g->count[2]) continue;
          const int64_t tile = tile_of(g->count[2]);
          PixelRow<T> r = pixel_row_at(*g, pixel_row<T>(*g), t0, t1, source);
          r.weight = w + r.tap * channels;
          if (g > gathers) r.ahead = 0;
          T* to = target + (g->base[0] + t0 * g->spacing[0]) * g->target.s[0] +
                  (g->base[1] + t1 * g->spacing[1]) * g->target.s[1] + g->base[2] * g->target.s[2];
          sum_row(*g, r, u, column, tile, tile_kernel<T>(r, tile), c_begin, c_end, bias, to);
        }
      }
  }
}

// ---- the weight gradient ----

// sums[k] += Σ over targets t in [begin, end) of y[t] · x[t · STEP + offset + k], k < TAPS: the columns of r, a vector of
// channels.
template <class T, int TAPS, int STEP>
void correlate_pixels(const PixelRow<T>& r, int64_t offset, const T* x, const T* y, int64_t begin, int64_t end,
                      accumulator_t<T>* sums, int64_t ld) {
  using A = accumulator_t<T>;
  constexpr int tile = wide_registers && STEP == 1 ? 8 : 4, chains = TAPS < 4 ? 2 : 1;
  vector_t<A> sum[chains][TAPS] = {};
  int64_t t = begin, first = t * STEP + offset;
  y += t * r.ld_target;
  for (; t + tile <= end; t += tile, first += tile * STEP) {
    constexpr int columns = (tile - 1) * STEP + TAPS;
    vector_t<A> v[columns];
    if (first >= 0 && first + columns <= r.extent)
      load_pixels<false>(v, x, first, r.extent, r.ld_pixel);
    else
      load_pixels<true>(v, x, first, r.extent, r.ld_pixel);
#pragma GCC unroll 8
    for (int i = 0; i < tile; ++i) {
      const vector_t<A> g = load_widened(y);
      next(y, r.ld_target);
#pragma GCC unroll 8
      for (int k = 0; k < TAPS; ++k) sum[i % chains][k] += g * v[i * STEP + k];
    }
  }
  for (; t < end; ++t, first += STEP, y += r.ld_target) {
    const vector_t<A> g = load_widened(y);
    vector_t<A> v[TAPS];
    load_pixels<true>(v, x, first, r.extent, r.ld_pixel);
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; ++k) sum[0][k] += g * v[k];
  }
#pragma GCC unroll 8
  for (int k = 0; k < TAPS; ++k)
    store(sums + k * ld, load(sums + k * ld) + (chains > 1 ? sum[0][k] + sum[chains - 1][k] : sum[0][k]));
}

// The same for taps [begin_tap, r.taps), with any steps, a tap at a time.
template <class T>
void correlate_each_tap(const PixelRow<T>& r, int64_t begin_tap, const T* x, const T* y, int64_t begin, int64_t end,
                        accumulator_t<T>* sums, int64_t ld) {
  using A = accumulator_t<T>;
  constexpr int chains = 4;
  for (int64_t k = begin_tap; k < r.taps; ++k) {
    const int64_t offset = r.offset + k * r.apart;
    int64_t t = at_least(begin, offset < 0 ? (-offset + r.step - 1) / r.step : 0);
    const int64_t last = at_most(end, offset < r.extent ? (r.extent - offset + r.step - 1) / r.step : 0);
    vector_t<A> sum[chains] = {};
    const T* from = x + offset * r.ld_pixel;
    for (; t + chains <= last; t += chains)
#pragma GCC unroll 4
      for (int i = 0; i < chains; ++i)
        sum[i] += load_widened(y + (t + i) * r.ld_target) * load_widened(from + (t + i) * r.step * r.ld_pixel);
    for (; t < last; ++t) sum[0] += load_widened(y + t * r.ld_target) * load_widened(from + t * r.step * r.ld_pixel);
    store(sums + k * ld, load(sums + k * ld) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
  }
}

// All taps of a row, TAPS at once as long as there are so many; 0: one at a time.
template <class T, int TAPS, int STEP>
void correlate_row(const PixelRow<T>& r, const T* x, const T* y, int64_t begin, int64_t end, accumulator_t<T>* sums,
                   int64_t ld) {
  int64_t k = 0;
  if constexpr (TAPS > 0)
    for (; k + TAPS <= r.taps; k += TAPS)
      correlate_pixels<T, TAPS, STEP>(r, r.offset + k, x, y, begin, end, sums + k * ld, ld);
  correlate_each_tap(r, k, x, y, begin, end, sums, ld);
}

template <class T>
auto row_correlation(const PixelRow<T>& r) {
  if (r.apart != 1 || r.step > 2 || r.taps < 3) return correlate_row<T, 0, 1>;
  if (r.taps < 5) return r.step == 1 ? correlate_row<T, 3, 1> : correlate_row<T, 3, 2>;
  if (r.taps < 7) return r.step == 1 ? correlate_row<T, 5, 1> : correlate_row<T, 5, 2>;
  return r.step == 1 ? correlate_row<T, 7, 1> : correlate_row<T, 7, 2>;
}

// sums is [tap][vector of channels from `begin` on]; a last vector that would pass `channels` begins earlier.
template <class T>
void add_to_total(const Gather& g, int64_t begin, int64_t end, accumulator_t<T>* sums, double* total) {
  constexpr int width = lanes<accumulator_t<T>>;
  for (int64_t tap = 0; tap < g.tap_count; ++tap, sums += depthwise_grad_channels, total += g.groups)
    for (int64_t v = begin; v < end; v += width) {
      const int64_t channel = at_most(v, g.groups - width), last = at_most(width, end - channel);
      for (int64_t l = v - channel; l < last; ++l) total[channel + l] += sums[v - begin + l];
    }
}

// Sums over the rows of targets [begin, end), a row being (sample, t0, t1), for one block of channels into total, [tap]
// [channel]; scratch is [tap][depthwise_grad_channels].
template <class T>
void depthwise_pixels_grad(const Gather& g, int64_t block, int64_t begin, int64_t end, const T* source, const T* target,
                           double* total, accumulator_t<T>* sums) {
  constexpr int width = lanes<accumulator_t<T>>;
  const int64_t c = block * depthwise_grad_channels, c_end = at_most(g.groups, c + depthwise_grad_channels);
  const int64_t column = tile_column(g, 8, c_end - c, sizeof(T)), rows = g.count[0] * g.count[1];
  const PixelRow<T> any = pixel_row<T>(g);
  const auto run = row_correlation(any);
  zero(sums, g.tap_count * depthwise_grad_channels);
  for (int64_t tap = 0; tap < g.tap_count; ++tap) zero(total + tap * g.groups + c, c_end - c);
  int64_t terms = 0;
  for (int64_t u = 0; u < g.count[2]; u += column)
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t0 = i % rows / g.count[1], t1 = i % g.count[1], u_end = at_most(g.count[2], u + column);
      const PixelRow<T> r = pixel_row_at<T>(g, any, t0, t1, source + i / rows * g.source.n);
      const T* y = target + i / rows * g.target.n + t0 * g.target.s[0] + t1 * g.target.s[1];
      for (int64_t v = c; v < c_end; v += width) {
        for (int64_t t = u; t < u_end; t += 8)
          fetch_ahead<8>(r, at_most(v, g.groups - width), t, y + t * r.ld_target + v);
        for (int64_t k0 = 0; k0 < r.count[0]; ++k0)
          for (int64_t k1 = 0; k1 < r.count[1]; ++k1) {
            const int64_t channel = at_most(v, g.groups - width), tap = r.tap + (k0 * g.grid[1] + k1) * g.grid[2];
            run(r, r.source + k0 * r.ld[0] + k1 * r.ld[1] + channel, y + channel, u, u_end,
                sums + tap * depthwise_grad_channels + v - c, depthwise_grad_channels);
          }
      }
      terms += u_end - u;
      if (terms < lane_terms && i + 1 < end) continue;
      add_to_total<T>(g, c, c_end, sums, total);
      zero(sums, g.tap_count * depthwise_grad_channels);
      terms = 0;
    }
}

// weight = the parts of its sums, [parts][tap][channel], added in order.
template <class T>
void depthwise_store_grad(const Gather& g, const double* total, int64_t parts, T* weight) {
  for (int64_t tap = 0; tap < g.tap_count; ++tap)
    for (int64_t c = 0; c < g.groups; ++c) {
      double sum = 0;
      for (int64_t part = 0; part < parts; ++part) sum += total[(part * g.tap_count + tap) * g.groups + c];
      narrow(static_cast<accumulator_t<T>>(sum), weight + c * g.weight_g + g.taps[tap].weight);
    }
}
