// Tiles of Winograd convolution to and from its planes: the source, the target and the target's gradient, each along
// two axes in turn by the one-dimensional transforms of winograd_math.inl, a vector of channels at a time.
#pragma once
#include "conv/winograd/layout.inl"
#include "conv/winograd/math.inl"
#include "cpu/numeric.inl"
#include "cpu/transpose.inl"

// ---- source: Bᵀ x B ----

// Pixels a tile reads, [rows][winograd_points]: `origin` is the pixel (y, x) of the map, off the map are `zeros`.
template <class S>
inline void tile_pixels(const Winograd& w, const WinogradTile& t, bool on_map, const S* origin, int64_t y, int64_t x,
                        int64_t row_stride, int64_t stride, const S* zeros, const void** pixels) {
  const WinogradAxis &v = w.axis[0], &h = w.axis[1];
  for (int64_t i = 0; i < t.my + v.taps - 1; ++i)
    for (int64_t j = 0; j < t.mx + h.taps - 1; ++j) {
      const int64_t sy = t.y + v.low + i, sx = t.x + h.low + j;
      const bool inside = on_map && sy >= 0 && sy < v.extent && sx >= 0 && sx < h.extent;
      pixels[i * winograd_points + j] = inside ? origin + (sy - y) * row_stride + (sx - x) * stride : zeros;
    }
}

// tmp[row][point] = the transform of each row of pixels, at channel c.
template <class P, class S>
void source_rows(int64_t rows, const void* const* pixels, int64_t c, int64_t count, const Readable<S>& readable,
                 accumulator_t<S>* tmp) {
  using A = accumulator_t<S>;
  for (int64_t i = 0; i < rows; ++i, pixels += winograd_points, tmp += winograd_points * lanes<A>) {
    vector_t<A> x[P::N], y[P::N];
#pragma GCC unroll 8
    for (int j = 0; j < P::N; ++j) {
      const S* pixel = static_cast<const S*>(pixels[j]);
      x[j] = count >= lanes<A> ? load_widened(pixel + c) : load_tail(pixel, c, count, readable);
    }
    interpolate<A, P::N, P::MOST>(x, y);
#pragma GCC unroll 8
    for (int j = 0; j < P::N; ++j) store(tmp + j * lanes<A>, y[j]);
  }
}

// Where a tile's rows begin in the planes of point j along the second axis: of all but the last of the tile's points
// along the first, and of the last.
template <class A>
struct TileRows {
  int64_t first, last;
  TileRows(const Winograd& w, const WinogradTile& t, int64_t j, const WinogradPlanes<A>& planes, int64_t column) {
    const int32_t* row = t.row + (j == w.axis[1].points() - 1);
    first = row[0] * planes.ld + j * planes.pitch + column;
    last = row[t.my == w.axis[0].outputs ? 2 : 0] * planes.ld + j * planes.pitch + column;
  }
};

// planes(i, j)[row] = the transform of each column of tmp.
template <class P, class A>
void source_columns(const Winograd& w, const WinogradTile& t, int64_t columns, const A* tmp, int64_t c,
                    const WinogradPlanes<A>& planes) {
  const int64_t step = w.axis[1].points() * planes.pitch;
  for (int64_t j = 0; j < columns; ++j) {
    vector_t<A> x[P::N], y[P::N];
#pragma GCC unroll 8
    for (int i = 0; i < P::N; ++i) x[i] = load(tmp + (i * winograd_points + j) * lanes<A>);
    interpolate<A, P::N, P::MOST>(x, y);
    const TileRows<A> rows(w, t, j, planes, c);
    A* to = planes.data;
#pragma GCC unroll 8
    for (int i = 0; i < P::N; ++i, to += step) store(to + (i < P::N - 1 ? rows.first : rows.last), y[i]);
  }
}

