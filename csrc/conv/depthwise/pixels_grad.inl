// Depth-wise weight gradient of the tensors that depthwise_pixels.inl is for: w[k] = Σ over samples and targets t of
// ȳ[t] · x[t · step + offset k], a vector of channels at a time. Targets are taken as memory is laid out: a tile of a
// row, all its channels before the tile beside it, and of each all its taps; or whole rows, where there are so many
// taps that their sums are best loaded seldom. Sums of a few taps stay in registers meanwhile.
#pragma once
#include "conv/depthwise/pixels.inl"
#include "conv/depthwise/planes_grad.inl"
#include "cpu/numeric.inl"

constexpr int64_t lane_taps = 128;  // of a filter: more, and whole rows are taken

// Targets [begin, end) of a row and what they add to, for a vector of channels.
template <class T>
struct PixelCorrelation {
  const PixelRow<T>& r;
  const T* y;  // of target 0
  int64_t begin, end;

  template <int TILE>
  inline __attribute__((always_inline)) void load_targets(int64_t t, vector_t<accumulator_t<T>> (&g)[TILE]) const {
    const T* from = y + t * r.ld_target;
#pragma GCC unroll 8
    for (int i = 0; i < TILE; ++i) g[i] = load_widened(from), next(from, r.ld_target);
  }

  // sum[k] += Σ over the targets g, [t, t + TILE), of g[t] · x[t · STEP + offset + k], k < TAPS.
  template <int TAPS, int STEP, int TILE, bool EDGE>
  inline __attribute__((always_inline)) void tile(const T* x, int64_t offset, int64_t t,
                                                  const vector_t<accumulator_t<T>> (&g)[TILE],
                                                  vector_t<accumulator_t<T>> (&sum)[TAPS]) const {
    const int64_t first = t * STEP + offset;
    const T* pixel = x + first * r.ld_pixel;
#pragma GCC unroll 32
    for (int j = 0; j < (TILE - 1) * STEP + TAPS; ++j) {
      const bool inside = !EDGE || static_cast<uint64_t>(first + j) < static_cast<uint64_t>(r.extent);
      const auto v = load_widened(inside ? pixel : zero_pixel<T>());
      next(pixel, r.ld_pixel);
#pragma GCC unroll 8
      for (int k = 0; k < TAPS; ++k)
        if (j >= k && (j - k) % STEP == 0 && (j - k) / STEP < TILE) sum[k] += g[(j - k) / STEP] * v;
    }
  }

  // The same for the tiles from t on, as many as there are whole ones; returns where they end.
  template <int TAPS, int STEP, int TILE>
  inline __attribute__((always_inline)) int64_t tiles(const T* x, int64_t offset, int64_t t,
                                                      vector_t<accumulator_t<T>> (&sum)[TAPS]) const {
    constexpr int columns = (TILE - 1) * STEP + TAPS;
    for (; t + TILE <= end; t += TILE) {
      const int64_t first = t * STEP + offset;
      if (first + columns <= 0 || first >= r.extent) continue;
      vector_t<accumulator_t<T>> g[TILE];
      load_targets(t, g);
      if (first >= 0 && first + columns <= r.extent)
        tile<TAPS, STEP, TILE, false>(x, offset, t, g, sum);
      else
        tile<TAPS, STEP, TILE, true>(x, offset, t, g, sum);
    }
    return t;
  }

