// gather without patches: a tile of positions broadcasts from its source pixels against vectors of target channels.
//
//   target[n, m, t] = bias[m] + Σ over the taps k that t sees, Σ_c weight[m, c, k] · source[n, c, t·step + offset_k]
//
// The positions of a box are put together by the taps they see inside the map, so that padding is never multiplied and
// a tile has one list of taps. Neighbouring taps of a row whose pixels are adjacent in memory run as one. A source that
// is not channels-last, or not of accumulators, is first copied so for the box; a contiguous result is put down as
// pixels, a panel at a time, and transposed to its place.
//
// Every output is the same chain of operations whatever box or tile it is in: blocks of at most depth_block products of
// the taps it sees, each summed in order, then added in order. So neither batch nor threads can change a bit.
#pragma once
#include "conv/direct/direct_taps.inl"
#include "conv/direct/direct_tile.inl"
#include "conv/gemm/gemm.inl"
#include "conv/patch.inl"
#include "cpu/numeric.inl"
#include "cpu/tile.inl"
#include "cpu/transpose.inl"

// ---- who sees what ----

inline int64_t box_positions(const Gather* g, int64_t residues, const Box& box) {
  int64_t total = 0;
  for (int64_t r = 0; r < residues; ++r) {
    int64_t positions = box.n_end - box.n_begin;
    for (int a = 0; a < 3; ++a) positions *= at_least(0, at_most(box.end[a], g[r].count[a]) - box.begin[a]);
    total += positions;
  }
  return total;
}

inline int64_t find_spans(const Gather& g, const Box& box, int axis, Span* out) {
  int64_t count = 0;
  for (int64_t t = box.begin[axis]; t < at_most(box.end[axis], g.count[axis]); ++t) {
    int64_t first = 0, last = g.tap_count > 0 ? g.grid[axis] : 0;
    while (first < last && t * g.step[axis] + tap_offset(g, axis, first) < 0) ++first;
    while (last > first && t * g.step[axis] + tap_offset(g, axis, last - 1) >= g.extent[axis]) --last;
    if (first == last) first = last = 0;
    if (count == 0 || out[count - 1].first != first || out[count - 1].last != last) out[count++] = {t, t, first, last};
    out[count - 1].end = t + 1;
  }
  return count;
}

// The runs of the taps [first, last) along each axis; returns how many.
inline int64_t find_runs(const Gather& g, const View& source, const Span (&seen)[3], TapRun* out) {
  int64_t count = 0, block = 0;
  for (int64_t j0 = seen[0].first; j0 < seen[0].last; ++j0)
    for (int64_t j1 = seen[1].first; j1 < seen[1].last; ++j1)
      for (int64_t j2 = seen[2].first; j2 < seen[2].last;) {
        const int64_t k = (j0 * g.grid[1] + j1) * g.grid[2] + j2;
        const Tap* tap = g.taps + k;
        int64_t offset = 0, taps = 1;
        for (int a = 0; a < 3; ++a) offset += tap->offset[a] * source.s[a];
        while (j2 + taps < seen[2].last && (taps + 1) * g.c <= depth_block &&
               (tap[taps].offset[2] - tap->offset[2]) * source.s[2] == taps * g.c)
          ++taps;
        for (int64_t c = 0; c < taps * g.c; c += depth_block) {
          const int64_t length = at_most(depth_block, taps * g.c - c);
          if (count > 0 && block + length > depth_block) {
            out[count - 1].ends_block = true;
            block = 0;
          }
          block += length;
          out[count++] = {offset + c, k * g.c + c, length, false};
        }
        j2 += taps;
      }
  if (count > 0) out[count - 1].ends_block = true;
  return count;
}

// ---- one box ----

// A part of a map.
struct Extent {
  int64_t begin[3], end[3];
};

// The map's rows that a box reads, along each axis.
inline void source_box(const Gather* g, int64_t residues, const Box& box, int64_t (&begin)[3], int64_t (&end)[3]) {
  for (int a = 0; a < 3; ++a) {
    begin[a] = g->extent[a], end[a] = 0;
    for (int64_t r = 0; r < residues; ++r) {
      const int64_t last = at_most(box.end[a], g[r].count[a]) - 1;
      if (g[r].tap_count == 0 || last < box.begin[a]) continue;
      begin[a] = at_most(begin[a], box.begin[a] * g[r].step[a] + tap_offset(g[r], a, 0));
      end[a] = at_least(end[a], last * g[r].step[a] + tap_offset(g[r], a, g[r].grid[a] - 1) + 1);
    }
    begin[a] = at_least(0, begin[a]), end[a] = at_least(begin[a], at_most(g->extent[a], end[a]));
  }
}

