// The weight gradient: per tap, the products of what stands at meeting places, a target position and the source pixel
// it sees through that tap,
//   sums[tap][r][l] = Σ_meetings row_side[r] · lane_side[l],
// where one side, target maps or source channels, is broadcast and the other fills vectors: all sums of a tile in
// registers while a block of positions runs. A tap that falls off the map meets nothing, so padding costs nothing.
//
// Both sides are read as [place][channel]: where they lie if the tensor is channels-last, of the accumulator's type and
// whole vectors wide; else from a copy of the block. With few source channels the taps of a row, next to each other in
// the copy, count as channels ("row"), or all taps, copied as patches ("patch"), so that vectors are filled.
#pragma once
#include "conv/direct/correlate_copy.inl"
#include "conv/direct/correlate_plan.inl"
#include "conv/direct/correlate_positions.inl"
#include "cpu/numeric.inl"
#include "cpu/tile.inl"

// A place where target and source meet: their channels.
template <class A>
struct Meeting {
  const A* side[2];  // the broadcast side, rows of a tile; the vector side, its lanes
};

// Memory that the next block will read, fetched into the cache a line a step while the tiles of this one run: `runs`
// runs of `lines` cache lines, `jump` bytes from the end of one to the next. Then the last line again and again.
struct Fetch {
  const char* at;
  int64_t runs, lines, jump;
  int64_t left;  // lines of this run

  void step() {
    __builtin_prefetch(at);
    at += runs > 0 ? 64 : 0;
    if (--left > 0) return;
    if (--runs > 0)
      at += jump, left = lines;
    else
      at -= 64, left = INT64_MAX;
  }
};

template <class A, int ROWS, int VECTORS>
void correlate_tile(const Meeting<A>* at, int64_t count, int64_t row, int64_t lane, Fetch& fetch, A* sums, int64_t ld,
                    bool add) {
  vector_t<A> sum[ROWS][VECTORS] = {};
  Fetch ahead = fetch;
  for (int64_t i = 0; i < count; ++i) {
    const A* a = at[i].side[0] + row;
    const A* b = at[i].side[1] + lane;
    ahead.step();
    asm("" : "+r"(a));  // one address for all rows: left alone, GCC keeps the sum row + r of each in a register
    vector_t<A> column[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) column[j] = load(b + j * lanes<A>);
#pragma GCC unroll 24
    for (int r = 0; r < ROWS; ++r) {
      const A x = a[r];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) sum[r][j] += x * column[j];
    }
  }
  fetch = ahead;
#pragma GCC unroll 24
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) {
      A* c = sums + r * ld + j * lanes<A>;
      store(c, add ? load(c) + sum[r][j] : sum[r][j]);
    }
  }
}

template <class A, int VECTORS, int ROWS>
void correlate_tile_of(int64_t rows, const Meeting<A>* at, int64_t count, int64_t row, int64_t lane, Fetch& fetch,
                       A* sums, int64_t ld, bool add) {
  if (rows == ROWS) return correlate_tile<A, ROWS, VECTORS>(at, count, row, lane, fetch, sums, ld, add);
  if constexpr (ROWS > 1) {
    constexpr int fewer = fewer_rows<A>(ROWS);
    if (!tuned<A> && rows > fewer) {  // no body for so many: two tiles
      correlate_tile<A, fewer, VECTORS>(at, count, row, lane, fetch, sums, ld, add);
      rows -= fewer, row += fewer, sums += fewer * ld;
    }
    correlate_tile_of<A, VECTORS, fewer>(rows, at, count, row, lane, fetch, sums, ld, add);
  }
}

