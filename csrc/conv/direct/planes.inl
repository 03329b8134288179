// gather with positions along the vectors: weights broadcast against unaligned loads from source planes. For few target
// channels, which would leave vectors of channels empty, and for 1×1 on contiguous maps, which needs no copy at all.
//
// The source of a box is copied to planes [channel][phase][n][i0][i1][i2], zeros where it leaves the map: the elements
// a step apart, of one phase, lie side by side, so that neighbouring positions read neighbouring elements, whatever the
// tap, and a tap is one offset: its phase is offset mod step, its place there offset / step. Unless rows, or maps seen
// through one tap, fill vectors and go straight to a contiguous target, the results are planes of the same pitch, of
// which the valid positions are then copied to the target. Every output is the same chain of operations wherever it
// stands: all taps, or all whose row lies in the map, in blocks of depth_block products, each summed in order, then
// added in order.
#pragma once
#include "conv/direct/direct.inl"
#include "conv/direct/planes_tile.inl"
#include "conv/gemm/gemm.inl"
#include "conv/patch.inl"
#include "cpu/numeric.inl"
#include "cpu/tile.inl"

// Rounded down, so that what is left is the phase.
inline int64_t steps_to(int64_t offset, int64_t step) { return (offset - (offset % step + step) % step) / step; }

// How one box is laid out. A segment is what positions of one (n, t0) span: its rows are pitch apart.
struct PlanesBox {
  int64_t samples, size[3];  // of the box
  int64_t begin[3], end[3];  // of its source, in steps, padding included
  int64_t phases;            // step[0] · step[1] · step[2]
  int64_t pitch, plane;      // source elements from row to row and from channel to channel
  int64_t segment;           // results of a segment, whole vectors
  bool in_place;             // the source's own planes serve
  bool flat;                 // one tap, no padding: rows follow one another in target and source; vectors cross them
  bool straight;             // vectors go to the target
  bool by_rows;              // vectors lie in one row, and meet only the taps whose row lies in the map

  int64_t lines() const { return samples * size[0] * size[1]; }
};

// The taps [begin, end) along the middle axis that look into the map from target row t.
struct LiveTaps {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
  bool operator==(const LiveTaps&) const = default;
};
inline LiveTaps live_taps(const Gather& g, int64_t t) {
  LiveTaps live{0, g.grid[1]};
  const auto at = [&](int64_t j) { return t * g.step[1] + tap_offset(g, 1, j); };
  while (live.begin < live.end && at(live.begin) < 0) ++live.begin;
  while (live.begin < live.end && at(live.end - 1) >= g.extent[1]) --live.end;
  return live;
}

// Whether whole vectors along a line, the last one overlapping the one before, do little twice.
template <class A>
bool fills_vectors(int64_t line) {
  return line >= lanes<A> && 16 * round_up(line, lanes<A>) <= 17 * line;
}

template <class T>
PlanesBox planes_box(const Gather* g, int64_t residues, bool channels_last, const Box& box) {
  using A = accumulator_t<T>;
  PlanesBox b{};
  bool pads = false;
  b.samples = box.n_end - box.n_begin;
  for (int a = 0; a < 3; ++a) {
    b.size[a] = box.end[a] - box.begin[a];
    b.begin[a] = b.end[a] = box.begin[a];
    for (int64_t r = 0, first = 1; r < residues; ++r) {
      if (g[r].tap_count == 0) continue;
      const int64_t low = box.begin[a] + steps_to(tap_offset(g[r], a, 0), g->step[a]);
      const int64_t high = box.end[a] + steps_to(tap_offset(g[r], a, g[r].grid[a] - 1), g->step[a]);
      b.begin[a] = first ? low : at_most(b.begin[a], low), b.end[a] = first ? high : at_least(b.end[a], high);
      first = 0;
    }
    pads = pads || b.begin[a] < 0 || b.end[a] > g->extent[a];
  }
  const bool plain =
      !channels_last && !narrow_type<T> && residues == 1 && g->spacing[0] * g->spacing[1] * g->spacing[2] == 1;
  b.phases = g->step[0] * g->step[1] * g->step[2];
  b.flat = plain && !pads && b.phases == 1 && g->tap_count == 1 && b.size[0] == 1 && b.size[2] == g->count[2] &&
           fills_vectors<A>(b.size[1] * b.size[2]);
  b.in_place = b.flat && b.size[2] == g->extent[2] && dense_rows(*g);
  b.straight = b.flat || (plain && b.size[2] >= lanes<A>);
  b.pitch = b.end[2] - b.begin[2];
  b.plane = b.samples * volume(b.begin, b.end) + lanes<A>;  // a row may be written past its end
  b.segment = round_up((b.size[1] - 1) * b.pitch + b.size[2], lanes<A>);
  // A plane's rows are padded: by rows, the zeros above and below the map need not be multiplied.
  if (residues == 1 && g->tap_count > 0 && g->grid[0] == 1 && b.size[0] == 1 && !b.flat) {
    int64_t live = 0;
    for (int64_t t = 0; t < b.size[1]; ++t) live += live_taps(*g, box.begin[1] + t).count();
    const int64_t row = round_up(b.size[2], lanes<A>), whole = b.straight ? b.size[1] * row : b.segment;
    b.by_rows = live * row < whole * g->grid[1];
  }
  if (b.by_rows) b.segment += lanes<A>;  // the last row may be written past its end
  return b;
}