// Whether the rows of a contiguous source follow one another in memory.
inline bool dense_rows(const Gather& g) {
  return g.source.s[2] == 1 && (g.extent[1] == 1 || g.source.s[1] == g.extent[2]);
}

// body(from, length) for each line of the box that is whole in memory: of rows, or of maps' rows one after another.
template <class T, class Body>
void source_lines(const Gather& g, bool channels_last, const Box& box, const int64_t (&begin)[3],
                  const int64_t (&end)[3], const T* source, Body body) {
  const int64_t width = end[2] - begin[2], height = end[1] - begin[1];
  const bool whole_rows = width == g.extent[2] && !channels_last && dense_rows(g);
  const int64_t length = whole_rows ? height * width : width, lines = whole_rows ? at_most(1, height) : height;
  for (int64_t n = box.n_begin; n < box.n_end; ++n)
    for (int64_t i0 = begin[0]; i0 < end[0]; ++i0)
      for (int64_t i1 = begin[1]; i1 < begin[1] + lines; ++i1)
        body(source + n * g.source.n + i0 * g.source.s[0] + i1 * g.source.s[1] + begin[2] * g.source.s[2], length);
}

// out[group][n][i0][i1][i2][c] = source[n, c of the group, i] over the box; groups lie `size` apart.
template <class T, class A>
void copy_source(const Gather& g, bool channels_last, int64_t groups, const Box& box, const int64_t (&begin)[3],
                 const int64_t (&end)[3], const T* source, A* out, int64_t size) {
  for (; groups > 1 && !channels_last; --groups, source += g.c * g.source.c, out += size)
    copy_source(g, channels_last, 1, box, begin, end, source, out, size);
  source_lines(g, channels_last, box, begin, end, source, [&](const T* from, int64_t length) {
    if (!channels_last && g.source.s[2] == 1)
      transpose<false, false>(from, g.source.c, g.c, length, out, g.c);
    else if (!channels_last)
      for (int64_t c = 0; c < g.c; ++c)
        for (int64_t l = 0; l < length; ++l) out[l * g.c + c] = widen(from[c * g.source.c + l * g.source.s[2]]);
    else
      for (int64_t l = 0; l < length; ++l)
        for (int64_t i = 0; i < groups; ++i)
          copy_row(from + l * g.source.s[2] + i * g.c, g.c, out + i * size + l * g.c);
    out += length * g.c;
  });
}

// Results [n][position of the target's box][tile_panels · tile_columns] to a contiguous target; to points at the
// panel's first map.
template <class T, class A>
void store_box(const Gather& g, const Box& box, const int64_t (&begin)[3], const int64_t (&size)[3], const A* results,
               int64_t columns, T* target) {
  constexpr int64_t ld = tile_panels * tile_columns<A>;
  const bool whole_rows = size[2] * g.target.s[2] == g.target.s[1];
  const int64_t length = whole_rows ? size[1] * size[2] : size[2], lines = whole_rows ? at_most(1, size[1]) : size[1];
  for (int64_t n = box.n_begin; n < box.n_end; ++n)
    for (int64_t i0 = begin[0]; i0 < begin[0] + size[0]; ++i0)
      for (int64_t i1 = begin[1]; i1 < begin[1] + lines; ++i1, results += length * ld)
        transpose<true, false>(
            results, ld, length, columns,
            target + n * g.target.n + i0 * g.target.s[0] + i1 * g.target.s[1] + begin[2] * g.target.s[2], g.target.c);
}

inline int64_t volume(const int64_t (&begin)[3], const int64_t (&end)[3]) {
  return (end[0] - begin[0]) * (end[1] - begin[1]) * (end[2] - begin[2]);
}

// A pixel-by-pixel copy of the part [begin, end) of the maps.
inline View pixels_of(int64_t channels, const int64_t (&begin)[3], const int64_t (&end)[3]) {
  const int64_t row = (end[2] - begin[2]) * channels, slice = (end[1] - begin[1]) * row;
  return {(end[0] - begin[0]) * slice, 1, {slice, row, channels}};
}

inline int64_t offset_of(const View& v, int64_t n, const int64_t (&i)[3]) {
  return n * v.n + i[0] * v.s[0] + i[1] * v.s[1] + i[2] * v.s[2];
}