template <class S>
inline void source_tile(const Winograd& w, const WinogradTile& t, const void* const* pixels, int64_t c, int64_t count,
                        const Readable<S>& readable, accumulator_t<S>* tmp, int64_t to,
                        const WinogradPlanes<accumulator_t<S>>& planes) {
  const WinogradAxis &v = w.axis[0], &h = w.axis[1];
  with_case(h, t.mx, [&](auto p) { source_rows<decltype(p), S>(t.my + v.taps - 1, pixels, c, count, readable, tmp); });
  with_case(v, t.my, [&](auto p) { source_columns<decltype(p)>(w, t, t.mx + h.taps - 1, tmp, to, planes); });
}

template <class T>
void winograd_source(const Winograd& w, const WinogradBlock& b, int64_t begin, int64_t end, int64_t group,
                     int64_t slice_tap, int64_t c_begin, int64_t c_end, const T* source,
                     WinogradPlanes<accumulator_t<T>> planes, accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  constexpr int64_t L = lanes<A>, table = winograd_points * winograd_points;
  const Gather& g = w.g;
  const WinogradScratch<T> s(w, b, scratch);
  std::memset(static_cast<void*>(s.zeros), 0, round_up(g.c, 64) * sizeof(T));
  const T* end_of_source = source + view_end(g.source, g.batch, g.groups * g.c, g.extent);
  source += group * g.c * g.source.c;
  for (int64_t t = begin; t < end;) {
    const WinogradStrip strip = winograd_strip(w, b, t, end, true);
    const int64_t slice = b.tiles[t].slice * g.step[0] + w.taps(slice_tap)->offset[0];
    const bool on_map = slice >= 0 && slice < g.extent[0];
    const T* map = source + b.tiles[t].n * g.source.n + slice * g.source.s[0];
    for (int64_t i = t; i < strip.last; ++i)
      if (w.channels_last)
        tile_pixels(w, b.tiles[i], on_map, map, 0, 0, g.source.s[1], g.source.s[2], static_cast<const T*>(s.zeros),
                    s.pixels + i * table);
      else
        tile_pixels(w, b.tiles[i], on_map, static_cast<const A*>(s.strip), strip.y, strip.x, strip.width * L, L,
                    reinterpret_cast<const A*>(s.zeros), s.pixels + i * table);
    if (w.channels_last) {
      for (int64_t i = t; i < strip.last; ++i)
        for (int64_t c = c_begin; c < c_end; c += L)
          source_tile<T>(w, b.tiles[i], s.pixels + i * table, c, c_end - c, {end_of_source, s.zeros}, s.tmp,
                         c - c_begin, planes);
    } else {
      for (int64_t c = c_begin; c < c_end; c += L) {
        if (on_map)
          strip_runs(strip, w.axis[1].extent, [&](int64_t in_map, int64_t in_strip, int64_t pixels) {
            gather_channels(map + c * g.source.c + in_map, g.source.c, c_end - c, pixels, end_of_source,
                            s.strip + in_strip * L);
          });
        for (int64_t i = t; i < strip.last; ++i)
          source_tile<A>(w, b.tiles[i], s.pixels + i * table, 0, L, {}, s.tmp, c - c_begin, planes);
      }
    }
    t = strip.last;
  }
}

// ---- target: Aᵀ product A + bias; and its transpose, A ȳ Aᵀ ----

// tmp[i][x] = each row i of points collected to outputs, at column m of the planes.
template <class P, class A>
void output_rows(const Winograd& w, const WinogradTile& t, int64_t rows, const WinogradPlanes<A>& planes, int64_t m,
                 A* tmp) {
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t* row = t.row + 2 * (i == w.axis[0].points() - 1);
    const A* from = planes.data + i * w.axis[1].points() * planes.pitch + m;
    const int64_t first = row[0] * planes.ld, last = row[t.mx == w.axis[1].outputs] * planes.ld;
    vector_t<A> x[P::N], y[P::M];
#pragma GCC unroll 8
    for (int j = 0; j < P::N; ++j, from += planes.pitch) x[j] = load(from + (j < P::N - 1 ? first : last));
    collect<A, P::M, P::N, P::MOST, false>(x, y);
#pragma GCC unroll 8
    for (int j = 0; j < P::M; ++j) store(tmp + (i * winograd_points + j) * lanes<A>, y[j]);
  }
}