// Scratch: offsets | starts | source planes of some groups | results of theirs.
template <class A>
struct PlanesLayout {
  int64_t offsets, starts, source, results, end;  // in bytes
  PlanesLayout(const Gather* g, int64_t residues, int64_t groups, const PlanesBox& b) {
    int64_t depth = 0;
    for (int64_t r = 0; r < residues; ++r) depth = at_least(depth, g[r].depth());
    const auto next = [](int64_t at, int64_t bytes) { return round_up(at + bytes, 64); };
    const int64_t segments = b.samples * b.size[0], most = b.lines() * ((b.size[2] + lanes<A> - 1) / lanes<A>);
    offsets = 0;
    starts = next(offsets, depth * sizeof(int64_t));
    source = next(starts, at_least(most, segments * (b.segment / lanes<A> + 1)) * sizeof(Start));
    results = next(source, b.in_place ? 0 : (groups * g->c * b.phases * b.plane + lanes<A>)*sizeof(A));
    end = next(results, b.straight ? 0 : (groups * g->m * segments * b.segment + lanes<A>)*sizeof(A));
  }
};

template <class T>
int64_t planes_scratch(const Gather* g, int64_t residues, bool channels_last, int64_t groups, const Box& box) {
  using A = accumulator_t<T>;
  return PlanesLayout<A>(g, residues, groups, planes_box<T>(g, residues, channels_last, box)).end / sizeof(A);
}

// Zeros at to[0 .. length), and up to a vector more.
template <class A>
inline void zero_loosely(A* to, int64_t length) {
  for (int64_t l = 0; l < length; l += lanes<A>) store(to + l, vector_t<A>{});
}

// One row of a source box: the part [low, high) lies inside the map.
template <class T, class A>
void copy_plane_row(const T* from, int64_t step, const PlanesBox& b, int64_t low, int64_t high, A* to) {
  zero_loosely(to, low - b.begin[2]);
  if (step == 1)
    copy_row(from, high - low, to + low - b.begin[2]);
  else if (step == 2)
    for (int64_t l = 0; l < high - low; ++l) to[low - b.begin[2] + l] = widen(from[2 * l]);
  else
    copy_strided(from, step, high - low, to + low - b.begin[2]);
  zero_loosely(to + high - b.begin[2], b.end[2] - high);
}

// The planes of one phase: out[channel][n][i0][i1][i2], `ld` from a channel to the next. Rows are written in order, so
// that one may be written a vector past its end.
template <class T, class A>
void copy_phase(const Gather& g, bool channels_last, int64_t channels, const Box& box, const PlanesBox& b,
                const int64_t (&phase)[3], const T* source, A* out, int64_t ld) {
  const int64_t step = g.step[2] * g.source.s[2], inside_end = (g.extent[2] - phase[2] + g.step[2] - 1) / g.step[2];
  const int64_t low = at_least(b.begin[2], 0), high = at_least(low, at_most(b.end[2], inside_end));
  for (int64_t n = box.n_begin; n < box.n_end; ++n)
    for (int64_t i0 = b.begin[0]; i0 < b.end[0]; ++i0)
      for (int64_t i1 = b.begin[1]; i1 < b.end[1]; ++i1, out += b.pitch) {
        const int64_t i[3] = {i0 * g.step[0] + phase[0], i1 * g.step[1] + phase[1], low * g.step[2] + phase[2]};
        const bool inside = i[0] >= 0 && i[0] < g.extent[0] && i[1] >= 0 && i[1] < g.extent[1] && high > low;
        const T* from = source + offset_of(g.source, n, i);
        if (inside && !channels_last) {
          copy_plane_row(from, step, b, low, high, out);
          continue;
        }
        const int64_t left = inside ? low - b.begin[2] : b.pitch, right = inside ? high - b.begin[2] : b.pitch;
        for (int64_t j = 0; j < channels; ++j) zero_loosely(out + j * ld, left);
        if (inside) transpose<true, true>(from, step, high - low, channels, out + left, ld);
        for (int64_t j = 0; j < channels; ++j) zero_loosely(out + j * ld + right, b.pitch - right);
      }
}

