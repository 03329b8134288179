// Depth-wise gathers of channels-last tensors with one filter a map and at least a vector of maps. Vectors run along
// channels (the last one overlaps the one before), and the sums of a tile of target pixels stay in registers: one row
// of them, or two, which share their source pixels. Tiles are taken as memory is laid out, all their channels before
// the tile beside them, which fills caches evenly; what the rows below need is asked for meanwhile, since processors do
// not see the step from row to row coming.
#pragma once
#include "conv/depthwise/planes_grad.inl"
#include "conv/patch.inl"
#include "cpu/numeric.inl"

constexpr bool wide_registers = TORCHCONV_VECTOR_BYTES == 64;
constexpr int64_t window_room = 32 << 10;            // bytes of source that a tile may look at: first-level cache
constexpr int64_t window_channels = 64;              // that a tile takes at least, where there are so many
constexpr int64_t residues_together = 8;             // whose tiles are taken in turn
constexpr int paired_tile = wide_registers ? 7 : 4;  // tiles from this size on may have two rows
// where there is a body for the taps of a row, and registers.
inline bool paired_taps(int64_t taps, int64_t step) {
  return step == 1 ? (taps >= 1 && taps <= 3) || (wide_registers && taps == 5)
                   : step == 2 && (taps == 3 || (wide_registers && taps == 5));
}

// The window of one or two rows of targets, for any vector of channels.
template <class T>
struct PixelRow {
  const T* source;                 // of the first tap along axis 0 that is on the map: its row 0, column 0
  const accumulator_t<T>* weight;  // of that tap
  int64_t tap;                     // its number
  int64_t planes;                  // taps along axis 0 on the map
  int64_t ld_plane, ld_plane_weight;
  int64_t rows, between, row;  // taps along axis 1: how many, source rows between them, the row of the first
  int64_t step_rows, extent_rows, ld_row, ld_row_weight, ld_target_row;
  int64_t shift;                // the second row of targets sees at a tap what the first sees `shift` taps later
  int64_t taps, apart, offset;  // taps along axis 2: how many, columns between them, where target 0 sees the first
  int64_t step, extent, ld_pixel, ld_weight, ld_target;
};

// On to the next pixel; hides from the compiler that addresses are multiples of a step, each of which it would keep in
// a register of its own.
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

template <class T, int TILE, int ROWS>
struct PixelSums {
  vector_t<accumulator_t<T>> row[ROWS][TILE] = {};

  // Adds TAPS taps side by side to the rows d in [LOW, HIGH), of targets STEP columns apart. Each pixel is loaded once
  // and meets all that see it; a sum takes its terms in the order of the taps. weight: of the taps of row 0. FETCH:
  // asks for the pixels that the targets below will see.
  template <int TAPS, int STEP, bool EDGE, int LOW, int HIGH, bool FETCH>
  inline __attribute__((always_inline)) void add(const PixelRow<T>& r, const T* source, int64_t first,
                                                 const accumulator_t<T>* weight) {
    vector_t<accumulator_t<T>> tap[ROWS][TAPS];
#pragma GCC unroll 2
    for (int d = LOW; d < HIGH; ++d) {
      const accumulator_t<T>* w = weight - d * r.shift * r.ld_row_weight;
#pragma GCC unroll 8
      for (int k = 0; k < TAPS; ++k) tap[d][k] = load(w), next(w, r.ld_weight);
    }
    const T* pixel = source + first * r.ld_pixel;
#pragma GCC unroll 32
    for (int j = 0; j < (TILE - 1) * STEP + TAPS; ++j) {
      const bool inside = !EDGE || static_cast<uint64_t>(first + j) < static_cast<uint64_t>(r.extent);
      const auto x = load_widened(inside ? pixel : zero_pixel<T>());
      if (FETCH && j < TILE * STEP) __builtin_prefetch(pixel + ROWS * r.step_rows * r.ld_row, 0, 2);
      next(pixel, r.ld_pixel);
#pragma GCC unroll 2
      for (int d = LOW; d < HIGH; ++d)
#pragma GCC unroll 8
        for (int k = 0; k < TAPS; ++k)
          if (j >= k && (j - k) % STEP == 0 && (j - k) / STEP < TILE) row[d][(j - k) / STEP] += tap[d][k] * x;
    }
  }

