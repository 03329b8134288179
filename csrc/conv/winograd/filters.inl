// Filters of Winograd convolution to its planes, and the weight gradient back from them.
#pragma once
#include "conv/winograd/layout.inl"
#include "conv/winograd/math.inl"
#include "cpu/numeric.inl"

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

// The lowest address of a slice tap's filter points, and whether they lie together.
inline bool filter_is_dense(const Winograd& w, int64_t slice_tap, int64_t* low) {
  const int64_t taps = w.axis[0].taps * w.axis[1].taps;
  const Tap* at = w.taps(slice_tap);
  int64_t high = *low = at[0].weight;
  for (int64_t k = 0; k < taps; ++k) *low = at_most(*low, at[k].weight), high = at_least(high, at[k].weight);
  return high - *low == taps - 1;
}

// filters[c][tap][lane] of `count` channels from c on and the L target channels from m on, zeros beyond the last.
template <class T>
void gather_filters(const Winograd& w, int64_t slice_tap, const T* weight, const T* end, int64_t c, int64_t count,
                    int64_t m, accumulator_t<T>* filters) {
  constexpr int64_t L = lanes<accumulator_t<T>>;
  const Gather& g = w.g;
  const int64_t taps = w.axis[0].taps * w.axis[1].taps;
  const Tap* at = w.taps(slice_tap);
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
        store(filters + (i * taps + k) * L, load(dense + (i * taps + at[k].weight - low) * L));
  } else if (g.weight_c == 1) {  // channels-last filters: transpose each point's source channels
    for (int64_t k = 0; k < taps; ++k) {
      gather_channels(weight + m * g.weight_m + c + at[k].weight, g.weight_m, lanes_here, count, end, dense);
      for (int64_t i = 0; i < count; ++i) store(filters + (i * taps + k) * L, load(dense + i * L));
    }
  } else if (g.weight_m == 1) {  // and of the input gradient, where they lie as wanted
    for (int64_t i = 0; i < count; ++i)
      for (int64_t k = 0; k < taps; ++k) {
        const T* from = weight + m + (c + i) * g.weight_c + at[k].weight;
        store(filters + (i * taps + k) * L, lanes_here == L ? load_widened(from) : load_some(from, lanes_here));
      }
  } else {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t k = 0; k < taps; ++k)
        for (int64_t l = 0; l < L; ++l)
          filters[(i * taps + k) * L + l] =
              l < lanes_here ? widen(weight[(m + l) * g.weight_m + (c + i) * g.weight_c + at[k].weight]) : 0;
  }
}

// Fetches what gather_filters will read for `count` channels from c on: memory in rows, along whichever channel is
// nearer.
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
void winograd_filter(const Winograd& w, int64_t group, int64_t slice_tap, int64_t c_begin, int64_t c_end,
                     int64_t m_begin, int64_t m_end, const T* weight, WinogradPlanes<accumulator_t<T>> planes) {
  using A = accumulator_t<T>;
  constexpr int64_t L = lanes<A>, block = 8;
  const WinogradAxis &v = w.axis[0], &h = w.axis[1];
  const Gather& g = w.g;
  const int64_t taps = v.taps * h.taps;
  int64_t last_tap = 0;
  for (int64_t k = 0; k < g.tap_count; ++k) last_tap = at_least(last_tap, g.taps[k].weight);
  const T* end = weight + (g.groups - 1) * g.weight_g + (g.m - 1) * g.weight_m + (g.c - 1) * g.weight_c + last_tap + 1;
  weight += group * g.weight_g;
  for (int64_t m = m_begin; m < m_end; m += L)
    for (int64_t c = c_begin; c < c_begin + round_up(c_end - c_begin, L); c += block) {
      A filters[block * 25 * L] = {};  // [channel][tap][L]
      A tmp[winograd_tmp<A>];          // [tap of axis 0][point][L]
      const int64_t here = at_most(block, c_end - c);
      if (c + block < c_end) touch_filters(g, weight, c + block, at_most(block, c_end - c - block), m);
      if (here > 0) gather_filters(w, slice_tap, weight, end, c, here, m, filters);
      for (int64_t i = 0; i < at_most(block, c_begin + round_up(c_end - c_begin, L) - c); ++i) {
        A* to = planes.data + (c - c_begin + i) * planes.ld + m - m_begin;
        with_case(h, h.outputs, [&](auto p) {
          filter_rows<decltype(p)>(v.taps, filters + i * taps * L, h.taps * L, L, tmp, winograd_points * L, L);
        });
        with_case(v, v.outputs, [&](auto p) {
          filter_rows<decltype(p)>(h.points(), tmp, L, winograd_points * L, to, planes.pitch,
                                   h.points() * planes.pitch);
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
      with_case(h, h.outputs, [&](auto p) {
        weight_rows<decltype(p)>(v.points(), sums.data + i * sums.ld + k, h.points() * sums.pitch, sums.pitch, tmp,
                                 winograd_points * L, L);
      });
      with_case(v, v.outputs, [&](auto p) {
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
  const int64_t taps = w.axis[0].taps * w.axis[1].taps;
  const Tap* at = w.taps(slice_tap);
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
          store(filters + (i * taps + (dense ? at[k].weight - low : k)) * L, sum);
        }
      T* to = weight + m * g.weight_m + c * g.weight_c;
      if (dense && g.weight_c == taps) {
        scatter_channels(filters, g.weight_m, lanes_here, here * taps, to + low);
      } else if (g.weight_c == 1) {  // channels-last filters
        for (int64_t k = 0; k < taps; ++k) {
          A rows[2 * L * L];  // [channel][L]; what lies beyond is read, and not stored
          for (int64_t i = 0; i < here; ++i)
            store(rows + i * L, load(filters + (i * taps + (dense ? at[k].weight - low : k)) * L));
          scatter_channels(rows, g.weight_m, lanes_here, here, to + at[k].weight);
        }
      } else {
        for (int64_t i = 0; i < here; ++i)
          for (int64_t k = 0; k < taps; ++k)
            for (int64_t l = 0; l < lanes_here; ++l)
              narrow(filters[(i * taps + (dense ? at[k].weight - low : k)) * L + l],
                     to + l * g.weight_m + i * g.weight_c + at[k].weight);
      }
    }
}