// sums[rows][lane_count], in tiles of equal heights as far as may be.
template <class A>
void correlate_tiles(const Meeting<A>* at, int64_t count, int64_t rows, int64_t row, int64_t lane_count, int64_t lane,
                     Fetch (&fetch)[2], A* sums, int64_t ld, bool add) {
  for (int64_t l = 0; l < lane_count; l += 2 * lanes<A>) {
    const bool two = lane_count - l > lanes<A>;
    const int64_t height = two ? correlate_rows : correlate_single_rows, tiles = (rows + height - 1) / height;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t r = rows * t / tiles, some = rows * (t + 1) / tiles - r;
      A* to = sums + r * ld + l;
      Fetch& next = fetch[fetch[0].runs <= 0];
      if (two)
        correlate_tile_of<A, 2, correlate_rows>(some, at, count, row + r, lane + l, next, to, ld, add);
      else
        correlate_tile_of<A, 1, correlate_single_rows>(some, at, count, row + r, lane + l, next, to, ld, add);
    }
  }
}

// The meetings of a box's positions, through the tap whose offset is given; how many there are.
template <class A>
int64_t meet(const Gather& g, const CorrelationPlan& p, const Block& box, const int64_t* offset, const Side<A>& source,
             const Side<A>& target, Meeting<A>* out) {
  const bool patch = p.mode == CorrelationMode::patch;  // the source has been copied to where the positions are
  const auto range = [&](int axis) {
    const int64_t begin = box.low[axis + 1], end = box.high[axis + 1];
    return patch || (axis == 2 && p.mode == CorrelationMode::row) ? Seen{begin, end}
                                                                  : seen(g, axis, offset[axis], begin, end);
  };
  const auto pixel = [&](int axis, int64_t t) { return patch ? t : t * g.step[axis] + offset[axis]; };
  const Seen s0 = range(0), s1 = range(1), s2 = range(2);
  const int64_t source_step = (patch ? 1 : g.step[2]) * source.step[3], target_step = target.step[3];
  Meeting<A>* to = out;
  for (int64_t n = box.low[0]; n < box.high[0]; ++n)
    for (int64_t t0 = s0.first; t0 < s0.last; ++t0)
      for (int64_t t1 = s1.first; t1 < s1.last; ++t1) {
        const A* x = source.row(n, pixel(0, t0), pixel(1, t1)) + pixel(2, s2.first) * source.step[3];
        const A* y = target.row(n, t0, t1) + s2.first * target_step;
        for (int64_t t2 = s2.first; t2 < s2.last; ++t2, x += source_step, y += target_step)
          *to++ = p.source_lanes ? Meeting<A>{y, x} : Meeting<A>{x, y};
      }
  return to - out;
}

// Elements of the pieces of a task's scratch: meetings | copied target | copied source | patches.
struct CorrelateScratch {
  int64_t meetings, target, source, patches;
  int64_t target_ld, source_ld, patch_ld;  // elements from a place to the next
  int64_t target_group, source_group, patch_group;
};

template <class A>
CorrelateScratch correlate_pieces(const Gather& g, const CorrelationPlan& p) {
  constexpr int64_t line = 64 / sizeof(A);
  int64_t places = 1, pixels = p.extent[0];
  for (int a = 0; a < 4; ++a) places *= p.extent[a];
  for (int a = 0; a < 3; ++a) {
    const TapSpan span = tap_span(g, a);
    const int64_t most = (p.extent[a + 1] - 1) * g.step[a] + span.high - span.low + 1;
    pixels *= a == 2 && p.mode != CorrelationMode::plain ? most : at_most(most, g.extent[a]);
  }
  // Side by side, the groups' channels and room for the vectors of the last one; an odd number of cache lines.
  const auto beside = [&](int64_t channels) {
    return round_up((p.group_block - 1) * channels + round_up(channels, lanes<A>), line) / line / 2 * 2 * line + line;
  };
  CorrelateScratch s{};
  s.meetings = round_up(places * static_cast<int64_t>(sizeof(Meeting<A>)), 64) / static_cast<int64_t>(sizeof(A));
  s.target_group = p.source_lanes ? p.row_chunk : p.lane_chunk;
  s.target_ld = beside(s.target_group);
  s.target = p.copy_target ? places * s.target_ld : 0;
  const bool plain = p.mode == CorrelationMode::plain;
  s.source_group = plain ? (p.source_lanes ? p.lane_chunk : p.row_chunk)
                         : round_up(pixels * g.c + at_least(patch_piece, lanes<A>), line);
  s.source_ld = plain ? beside(s.source_group) : g.c;
  s.source = !p.copy_source ? 0 : plain ? pixels * s.source_ld : p.group_block * s.source_group;
  const int64_t run = p.run * g.c;
  s.patch_ld = round_up(g.depth() - run + round_up(run, patch_piece), line);
  s.patch_group = places * s.patch_ld;
  s.patches = p.mode == CorrelationMode::patch ? p.group_block * s.patch_group : 0;
  return s;
}