// out[channel][phase][n][i0][i1][i2]; source points at the first channel. Contiguous maps are read one after another.
template <class T, class A>
void copy_planes(const Gather& g, bool channels_last, int64_t channels, const Box& box, const PlanesBox& b,
                 const T* source, A* out) {
  const int64_t together = channels_last ? channels : 1, ld = b.phases * b.plane;
  for (int64_t c = 0; c < channels; c += together)
    for (int64_t phase = 0; phase < b.phases; ++phase)
      copy_phase(g, channels_last, together, box, b,
                 {phase / g.step[2] / g.step[1], phase / g.step[2] % g.step[1], phase % g.step[2]},
                 source + c * g.source.c, out + c * ld + phase * b.plane, ld);
  for (int64_t p = 1; p <= channels * b.phases; ++p) zero_loosely(out + p * b.plane - lanes<A>, lanes<A>);
}

// Where the vectors of positions begin; returns how many.
template <class A>
int64_t find_starts(const Gather& g, const Box& box, const PlanesBox& b, Start* out) {
  constexpr int n_lanes = lanes<A>;
  int64_t count = 0;
  const int64_t line = b.flat ? b.size[1] * b.size[2] : b.size[2], lines = b.flat ? 1 : b.size[1];
  const int64_t height = b.end[1] - b.begin[1], depth = b.end[0] - b.begin[0];
  if (b.by_rows) {  // in order of rows, then of samples
    for (int64_t t1 = 0; t1 < lines; ++t1)
      for (int64_t n = 0; n < b.samples; ++n) {
        const int64_t t[3] = {box.begin[0], box.begin[1] + t1, box.begin[2]};
        const int64_t from = (n * height + t1) * b.pitch;
        const int64_t to = b.straight ? offset_of(g.target, box.n_begin + n, t) : n * b.segment + t1 * b.pitch;
        for (int64_t l = 0; l < line; l += n_lanes) {
          const int64_t at = at_least(0, at_most(l, line - n_lanes));
          out[count++] = {from + at, to + at};
        }
      }
    return count;
  }
  for (int64_t n = 0; n < b.samples; ++n)
    for (int64_t t0 = 0; t0 < b.size[0]; ++t0) {
      if (!b.straight) {
        for (int64_t l = 0; l < b.segment; l += n_lanes)
          out[count++] = {(n * depth + t0) * height * b.pitch + l, (n * b.size[0] + t0) * b.segment + l};
        continue;
      }
      for (int64_t t1 = 0; t1 < lines; ++t1) {
        const int64_t i[3] = {b.begin[0] + t0, b.begin[1] + t1, b.begin[2]};
        const int64_t t[3] = {box.begin[0] + t0, box.begin[1] + t1, box.begin[2]};
        const int64_t from =
            b.in_place ? offset_of(g.source, box.n_begin + n, i) : ((n * depth + t0) * height + t1) * b.pitch;
        const int64_t to = offset_of(g.target, box.n_begin + n, t);
        for (int64_t l = 0; l < line; l += n_lanes) {
          const int64_t at = at_most(l, line - n_lanes);  // the last one overlaps the one before
          out[count++] = {from + at, to + at};
        }
      }
    }
  return count;
}

inline void find_offsets(const Gather& g, const Box& box, const PlanesBox& b, int64_t* out) {
  const int64_t height = b.end[1] - b.begin[1];
  for (int64_t k = 0; k < g.tap_count; ++k) {
    int64_t i[3], phase = 0;
    for (int a = 0; a < 3; ++a) {
      const int64_t steps = steps_to(g.taps[k].offset[a], g.step[a]);
      phase = phase * g.step[a] + g.taps[k].offset[a] - steps * g.step[a];
      i[a] = box.begin[a] + steps - b.begin[a];
    }
    const int64_t at = b.in_place ? 0 : phase * b.plane + (i[0] * height + i[1]) * b.pitch + i[2];
    for (int64_t c = 0; c < g.c; ++c) *out++ = at + c * (b.in_place ? g.source.c : b.phases * b.plane);
  }
}