  // Adds one tap, of any step.
  template <bool EDGE, int LOW, int HIGH>
  inline __attribute__((always_inline)) void add_tap(const PixelRow<T>& r, const T* source, int64_t column,
                                                     const accumulator_t<T>* weight) {
    const T* pixel = source + column * r.ld_pixel;
#pragma GCC unroll 8
    for (int i = 0; i < TILE; ++i) {
      if (!EDGE || static_cast<uint64_t>(column + i * r.step) < static_cast<uint64_t>(r.extent)) {
        const auto x = load_widened(pixel);
#pragma GCC unroll 2
        for (int d = LOW; d < HIGH; ++d) row[d][i] += load(weight - d * r.shift * r.ld_row_weight) * x;
      }
      next(pixel, r.step * r.ld_pixel);
    }
  }

  // Adds the taps [k, end) of one row of them to the rows d in [LOW, HIGH): the TAPS there are; or, if TAPS is 0, as
  // many at once as there are registers for; or, if STEP is 0, one at a time.
  template <int TAPS, int STEP, bool EDGE, int LOW, int HIGH, bool FETCH>
  inline __attribute__((always_inline)) void add_row(const PixelRow<T>& r, const T* source, int64_t t, int64_t k,
                                                     int64_t end, const accumulator_t<T>* weight) {
    const int64_t first = t * r.step + r.offset, ld = r.ld_weight;
    if constexpr (TAPS > 0) {
      add<TAPS, STEP, EDGE, LOW, HIGH, FETCH>(r, source, first, weight);
    } else {
      if constexpr (STEP > 0) {
        for (; k + 7 <= end; k += 7) add<7, STEP, EDGE, LOW, HIGH, FETCH>(r, source, first + k, weight + k * ld);
        for (; k + 3 <= end; k += 3) add<3, STEP, EDGE, LOW, HIGH, FETCH>(r, source, first + k, weight + k * ld);
      }
      for (; k < end; ++k) add_tap<EDGE, LOW, HIGH>(r, source, first + k * r.apart, weight + k * ld);
    }
  }
};

// Rows of `tile` targets from their sums. Apart: rounding to bfloat16 would make every tile's body twice as long.
template <class T>
__attribute__((noinline)) void store_tile(const accumulator_t<T>* sums, int64_t tile, int64_t rows, int64_t ld,
                                          int64_t ld_row, T* to) {
  for (int64_t d = 0; d < rows; ++d, to += ld_row)
    for (int64_t i = 0; i < tile; ++i, sums += lanes<accumulator_t<T>>) {
      store_narrowed(to + i * ld, load(sums));
      __builtin_prefetch(to + i * ld + rows * ld_row, 1, 2);
    }
}