template <class T>
int64_t correlate_scratch(const Gather& g, const CorrelationPlan& p) {
  if (p.mode == CorrelationMode::positions) return PositionsLayout<accumulator_t<T>>(g, p).end;
  const CorrelateScratch s = correlate_pieces<accumulator_t<T>>(g, p);
  return s.meetings + s.target + s.source + s.patches;
}

template <class A>
inline const A* same_type(const A* at) {
  return at;
}
inline const float* same_type(const bfloat16*) { return nullptr; }  // bfloat16 is copied, never read in place

// Channels [first, first + count) of each of some groups of `all`: a task's share of one side.
struct Share {
  int64_t first, count, all, groups;
};

// A side one place of the tensor a place, in place or copied.
template <class T, class A>
Side<A> plain_side(const View& v, int64_t last_extent, const Block& block, const SeenRows& rows, const T* from,
                   const Share& share, bool of_lanes, bool copy, A* to, int64_t ld, int64_t group) {
  if (!copy) return in_place(v, same_type(from) + share.first * v.c, share.all * v.c);
  // Side by side as in the tensor, if they are whole groups: then all at once.
  const bool whole = share.count == share.all && group == share.all;
  const int64_t copies = whole ? 1 : share.groups, count = whole ? share.groups * share.all : share.count;
  const int64_t fill = of_lanes ? count - share.count + round_up(share.count, lanes<A>) : count;
  for (int64_t i = 0; i < copies; ++i)
    copy_block(v, last_extent, block, rows, from + (i * share.all + share.first) * v.c, count, to + i * group, ld,
               fill);
  return in_copy(block, ld, static_cast<const A*>(to), group);
}

// The source in the row and patch modes: rows of pixels as wide as the taps reach, and patches of them.
template <class T, class A>
Side<A> merged_side(const Gather& g, const CorrelationPlan& p, const CorrelateScratch& s, const Block& block,
                    const T* source, const Share& share, A* copied, A* patches) {
  const Block pixels = source_block(g, block, true);
  int64_t size = g.c;
  for (int a = 0; a < 4; ++a) size *= pixels.size(a);
  Side<A> rows = in_copy<A>(pixels, g.c, copied, s.source_group);
  for (int64_t i = 0; i < share.groups; ++i, copied += s.source_group, rows.at += s.source_group) {
    copy_block(g.source, g.extent[2], pixels, seen_rows(g), source + i * g.c * g.source.c, g.c, copied, g.c, g.c);
    zero(copied + size, at_least(patch_piece, lanes<A>));
    if (p.mode == CorrelationMode::patch)
      copy_patches(g, p, block, pixels, rows, patches + i * s.patch_group, s.patch_ld);
  }
  rows.at -= share.groups * s.source_group;
  if (p.mode == CorrelationMode::patch) rows = in_copy<A>(block, s.patch_ld, patches, s.patch_group);
  rows.at += share.first;
  return rows;
}

