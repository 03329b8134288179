// Depth-wise gathers of contiguous tensors: the forward pass, or the input gradient with one gather for each residue of
// the stride. A target map at a time, a band of its rows at a time: source rows are staged as accumulators between
// zeros, each residue of their columns modulo the step apart, so that every tap is a shift of whole vectors; a strip of
// up to eight target rows is summed in registers, where each loaded vector serves several taps; finished rows are
// stored.
#pragma once
#include "conv/depthwise/planes_rows.inl"
#include "conv/patch.inl"
#include "cpu/numeric.inl"
#include "cpu/transpose.inl"

// How all gathers of one call are run. Buffers: staged [rows][phases][pitch], sums [residue of rows and columns][band]
// [sum_pitch], shifts [residue][grid 2], ranges [residue][vectors][2].
struct PlanesPlan {
  const Gather* g;                           // [n[0]][n[1]][n[2]]
  int64_t n[3];                              // residues along each axis
  int64_t size[3];                           // of the target
  int64_t low[3];                            // the least offset of any tap
  int64_t high1;                             // the greatest along axis 1
  int64_t unit;                              // staged rows between neighbouring taps of axis 1
  int64_t turn;                              // target rows `turn` apart see staged rows `stride` units apart
  int64_t stride;                            //
  int64_t phases;                            // step along a row
  int64_t pitch, row;                        // of a phase, of all phases
  int64_t vectors, sum_pitch, band, staged;  // staged: rows of a band
  int64_t data_begin, data_end;              // staged columns (of all phases) that lie on the map
  int64_t taps;                              // of all residues and source channels of a target channel
};

inline int64_t greatest_divisor(int64_t a, int64_t b) { return b == 0 ? a : greatest_divisor(b, a % b); }

constexpr int64_t staged_room = 12 << 10;  // bytes of staged rows wanted: first-level cache, beside sums and streams

template <class A>
PlanesPlan planes_plan(const Gather* g, int64_t count) {
  PlanesPlan p{};
  p.g = g;
  int64_t n2 = 1, n12;
  while (n2 < count && g[n2].base[1] == g->base[1] && g[n2].base[0] == g->base[0]) ++n2;
  n12 = n2;
  while (n12 < count && g[n12].base[0] == g->base[0]) n12 += n2;
  p.n[0] = count / n12, p.n[1] = n12 / n2, p.n[2] = n2;
  for (int64_t a = 0, each = n12; a < 3; each /= a < 2 ? p.n[a + 1] : 1, ++a)
    for (int64_t r = 0; r < p.n[a]; ++r) p.size[a] += g[r * each].count[a];
  int64_t low[3] = {}, high[3] = {}, apart = 0;
  bool first = true;
  for (int64_t r = 0; r < count; ++r) {
    if (g[r].tap_count == 0) continue;
    p.taps += g[r].tap_count * g[r].c;
    for (int a = 0; a < 3; ++a) {
      const int64_t from = tap_offset(g[r], a, 0), to = tap_offset(g[r], a, g[r].grid[a] - 1);
      low[a] = first ? from : at_most(low[a], from);
      high[a] = first ? to : at_least(high[a], to);
    }
    if (g[r].grid[1] > 1) apart = tap_offset(g[r], 1, 1) - tap_offset(g[r], 1, 0);
    first = false;
  }
  for (int a = 0; a < 3; ++a) p.low[a] = low[a];
  p.high1 = high[1];
  p.unit = apart ? apart : g->step[1];
  const int64_t common = greatest_divisor(g->step[1], p.unit);
  p.turn = p.unit / common, p.stride = g->step[1] / common;
  p.phases = g->step[2];
  p.vectors = (g->count[2] + lanes<A> - 1) / lanes<A>;
  p.sum_pitch = p.vectors * lanes<A>;
  p.pitch = round_up((high[2] - low[2]) / p.phases + g->count[2], lanes<A>);
  p.row = p.pitch * p.phases;
  const int64_t columns = high[2] - low[2] + (g->count[2] - 1) * p.phases + 1;  // that are looked at
  p.data_begin = at_most(columns, at_least(0, -low[2]));
  p.data_end = at_least(p.data_begin, at_most(columns, g->extent[2] - low[2]));
  const int64_t fit = staged_room / (p.row * static_cast<int64_t>(sizeof(A))) - (high[1] - low[1]);
  p.band = at_least(8, fit / g->step[1] / 8 * 8);
  const int64_t bands = at_least(1, (g->count[1] + p.band - 1) / p.band);
  p.band = round_up((g->count[1] + bands - 1) / bands, 8);
  p.staged = (p.band - 1) * g->step[1] + high[1] - low[1] + 1;
  return p;
}