// to[y][x] = each column of tmp collected, plus bias, of `count` channels.
template <class P, class T>
void output_columns(int64_t columns, const accumulator_t<T>* tmp, vector_t<accumulator_t<T>> bias, bool relu, T* to,
                    int64_t row_stride, int64_t stride, int64_t count) {
  using A = accumulator_t<T>;
  for (int64_t j = 0; j < columns; ++j, to += stride) {
    vector_t<A> x[P::N], y[P::M];
#pragma GCC unroll 8
    for (int i = 0; i < P::N; ++i) x[i] = load(tmp + (i * winograd_points + j) * lanes<A>);
    collect<A, P::M, P::N, P::MOST, false>(x, y);
#pragma GCC unroll 8
    for (int i = 0; i < P::M; ++i) {
      vector_t<A> v = y[i] + bias;
      if (relu) v = v < 0 ? vector_t<A>{} : v;  // NaN stays
      store_channels<T>(v, count, to + i * row_stride);
    }
  }
}

template <class S>
inline void target_tile(const Winograd& w, const WinogradTile& t, const WinogradPlanes<accumulator_t<S>>& planes,
                        int64_t m, int64_t count, vector_t<accumulator_t<S>> bias, S* to, int64_t row_stride,
                        int64_t stride, accumulator_t<S>* tmp) {
  const WinogradAxis &v = w.axis[0], &h = w.axis[1];
  with_case(h, t.mx, [&](auto p) { output_rows<decltype(p)>(w, t, t.my + v.taps - 1, planes, m, tmp); });
  with_case(v, t.my,
            [&](auto p) { output_columns<decltype(p)>(t.mx, tmp, bias, w.g.relu, to, row_stride, stride, count); });
}

inline int64_t slice_target(const Gather& g, const WinogradTile& t) {
  return t.n * g.target.n + (g.base[0] + t.slice * g.spacing[0]) * g.target.s[0];
}

template <class T>
void winograd_target(const Winograd& w, const WinogradBlock& b, int64_t begin, int64_t end, int64_t group,
                     int64_t m_begin, int64_t m_end, WinogradPlanes<accumulator_t<T>> planes, const T* bias, T* target,
                     accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  constexpr int64_t L = lanes<A>;
  const Gather& g = w.g;
  const WinogradScratch<T> s(w, b, scratch);
  for (int64_t t = begin; t < end;) {
    const WinogradStrip strip = winograd_strip(w, b, t, end, false);
    T* map = target + slice_target(g, b.tiles[t]) + (group * g.m + m_begin) * g.target.c;
    for (int64_t m = 0; m < m_end - m_begin; m += L) {
      const int64_t count = m_end - m_begin - m;
      const vector_t<A> offset = bias ? load_some(bias + group * g.m + m_begin + m, at_most(L, count)) : vector_t<A>{};
      for (int64_t i = t; i < strip.last; ++i) {
        const WinogradTile& tile = b.tiles[i];
        if (w.channels_last)
          target_tile<T>(w, tile, planes, m, count, offset, map + m + tile.y * g.target.s[1] + tile.x * g.target.s[2],
                         g.target.s[1], g.target.s[2], s.tmp);
        else
          target_tile<A>(w, tile, planes, m, L, offset,
                         s.strip + ((tile.y - strip.y) * strip.width + tile.x - strip.x) * L, strip.width * L, L,
                         s.tmp);
      }
      if (!w.channels_last)
        strip_runs(strip, w.axis[1].count, [&](int64_t in_map, int64_t in_strip, int64_t pixels) {
          scatter_channels(s.strip + in_strip * L, g.target.c, at_most(L, count), pixels,
                           map + m * g.target.c + in_map);
        });
    }
    t = strip.last;
  }
}

