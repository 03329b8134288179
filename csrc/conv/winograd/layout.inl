// Between tensors and the tiles of Winograd convolution: vectors of channels of either layout, strips of a map, and
// what of memory comes next.
#pragma once
#include "cpu/numeric.inl"
#include "cpu/transpose.inl"

// Taps R and outputs M of an axis, and the points that its filters are scaled for, as types, so that the transforms of
// each case are compiled apart.
template <int R_, int M_, int MOST_>
struct WinogradCase {
  static constexpr int R = R_, M = M_, N = R_ + M_ - 1, MOST = MOST_;
};

// body(WinogradCase{}) for a tile of m outputs along an axis: of 1 to 4 outputs share the scale of 4.
template <class Body>
inline __attribute__((always_inline)) void with_case(const WinogradAxis& a, int64_t m, Body body) {
  switch (a.taps * 64 + at_least(a.outputs, 4) * 8 + m) {
    case 64 + 32 + 1: return body(WinogradCase<1, 1, 1>{});
    case 192 + 32 + 1: return body(WinogradCase<3, 1, 6>{});
    case 192 + 32 + 2: return body(WinogradCase<3, 2, 6>{});
    case 192 + 32 + 3: return body(WinogradCase<3, 3, 6>{});
    case 192 + 32 + 4: return body(WinogradCase<3, 4, 6>{});
    case 192 + 40 + 4: return body(WinogradCase<3, 4, 7>{});
    case 192 + 40 + 5: return body(WinogradCase<3, 5, 7>{});
    case 192 + 48 + 5: return body(WinogradCase<3, 5, 8>{});
    case 192 + 48 + 6: return body(WinogradCase<3, 6, 8>{});
    case 320 + 32 + 1: return body(WinogradCase<5, 1, 8>{});
    case 320 + 32 + 2: return body(WinogradCase<5, 2, 8>{});
    case 320 + 32 + 3: return body(WinogradCase<5, 3, 8>{});
    case 320 + 32 + 4: return body(WinogradCase<5, 4, 8>{});
  }
}

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

// out[pixel][lane] = from[lane · plane + pixel] for `pixels` pixels of `count` channels, zeros in the other lanes.
// Nothing from `end` on is read. The last vector of pixels overlaps the one before it where it can, instead of being
// cut short.
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
        in_source ? b.tiles[t].slice * g.step[0] + w.taps(0)->offset[0] : g.base[0] + b.tiles[t].slice * g.spacing[0];
    if (!in_source || (slice >= 0 && slice < g.extent[0])) {
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