// Elements; a vector beyond the staged rows may be written, one of sums too.
template <class A>
int64_t planes_tables(const PlanesPlan& p) {
  const int64_t residues = p.n[0] * p.n[1] * p.n[2];
  int64_t columns = 0;
  for (int64_t r = 0; r < residues; ++r) columns = at_least(columns, p.g[r].grid[2]);
  return residues * (columns + 2 * p.vectors + 2) * static_cast<int64_t>(sizeof(int64_t) / sizeof(A));
}
template <class A>
int64_t planes_staged(const PlanesPlan& p) {
  return round_up(p.staged * p.row + 2 * lanes<A>, 16);
}
template <class A>
int64_t planes_sums(const PlanesPlan& p) {
  return round_up(p.n[1] * p.n[2] * p.band * p.sum_pitch + lanes<A>, 16);
}

// Where each tap of a row lies in a staged row, and the taps that a vector of targets meets on the map.
struct RowTaps {
  const int64_t* shift;   // [grid 2]
  const int64_t* ranges;  // [vectors][2]
};

template <class A>
RowTaps row_taps(const PlanesPlan& p, const Gather& g, int64_t* to) {
  int64_t* ranges = to + g.grid[2];
  for (int64_t k = 0; k < g.grid[2]; ++k) {
    const int64_t at = tap_offset(g, 2, k) - p.low[2];
    to[k] = at % p.phases * p.pitch + at / p.phases;
  }
  for (int64_t v = 0; v < p.vectors; ++v) {
    const int64_t from = v * lanes<A> * p.phases - p.low[2], last = from + (lanes<A> - 1) * p.phases;
    int64_t low = 0, high = g.grid[2];
    while (low < high && last + tap_offset(g, 2, low) < p.data_begin) ++low;
    while (high > low && from + tap_offset(g, 2, high - 1) >= p.data_end) --high;
    ranges[2 * v] = low, ranges[2 * v + 1] = high;
  }
  return {to, ranges};
}

// ---- staging ----

// Rows [begin, begin + rows) of a source map, or of one beside the source (null), as `to`. What lies `ahead` of each is
// asked for: it is staged next.
template <class T, class A>
void stage(const PlanesPlan& p, const T* map, const Whole<T>& whole, int64_t begin, int64_t rows, int64_t ahead,
           A* to) {
  const PaddedRow<A> padded(p.data_begin, p.data_end - p.data_begin);
  const int64_t row = p.row, phases = p.phases, pitch = p.pitch, ld = p.g->source.s[1];
  const int64_t low = map ? at_most(rows, at_least(0, -begin)) : rows;
  const int64_t high = at_least(low, at_most(rows, p.g->extent[1] - begin));
  zero(to, low * row), zero(to + high * row, (rows - high) * row);
  if (low >= high) return;
  const T* from = map + (begin + low) * ld + at_least(0, p.low[2]);
  const int64_t vectors = phases == 1 ? pitch / lanes<A> : 0;
  to += low * row;
  if (vectors > 0 && vectors <= 4 && from - whole.begin >= padded.at &&
      whole.end - (from + (high - low - 1) * ld) >= pitch - padded.at) {
    const auto run = vectors == 1   ? stage_short_rows<1, T, A>
                     : vectors == 2 ? stage_short_rows<2, T, A>
                     : vectors == 3 ? stage_short_rows<3, T, A>
                                    : stage_short_rows<4, T, A>;
    return run(padded, from, ld, high - low, ahead, to);
  }
  for (int64_t i = low; i < high; ++i, from += ld, to += row) {
    fetch<0>(from + ahead, padded.n);
    stage_row(padded, from, whole, phases, pitch, to);
  }
}