// Planes of results, [channel][segment][row of the pitch], to the target's positions of one residue.
template <class T, class A>
void store_planes(const Gather& g, bool channels_last, int64_t channels, const Box& box, const PlanesBox& b,
                  const A* results, T* target) {
  const int64_t ld = b.samples * b.size[0] * b.segment, step = g.spacing[2] * g.target.s[2];
  const int64_t length = at_most(box.end[2], g.count[2]) - box.begin[2], together = channels_last ? channels : 1;
  for (int64_t m = 0; m < channels && length > 0; m += together)
    for (int64_t n = 0; n < b.samples; ++n)
      for (int64_t t0 = 0; t0 < at_most(box.end[0], g.count[0]) - box.begin[0]; ++t0)
        for (int64_t t1 = 0; t1 < at_most(box.end[1], g.count[1]) - box.begin[1]; ++t1) {
          const A* from = results + m * ld + (n * b.size[0] + t0) * b.segment + t1 * b.pitch;
          int64_t o[3] = {box.begin[0] + t0, box.begin[1] + t1, box.begin[2]};
          for (int a = 0; a < 3; ++a) o[a] = g.base[a] + o[a] * g.spacing[a];
          T* to = target + m * g.target.c + offset_of(g.target, box.n_begin + n, o);
          if (channels_last)
            transpose<false, true>(from, ld, channels, length, to, step);
          else if (step == 1)
            copy_row(from, length, to);
          else
            for (int64_t l = 0; l < length; ++l) narrow(from[l], to + l * step);
        }
}

// One residue, one group: all channels over some vectors, products [begin, end) of each; some vectors at a time, so
// that their source stays near: in the first cache if it is of few channels, and targets are written in long runs.
template <class T, class A>
void planes_group(const Gather& g, const A* packed, const A* source, const int64_t* offsets, const Start* starts,
                  int64_t count, int64_t begin, int64_t end, const T* bias, A* target, int64_t ld) {
  const int64_t depth = g.depth(), near = at_least(24, 24 * 16 / at_least(1, g.c));
  A total[tile_rows * tile_columns<A>];
  for (int64_t first = 0; first < count; first += near)
    for (int64_t m = 0; m < g.m; m += tile_rows) {
      A panel_bias[tile_rows] = {};
      for (int64_t r = 0; bias && r < at_most(tile_rows, g.m - m); ++r) panel_bias[r] = widen(bias[m + r]);
      planes_rows<A>(at_most(tile_rows, g.m - m),
                     {end - begin, packed + m * depth + begin * tile_rows, source, offsets + begin, target + m * ld, ld,
                      panel_bias, floor_of<A>(g.relu), total},
                     starts + first, at_most(near, count - first));
    }
}

// Groups [group_begin, group_end); packed: each group's weight in every residue's packing (as for contiguous), in
// order.
template <class T>
void planes(const Gather* g, int64_t residues, bool channels_last, int64_t group_begin, int64_t group_end,
            const T* source, const accumulator_t<T>* packed, const T* bias, T* target, const Box& box,
            accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const int64_t groups = group_end - group_begin;
  const PlanesBox b = planes_box<T>(g, residues, channels_last, box);
  const PlanesLayout<A> at(g, residues, groups, b);
  char* memory = reinterpret_cast<char*>(scratch);
  int64_t* offsets = reinterpret_cast<int64_t*>(memory + at.offsets);
  Start* starts = reinterpret_cast<Start*>(memory + at.starts);
  A* copy = reinterpret_cast<A*>(memory + at.source);
  A* results = reinterpret_cast<A*>(memory + at.results);
  source += group_begin * g->c * g->source.c;
  target += group_begin * g->m * g->target.c;
  if (!b.in_place) copy_planes(*g, channels_last, groups * g->c, box, b, source, copy);

  const A* from = b.in_place ? reinterpret_cast<const A*>(source) : copy;
  A* to = b.straight ? reinterpret_cast<A*>(target) : results;
  const int64_t channel = b.in_place ? g->source.c : b.phases * b.plane;
  const int64_t ld = b.straight ? g->target.c : b.samples * b.size[0] * b.segment;
  const int64_t count = find_starts<A>(*g, box, b, starts), panels = (g->m + tile_rows - 1) / tile_rows;
  int64_t size = 0;  // of a group's packed weight
  for (int64_t r = 0; r < residues; ++r) size += panels * tile_rows * g[r].depth();
  for (int64_t r = 0; r < residues; packed += panels * tile_rows * g[r].depth(), ++r) {
    find_offsets(g[r], box, b, offsets);
    const int64_t lines = b.by_rows ? b.size[1] : 1, vectors = count / lines;
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t line = 0, next; line < lines; line = next) {
        const LiveTaps live = b.by_rows ? live_taps(g[r], box.begin[1] + line) : LiveTaps{0, g[r].tap_count};
        const int64_t products = g->c * (b.by_rows ? g[r].grid[2] : 1);  // of one of the taps that `live` counts
        for (next = line + 1; next < lines && live_taps(g[r], box.begin[1] + next) == live; ++next) continue;
        planes_group(g[r], packed + group * size, from + group * g->c * channel, offsets, starts + line * vectors,
                     (next - line) * vectors, live.begin * products, live.end * products,
                     bias ? bias + (group_begin + group) * g->m : nullptr, to + group * g->m * ld, ld);
      }
    if (!b.straight) store_planes(g[r], channels_last, groups * g->m, box, b, results, target);
  }
}