  // sums[k] += Σ over all targets, for TAPS taps side by side.
  template <int TAPS, int STEP, int TILE>
  inline __attribute__((always_inline)) void taps(const T* x, int64_t offset, accumulator_t<T>* sums) const {
    constexpr int64_t ld = depthwise_grad_channels;
    vector_t<accumulator_t<T>> sum[TAPS];
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; ++k) sum[k] = load(sums + k * ld);
    int64_t t = tiles<TAPS, STEP, TILE>(x, offset, begin, sum);
    if constexpr (TILE > 4)
      if (t < end) t = tiles<TAPS, STEP, 4>(x, offset, t, sum);
    if (t < end) tiles<TAPS, STEP, 1>(x, offset, t, sum);
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; ++k) store(sums + k * ld, sum[k]);
  }

  // sums[k1][k] += Σ over one tile, for ROWS rows of TAPS taps, all on the map: so few that all stay in registers.
  template <int TAPS, int STEP, int TILE, int ROWS, bool EDGE>
  inline __attribute__((always_inline)) void window(const T* x, accumulator_t<T>* sums) const {
    constexpr int64_t ld = depthwise_grad_channels;
    vector_t<accumulator_t<T>> sum[ROWS][TAPS], g[TILE];
#pragma GCC unroll 16
    for (int k = 0; k < ROWS * TAPS; ++k) sum[k / TAPS][k % TAPS] = load(sums + k * ld);
    load_targets(begin, g);
#pragma GCC unroll 4
    for (int k1 = 0; k1 < ROWS; ++k1, x += r.between * r.ld_row)
      tile<TAPS, STEP, TILE, EDGE>(x, r.offset, begin, g, sum[k1]);
#pragma GCC unroll 16
    for (int k = 0; k < ROWS * TAPS; ++k) store(sums + k * ld, sum[k / TAPS][k % TAPS]);
  }

  // Asks for what the row of targets below needs: processors do not see the step from row to row coming.
  template <int TILE>
  inline __attribute__((always_inline)) void fetch_below(const T* channels) const {
    const T *to = y + begin * r.ld_target + r.ld_target_row, *last = channels + (r.row + r.rows * r.between) * r.ld_row;
    last += (begin * r.step + r.offset) * r.ld_pixel;
#pragma GCC unroll 8
    for (int i = 0; i < TILE; ++i) __builtin_prefetch(to, 0, 2), next(to, r.ld_target);
    for (int64_t k1 = 0; k1 < r.step_rows; ++k1, last += r.ld_row) {
      const T* pixel = last;
      for (int64_t i = 0; i < r.step; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < TILE; ++j) __builtin_prefetch(pixel, 0, 2), next(pixel, r.ld_pixel);
    }
  }

  // One tap, of any step.
  void tap(const T* x, int64_t offset, accumulator_t<T>* sums) const {
    constexpr int chains = 4;
    int64_t t = at_least(begin, offset < 0 ? (-offset + r.step - 1) / r.step : 0);
    const int64_t last = at_most(end, offset < r.extent ? (r.extent - offset + r.step - 1) / r.step : 0);
    vector_t<accumulator_t<T>> sum[chains] = {};
    const T* from = x + offset * r.ld_pixel;
    for (; t + chains <= last; t += chains)
#pragma GCC unroll 4
      for (int i = 0; i < chains; ++i)
        sum[i] += load_widened(y + (t + i) * r.ld_target) * load_widened(from + (t + i) * r.step * r.ld_pixel);
    for (; t < last; ++t) sum[0] += load_widened(y + t * r.ld_target) * load_widened(from + t * r.step * r.ld_pixel);
    store(sums, load(sums) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
  }
};