// A contiguous tensor [batch, channels, extent].
template <class T>
Whole<T> whole_of(const T* tensor, int64_t batch, int64_t channels, const int64_t (&extent)[3]) {
  return {tensor, tensor + batch * channels * extent[0] * extent[1] * extent[2]};
}

// ---- sums ----

// to[o] (+)= Σ over taps k2 of w and k < TAPS: w[k2][k] · from[o · STRIDE + k][shift k2 + lane], for every vector of
// the rows; source rows are `unit` apart.
template <class A, int STRIDE, int TAPS, int ROWS>
void add_strip(const A* from, int64_t unit, const RowTaps& taps, int64_t vectors, const A* w, int64_t ldw, A* to,
               int64_t ld_to, bool add) {
  for (int64_t v = 0; v < vectors; ++v, from += lanes<A>, to += lanes<A>) {
    vector_t<A> sum[ROWS];
#pragma GCC unroll 8
    for (int o = 0; o < ROWS; ++o) sum[o] = add ? load(to + o * ld_to) : vector_t<A>{};
    for (int64_t k2 = taps.ranges[2 * v]; k2 < taps.ranges[2 * v + 1]; ++k2) {
      const A *at = from + taps.shift[k2], *filter = w + k2 * ldw;
#pragma GCC unroll 32
      for (int i = 0; i < STRIDE * (ROWS - 1) + TAPS; ++i) {
        const vector_t<A> x = load(at);
        at += unit;
        asm("" : "+r"(at));  // or each row's address takes a register of its own
#pragma GCC unroll 8
        for (int o = 0; o < ROWS; ++o)
          if (i - STRIDE * o >= 0 && i - STRIDE * o < TAPS) sum[o] += filter[i - STRIDE * o] * x;
      }
    }
#pragma GCC unroll 8
    for (int o = 0; o < ROWS; ++o) store(to + o * ld_to, sum[o]);
  }
}

// TAPS taps of axis 1 for target rows [0, rows) of a band; staged row `first` is what target row 0 meets at the first.
// Rows that see only zeros are left out if there is a sum to add to. [map_begin, map_end): staged rows on the map.
template <class A, int STRIDE, int TAPS>
void add_taps(const PlanesPlan& p, const RowTaps& taps, const A* staged, int64_t first, int64_t map_begin,
              int64_t map_end, const A* w, int64_t ldw, A* to, int64_t rows, bool add) {
  const int64_t unit = p.unit * (STRIDE == p.stride ? 1 : p.stride) * p.row, ld = p.turn * p.sum_pitch;
  for (int64_t r = 0; r < at_most(p.turn, rows); ++r)
    for (int64_t o = r, strip, left = (rows - r + p.turn - 1) / p.turn; left > 0; o += strip * p.turn, left -= strip) {
      strip = tuned<A> && left % 7 == 0 ? 7 : left >= 8 ? 8 : left >= 4 && tuned<A> ? 4 : left >= 2 && tuned<A> ? 2 : 1;
      const int64_t at = first + o * p.g->step[1], last = at + ((strip - 1) * p.stride + TAPS - 1) * p.unit;
      if (add && (last < map_begin || at >= map_end)) continue;
      auto run = strip == 8 ? add_strip<A, STRIDE, TAPS, 8> : add_strip<A, STRIDE, TAPS, 1>;
      if constexpr (tuned<A>)
        run = strip == 7   ? add_strip<A, STRIDE, TAPS, 7>
              : strip == 4 ? add_strip<A, STRIDE, TAPS, 4>
              : strip == 2 ? add_strip<A, STRIDE, TAPS, 2>
                           : run;
      run(staged + at * p.row, unit, taps, p.vectors, w, ldw, to + o * p.sum_pitch, ld, add);
    }
}