// The target's part of a box, of all residues together.
inline void target_box(const Gather* g, int64_t residues, const Box& box, int64_t (&begin)[3], int64_t (&end)[3]) {
  for (int a = 0; a < 3; ++a) {
    begin[a] = box.begin[a] * g->spacing[a], end[a] = 0;
    for (int64_t r = 0; r < residues; ++r)
      if (g[r].count[a] > box.begin[a])
        end[a] = at_least(end[a], g[r].base[a] + (at_most(box.end[a], g[r].count[a]) - 1) * g[r].spacing[a] + 1);
  }
}

// The box's positions, those alike together: offsets into the source as read and the target as written.
inline int64_t find_alike(const Gather* g, int64_t residues, const Box& box, const View& read, const View& write,
                          Span* spans, Alike* alike, Place* places) {
  int64_t count = 0, place = 0;
  for (int64_t r = 0; r < residues; ++r) {
    Span* axis[3];
    int64_t n_spans[3];
    for (int a = 0; a < 3; ++a) {
      axis[a] = a == 0 ? spans : axis[a - 1] + n_spans[a - 1];
      n_spans[a] = find_spans(g[r], box, a, axis[a]);
    }
    for (int64_t i0 = 0; i0 < n_spans[0]; ++i0)
      for (int64_t i1 = 0; i1 < n_spans[1]; ++i1)
        for (int64_t i2 = 0; i2 < n_spans[2]; ++i2) {
          const Span s0 = axis[0][i0], s1 = axis[1][i1], s2 = axis[2][i2];
          const int64_t first = place;
          for (int64_t n = box.n_begin; n < box.n_end; ++n)
            for (int64_t t0 = s0.begin; t0 < s0.end; ++t0)
              for (int64_t t1 = s1.begin; t1 < s1.end; ++t1) {
                int64_t i[3] = {t0, t1, s2.begin}, o[3] = {t0, t1, s2.begin};
                for (int a = 0; a < 3; ++a) i[a] *= g[r].step[a], o[a] = g[r].base[a] + o[a] * g[r].spacing[a];
                Place p{offset_of(read, n, i), offset_of(write, n, o)};
                const int64_t in = g[r].step[2] * read.s[2], out = g[r].spacing[2] * write.s[2];
                for (int64_t t2 = s2.begin; t2 < s2.end; ++t2, p.source += in, p.target += out) places[place++] = p;
              }
          if (place > first) alike[count++] = {r, first, place - first, {s0, s1, s2}};
        }
  }
  return count;
}

// Scratch: places | alike | spans | runs | copied source | results of a panel.
struct DirectScratch {
  int64_t places, alike, spans, runs, source, results, end;  // offsets in bytes
  int64_t group;                                             // elements from a group's copied source to the next
};

template <class A>
DirectScratch direct_layout(const Gather* g, int64_t residues, bool copies, bool pixels_out, int64_t groups,
                            const Box& box) {
  int64_t begin[3], end[3], spans = 0, runs = 0;
  const int64_t positions = box_positions(g, residues, box), samples = box.n_end - box.n_begin;
  for (int a = 0; a < 3; ++a) spans += box.end[a] - box.begin[a];
  for (int64_t r = 0; r < residues; ++r)
    runs = at_least(runs, g[r].tap_count * ((g->c + depth_block - 1) / depth_block));
  const auto next = [](int64_t at, int64_t bytes) { return round_up(at + bytes, 64); };
  DirectScratch s{};
  s.alike = next(s.places, positions * sizeof(Place));
  s.spans = next(s.alike, positions * sizeof(Alike));
  s.runs = next(s.spans, spans * sizeof(Span));
  s.source = next(s.runs, runs * sizeof(TapRun));
  source_box(g, residues, box, begin, end);
  s.group = copies ? round_up(samples * volume(begin, end) * g->c, lanes<A>) + lanes<A> : 0;
  s.results = next(s.source, groups * s.group * sizeof(A));
  target_box(g, residues, box, begin, end);
  s.end = next(s.results, pixels_out ? 0 : samples * volume(begin, end) * tile_panels * tile_columns<A> * sizeof(A));
  return s;
}

template <class T>
constexpr bool narrow_type = sizeof(T) < sizeof(accumulator_t<T>);

// Whether the tiles read a copy. Of a few channels among very many, pixels lie so far apart that they contend for the
// same lines of a cache; else a copy costs more than it saves.
template <class T>
bool copies_source(const Gather& g, bool channels_last) {
  return !channels_last || narrow_type<T> || (g.c <= 64 && g.groups * g.c > 512);
}