// Targets [t, t + TILE) of ROWS rows, of a vector of channels from `channel` on. TAPS: how many there are in a row; 0
// for any. STEP: taps are columns side by side and targets STEP columns apart; 0 for any. EDGE: some columns lie off
// the map.
template <class T, int TAPS, int STEP, int TILE, int ROWS, bool EDGE>
void sum_pixels(const PixelRow<T>& r, int64_t channel, int64_t t, vector_t<accumulator_t<T>> bias,
                accumulator_t<T> floor, T* target) {
  using A = accumulator_t<T>;
  PixelSums<T, TILE, ROWS> sums;
  int64_t begin = 0, end = r.taps;
  if (EDGE && TAPS == 0 && (STEP == 0 || r.taps % 7 != 0)) {  // the taps that some target of the tile meets on the map
    const int64_t first = t * r.step + r.offset;
    while (begin < end && first + (TILE - 1) * r.step + begin * r.apart < 0) ++begin;
    while (begin < end && first + (end - 1) * r.apart >= r.extent) --end;
  }
  for (int64_t k0 = 0; k0 < r.planes; ++k0) {
    const T* plane = r.source + channel + k0 * r.ld_plane;
    const A* w = r.weight + channel + k0 * r.ld_plane_weight;
    const auto rows = [&]<int LOW, int HIGH, bool FETCH>(int64_t k1, int64_t last) __attribute__((always_inline)) {
      for (; k1 < last; ++k1) {
        const int64_t q = r.row + k1 * r.between;
        if (static_cast<uint64_t>(q) < static_cast<uint64_t>(r.extent_rows))
          sums.template add_row<TAPS, STEP, EDGE, LOW, HIGH, FETCH>(r, plane + q * r.ld_row, t, begin, end,
                                                                    w + k1 * r.ld_row_weight);
      }
    };
    if constexpr (ROWS == 1) {
      const int64_t fresh = at_least(0, r.rows - r.shift);  // rows that the targets above did not see
      rows.template operator()<0, 1, false>(0, fresh);
      rows.template operator()<0, 1, true>(fresh, r.rows);
    } else {
      rows.template operator()<0, 1, false>(0, at_most(r.shift, r.rows));
      rows.template operator()<0, 2, true>(r.shift, r.rows);
      rows.template operator()<1, 2, true>(at_least(r.shift, r.rows), r.rows + r.shift);
    }
  }
  const vector_t<A> least = vector_t<A>{} + floor;
  const auto finished = [&](int d, int i) {
    const vector_t<A> y = sums.row[d][i] + bias;
    return y < least ? least : y;
  };
  target += channel + t * r.ld_target;
  if constexpr (sizeof(T) < sizeof(A)) {
    A results[ROWS * TILE * lanes<A>];
#pragma GCC unroll 2
    for (int d = 0; d < ROWS; ++d)
#pragma GCC unroll 8
      for (int i = 0; i < TILE; ++i) store(results + (d * TILE + i) * lanes<A>, finished(d, i));
    return store_tile(results, TILE, ROWS, r.ld_target, r.ld_target_row, target);
  }
#pragma GCC unroll 2
  for (int d = 0; d < ROWS; ++d, target += r.ld_target_row) {
    T* to = target;
#pragma GCC unroll 8
    for (int i = 0; i < TILE; ++i) {
      store_narrowed(to, finished(d, i));
      __builtin_prefetch(to + ROWS * r.ld_target_row, 1, 2);
      next(to, r.ld_target);
    }
  }
}

template <class T, int TAPS, int STEP, int TILE, int ROWS>
void sum_tile(const PixelRow<T>& r, int64_t channel, int64_t t, vector_t<accumulator_t<T>> bias, accumulator_t<T> floor,
              T* target) {
  const int64_t first = t * r.step + r.offset, last = first + (TILE - 1) * r.step + (r.taps - 1) * r.apart;
  (first >= 0 && last < r.extent ? sum_pixels<T, TAPS, STEP, TILE, ROWS, false>
                                 : sum_pixels<T, TAPS, STEP, TILE, ROWS, true>)(r, channel, t, bias, floor, target);
}

template <class T>
using TileKernel = void (*)(const PixelRow<T>&, int64_t, int64_t, vector_t<accumulator_t<T>>, accumulator_t<T>, T*);

template <class T, int STEP, int TILE, int ROWS>
TileKernel<T> dense_kernel(int64_t taps) {
  if constexpr (tuned<T> && TILE >= (wide_registers ? 7 : 4)) {
    if constexpr (wide_registers || ROWS == 1)
      if (taps == 5) return sum_tile<T, 5, STEP, TILE, ROWS>;
    if (taps == 3) return sum_tile<T, 3, STEP, TILE, ROWS>;
    if (taps == 2 && STEP == 1) return sum_tile<T, 2, 1, TILE, ROWS>;
    if (taps == 1 && STEP == 1) return sum_tile<T, 1, 1, TILE, ROWS>;
    // Two rows without a body for their taps see none of them: windows wholly off the map along axis 0.
    constexpr int any = ROWS == 1 ? 0 : 3;
    return sum_tile<T, any, STEP, TILE, ROWS>;
  }
  return sum_tile<T, 0, 0, TILE, 1>;
}