// How many of the taps left on axis 1 are taken at once.
template <class A>
int64_t chunk_of(const PlanesPlan& p, int64_t left) {
  if (p.stride > 2) return 1;
  if (!tuned<A>) return left >= 3 ? 3 : 1;
  return left >= 7 ? 7 : left >= 5 ? 5 : left >= 3 ? 3 : left;
}

template <class A, int STRIDE>
void add_chunk(int64_t taps, const PlanesPlan& p, const RowTaps& row, const A* staged, int64_t first, int64_t map_begin,
               int64_t map_end, const A* w, int64_t ldw, A* to, int64_t rows, bool add) {
  auto run = taps == 3 ? add_taps<A, STRIDE, 3> : add_taps<A, 1, 1>;
  if constexpr (tuned<A>)
    run = taps == 7   ? add_taps<A, STRIDE, 7>
          : taps == 5 ? add_taps<A, STRIDE, 5>
          : taps == 2 ? add_taps<A, STRIDE, 2>
                      : run;
  run(p, row, staged, first, map_begin, map_end, w, ldw, to, rows, add);
}

// ---- storing ----

template <class A>
struct Finish {  // target = max(floor, sum + bias)
  A bias, floor;
  vector_t<A> operator()(vector_t<A> sum) const {
    const vector_t<A> y = sum + bias, least = vector_t<A>{} + floor;
    return y < least ? least : y;
  }
  A operator()(A sum) const { return raised(sum + bias, floor); }
};

// The first n elements of a vector.
template <class T, class A>
inline __attribute__((always_inline)) void store_some(T* to, vector_t<A> v, int64_t n) {
  T all[lanes<A>];
  store_narrowed(all, v);
  int64_t done = 0;
#pragma GCC unroll 4
  for (int piece = lanes<A> / 2; piece > 0; piece /= 2)
    if (n & piece) std::memcpy(to + done, all + done, piece * sizeof(T)), done += piece;
}

// Elements [j, n) of a row from one vector of sums; up to the vector's end where that is before `end`: the rows after
// this one come later.
template <class T, class A>
inline __attribute__((always_inline)) void store_vector(T* to, vector_t<A> v, int64_t j, int64_t n, const T* end) {
  if (end - (to + j) >= lanes<A>)
    store_narrowed(to + j, v);
  else if (j < n)
    store_some<T, A>(to + j, v, at_most(n - j, lanes<A>));
}

// A row of the target from the sums of its residues, `apart` from each other.
template <class T, class A>
inline __attribute__((always_inline)) void store_row(const Finish<A>& finish, const A* sums, int64_t residues,
                                                     int64_t apart, int64_t n, const T* end, T* to) {
  constexpr int width = lanes<A>;
  if (residues == 1) {
    for (int64_t j = 0; j < n; j += width) store_vector<T, A>(to, finish(load(sums + j)), j, n, end);
  } else if (residues == 2) {
    for (int64_t j = 0; j < n; j += 2 * width) {
      const vector_t<A> a = finish(load(sums + j / 2)), b = finish(load(sums + apart + j / 2));
      store_vector<T, A>(to, lower_pairs(a, b, first_lanes<width>()), j, n, end);
      store_vector<T, A>(to, upper_pairs(a, b, first_lanes<width>()), j + width, n, end);
    }
  } else {
    for (int64_t j = 0; j < n; ++j) narrow(finish(sums[j % residues * apart + j / residues]), to + j);
  }
}

