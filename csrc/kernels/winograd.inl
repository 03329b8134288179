// Winograd convolution on blocks of tiles: transforms of tiles, filters and gradients along two axes in turn, by the
// one-dimensional ones of winograd_math.inl, a vector of channels at a time; and the matrix product of each plane.

// Outputs M and taps R of an axis as types, so that the transforms of each pair are compiled apart.
template <int R_, int M_>
struct WinogradPair {
  static constexpr int R = R_, M = M_, N = R_ + M_ - 1, MOST = R_ == 1 ? 1 : most_points(R_);
};

// body(WinogradPair<r, m>{})
template <class Body>
inline __attribute__((always_inline)) void with_pair(int64_t r, int64_t m, Body body) {
  switch (r * 8 + m) {
    case 8 + 1: return body(WinogradPair<1, 1>{});
    case 24 + 1: return body(WinogradPair<3, 1>{});
    case 24 + 2: return body(WinogradPair<3, 2>{});
    case 24 + 3: return body(WinogradPair<3, 3>{});
    case 24 + 4: return body(WinogradPair<3, 4>{});
    case 40 + 1: return body(WinogradPair<5, 1>{});
    case 40 + 2: return body(WinogradPair<5, 2>{});
    case 40 + 3: return body(WinogradPair<5, 3>{});
    case 40 + 4: return body(WinogradPair<5, 4>{});
  }
}

// The class of planes of point i along an axis of r taps: tiles of more than this many outputs have it.
constexpr int point_class(int i, int r) { return i < r ? 0 : i - r + 1; }

// Tiles of 6 rows by 4 vectors on AVX-512, of as many sums as 12 by 2 but fewer loads; else by the registers there are.
constexpr int winograd_rows = 6, winograd_vectors = TORCHCONV_VECTOR_BYTES == 64 ? 4 : 2;
template <class A>
constexpr int64_t winograd_columns = winograd_vectors * lanes<A>;

// ---- vectors of channels, widened; `count` of them are there, the rest reads 0 and is not written ----

// Where full vectors may be read although fewer channels are there: before `end`, and at `zeros`.
template <class T>
struct Readable {
  const T *end, *zeros;
  bool at(const T* p, const T* pixel) const { return p + lanes<accumulator_t<T>> <= end || pixel == zeros; }
};

template <class T>
inline vector_t<accumulator_t<T>> load_some(const T* p, int64_t count) {
  T some[lanes<accumulator_t<T>>] = {};
  for (int64_t i = 0; i < count; ++i) some[i] = p[i];
  return load_widened(some);
}

// Of channels c and on of a pixel, where fewer than a vector are left.
template <class T>
inline vector_t<accumulator_t<T>> load_tail(const T* pixel, int64_t c, int64_t count, const Readable<T>& readable) {
  using A = accumulator_t<T>;
  if (!readable.at(pixel + c, pixel)) return load_some(pixel + c, count);
  typename Vector<A>::mask lane;
  for (int l = 0; l < lanes<A>; ++l) lane[l] = l;
  return lane < static_cast<int32_t>(count) ? load_widened(pixel + c) : vector_t<A>{};
}

template <class T>
inline void store_channels(vector_t<accumulator_t<T>> v, int64_t count, T* p) {
  constexpr int64_t width = lanes<accumulator_t<T>>;
  if (count >= width) return store_narrowed(p, v);
  T some[width];
  store_narrowed(some, v);
  const T* from = some;
#pragma GCC unroll 4
  for (int64_t half = width / 2; half > 0; half /= 2)
    if (count & half) {
      std::memcpy(static_cast<void*>(p), from, half * sizeof(T));
      p += half, from += half;
    }
}

// ---- between the contiguous layout and vectors of channels ----