template <class T, int TILE, int ROWS = 1>
TileKernel<T> tile_kernel(const PixelRow<T>& r, int64_t rows) {
  if constexpr (tuned<T> && ROWS == 1 && TILE >= paired_tile)
    if (rows == 2) return tile_kernel<T, TILE, 2>(r, rows);
  if (!tuned<T> || r.apart != 1 || r.step > 2) return sum_tile<T, 0, 0, TILE, 1>;
  return r.step == 1 ? dense_kernel<T, 1, TILE, ROWS>(r.taps) : dense_kernel<T, 2, TILE, ROWS>(r.taps);
}

// The tile that covers `count` targets with the fewest sums; the last one overlaps the one before.
template <class T>
int64_t tile_of(int64_t count) {
  constexpr int64_t tiles[] = {2, 4, 7, 8};
  int64_t best = 1;
  for (const int64_t tile : tiles) {
    if (!tuned<T> && tile != 4) continue;
    if (tile > count || (tile > 4 && !wide_registers)) break;
    if ((count + tile - 1) / tile * (tile + 2) <= (count + best - 1) / best * (best + 2)) best = tile;
  }
  return best;
}

template <class T>
TileKernel<T> tile_kernel(const PixelRow<T>& r, int64_t tile, int64_t rows) {
  if constexpr (wide_registers && tuned<T>) {
    if (tile == 8) return tile_kernel<T, 8>(r, rows);
    if (tile == 7) return tile_kernel<T, 7>(r, rows);
  }
  if constexpr (tuned<T>)
    if (tile == 2) return tile_kernel<T, 2>(r, rows);
  return tile == 4 ? tile_kernel<T, 4>(r, rows) : tile_kernel<T, 1>(r, rows);
}

// The taps of an axis that target t meets on the map: [begin, end).
inline void taps_on_map(const Gather& g, int axis, int64_t t, int64_t& begin, int64_t& end) {
  begin = 0, end = g.grid[axis];
  while (begin < end && t * g.step[axis] + tap_offset(g, axis, begin) < 0) ++begin;
  while (end > begin && t * g.step[axis] + tap_offset(g, axis, end - 1) >= g.extent[axis]) --end;
}

// Between neighbouring taps of an axis.
inline int64_t tap_distance(const Gather& g, int axis) {
  return g.tap_count && g.grid[axis] > 1 ? tap_offset(g, axis, 1) - tap_offset(g, axis, 0) : 1;
}

// The window of the targets (t0, t1) and, if it is one of two rows, (t0, t1 + 1).
template <class T>
PixelRow<T> pixel_row_at(const Gather& g, int64_t t0, int64_t t1, const T* source, const accumulator_t<T>* packed) {
  PixelRow<T> r{};
  r.between = tap_distance(g, 1), r.apart = tap_distance(g, 2), r.shift = g.step[1] / r.between;
  r.step_rows = g.step[1], r.step = g.step[2], r.extent_rows = g.extent[1], r.extent = g.extent[2];
  r.ld_plane = tap_distance(g, 0) * g.source.s[0], r.ld_row = g.source.s[1], r.ld_pixel = g.source.s[2];
  r.ld_weight = g.groups, r.ld_row_weight = g.grid[2] * g.groups, r.ld_plane_weight = g.grid[1] * r.ld_row_weight;
  r.ld_target = g.target.s[2] * g.spacing[2], r.ld_target_row = g.target.s[1] * g.spacing[1];
  if (g.tap_count == 0) return r;
  int64_t begin, end;
  taps_on_map(g, 0, t0, begin, end);
  if (begin == end) return r;
  r.planes = end - begin, r.rows = g.grid[1], r.taps = g.grid[2], r.offset = tap_offset(g, 2, 0);
  r.row = t1 * g.step[1] + tap_offset(g, 1, 0);
  r.source = source + (t0 * g.step[0] + tap_offset(g, 0, begin)) * g.source.s[0];
  r.tap = begin * g.grid[1] * g.grid[2], r.weight = packed + r.tap * g.groups;
  return r;
}

// One residue's part of one or two rows of targets.
template <class T>
struct PixelTiles {
  PixelRow<T> row;
  TileKernel<T> run;
  int64_t count, tile;
  T* target;  // column 0 of row 0
};