// tmp[y][point] = each row of outputs evaluated.
template <class P, class S>
void grad_rows(int64_t rows, const S* from, int64_t row_stride, int64_t stride, int64_t count, const S* end,
               accumulator_t<S>* tmp) {
  using A = accumulator_t<S>;
  for (int64_t i = 0; i < rows; ++i, from += row_stride, tmp += winograd_points * lanes<A>) {
    vector_t<A> x[P::M], y[P::N];
#pragma GCC unroll 8
    for (int j = 0; j < P::M; ++j) {
      const S* pixel = from + j * stride;
      x[j] = count >= lanes<A> ? load_widened(pixel) : load_tail(pixel, 0, count, {end, nullptr});
    }
    evaluate<A, P::M, P::N, P::MOST, false>(x, y);
#pragma GCC unroll 8
    for (int j = 0; j < P::N; ++j) store(tmp + j * lanes<A>, y[j]);
  }
}

template <class P, class A>
void grad_columns(const Winograd& w, const WinogradTile& t, int64_t columns, const A* tmp, int64_t m,
                  const WinogradPlanes<A>& planes) {
  const int64_t step = w.axis[1].points() * planes.pitch;
  for (int64_t j = 0; j < columns; ++j) {
    vector_t<A> x[P::M], y[P::N];
#pragma GCC unroll 8
    for (int i = 0; i < P::M; ++i) x[i] = load(tmp + (i * winograd_points + j) * lanes<A>);
    evaluate<A, P::M, P::N, P::MOST, false>(x, y);
    const TileRows<A> rows(w, t, j, planes, m);
    A* to = planes.data;
#pragma GCC unroll 8
    for (int i = 0; i < P::N; ++i, to += step) store(to + (i < P::N - 1 ? rows.first : rows.last), y[i]);
  }
}

template <class S>
inline void grad_tile(const Winograd& w, const WinogradTile& t, const S* from, int64_t row_stride, int64_t stride,
                      int64_t count, const S* end, int64_t m, const WinogradPlanes<accumulator_t<S>>& planes,
                      accumulator_t<S>* tmp) {
  const WinogradAxis &v = w.axis[0], &h = w.axis[1];
  with_case(h, t.mx, [&](auto p) { grad_rows<decltype(p)>(t.my, from, row_stride, stride, count, end, tmp); });
  with_case(v, t.my, [&](auto p) { grad_columns<decltype(p)>(w, t, t.mx + h.taps - 1, tmp, m, planes); });
}

template <class T>
void winograd_grad(const Winograd& w, const WinogradBlock& b, int64_t begin, int64_t end, int64_t group,
                   int64_t m_begin, int64_t m_end, const T* grad, WinogradPlanes<accumulator_t<T>> planes,
                   accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  constexpr int64_t L = lanes<A>;
  const Gather& g = w.g;
  const WinogradScratch<T> s(w, b, scratch);
  const T* end_of_grad = grad + view_end(g.target, g.batch, g.groups * g.m, g.count);
  for (int64_t t = begin; t < end;) {
    const WinogradStrip strip = winograd_strip(w, b, t, end, false);
    const T* map = grad + slice_target(g, b.tiles[t]) + (group * g.m + m_begin) * g.target.c;
    for (int64_t m = 0; m < m_end - m_begin; m += L) {
      const int64_t count = m_end - m_begin - m;
      if (!w.channels_last)
        strip_runs(strip, w.axis[1].count, [&](int64_t in_map, int64_t in_strip, int64_t pixels) {
          gather_channels(map + m * g.target.c + in_map, g.target.c, count, pixels, end_of_grad,
                          s.strip + in_strip * L);
        });
      for (int64_t i = t; i < strip.last; ++i) {
        const WinogradTile& tile = b.tiles[i];
        if (w.channels_last)
          grad_tile<T>(w, tile, map + m + tile.y * g.target.s[1] + tile.x * g.target.s[2], g.target.s[1], g.target.s[2],
                       count, end_of_grad, m, planes, s.tmp);
        else
          grad_tile<A>(w, tile, s.strip + ((tile.y - strip.y) * strip.width + tile.x - strip.x) * L, strip.width * L, L,
                       L, nullptr, m, planes, s.tmp);
      }
    }
    t = strip.last;
  }
}