// out[pixel][lane] = from[lane · plane + pixel] for `pixels` pixels of `count` channels, zeros in the other lanes. Nothing
// from `end` on is read. The last vector of pixels overlaps the one before it where it can, instead of being cut short.
template <class T>
void gather_channels(const T* from, int64_t plane, int64_t count, int64_t pixels, const T* end, accumulator_t<T>* out) {
  using A = accumulator_t<T>;
  constexpr int L = lanes<A>;
  for (int64_t done = 0; done < pixels; done += L) {
    const int64_t p = at_least(0, at_most(done, pixels - L)), here = at_most(L, pixels);
    vector_t<A> v[L];
    if (count >= L && from + (L - 1) * plane + p + L <= end) {
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) v[l] = load_widened(from + l * plane + p);
    } else {
      for (int l = 0; l < L; ++l) {
        const T* at = from + l * plane + p;
        v[l] = l >= count ? vector_t<A>{} : at + L <= end ? load_widened(at) : load_some(at, here);
      }
    }
    transpose_square<1>(v);
    if (here == L) {
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(out + (p + i) * L, v[i]);
    } else {
      for (int64_t i = 0; i < here; ++i) store(out + (p + i) * L, v[i]);
    }
  }
}

// to[lane · plane + pixel] = from[pixel][lane].
template <class T>
void scatter_channels(const accumulator_t<T>* from, int64_t plane, int64_t count, int64_t pixels, T* to) {
  using A = accumulator_t<T>;
  constexpr int L = lanes<A>;
  for (int64_t done = 0; done < pixels; done += L) {
    const int64_t p = at_least(0, at_most(done, pixels - L)), here = at_most(L, pixels);
    vector_t<A> v[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = load(from + (p + i) * L);  // some lie beyond the strip's last pixel, in scratch
    transpose_square<1>(v);
    if (count >= L && here == L) {
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) store_narrowed(to + l * plane + p, v[l]);
    } else {
      for (int l = 0; l < at_most(L, count); ++l) store_channels(v[l], here, to + l * plane + p);
    }
  }
}

// One past the last element of the source, target and weight tensors.
inline int64_t view_end(const View& v, int64_t batch, int64_t channels, const int64_t* extent) {
  int64_t at = (batch - 1) * v.n + (channels - 1) * v.c + 1;
  for (int a = 0; a < 3; ++a) at += (extent[a] - 1) * v.s[a];
  return at;
}

// Tiles [first, last) of one sample and slice, and the rectangle of a map that they touch.
struct WinogradStrip {
  int64_t first, last, y, x, height, width;
};

// The longest run from `first` on; its rectangle in the target, or with margins of the taps, clipped, in the source.
inline WinogradStrip winograd_strip(const Winograd& w, const WinogradBlock& b, int64_t first, int64_t end,
                                    bool in_source) {
  const WinogradTile& a = b.tiles[first];
  WinogradStrip s{first, first, a.y, a.x, 0, 0};
  int64_t right = 0, bottom = 0;
  for (; s.last < end && b.tiles[s.last].n == a.n && b.tiles[s.last].slice == a.slice; ++s.last) {
    const WinogradTile& t = b.tiles[s.last];
    s.x = at_most(s.x, t.x), s.y = at_most(s.y, t.y);
    right = at_least(right, t.x + t.mx), bottom = at_least(bottom, t.y + t.my);
  }
  if (in_source) {
    const WinogradAxis &v = w.axis[0], &h = w.axis[1];
    s.y = at_most(at_least(0, s.y + v.low), v.extent), s.x = at_most(at_least(0, s.x + h.low), h.extent);
    bottom = at_most(at_least(s.y, bottom + v.low + v.taps - 1), v.extent);
    right = at_most(at_least(s.x, right + h.low + h.taps - 1), h.extent);
  }
  s.height = bottom - s.y, s.width = right - s.x;
  return s;
}

// visit(first pixel in the map, first pixel in the strip, pixels) for each run that is one in both.
template <class Visit>
inline void strip_runs(const WinogradStrip& s, int64_t map_width, Visit visit) {
  if (s.width == map_width) return visit(s.y * map_width, 0, s.height * s.width);
  for (int64_t y = 0; y < s.height; ++y) visit((s.y + y) * map_width + s.x, y * s.width, s.width);
}