// Adds to sums, [axis 0][axis 1][axis 2][depthwise_grad_channels] of the taps, what targets [begin, end) of a row give.
// TAPS, STEP: as of sum_pixels.
template <class T, int TAPS, int STEP, int TILE>
void correlate_pixels(const PixelRow<T>& r, int64_t channel, int64_t begin, int64_t end, const T* y,
                      accumulator_t<T>* sums) {
  constexpr int64_t ld = depthwise_grad_channels;
  constexpr int64_t line = 64 / sizeof(T);  // elements of a cache line: it is asked for once
  const PixelCorrelation<T> c{r, y + channel, begin, end};
  if (channel % line < lanes<accumulator_t<T>>) c.template fetch_below<TILE>(r.source + channel);
  if constexpr (TAPS == 3 && wide_registers) {
    const int64_t first = begin * STEP + r.offset;
    if (r.planes == 1 && r.rows == 3 && end - begin == TILE && r.row >= 0 && r.row + 2 * r.between < r.extent_rows) {
      const T* x = r.source + channel + r.row * r.ld_row;
      if (first >= 0 && first + (TILE - 1) * STEP + TAPS <= r.extent)
        return c.template window<TAPS, STEP, TILE, 3, false>(x, sums + r.tap * ld);
      return c.template window<TAPS, STEP, TILE, 3, true>(x, sums + r.tap * ld);
    }
  }
  for (int64_t k0 = 0; k0 < r.planes; ++k0)
    for (int64_t k1 = 0; k1 < r.rows; ++k1) {
      const int64_t q = r.row + k1 * r.between;
      if (static_cast<uint64_t>(q) >= static_cast<uint64_t>(r.extent_rows)) continue;
      const T* x = r.source + channel + k0 * r.ld_plane + q * r.ld_row;
      accumulator_t<T>* s = sums + (r.tap + (k0 * r.rows + k1) * r.taps) * ld;
      if constexpr (TAPS > 0) {
        c.template taps<TAPS, STEP, TILE>(x, r.offset, s);
      } else {
        int64_t k = 0;
        if constexpr (STEP > 0) {
          for (; k + 7 <= r.taps; k += 7) c.template taps<7, STEP, TILE>(x, r.offset + k, s + k * ld);
          for (; k + 3 <= r.taps; k += 3) c.template taps<3, STEP, TILE>(x, r.offset + k, s + k * ld);
        }
        for (; k < r.taps; ++k) c.tap(x, r.offset + k * r.apart, s + k * ld);
      }
    }
}

template <class T>
using CorrelationKernel = void (*)(const PixelRow<T>&, int64_t, int64_t, int64_t, const T*, accumulator_t<T>*);

template <class T, int STEP, int TILE>
CorrelationKernel<T> correlation_kernel(int64_t taps) {
  return taps == 5   ? correlate_pixels<T, 5, STEP, TILE>
         : taps == 3 ? correlate_pixels<T, 3, STEP, TILE>
                     : correlate_pixels<T, 0, STEP, TILE>;
}

template <class T, int TILE>
CorrelationKernel<T> correlation_kernel(const Gather& g) {
  if constexpr (tuned<T>)
    if (tap_distance(g, 2) == 1 && g.step[2] <= 2)
      return g.step[2] == 1 ? correlation_kernel<T, 1, TILE>(g.grid[2]) : correlation_kernel<T, 2, TILE>(g.grid[2]);
  return correlate_pixels<T, 0, 0, TILE>;
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
  const int64_t rows = g.count[0] * g.count[1], tile = !wide_registers ? 4 : g.count[2] % 8 == 0 ? 8 : 7;
  const int64_t span = g.tap_count > lane_taps ? g.count[2] : tile;
  auto run = correlation_kernel<T, 4>(g);
  if constexpr (wide_registers) run = tile == 8 ? correlation_kernel<T, 8>(g) : correlation_kernel<T, 7>(g);
  zero(sums, g.tap_count * depthwise_grad_channels);
  for (int64_t tap = 0; tap < g.tap_count; ++tap) zero(total + tap * g.groups + c, c_end - c);
  int64_t terms = 0;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / rows, t0 = i % rows / g.count[1], t1 = i % g.count[1];
    const PixelRow<T> r = pixel_row_at<T>(g, t0, t1, source + n * g.source.n, nullptr);
    const T* y = target + n * g.target.n + t0 * g.target.s[0] + t1 * g.target.s[1];
    for (int64_t t = 0; t < g.count[2]; t += span)
      for (int64_t v = c; v < c_end; v += width)
        run(r, at_most(v, g.groups - width), t, at_most(g.count[2], t + span), y, sums + v - c);
    terms += g.count[2];
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