// Rows of VECTORS vectors, `ld` apart, one residue; a row may be written past its end.
template <int VECTORS, class T, class A>
void store_short_rows(const Finish<A>& finish, const A* sums, int64_t ld, int64_t rows, int64_t ahead, T* to) {
  const vector_t<A> bias = vector_t<A>{} + finish.bias, least = vector_t<A>{} + finish.floor;
  for (int64_t r = 0; r < rows; ++r, sums += VECTORS * lanes<A>, to += ld) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      __builtin_prefetch(to + ahead + v * lanes<A>, 1, 2);
      const vector_t<A> y = load(sums + v * lanes<A>) + bias;
      store_narrowed(to + v * lanes<A>, y < least ? least : y);
    }
  }
}

// Rows [t, t + rows) of every residue of axis 1; `to` is the first of them.
template <class T, class A>
void store_rows(const PlanesPlan& p, const Gather* g, const Finish<A>& finish, const A* sums, int64_t t, int64_t rows,
                const T* end, T* to) {
  const int64_t residues = p.n[2], tall = p.n[1], pitch = p.sum_pitch, apart = p.band * pitch, n = p.size[2];
  const int64_t ld = g->target.s[1], ahead = at_least(fetch_distance, p.band * tall * ld);
  int64_t row = 0;
  if (residues == 1 && tall == 1 && p.vectors <= 4) {
    const auto run = p.vectors == 1   ? store_short_rows<1, T, A>
                     : p.vectors == 2 ? store_short_rows<2, T, A>
                     : p.vectors == 3 ? store_short_rows<3, T, A>
                                      : store_short_rows<4, T, A>;
    const int64_t room = end - to - pitch;
    row = room < 0 ? 0 : at_most(rows, room / ld + 1);
    run(finish, sums, ld, row, ahead, to);
    sums += row * pitch, to += row * ld;
  }
  for (; row < rows; ++row, sums += pitch)
    for (int64_t r = 0; r < tall && (r == 0 || row + t < g[r * residues].count[1]); ++r, to += ld) {
      fetch<1>(to + ahead, n);
      store_row(finish, sums + r * residues * apart, residues, apart, n, end, to);
    }
}

// ---- one map ----

// Adds slice `slice` (of source channel and tap of axis 0), whose map is staged, into the sums of the residues along
// axes 1 and 2. w: [residue][slice][grid 2][grid 1].
template <class A>
void add_map(const PlanesPlan& p, const Gather* g, const RowTaps* taps, const A* staged, int64_t t_begin, int64_t rows,
             const A* w, int64_t slice, A* sums) {
  const int64_t map = t_begin * g->step[1] + p.low[1];  // the map's row of staged row 0
  for (int64_t r = 0; r < p.n[1] * p.n[2]; w += g[r].tap_count * g[r].c, ++r, sums += p.band * p.sum_pitch) {
    const Gather& gather = g[r];
    if (gather.tap_count == 0) continue;
    const A* at = w + slice * gather.grid[1] * gather.grid[2];
    const int64_t here = at_most(rows, gather.count[1] - t_begin), ldw = gather.grid[1];
    for (int64_t k = 0, chunk; k < ldw; k += chunk) {
      chunk = chunk_of<A>(p, ldw - k);
      const auto run = p.stride == 2 ? add_chunk<A, 2> : add_chunk<A, 1>;
      run(chunk, p, taps[r], staged, tap_offset(gather, 1, k) - p.low[1], -map, gather.extent[1] - map, at + k, ldw,
          sums, here, slice > 0 || k > 0);
    }
  }
}