template <class T>
int64_t winograd_touches(const Winograd& w, const WinogradBlock& b, bool in_source, int64_t channels, const T* base,
                         WinogradTouch* out) {
  const Gather& g = w.g;
  const View& v = in_source ? g.source : g.target;
  int64_t count = 0;
  for (int64_t t = 0; t < b.count;) {
    const WinogradStrip s = winograd_strip(w, b, t, b.count, in_source);
    const int64_t slice =
        in_source ? b.tiles[t].slice * g.step[0] + w.slice_offset[0] : g.base[0] + b.tiles[t].slice * g.spacing[0];
    if (slice >= 0 && slice < g.extent[0]) {
      const T* from = base + b.tiles[t].n * v.n + slice * v.s[0] + s.y * v.s[1] + s.x * v.s[2];
      const int64_t size = sizeof(T), row = (s.width - 1) * v.s[2];
      out[count++] = w.channels_last ? WinogradTouch{reinterpret_cast<const char*>(from), s.height, v.s[1] * size,
                                                     (row + channels) * size}
                                     : WinogradTouch{reinterpret_cast<const char*>(from), channels, v.c * size,
                                                     ((s.height - 1) * v.s[1] + row + 1) * size};
    }
    t = s.last;
  }
  return count;
}

inline __attribute__((always_inline)) void touch_ahead(WinogradAhead& a) {
  for (int64_t n = 0; n < a.lines && a.run < a.run_count; ++n) {
    const WinogradTouch& t = a.runs[a.run];
    __builtin_prefetch(t.begin + a.i * t.stride + a.byte, 0, 2);
    a.byte += 64;
    if (a.byte >= t.bytes + 63) a.byte = 0, ++a.i;
    if (a.i >= t.count) a.i = 0, ++a.run;
  }
}

// Scratch: tmp [points][points][lanes] | zeros of a pixel | strip [pixels][lanes] | pointers [tile][points][points]
template <class A>
constexpr int64_t winograd_tmp = winograd_points * winograd_points * lanes<A>;

inline int64_t strip_pixels(const Winograd& w, const WinogradBlock& b) {
  int64_t most = 0;
  for (int64_t t = 0; t < b.count && !w.channels_last;) {
    const WinogradStrip in = winograd_strip(w, b, t, b.count, true), out = winograd_strip(w, b, t, b.count, false);
    most = at_least(most, at_least(in.height * in.width, out.height * out.width));
    t = in.last;
  }
  return most;
}

template <class T>
int64_t winograd_scratch(const Winograd& w, const WinogradBlock& b) {
  using A = accumulator_t<T>;
  return winograd_tmp<A> + round_up(w.g.c, 64) + (strip_pixels(w, b) + lanes<A>)*lanes<A> +
         b.count * winograd_points * winograd_points * 8 / static_cast<int64_t>(sizeof(A));
}

template <class T>
struct WinogradScratch {
  using A = accumulator_t<T>;
  A *tmp, *strip;
  T* zeros;
  const void** pixels;
  WinogradScratch(const Winograd& w, const WinogradBlock& b, A* scratch)
      : tmp(scratch),
        strip(scratch + winograd_tmp<A> + round_up(w.g.c, 64)),
        zeros(reinterpret_cast<T*>(scratch + winograd_tmp<A>)),
        pixels(reinterpret_cast<const void**>(strip + (strip_pixels(w, b) + lanes<A>)*lanes<A>)) {}
};

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

// Where each class of rows of a tile begins, for the planes of point j along the second axis.
template <class A>
struct TileRows {
  int64_t at[winograd_outputs];
  TileRows(const Winograd& w, const WinogradTile& t, int64_t j, const WinogradPlanes<A>& planes, int64_t column) {
    const int32_t* row = t.row + point_class(static_cast<int>(j), static_cast<int>(w.axis[1].taps));
#pragma GCC unroll 4
    for (int k = 0; k < winograd_outputs; ++k)
      at[k] = row[k * winograd_outputs] * planes.ld + j * planes.pitch + column;
  }
};

