// gather on a channels-last source, without patches: a tile of positions points at its source pixels, tap by tap, and
// broadcasts from there against vectors of target channels. Positions off the map point at zeros.

// Scratch: segments | zeros of one pixel | target offsets | pointers [tap][position], positions rounded up to the tile.
constexpr int64_t direct_pitch = (gemm_positions + tile_rows - 1) / tile_rows * tile_rows;

template <class T>
int64_t direct_scratch(const Gather& g) {
  using A = accumulator_t<T>;
  const int64_t bytes = (g.tap_count + 1) * direct_pitch * 8;
  return segment_space<A> + round_up(g.c, line<A>) +
         (bytes + static_cast<int64_t>(sizeof(A)) - 1) / static_cast<int64_t>(sizeof(A));
}

// sum[r][columns] += Σ over `channels` of pixel[r][c] · w[c][columns].
template <class T, int VECTORS>
inline __attribute__((always_inline)) void direct_tile(const T* const* pixels, int64_t c_begin, int64_t channels,
                                                       const accumulator_t<T>* w,
                                                       vector_t<accumulator_t<T>> (&sum)[tile_rows][VECTORS]) {
  using A = accumulator_t<T>;
  const T* pixel[tile_rows];
#pragma GCC unroll 16
  for (int r = 0; r < tile_rows; ++r) pixel[r] = pixels[r] + c_begin;
  for (int64_t c = 0; c < channels; ++c, w += tile_columns<A>) {
    vector_t<A> column[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) column[j] = load(w + j * lanes<A>);
#pragma GCC unroll 16
    for (int r = 0; r < tile_rows; ++r) {
      const A x = widen(pixel[r][c]);
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) sum[r][j] += x * column[j];
    }
  }
}

// One tile of positions and one panel of channels; the depth runs in blocks of at most depth_block products or one
// pixel, whichever is longer, so that the rounding error does not grow with the depth.
template <class T, int VECTORS>
void direct_panel(const Gather& g, const T* const* pixels, const accumulator_t<T>* w, accumulator_t<T>* out) {
  using A = accumulator_t<T>;
  vector_t<A> total[tile_rows][VECTORS] = {};
  const int64_t taps = at_least(1, depth_block / at_least(g.c, 1));
  for (int64_t tap = 0; tap < g.tap_count; tap += taps)
    for (int64_t c = 0; c < g.c; c += depth_block) {
      vector_t<A> sum[tile_rows][VECTORS] = {};
      for (int64_t k = tap; k < at_most(tap + taps, g.tap_count); ++k)
        direct_tile<T, VECTORS>(pixels + k * direct_pitch, c, at_most(depth_block, g.c - c),
                                w + (k * g.c + c) * tile_columns<A>, sum);
      for (int r = 0; r < tile_rows; ++r)
        for (int j = 0; j < VECTORS; ++j) total[r][j] += sum[r][j];
    }
  for (int r = 0; r < tile_rows; ++r)
    for (int j = 0; j < VECTORS; ++j) store(out + (r * VECTORS + j) * lanes<A>, total[r][j]);
}

template <class T>
void direct_pointers(const Gather& g, const Segment* runs, int64_t run_count, int64_t positions, const T* source,
                     const T* zeros, const T** pixels) {
  const int64_t stride = g.step[2] * g.source.s[2];
  for (int64_t tap = 0; tap < g.tap_count; ++tap) {
    const T** row = pixels + tap * direct_pitch;
    for (int64_t i = 0; i < run_count; ++i) {
      const Reach r = reach(g, runs[i], g.taps[tap]);
      for (int64_t l = 0; l < runs[i].length; ++l)
        row[runs[i].first + l] = l < r.low || l >= r.high ? zeros : source + r.origin + l * stride;
    }
    for (int64_t p = positions; p < round_up(positions, tile_rows); ++p) row[p] = zeros;
  }
}

template <class T>
void direct(const Gather& g, bool, int64_t group, const T* source, const accumulator_t<T>* packed, const T* bias,
            T* target, int64_t begin, int64_t end, int64_t panel_begin, int64_t panel_end, accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  constexpr int64_t width = tile_columns<A>;
  Segment* runs = reinterpret_cast<Segment*>(scratch);
  T* zeros = reinterpret_cast<T*>(scratch + segment_space<A>);
  int64_t* offsets = reinterpret_cast<int64_t*>(scratch + segment_space<A> + round_up(g.c, line<A>));
  const T** pixels = reinterpret_cast<const T**>(offsets + direct_pitch);
  std::memset(static_cast<void*>(zeros), 0, g.c * sizeof(T));
  const int64_t positions = end - begin, run_count = segments(g, begin, end, runs);
  direct_pointers<T>(g, runs, run_count, positions, source + group * g.c, zeros, pixels);
  for (int64_t i = 0; i < run_count; ++i)
    for (int64_t l = 0; l < runs[i].length; ++l)
      offsets[runs[i].first + l] = target_offset(g, runs[i]) + l * g.spacing[2] * g.target.s[2] + group * g.m;

  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const int64_t m = panel * width, columns = at_most(width, g.m - m);
    const bool narrow_panel = columns <= lanes<A>;
    const int64_t ldc = narrow_panel ? lanes<A> : width;
    for (int64_t p = 0; p < positions; p += tile_rows) {
      A out[tile_rows * width];
      if (narrow_panel)
        direct_panel<T, 1>(g, pixels + p, packed + panel * g.depth() * width, out);
      else
        direct_panel<T, 2>(g, pixels + p, packed + panel * g.depth() * width, out);
      for (int64_t r = 0; r < at_most(tile_rows, positions - p); ++r)
        for (int64_t j = 0; j < columns; ++j) {
          const A y = out[r * ldc + j];
          narrow(bias ? y + widen(bias[group * g.m + m + j]) : y, target + offsets[p + r] + m + j);
        }
    }
  }
}