// Target row i0 of axis 0, rows [t_begin, t_begin + rows) of every residue.
template <class T, class A>
void sum_band(const PlanesPlan& p, const Gather* g, const RowTaps* taps, int64_t t0, int64_t t_begin, int64_t rows,
              const T* source, const Whole<T>& whole, const A* w, A* staged, A* sums) {
  const int64_t residues = p.n[1] * p.n[2];
  int64_t slices = 0;  // taps along axis 0
  for (int64_t r = 0; r < residues; ++r) {
    if (g[r].tap_count > 0)
      slices = g[r].grid[0];
    else
      zero(sums + r * p.band * p.sum_pitch, p.band * p.sum_pitch);
  }
  const Gather* any = g;
  while (slices > 0 && any->tap_count == 0) ++any;
  for (int64_t c = 0; c < g->c; ++c)
    for (int64_t k0 = 0; k0 < slices; ++k0) {
      const int64_t i0 = t0 * g->step[0] + tap_offset(*any, 0, k0);
      const bool on_map = i0 >= 0 && i0 < g->extent[0];
      const int64_t slice = c * slices + k0;
      if (!on_map && slice > 0) continue;
      const T* map = on_map ? source + c * g->source.c + i0 * g->source.s[0] : nullptr;
      const int64_t first = t_begin * g->step[1] + p.low[1];
      stage(p, map, whole, first, (rows - 1) * g->step[1] + p.high1 - p.low[1] + 1,
            p.band * g->step[1] * g->source.s[1], staged);
      add_map(p, g, taps, staged, t_begin, rows, w, slice, sums);
    }
}

// Target maps [begin, end) of (sample, channel). packed: [channel][residue][source channel][grid 0][grid 2][grid 1].
template <class T>
void depthwise_planes(const Gather* gathers, int64_t count, int64_t begin, int64_t end, const T* source,
                      const accumulator_t<T>* packed, const T* bias, T* target, accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const PlanesPlan p = planes_plan<A>(gathers, count);
  A *staged = scratch, *sums = staged + planes_staged<A>(p);
  RowTaps* taps = reinterpret_cast<RowTaps*>(sums + planes_sums<A>(p));
  const int64_t rows_residues = p.n[1] * p.n[2], channels = gathers->groups * gathers->m;
  const Whole<T> whole = whole_of(source, gathers->batch, gathers->groups * gathers->c, gathers->extent);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / channels, channel = i % channels;
    const A* w = packed + channel * p.taps;
    const T* from = source + n * gathers->source.n + channel / gathers->m * gathers->c * gathers->source.c;
    T* volume = target + n * gathers->target.n + channel * gathers->target.c;
    const T* volume_end = volume + p.size[0] * p.size[1] * p.size[2];
    const Finish<A> finish{bias ? widen(bias[channel]) : -A(0), floor_of<A>(gathers->relu)};
    for (int64_t i0 = 0; i0 < p.size[0]; ++i0) {
      const int64_t r0 = i0 % p.n[0], t0 = i0 / p.n[0];
      const Gather* g = gathers + r0 * rows_residues;
      const A* w0 = w;
      for (const Gather* r = gathers; r < g; ++r) w0 += r->tap_count * r->c;
      if (i == begin || p.n[0] > 1) {
        int64_t* to = reinterpret_cast<int64_t*>(taps + rows_residues);
        for (int64_t r = 0; r < rows_residues; to += g[r].grid[2] + 2 * p.vectors, ++r)
          taps[r] = g[r].tap_count > 0 ? row_taps<A>(p, g[r], to) : RowTaps{};
      }
      for (int64_t t = 0; t < g->count[1]; t += p.band) {
        const int64_t rows = at_most(p.band, g->count[1] - t);
        sum_band(p, g, taps, t0, t, rows, from, whole, w0, staged, sums);
        T* to = volume + i0 * gathers->target.s[0] + t * p.n[1] * gathers->target.s[1];
        store_rows<T, A>(p, g, finish, sums, t, rows, volume_end, to);
      }
    }
  }
}

template <class T>
int64_t depthwise_planes_scratch(const Gather* gathers, int64_t count) {
  using A = accumulator_t<T>;
  const PlanesPlan p = planes_plan<A>(gathers, count);
  return planes_staged<A>(p) + planes_sums<A>(p) + planes_tables<A>(p);
}