// planes(i, j)[row] = the transform of each column of tmp.
template <class P, class A>
void source_columns(const Winograd& w, const WinogradTile& t, int64_t columns, const A* tmp, int64_t c,
                    const WinogradPlanes<A>& planes) {
  const int64_t step = w.axis[1].points * planes.pitch;
  for (int64_t j = 0; j < columns; ++j) {
    vector_t<A> x[P::N], y[P::N];
#pragma GCC unroll 8
    for (int i = 0; i < P::N; ++i) x[i] = load(tmp + (i * winograd_points + j) * lanes<A>);
    interpolate<A, P::N, P::MOST>(x, y);
    const TileRows<A> rows(w, t, j, planes, c);
    A* to = planes.data;
#pragma GCC unroll 8
    for (int i = 0; i < P::N; ++i, to += step) store(to + rows.at[point_class(i, P::R)], y[i]);
  }
}

template <class S>
inline void source_tile(const Winograd& w, const WinogradTile& t, const void* const* pixels, int64_t c, int64_t count,
                        const Readable<S>& readable, accumulator_t<S>* tmp, int64_t to,
                        const WinogradPlanes<accumulator_t<S>>& planes) {
  const WinogradAxis &v = w.axis[0], &h = w.axis[1];
  with_pair(h.taps, t.mx,
            [&](auto p) { source_rows<decltype(p), S>(t.my + v.taps - 1, pixels, c, count, readable, tmp); });
  with_pair(v.taps, t.my, [&](auto p) { source_columns<decltype(p)>(w, t, t.mx + h.taps - 1, tmp, to, planes); });
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
    const int64_t slice = b.tiles[t].slice * g.step[0] + w.slice_offset[slice_tap];
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
    const int32_t* row = t.row + point_class(static_cast<int>(i), static_cast<int>(w.axis[0].taps)) * winograd_outputs;
    const A* from = planes.data + i * w.axis[1].points * planes.pitch + m;
    int64_t at[winograd_outputs];
#pragma GCC unroll 4
    for (int k = 0; k < winograd_outputs; ++k) at[k] = row[k] * planes.ld;
    vector_t<A> x[P::N], y[P::M];
#pragma GCC unroll 8
    for (int j = 0; j < P::N; ++j, from += planes.pitch) x[j] = load(from + at[point_class(j, P::R)]);
    collect<A, P::M, P::N, P::MOST, false>(x, y);
#pragma GCC unroll 4
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
#pragma GCC unroll 4
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
  with_pair(h.taps, t.mx, [&](auto p) { output_rows<decltype(p)>(w, t, t.my + v.taps - 1, planes, m, tmp); });
  with_pair(v.taps, t.my,
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
#pragma GCC unroll 4
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
  const int64_t step = w.axis[1].points * planes.pitch;
  for (int64_t j = 0; j < columns; ++j) {
    vector_t<A> x[P::M], y[P::N];
#pragma GCC unroll 4
    for (int i = 0; i < P::M; ++i) x[i] = load(tmp + (i * winograd_points + j) * lanes<A>);
    evaluate<A, P::M, P::N, P::MOST, false>(x, y);
    const TileRows<A> rows(w, t, j, planes, m);
    A* to = planes.data;
#pragma GCC unroll 8
    for (int i = 0; i < P::N; ++i, to += step) store(to + rows.at[point_class(i, P::R)], y[i]);
  }
}

template <class S>
inline void grad_tile(const Winograd& w, const WinogradTile& t, const S* from, int64_t row_stride, int64_t stride,
                      int64_t count, const S* end, int64_t m, const WinogradPlanes<accumulator_t<S>>& planes,
                      accumulator_t<S>* tmp) {
  const WinogradAxis &v = w.axis[0], &h = w.axis[1];
  with_pair(h.taps, t.mx, [&](auto p) { grad_rows<decltype(p)>(t.my, from, row_stride, stride, count, end, tmp); });
  with_pair(v.taps, t.my, [&](auto p) { grad_columns<decltype(p)>(w, t, t.mx + h.taps - 1, tmp, m, planes); });
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

// ---- filters: G w Gᵀ, and its transpose for the weight gradient ----

// One direction of a filter transform on [rows][columns] vectors: each row of `from` to one of `to`.
template <class P, class A>
void filter_rows(int64_t rows, const A* from, int64_t from_row, int64_t from_stride, A* to, int64_t to_row,
                 int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    vector_t<A> x[P::R], y[P::MOST];
#pragma GCC unroll 8
    for (int j = 0; j < P::R; ++j) x[j] = load(from + i * from_row + j * from_stride);
    evaluate<A, P::R, P::MOST, P::MOST, true>(x, y);
#pragma GCC unroll 8
    for (int j = 0; j < P::N; ++j) store(to + i * to_row + j * to_stride, y[j]);
  }
}

template <class P, class A>
void weight_rows(int64_t rows, const A* from, int64_t from_row, int64_t from_stride, A* to, int64_t to_row,
                 int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    vector_t<A> x[P::N], y[P::R];
#pragma GCC unroll 8
    for (int j = 0; j < P::N; ++j) x[j] = load(from + i * from_row + j * from_stride);
    collect<A, P::R, P::N, P::MOST, true>(x, y);
#pragma GCC unroll 8
    for (int j = 0; j < P::R; ++j) store(to + i * to_row + j * to_stride, y[j]);
  }
}