// Rows t1 to t1 + `rows` of t0, of residue g, if it has such.
template <class T>
PixelTiles<T> pixel_tiles(const Gather& g, int64_t t0, int64_t t1, int64_t rows, const T* source,
                          const accumulator_t<T>* packed, T* target) {
  if (t0 >= g.count[0] || t1 >= g.count[1] || g.count[2] == 0) return {};
  const PixelRow<T> row = pixel_row_at(g, t0, t1, source, packed);
  const int64_t tile = tile_of<T>(g.count[2]);
  target += (g.base[0] + t0 * g.spacing[0]) * g.target.s[0] + (g.base[1] + t1 * g.spacing[1]) * g.target.s[1] +
            g.base[2] * g.target.s[2];
  return {row, tile_kernel<T>(row, tile, at_most(rows, g.count[1] - t1)), g.count[2], tile, target};
}

// Whether two rows of targets see source rows in common, and there is a body for both.
template <class T>
bool has_pairs(const Gather& g) {
  return tuned<T> && tile_of<T>(g.count[2]) >= paired_tile && tap_distance(g, 2) == 1 &&
         paired_taps(g.grid[2], g.step[2]) && g.step[1] % tap_distance(g, 1) == 0;
}

// Channels of a tile before the tile beside it.
template <class T>
int64_t channel_block(const Gather& g) {
  const int64_t columns = (tile_of<T>(g.count[2]) - 1) * g.step[2] + g.grid[2];
  const int64_t most = at_least(window_channels, window_room / ((g.grid[1] + g.step[1]) * columns * sizeof(T) + 1));
  const int64_t blocks = (g.groups + most - 1) / most;
  return round_up((g.groups + blocks - 1) / blocks, lanes<accumulator_t<T>>);
}

// The tiles of some residues, in turn, for channels [begin, end) of `channels`.
template <class T>
void sum_tiles(const PixelTiles<T>* tiles, int64_t residues, int64_t begin, int64_t end, int64_t channels,
               const T* bias, accumulator_t<T> floor) {
  using A = accumulator_t<T>;
  for (int64_t u = 0, left = 1; left > 0; ++u) {
    left = 0;
    for (const PixelTiles<T>* p = tiles; p < tiles + residues; ++p) {
      if (u * p->tile >= p->count) continue;
      left += p->count - u * p->tile;
      const int64_t t = at_most(u * p->tile, p->count - p->tile);
      for (int64_t v = begin; v < end; v += lanes<A>) {
        const int64_t channel = at_most(v, channels - lanes<A>);
        p->run(p->row, channel, t, bias ? load_widened(bias + channel) : vector_t<A>{} - A(0), floor, p->target);
      }
    }
  }
}

// Rows [begin, end) of targets of sample n: t0 · count 1 + t1 of the first residue, and of the others where they have
// it. packed: [residue][tap][channel].
template <class T>
void depthwise_pixels(const Gather* gathers, int64_t count, int64_t n, int64_t begin, int64_t end, const T* source,
                      const accumulator_t<T>* packed, const T* bias, T* target) {
  using A = accumulator_t<T>;
  const int64_t channels = gathers->groups, rows = gathers->count[1];
  const int64_t block = channel_block<T>(*gathers);
  bool pairs = true;
  for (const Gather* g = gathers; g < gathers + count; ++g) pairs = pairs && has_pairs<T>(*g);
  source += n * gathers->source.n, target += n * gathers->target.n;
  for (int64_t i = begin, last; i < end; i = last) {
    const int64_t t0 = i / rows, t1 = i % rows;
    last = pairs && t1 + 1 < rows ? at_most(i + 2, end) : i + 1;
    const A* w = packed;
    for (const Gather* g = gathers; g < gathers + count;) {
      PixelTiles<T> tiles[residues_together];
      int64_t residues = 0;
      for (; residues < residues_together && g < gathers + count; w += g->tap_count * channels, ++g)
        tiles[residues++] = pixel_tiles(*g, t0, t1, last - i, source, w, target);
      for (int64_t c = 0; c < channels; c += block)
        sum_tiles(tiles, residues, c, at_most(channels, c + block), channels, bias, floor_of<A>(gathers->relu));
    }
  }
}