template <class T>
int64_t direct_scratch(const Gather* g, int64_t residues, bool channels_last, int64_t groups, const Box& box) {
  using A = accumulator_t<T>;
  return direct_layout<A>(g, residues, copies_source<T>(*g, channels_last), channels_last, groups, box).end / sizeof(A);
}

// All positions of the box for one panel's channels; `to` as the places' targets count; `fetch` the source ahead.
template <class T>
void direct_panel(const Gather* g, const View& read, const accumulator_t<T>* source, const Alike* alike, int64_t count,
                  const Place* places, TapRun* runs, const accumulator_t<T>* const packed, int64_t panel,
                  int64_t panels, const accumulator_t<T>* bias, int64_t columns, bool fetch, T* to) {
  using A = accumulator_t<T>;
  constexpr int half = half_lanes<A> > 0 ? half_lanes<A> : lanes<A>;
  const int64_t width = panel_width<T>(*g, Broadcast::source_narrow);
  [[maybe_unused]] const Alike* last = alike + count - 1;
  if constexpr (tuned<T>)
    if (count > 0 && last->residue == 0 && width == tile_columns<A> && by_taps(*g, last->first + last->count)) {
      const int64_t vectors = (at_most(columns, tile_panels * width) + lanes<A> - 1) / lanes<A>;
      return direct_panel_by_taps(*g, read, source, alike, count, places, packed + panel * g->depth() * width, bias,
                                  vectors, columns, to);
    }
  for (const Alike* a = alike; a < alike + count; ++a) {
    const Gather& residue = g[a->residue];
    int64_t blocks = 0;
    const TapRun* end = runs + find_runs(residue, read, a->seen, runs);
    for (const TapRun* run = runs; run < end; ++run) blocks += run->ends_block;
    const A* w = packed + panel * residue.depth() * width;
    for (int64_t r = 0; r < a->residue; ++r) w += panels * g[r].depth() * width;
    const int64_t vectors = direct_tile_vectors<A>((at_most(columns, tile_panels * width) + lanes<A> - 1) / lanes<A>);
    const int64_t most = direct_tile_rows(vectors), next_panel = residue.depth() * width;
    const int64_t tiles = (a->count + most - 1) / most, few = a->count / tiles, more = a->count % tiles;
    const Place* at = places + a->first;
    for (int64_t i = 0, rows; i < tiles; ++i, at += rows) {
      rows = few + (i < more);
      const int64_t ahead = fetch && residue.c >= 2 * line<A> && i + 1 < tiles ? at[rows].source - at->source : 0;
      A totals[tile_rows * tile_columns<A>], *total = blocks > 1 ? totals : nullptr;
      if (total) zero(total, tile_rows * tile_columns<A>);
      const auto run = [&](const Place* tile, A* target) {
        if (width == half)
          direct_rows<A, half, 1>(rows, source, tile, runs, end, w, next_panel, bias, total, columns, ahead, target);
        else
          direct_vectors<A>(vectors, rows, source, tile, runs, end, w, next_panel, bias, total, columns, ahead, target);
      };
      if constexpr (!narrow_type<T>) {
        run(at, to);
      } else {  // by way of accumulators, so that the tiles are float32's
        constexpr int64_t ld = tile_panels * tile_columns<A>;
        Place put[tile_rows];
        A results[tile_rows * ld];
        for (int64_t r = 0; r < rows; ++r) put[r] = {at[r].source, r * ld};
        run(put, results);
        for (int64_t r = 0; r < rows; ++r) copy_row(results + r * ld, columns, to + at[r].target);
      }
    }
  }
}