// Outputs of the largest tile along an axis: with the taps they say how many points its planes have.
inline int64_t most_outputs(const WinogradAxis& a) { return a.points - a.taps + 1; }

// The lowest address of a slice tap's filter points, and whether they lie together.
inline bool filter_is_dense(const Winograd& w, int64_t slice_tap, int64_t* low) {
  const int64_t taps = w.axis[0].taps * w.axis[1].taps, *at = w.weight_at + slice_tap * taps;
  int64_t high = *low = at[0];
  for (int64_t k = 0; k < taps; ++k) *low = at_most(*low, at[k]), high = at_least(high, at[k]);
  return high - *low == taps - 1;
}

// filters[c][tap][lane] of `count` channels from c on and the L target channels from m on, zeros beyond the last.
template <class T>
void gather_filters(const Winograd& w, int64_t slice_tap, const T* weight, const T* end, int64_t c, int64_t count,
                    int64_t m, accumulator_t<T>* filters) {
  constexpr int64_t L = lanes<accumulator_t<T>>;
  const Gather& g = w.g;
  const int64_t taps = w.axis[0].taps * w.axis[1].taps, *at = w.weight_at + slice_tap * taps;
  int64_t low;
  const int64_t lanes_here = at_most(L, g.m - m);
  accumulator_t<T> dense[8 * 25 * L];
  if (filter_is_dense(w, slice_tap, &low)) {  // transpose whole filters
    const int64_t run = g.weight_c == taps ? count : 1;
    for (int64_t i = 0; i < count; i += run)
      gather_channels(weight + m * g.weight_m + (c + i) * g.weight_c + low, g.weight_m, lanes_here, run * taps, end,
                      dense + i * taps * L);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t k = 0; k < taps; ++k)
        store(filters + (i * taps + k) * L, load(dense + (i * taps + at[k] - low) * L));
  } else {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t k = 0; k < taps; ++k)
        for (int64_t l = 0; l < L; ++l)
          filters[(i * taps + k) * L + l] =
              l < lanes_here ? widen(weight[(m + l) * g.weight_m + (c + i) * g.weight_c + at[k]]) : 0;
  }
}

// Fetches what gather_filters will read for `count` channels from c on: memory in rows, along whichever channel is nearer.
template <class T>
inline void touch_filters(const Gather& g, const T* weight, int64_t c, int64_t count, int64_t m) {
  constexpr int64_t L = lanes<accumulator_t<T>>;
  const bool along_c = g.weight_c < g.weight_m;
  const T* from = weight + m * g.weight_m + c * g.weight_c;
  const int64_t rows = along_c ? at_most(L, g.m - m) : count, stride = along_c ? g.weight_m : g.weight_c;
  const int64_t bytes = sizeof(T) * (along_c ? count * g.weight_c : at_most(L, g.m - m) * g.weight_m);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t byte = 0; byte < bytes; byte += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(from + i * stride) + byte, 0, 3);
}