// ---- which of the two ----

// The share of an axis's taps that lie inside the map.
inline double live_share(const Gather& g, int axis) {
  int64_t live = 0;
  for (int64_t t = 0; t < g.count[axis]; ++t)
    for (int64_t j = 0; j < g.grid[axis]; ++j) {
      const int64_t i = t * g.step[axis] + tap_offset(g, axis, j);
      live += i >= 0 && i < g.extent[axis];
    }
  return static_cast<double>(live) / static_cast<double>(at_least(1, g.count[axis] * g.grid[axis]));
}

// Estimated cycles a position of direct and of planes: a multiply-add of a vector takes one; an element copied, or
// transposed in squares, or one by one, takes what was measured.
template <class T>
bool prefers_planes(const Gather* g, int64_t residues, bool channels_last) {
  using A = accumulator_t<T>;
  constexpr double copied = 0.15, squared = 0.4, put = 0.7, scalar = 1.2, tile = 8, plane_tile = 5, row = 15;
  const auto transposed = [](int64_t channels) { return channels * (channels < lanes<A> ? scalar : squared); };
  double depth = 0, live = 0;
  int64_t reach = 0;
  for (int64_t r = 0; r < residues; ++r) {
    if (g[r].tap_count == 0) continue;
    depth += static_cast<double>(g[r].depth()) / residues;
    live += g[r].depth() * live_share(g[r], 0) * live_share(g[r], 1) * live_share(g[r], 2) / residues;
    reach = at_least(reach, (g[r].grid[2] - 1 + g[r].step[2] - 1) / g[r].step[2]);
  }
  const int64_t width = g->count[2], lines = at_most(g->count[1], at_least(1, 1024 / width));
  const double phases = g->step[0] * g->step[1] * g->step[2];
  const bool plain = !channels_last && !narrow_type<T> && residues == 1;
  const bool flat = plain && phases == 1 && g->tap_count == 1 && live == depth && fills_vectors<A>(width * lines);
  const bool in_place = flat && dense_rows(*g), straight = flat || (plain && width >= lanes<A>);
  double span = flat       ? width * lines
                : straight ? lines * round_up(width, lanes<A>)
                           : round_up((lines - 1) * (width + reach) + width, lanes<A>);
  if (residues == 1 && g->grid[0] == 1 && !flat) {  // by rows
    const double row_span = lines * round_up(width, lanes<A>) * live_share(*g, 1);
    span = row_span < span ? row_span : span;
  }
  const double rows = at_most(g->m, tile_rows), groups_channels = g->groups > 1 ? lanes<A> : 0;
  const double vectors = g->m <= half_lanes<A> ? 0.55 : (g->m + lanes<A> - 1) / lanes<A>;
  double direct = live * vectors + tile;
  if (!channels_last) direct += transposed(g->c) * phases / residues + put * g->m;
  double planes = (depth + plane_tile) * g->m / lanes<A> * span / (lines * width) * (rows < 2 ? 2 : 1);
  if (!channels_last && g->source.s[2] != 1) direct += 4 * scalar * g->c, planes += copied * g->c;
  const double empty = round_up(width, lanes<A>) / static_cast<double>(width);  // squares are cut at the end of a row
  const double gaps = g->step[2] == 1 ? copied : g->step[2] == 2 ? 2 * copied : scalar;
  if (!in_place)
    planes +=
        (channels_last ? transposed(at_least(g->c, groups_channels)) / at_least(g->c, groups_channels) * g->c * empty
                       : (gaps + row / width) * g->c) *
        phases / residues;
  if (!straight)
    planes += channels_last
                  ? transposed(at_least(g->m, groups_channels)) / at_least(g->m, groups_channels) * g->m * empty
                  : ((g->spacing[2] == 1 ? 2 * copied : scalar) + row / width) * g->m;
  return planes * 1.05 < direct;
}