// The memory of `channels` of `all` channels in a box. What it leaves out, or has too much, costs time alone.
template <class T>
Fetch fetch_of(const View& v, const Block& box, const T* from, int64_t channels, int64_t all) {
  int64_t first = box.low[0] * v.n, last = (box.high[0] - 1) * v.n;
  for (int a = 0; a < 3; ++a) first += box.low[a + 1] * v.s[a], last += (box.high[a + 1] - 1) * v.s[a];
  const auto lines = [](int64_t elements) { return (elements * static_cast<int64_t>(sizeof(T)) + 63) / 64; };
  const bool pixels = v.c == 1, most = 2 * channels > all;
  Fetch f{reinterpret_cast<const char*>(from + first), 1, 1, 0, 0};
  int64_t stride = 0;
  if (pixels && most)
    f.lines = lines(last - first + all);
  else if (pixels)
    f.runs = (last - first) / v.s[2] + 1, f.lines = lines(channels), stride = v.s[2];
  else if (box.size(0) == 1)
    f.runs = channels, f.lines = lines(last - first + 1), stride = v.c;
  else if (most)
    f.lines = lines(last - first + all * v.c);
  f.lines = at_least(1, f.lines), f.left = f.lines, f.jump = stride * static_cast<int64_t>(sizeof(T)) - f.lines * 64;
  return f;
}

// What the tiles of a block fetch: the next one's target and source.
template <class T>
void fetch_next(const Gather& g, const CorrelationPlan& p, const Block& next, const T* source, const Share& x,
                const T* target, const Share& y, Fetch (&fetch)[2]) {
  const bool plain = p.mode == CorrelationMode::plain;
  fetch[0] = fetch_of(g.target, next, target + y.first * g.target.c, y.count, y.all * y.groups);
  fetch[1] = fetch_of(g.source, source_block(g, next, false), source + (plain ? x.first * g.source.c : 0),
                      plain ? x.count : g.c, g.c * x.groups);
}

// The sums of one chunk of the filter over blocks [begin, end): [group of the block][tap][row][ld], from one group to
// the next p.group_sums.
template <class T>
void correlate(const Gather& g, const CorrelationPlan& p, int64_t group_block, int64_t lane_chunk, int64_t row_chunk,
               int64_t begin, int64_t end, const T* source, const T* target, accumulator_t<T>* sums,
               accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const int64_t first_group = group_block * p.group_block, groups = at_most(p.group_block, g.groups - first_group);
  if (p.mode == CorrelationMode::positions)
    return correlate_positions(g, p, first_group, groups, begin, end, source, target, sums, scratch);
  const CorrelateScratch s = correlate_pieces<A>(g, p);
  Meeting<A>* meetings = reinterpret_cast<Meeting<A>*>(scratch);
  A* copied_target = scratch + s.meetings;
  A* copied_source = copied_target + s.target;
  A* patches = copied_source + s.source;
  const int64_t row = row_chunk * p.row_chunk, rows = at_most(p.row_chunk, p.rows - row);
  const int64_t lane = lane_chunk * p.lane_chunk, lane_count = at_most(p.lane_chunk, p.lanes - lane);
  const Share x{p.source_lanes ? lane : row, p.source_lanes ? lane_count : rows, g.c, groups};
  const Share y{p.source_lanes ? row : lane, p.source_lanes ? rows : lane_count, g.m, groups};
  source += first_group * g.c * g.source.c;
  target += first_group * g.m * g.target.c;
  for (int64_t i = 0; i < groups && begin == end; ++i) zero(sums + i * p.group_sums, p.chunk_sums);
  for (int64_t b = begin; b < end; ++b) {
    const Block block = block_of(g, p, b);
    const Side<A> of_target = plain_side(g.target, g.count[2], block, {}, target, y, !p.source_lanes, p.copy_target,
                                         copied_target, s.target_ld, s.target_group);
    const Side<A> of_source =
        p.mode == CorrelationMode::plain
            ? plain_side(g.source, g.extent[2], source_block(g, block, false), seen_rows(g), source, x, p.source_lanes,
                         p.copy_source, copied_source, s.source_ld, s.source_group)
            : merged_side(g, p, s, block, source, x, copied_source, patches);
    Fetch fetch[2];
    for (Fetch& f : fetch) f = {reinterpret_cast<const char*>(scratch), 0, 0, 0, INT64_MAX};
    if (b + 1 < end) fetch_next(g, p, block_of(g, p, b + 1), source, x, target, y, fetch);
    const int64_t row_group = p.source_lanes ? of_target.group : of_source.group;
    const int64_t lane_group = p.source_lanes ? of_source.group : of_target.group;
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      const int64_t count = meet(g, p, block, g.taps[tap * p.merged].offset, of_source, of_target, meetings);
      if (count == 0 && b > begin) continue;
      for (int64_t i = 0; i < groups; ++i)
        correlate_tiles(meetings, count, rows, i * row_group, lane_count, i * lane_group, fetch,
                        sums + i * p.group_sums + tap * p.row_chunk * p.ld, p.ld, b > begin);
    }
  }
}