template <class T>
void winograd_filter(const Winograd& w, int64_t group, int64_t slice_tap, int64_t c_begin, int64_t c_end, int64_t panel,
                     const T* weight, WinogradPlanes<accumulator_t<T>> planes) {
  using A = accumulator_t<T>;
  constexpr int64_t L = lanes<A>, block = 8;
  const WinogradAxis &v = w.axis[0], &h = w.axis[1];
  const Gather& g = w.g;
  const int64_t taps = v.taps * h.taps;
  int64_t last_tap = 0;
  for (int64_t k = 0; k < g.tap_count; ++k) last_tap = at_least(last_tap, g.taps[k].weight);
  const T* end = weight + (g.groups - 1) * g.weight_g + (g.m - 1) * g.weight_m + (g.c - 1) * g.weight_c + last_tap + 1;
  weight += group * g.weight_g;
  for (int64_t k = 0; k < winograd_columns<A>; k += L)
    for (int64_t c = c_begin; c < c_begin + round_up(c_end - c_begin, L); c += block) {
      A filters[block * 25 * L] = {};  // [channel][tap][L]
      A tmp[winograd_tmp<A>];          // [tap of axis 0][point][L]
      const int64_t m = panel * winograd_columns<A> + k, here = at_most(block, c_end - c);
      if (c + block < c_end && m < g.m) touch_filters(g, weight, c + block, at_most(block, c_end - c - block), m);
      if (here > 0 && m < g.m) gather_filters(w, slice_tap, weight, end, c, here, m, filters);
      for (int64_t i = 0; i < at_most(block, c_begin + round_up(c_end - c_begin, L) - c); ++i) {
        A* to = planes.data + (c - c_begin + i) * planes.ld + k;
        with_pair(h.taps, most_outputs(h), [&](auto p) {
          filter_rows<decltype(p)>(v.taps, filters + i * taps * L, h.taps * L, L, tmp, winograd_points * L, L);
        });
        with_pair(v.taps, most_outputs(v), [&](auto p) {
          filter_rows<decltype(p)>(h.points, tmp, L, winograd_points * L, to, planes.pitch, h.points * planes.pitch);
        });
      }
    }
}

// out[c][tap][m] = Gᵀ sums G.
template <class A>
void winograd_weight(const Winograd& w, int64_t c, int64_t m, WinogradPlanes<A> sums, A* out, int64_t ld) {
  constexpr int64_t L = lanes<A>;
  const WinogradAxis &v = w.axis[0], &h = w.axis[1];
  for (int64_t i = 0; i < c; ++i)
    for (int64_t k = 0; k < m; k += L) {
      A tmp[winograd_tmp<A>];  // [point of axis 0][tap of axis 1][L]
      with_pair(h.taps, most_outputs(h), [&](auto p) {
        weight_rows<decltype(p)>(v.points, sums.data + i * sums.ld + k, h.points * sums.pitch, sums.pitch, tmp,
                                 winograd_points * L, L);
      });
      with_pair(v.taps, most_outputs(v), [&](auto p) {
        weight_rows<decltype(p)>(h.taps, tmp, L, winograd_points * L, out + i * v.taps * h.taps * ld + k, ld,
                                 h.taps * ld);
      });
    }
}

template <class T>
void winograd_store(const Winograd& w, int64_t group, int64_t slice_tap, int64_t c_begin, int64_t c_end,
                    int64_t m_begin, int64_t m_end, int64_t parts, int64_t stride, const accumulator_t<T>* sums,
                    int64_t ld, T* weight) {
  using A = accumulator_t<T>;
  constexpr int64_t L = lanes<A>, block = 8;
  const Gather& g = w.g;
  const int64_t taps = w.axis[0].taps * w.axis[1].taps, *at = w.weight_at + slice_tap * taps;
  int64_t low;
  const bool dense = filter_is_dense(w, slice_tap, &low);
  weight += group * g.weight_g;
  for (int64_t m = m_begin; m < m_end; m += L)
    for (int64_t c = c_begin; c < c_end; c += block) {
      A filters[(block * 25 + L) * L];  // [channel][point as it lies in memory][L]
      const int64_t here = at_most(block, c_end - c), lanes_here = at_most(L, m_end - m);
      for (int64_t i = 0; i < here; ++i)
        for (int64_t k = 0; k < taps; ++k) {
          const A* from = sums + ((c - c_begin + i) * taps + k) * ld + m - m_begin;
          vector_t<A> sum = load(from);
          for (int64_t part = 1; part < parts; ++part) sum += load(from + part * stride);
          store(filters + (i * taps + (dense ? at[k] - low : k)) * L, sum);
        }
      T* to = weight + m * g.weight_m + c * g.weight_c;
      if (dense && g.weight_c == taps) {
        scatter_channels(filters, g.weight_m, lanes_here, here * taps, to + low);
      } else {
        for (int64_t i = 0; i < here; ++i)
          for (int64_t k = 0; k < taps; ++k)
            for (int64_t l = 0; l < lanes_here; ++l)
              narrow(filters[(i * taps + (dense ? at[k] - low : k)) * L + l],
                     to + l * g.weight_m + i * g.weight_c + at[k]);
      }
    }
}