// All channels of some panels of one group, whose source and target these are; results: a panel's, if contiguous.
template <class T>
void direct_group(const Gather* g, bool channels_last, const View& read, const accumulator_t<T>* source,
                  const Alike* alike, int64_t count, const Place* places, TapRun* runs, const accumulator_t<T>* packed,
                  int64_t panel_begin, int64_t panel_end, const T* bias, const Box& box, const Extent& to,
                  accumulator_t<T>* results, T* target) {
  using A = accumulator_t<T>;
  constexpr Broadcast broadcast = Broadcast::source_narrow;
  const int64_t width = panel_width<T>(*g, broadcast), panels = panels_of<T>(*g, broadcast);
  for (int64_t panel = panel_begin, together; panel < panel_end; panel += together) {
    const int64_t m = panel * width, left = at_most(panel_end * width, g->m) - m;
    together = at_most(tile_panels, panel_end - panel);
    if (together == 2 && left > 4 * lanes<A> && left <= 5 * lanes<A>) together = 1;  // 2 + 3 vectors, not 4 + 1
    const int64_t columns = at_most(together * width, left);
    A panel_bias[tile_panels * tile_columns<A> + 1] = {};
    for (int64_t j = 0; bias && j < columns; ++j) panel_bias[j] = widen(bias[m + j]);
    panel_bias[tile_panels * tile_columns<A>] = floor_of<A>(g->relu);
    if (channels_last) {
      direct_panel<T>(g, read, source, alike, count, places, runs, packed, panel, panels, panel_bias, columns,
                      panel == panel_begin, target + m);
      continue;
    }
    const View pixels = pixels_of(tile_panels * tile_columns<A>, to.begin, to.end);
    direct_panel<A>(g, read, source, alike, count, places, runs, packed, panel, panels, panel_bias,
                    round_up(columns, at_most(width, lanes<A>)), false,
                    results - offset_of(pixels, box.n_begin, to.begin));
    const int64_t size[3] = {to.end[0] - to.begin[0], to.end[1] - to.begin[1], to.end[2] - to.begin[2]};
    store_box(*g, box, to.begin, size, results, columns, target + m * g->target.c);
  }
}

// source: the groups' own; copy(begin, end, out, size) puts the box's part of it, [group][n][i][c], groups `size`
// apart.
template <class T, class Copy>
void direct_box(const Gather* g, int64_t residues, bool channels_last, int64_t group_begin, int64_t group_end,
                const T* source, Copy copy, const accumulator_t<T>* packed, const T* bias, T* target, const Box& box,
                int64_t panel_begin, int64_t panel_end, accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const bool copies = copies_source<T>(*g, channels_last);
  const int64_t groups = group_end - group_begin;
  const DirectScratch at = direct_layout<A>(g, residues, copies, channels_last, groups, box);
  char* memory = reinterpret_cast<char*>(scratch);
  Place* places = reinterpret_cast<Place*>(memory + at.places);
  Alike* alike = reinterpret_cast<Alike*>(memory + at.alike);

  Extent from, to;
  source_box(g, residues, box, from.begin, from.end);
  target_box(g, residues, box, to.begin, to.end);
  const View read = copies ? pixels_of(g->c, from.begin, from.end) : g->source;
  const View write = channels_last ? g->target : pixels_of(tile_panels * tile_columns<A>, to.begin, to.end);
  const int64_t count =
      find_alike(g, residues, box, read, write, reinterpret_cast<Span*>(memory + at.spans), alike, places);
  int64_t size = 0;  // of a group's packed weight
  for (int64_t r = 0; r < residues; ++r) size += packed_size<T>(g[r], Broadcast::source_narrow);

  const A* pixels = reinterpret_cast<const A*>(source);
  if (copies) {
    A* copied = reinterpret_cast<A*>(memory + at.source);
    copy(from.begin, from.end, copied, at.group);
    pixels = copied - offset_of(read, box.n_begin, from.begin);
  }
  for (int64_t group = group_begin; group < group_end; ++group, packed += size) {
    direct_group<T>(g, channels_last, read, pixels, alike, count, places, reinterpret_cast<TapRun*>(memory + at.runs),
                    packed, panel_begin, panel_end, bias ? bias + group * g->m : nullptr, box, to,
                    reinterpret_cast<A*>(memory + at.results), target + group * g->m * g->target.c);
    pixels += copies ? at.group : g->c * g->source.c;
  }
}

template <class T>
void direct(const Gather* g, int64_t residues, bool channels_last, int64_t group_begin, int64_t group_end,
            const T* source, const accumulator_t<T>* packed, const T* bias, T* target, const Box& box,
            int64_t panel_begin, int64_t panel_end, accumulator_t<T>* scratch) {
  source += group_begin * g->c * g->source.c;
  const auto copy = [&](const int64_t (&begin)[3], const int64_t (&end)[3], accumulator_t<T>* out, int64_t size) {
    copy_source(*g, channels_last, group_end - group_begin, box, begin, end, source, out, size);
  };
  direct_box(g, residues, channels_last, group_begin, group_end, source, copy, packed, bias, target, box, panel_begin,
             panel_end, scratch);
}