// Adds the parts of sums [begin, end), in order, to the first.
template <class A>
void add_parts(const CorrelationPlan& p, int64_t begin, int64_t end, A* sums) {
  constexpr int64_t some = 512;
  for (; begin < end; begin += some)
    for (int64_t s = 1; s < p.splits; ++s)
      for (int64_t i = begin; i < at_most(end, begin + some); ++i) sums[i] += sums[s * p.split_sums + i];
}

// to[i] = the sum at lane + i, i < count, of this tap and row.
template <class A>
void copy_sums(const CorrelationPlan& p, const A* sums, int64_t tap, int64_t row, int64_t lane, int64_t count, A* to) {
  while (count > 0) {
    const int64_t chunk = lane / p.lane_chunk * p.row_chunks + row / p.row_chunk, l = lane % p.lane_chunk;
    const A* from = sums + chunk * p.chunk_sums + (tap * p.row_chunk + row % p.row_chunk) * p.ld + l;
    const int64_t some = at_most(count, p.lane_chunk - l);
    for (int64_t i = 0; i < some; ++i) to[i] = from[i];
    lane += some, count -= some, to += some;
  }
}

// weight[m, c, tap] of channels [m_begin, m_end), 16 at the most, from the added sums of correlate, by way of small
// blocks [tap][c] or [tap][m] that are written in the weight's order.
template <class T>
void store_correlation(const Gather& g, const CorrelationPlan& p, int64_t group, const accumulator_t<T>* sums,
                       int64_t m_begin, int64_t m_end, T* weight) {
  using A = accumulator_t<T>;
  constexpr int64_t most_taps = 32, most_channels = 64;
  A block[most_taps * most_channels];
  weight += group * g.weight_g;
  sums += group * p.group_sums;
  const int64_t width = p.source_lanes ? most_channels : 1;  // channels c of a block
  for (int64_t m = m_begin; m < m_end; m += p.source_lanes ? 1 : m_end - m_begin)
    for (int64_t k = 0; k < g.tap_count; k += most_taps)
      for (int64_t c = 0; c < g.c; c += width) {
        const int64_t taps = at_most(most_taps, g.tap_count - k), channels = at_most(width, g.c - c);
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t tap = (k + t) / p.merged, x = (k + t) % p.merged * g.c + c;
          if (p.source_lanes)
            copy_sums(p, sums, tap, m, x, channels, block + t * most_channels);
          else
            copy_sums(p, sums, tap, x, m, m_end - m, block + t * most_channels);
        }
        const int64_t count = p.source_lanes ? channels : m_end - m, step = p.source_lanes ? g.weight_c : g.weight_m;
        T* to = weight + m * g.weight_m + c * g.weight_c;
        if (step == 1)
          for (int64_t t = 0; t < taps; ++t)
            for (int64_t i = 0; i < count; ++i) narrow(block[t * most_channels + i], to + i + g.taps[k + t].weight);
        else
          for (int64_t i = 0; i < count; ++i)
            for (int64_t t = 0; t < taps; ++t)
              narrow(block[t * most_channels + i], to + i * step + g.taps[k + t].weight);
      }
}