// ---- products ----

template <class A, int VECTORS = winograd_vectors>
void winograd_tile(int64_t rows, int64_t columns, const Tile<A>& t) {
  if constexpr (VECTORS > 1)
    if (columns <= (VECTORS - 1) * lanes<A>) return winograd_tile<A, VECTORS - 1>(rows, columns, t);
  run_rows<A, VECTORS, false, winograd_rows>(rows, t);
}

// product (+)= a · b, a [rows][depth] by its strides, b [depth][columns], `panel` columns at a time.
template <class A>
void winograd_product(int64_t rows, int64_t columns, Tile<A> t, WinogradAhead& ahead) {
  const A *a = t.a, *b = t.b;
  A* c = t.c;
  for (int64_t k = 0; k < columns; k += winograd_columns<A>)
    for (int64_t r = 0; r < rows; r += winograd_rows) {
      touch_ahead(ahead);
      t.a = a + r * t.a_row, t.b = b + k, t.c = c + r * t.ldc + k;
      winograd_tile(at_most(winograd_rows, rows - r), at_most(winograd_columns<A>, columns - k), t);
    }
}

// body(plane, rows of that plane) for each plane.
template <class Body>
inline void for_planes(const Winograd& w, const WinogradBlock& b, Body body) {
  for (int64_t i = 0; i < w.axis[0].points; ++i)
    for (int64_t j = 0; j < w.axis[1].points; ++j) {
      const int row = point_class(static_cast<int>(i), static_cast<int>(w.axis[0].taps));
      const int column = point_class(static_cast<int>(j), static_cast<int>(w.axis[1].taps));
      body(i * w.axis[1].points + j, b.rows[row * winograd_outputs + column]);
    }
}

template <class A>
void winograd_multiply(const Winograd& w, const WinogradBlock& b, int64_t depth, int64_t columns,
                       WinogradPlanes<A> source, WinogradPlanes<A> filter, WinogradPlanes<A> product, bool add,
                       WinogradAhead& ahead) {
  for_planes(w, b, [&](int64_t plane, int64_t rows) {
    for (int64_t k = 0; k < depth; k += depth_block)
      winograd_product<A>(rows, columns,
                          {at_most(depth_block, depth - k), source.data + plane * source.pitch + k, source.ld, 1,
                           filter.data + plane * filter.pitch + k * filter.ld, filter.ld,
                           product.data + plane * product.pitch, product.ld, add || k > 0},
                          ahead);
  });
}

template <class A>
void winograd_accumulate(const Winograd& w, const WinogradBlock& b, int64_t c, int64_t m, WinogradPlanes<A> source,
                         WinogradPlanes<A> grad, WinogradPlanes<A> sums, bool add, WinogradAhead& ahead) {
  for_planes(w, b, [&](int64_t plane, int64_t rows) {
    winograd_product<A>(c, m,
                        {rows, source.data + plane * source.pitch, 1, source.ld, grad.data + plane * grad.pitch,
                         grad.ld, sums.data + plane * sums.pitch, sums.ld, add},
                        ahead);
  });
}

template <class T>
constexpr WinogradKernels<T> winograd_kernels() {
  using A = accumulator_t<T>;
  return {winograd_columns<A>,    lanes<A>,           winograd_scratch<T>,
          winograd_touches<T>,    winograd_source<T>, winograd_filter<T>,
          winograd_multiply<A>,   winograd_target<T>, winograd_grad<T>,
          winograd_accumulate<A>, winograd_weight<A>, winograd_store<T>};
}
