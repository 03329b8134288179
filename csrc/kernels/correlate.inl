// The weight gradient: per tap, the products of what stands at meeting places, a target position and the source pixel it
// sees through that tap,
//   sums[tap][r][l] = Σ_meetings row_side[r] · lane_side[l],
// where one side, target maps or source channels, is broadcast and the other fills vectors: all sums of a tile in
// registers while a block of positions runs. A tap that falls off the map meets nothing, so padding costs nothing.
//
// Both sides are read as [place][channel]: where they lie if the tensor is channels-last, of the accumulator's type and
// whole vectors wide; else from a copy of the block. With few source channels the taps of a row, next to each other in
// the copy, count as channels ("row"), or all taps, copied as patches ("patch"), so that vectors are filled.

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

// Rows of a tile two vectors and one vector wide: 24 or 12 sums in registers.
constexpr int correlate_rows = TORCHCONV_VECTOR_BYTES == 64 ? 12 : 6;
constexpr int correlate_single_rows = 2 * correlate_rows;

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
  if constexpr (ROWS > 1) correlate_tile_of<A, VECTORS, ROWS - 1>(rows, at, count, row, lane, fetch, sums, ld, add);
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

// ---- the plan ----

// Multiplications and loads one place costs under the tiles above, in instructions of the busier kind.
template <class A>
int64_t correlate_tiles_cost(int64_t rows, int64_t lane_count) {
  const int64_t vectors = (lane_count + lanes<A> - 1) / lanes<A>;
  const int64_t tiles = (rows + correlate_rows - 1) / correlate_rows;
  const int64_t single = (rows + correlate_single_rows - 1) / correlate_single_rows;
  return vectors / 2 * at_least(2 * rows, rows + 3 * tiles) + vectors % 2 * (rows + 2 * single);
}

// Taps next to each other along the last axis, one source pixel apart: how many count as one in the row mode.
inline int64_t row_taps(const Gather& g) {
  int64_t run = 1;
  const auto follows = [&](int64_t k) {
    const int64_t *a = g.taps[k - 1].offset, *b = g.taps[k].offset;
    return a[0] == b[0] && a[1] == b[1] && a[2] + 1 == b[2];
  };
  while (run < g.tap_count && follows(run)) ++run;
  for (int64_t k = run; k < g.tap_count; ++k)
    if (follows(k) != (k % run != 0)) return 1;
  return g.tap_count % run == 0 ? run : 1;
}

// Positions over all taps, and the share of them that see the map, of one axis: [lowest, highest] tap offset.
struct TapSpan {
  int64_t low, high;
};
inline TapSpan tap_span(const Gather& g, int axis) {
  TapSpan s{g.taps[0].offset[axis], g.taps[0].offset[axis]};
  for (int64_t k = 1; k < g.tap_count; ++k) {
    s.low = at_most(s.low, g.taps[k].offset[axis]);
    s.high = at_least(s.high, g.taps[k].offset[axis]);
  }
  return s;
}

// How many of an axis's positions a tap offset sees inside the map: t in [first, last).
struct Seen {
  int64_t first, last;
};
inline Seen seen(const Gather& g, int axis, int64_t offset, int64_t begin, int64_t end) {
  const int64_t step = g.step[axis], inside = g.extent[axis] - offset;
  const int64_t first = at_least(begin, offset < 0 ? (-offset + step - 1) / step : 0);
  return {first, at_least(first, at_most(end, inside > 0 ? (inside + step - 1) / step : 0))};
}

template <class T>
CorrelationPlan correlation_plan(const Gather& g, bool channels_last) {
  using A = accumulator_t<T>;
  CorrelationPlan p{};
  const int64_t run = row_taps(g);
  const int64_t pixel = g.c * g.step[0] * g.step[1] * g.step[2];  // source elements a position, about
  int64_t met = 0;  // positions of the last axis, over all taps, that see the map
  for (int64_t k = 0; k < g.tap_count; ++k) {
    const Seen s = seen(g, 2, g.taps[k].offset[2], 0, g.count[2]);
    met += s.last - s.first;
  }
  // What a row of positions costs each way: the tiles, two instructions a meeting, the copies.
  struct Way {
    CorrelationMode mode;
    int64_t merged;
    bool source_lanes;
    int64_t cost;
  } best{};
  for (int way = 0; way < 5; ++way) {
    const bool source_lanes = way % 2 == 0;
    const CorrelationMode mode = static_cast<CorrelationMode>(way / 2);
    const int64_t merged = mode == CorrelationMode::plain ? 1 : mode == CorrelationMode::row ? run : g.tap_count;
    if (mode == CorrelationMode::row && run == 1) continue;
    const int64_t width = merged * g.c, taps = g.tap_count / merged;
    int64_t cost = (mode == CorrelationMode::plain ? met : taps * g.count[2]) *
                   (2 + (source_lanes ? correlate_tiles_cost<A>(g.m, width) : correlate_tiles_cost<A>(width, g.m)));
    if (mode != CorrelationMode::plain) cost += g.count[2] * pixel;
    if (mode == CorrelationMode::patch)
      cost += g.count[2] * g.tap_count / run * (2 + 2 * ((run * g.c + lanes<A> - 1) / lanes<A>));
    if (way == 0 || cost < best.cost) best = {mode, merged, source_lanes, cost};
  }
  p.mode = best.mode, p.merged = best.merged, p.run = run, p.source_lanes = best.source_lanes;
  p.taps = g.tap_count / p.merged;
  const int64_t width = p.merged * g.c, all_rows = p.source_lanes ? g.m : width;
  const int64_t all_lanes = p.source_lanes ? width : g.m;

  // Chunks of the filter: the sums of one, taps × rows × lanes, stay in the second-level cache.
  const int64_t room = correlate_room / p.taps, panel = 2 * lanes<A>;
  int64_t side = panel;
  while ((side + panel) * (side + panel) <= room) side += panel;
  const int64_t most_lanes = all_rows < side ? at_least(panel, room / all_rows / panel * panel) : side;
  p.lane_chunks = (all_lanes + most_lanes - 1) / most_lanes;
  p.lane_chunk = round_up((all_lanes + p.lane_chunks - 1) / p.lane_chunks, panel);
  p.lane_chunks = (all_lanes + p.lane_chunk - 1) / p.lane_chunk;
  p.ld = at_most(p.lane_chunk, round_up(all_lanes, lanes<A>));
  const int64_t most_rows = at_least(correlate_rows, room / p.ld);
  p.row_chunks = (all_rows + most_rows - 1) / most_rows;
  p.row_chunk = (all_rows + p.row_chunks - 1) / p.row_chunks;
  p.rows = all_rows, p.lanes = all_lanes;
  p.group_block = at_most(g.groups, at_least(1, correlate_channels / at_least(g.c, g.m)));
  p.group_blocks = (g.groups + p.group_block - 1) / p.group_block;
  p.chunk_sums = p.taps * p.row_chunk * p.ld;
  p.group_sums = p.lane_chunks * p.row_chunks * p.chunk_sums;
  p.split_sums = g.groups * p.group_sums;

  // Boxes of positions: about correlate_positions of them seen by a tap.
  int64_t pairs = 1, all = 1;
  for (int a = 0; a < 3; ++a) {
    int64_t sum = 0;
    for (int64_t k = 0; k < g.tap_count; ++k) {
      const Seen s = seen(g, a, g.taps[k].offset[a], 0, g.count[a]);
      sum += s.last - s.first;
    }
    pairs *= at_least(1, sum), all *= g.tap_count * g.count[a];
  }
  int64_t left = at_most(4 * correlate_positions, static_cast<int64_t>(correlate_positions * (double(all) / double(pairs))));
  const int64_t counts[4] = {g.batch, g.count[0], g.count[1], g.count[2]};
  for (int a = 3; a >= 0; --a) {
    const int64_t most = at_least(1, at_most(counts[a], left)), boxes = (counts[a] + most - 1) / most;
    p.extent[a] = boxes ? (counts[a] + boxes - 1) / boxes : 1;
    p.boxes[a] = (counts[a] + p.extent[a] - 1) / p.extent[a];
    left /= p.extent[a];
    if (p.boxes[a] > 1) left = 1;
  }

  // Parts of the sum over boxes, for parallel work: as few as give enough tasks, and no more than there is room for.
  const int64_t tasks = p.group_blocks * p.lane_chunks * p.row_chunks;
  const int64_t boxes = p.boxes[0] * p.boxes[1] * p.boxes[2] * p.boxes[3];
  p.splits = at_most((correlate_tasks + tasks - 1) / tasks, correlate_sums / p.split_sums);
  p.splits = at_least(1, at_most(p.splits, boxes / 4));

  // Where each side lies.
  const bool in_place = channels_last && sizeof(T) == sizeof(A);
  p.copy_source = !in_place || p.mode != CorrelationMode::plain || (p.source_lanes && g.c % lanes<A> != 0);
  p.copy_target = !in_place || (!p.source_lanes && g.m % lanes<A> != 0);
  return p;
}

// ---- copies of a block ----

template <class A>
inline vector_t<A> load_sums(const A* p) {
  return load(p);
}
inline vector_t<float> load_sums(const bfloat16* p) {
  vector_t<float> v;
  for (int l = 0; l < lanes<float>; ++l) v[l] = widen(p[l]);
  return v;
}

// Lanes of an interleaving of two vectors, for the shuffle.
template <class A>
struct Interleave {
  typedef decltype(vector_t<A>{} < vector_t<A>{}) mask;
  static mask of(int half) {
    mask m;
    for (int l = 0; l < lanes<A>; ++l) m[l] = half * (lanes<A> / 2) + l / 2 + (l % 2) * lanes<A>;
    return m;
  }
};

// to[l · ld + r] = from[r · stride + l] for a square of lanes × lanes, rows past `rows` zero: as many interleavings of
// the first half of the rows with the second as halve the number of rows to one.
template <class T, class A, bool ALL>
inline void transpose_square(const T* from, int64_t stride, int64_t rows, A* to, int64_t ld) {
  constexpr int n = lanes<A>;
  const auto low = Interleave<A>::of(0), high = Interleave<A>::of(1);
  vector_t<A> v[n], w[n];
#pragma GCC unroll 16
  for (int r = 0; r < n; ++r) {
    const bool there = ALL || r < rows;
    v[r] = there ? load_sums(from + r * stride) : vector_t<A>{};
  }
#pragma GCC unroll 4
  for (int done = 1; done < n; done *= 2) {
#pragma GCC unroll 16
    for (int r = 0; r < n / 2; ++r) {
      w[2 * r] = __builtin_shuffle(v[r], v[r + n / 2], low);
      w[2 * r + 1] = __builtin_shuffle(v[r], v[r + n / 2], high);
    }
#pragma GCC unroll 16
    for (int r = 0; r < n; ++r) v[r] = w[r];
  }
#pragma GCC unroll 16
  for (int r = 0; r < n; ++r) store(to + r * ld, v[r]);
}

// `length` runs of `size` elements, to_l apart. SIZE of each are copied, the least power of 2 that is enough, or all if
// that is no more than a vector: what is too much is overwritten by the next run, or stands where nothing is read.
template <int SIZE, class T, class A>
inline void copy_runs_of(const T* from, int64_t from_l, int64_t length, A* to, int64_t to_l) {
  for (int64_t l = 0; l < length; ++l) {
    A run[SIZE];
    for (int i = 0; i < SIZE; ++i) run[i] = widen(from[l * from_l + i]);
    for (int i = 0; i < SIZE; ++i) to[l * to_l + i] = run[i];
  }
}

// to[l · ld + c] = from[c · from_c + l · from_l], and zeros in channels [channels, fill).
template <class T, class A>
void copy_run(const T* from, int64_t from_l, int64_t from_c, int64_t channels, int64_t length, A* to, int64_t ld,
              int64_t fill) {
  constexpr int64_t n = lanes<A>;
  if (from_l == ld && channels == ld && (from_c == 1 || channels == 1)) {
    for (int64_t i = 0; i < length * ld; ++i) to[i] = widen(from[i]);
    return;
  }
  if (from_c == 1 && fill <= channels) {
    if (channels == 4) return copy_runs_of<4>(from, from_l, length, to, ld);
    if (channels == 8) return copy_runs_of<8>(from, from_l, length, to, ld);
    if (channels == 16) return copy_runs_of<16>(from, from_l, length, to, ld);
  }
  if (from_c == 1) {
    for (int64_t l = 0; l < length; ++l) {
      for (int64_t c = 0; c < channels; ++c) to[l * ld + c] = widen(from[l * from_l + c]);
      zero(to + l * ld + channels, fill - channels);
    }
    return;
  }
  const bool squares = from_l == 1 && length >= n && round_up(channels, n) <= ld;
  if (squares)
    for (int64_t c = 0; c < channels; c += n)
      for (int64_t l = 0; l < length; l += n) {
        const int64_t at = at_most(l, length - n);  // the last square overlaps the one before
        if (channels - c >= n)
          transpose_square<T, A, true>(from + c * from_c + at, from_c, n, to + at * ld + c, ld);
        else
          transpose_square<T, A, false>(from + c * from_c + at, from_c, channels - c, to + at * ld + c, ld);
      }
  else
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t l = 0; l < length; ++l) to[l * ld + c] = widen(from[c * from_c + l * from_l]);
  const int64_t written = squares ? round_up(channels, n) : channels;
  for (int64_t l = 0; l < length && written < fill; ++l) zero(to + l * ld + written, fill - written);
}

// A box of positions or of pixels: samples, then the three axes.
struct Box {
  int64_t low[4], high[4];
  int64_t size(int a) const { return high[a] - low[a]; }
};

// A box of a tensor's pixels as [n][i0][i1][i2][ld]; along the last axis it may reach over the map, into zeros.
template <class T, class A>
void copy_box(const View& v, int64_t last_extent, const Box& box, const T* from, int64_t channels, A* to, int64_t ld,
              int64_t fill) {
  const int64_t width = box.size(3), low = at_most(at_least(box.low[3], 0), box.high[3]);
  const int64_t high = at_least(low, at_most(box.high[3], last_extent));
  const bool whole = width == last_extent && low == box.low[3] && high == box.high[3] && v.s[1] == width * v.s[2];
  const int64_t at_once = whole ? at_least(1, box.size(2)) : 1;
  for (int64_t n = box.low[0]; n < box.high[0]; ++n)
    for (int64_t i0 = box.low[1]; i0 < box.high[1]; ++i0)
      for (int64_t i1 = box.low[2]; i1 < box.high[2]; i1 += at_once, to += at_once * width * ld) {
        if (low > box.low[3]) zero(to, (low - box.low[3]) * ld);
        copy_run(from + n * v.n + i0 * v.s[0] + i1 * v.s[1] + low * v.s[2], v.s[2], v.c, channels,
                 at_once * (high - low), to + (low - box.low[3]) * ld, ld, fill);
        if (high < box.high[3]) zero(to + (high - box.low[3]) * ld, (box.high[3] - high) * ld);
      }
}

// ---- one task ----

// Where a side's channels stand: place (n, i0, i1, i2) of group 0 of the block at `at` + n · step[0] + i · step[1..3].
template <class A>
struct Side {
  const A* at;
  int64_t group, step[4];

  const A* row(int64_t n, int64_t i0, int64_t i1) const { return at + n * step[0] + i0 * step[1] + i1 * step[2]; }
};

template <class A>
Side<A> in_place(const View& v, const A* at, int64_t group) {
  return {at, group, {v.n, v.s[0], v.s[1], v.s[2]}};
}
template <class A>
Side<A> in_copy(const Box& box, int64_t ld, const A* at, int64_t group) {
  Side<A> s{at, group, {}};
  s.step[3] = ld;
  for (int a = 2; a >= 0; --a) s.step[a] = s.step[a + 1] * box.size(a + 1);
  for (int a = 0; a < 4; ++a) s.at -= box.low[a] * s.step[a];
  return s;
}

// The meetings of a box's positions, through the tap whose offset is given; how many there are.
template <class A>
int64_t meet(const Gather& g, const CorrelationPlan& p, const Box& box, const int64_t* offset, const Side<A>& source,
             const Side<A>& target, Meeting<A>* out) {
  const bool patch = p.mode == CorrelationMode::patch;  // the source has been copied to where the positions are
  const auto range = [&](int axis) {
    const int64_t begin = box.low[axis + 1], end = box.high[axis + 1];
    return patch || (axis == 2 && p.mode == CorrelationMode::row) ? Seen{begin, end} : seen(g, axis, offset[axis], begin, end);
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

// The source pixels that a box of positions sees; along the last axis, `whole`, those off the map too.
inline Box source_box(const Gather& g, const Box& box, bool whole) {
  Box s = box;
  for (int a = 0; a < 3; ++a) {
    const TapSpan span = tap_span(g, a);
    s.low[a + 1] = box.low[a + 1] * g.step[a] + span.low;
    s.high[a + 1] = (box.high[a + 1] - 1) * g.step[a] + span.high + 1;
    if (a == 2 && whole) continue;
    s.low[a + 1] = at_most(at_least(s.low[a + 1], 0), g.extent[a]);
    s.high[a + 1] = at_least(s.low[a + 1], at_most(s.high[a + 1], g.extent[a]));
  }
  return s;
}

constexpr int64_t patch_piece = 16;  // elements of a run of taps copied at once, at the most

// Patches out[position][tap][channel] from rows copied by copy_box. A run of taps is copied in whole vectors: what is
// too much is overwritten by the next run, and the last one has room for it.
template <class A>
void copy_patches(const Gather& g, const CorrelationPlan& p, const Box& box, const Box& pixels, const Side<A>& rows,
                  A* out, int64_t ld) {
  const int64_t run = p.run * g.c, width = box.size(3), step = g.step[2] * g.c;
  for (int64_t n = box.low[0]; n < box.high[0]; ++n)
    for (int64_t t0 = box.low[1]; t0 < box.high[1]; ++t0)
      for (int64_t t1 = box.low[2]; t1 < box.high[2]; ++t1, out += width * ld)
        for (int64_t k = 0; k < g.tap_count; k += p.run) {
          const int64_t* offset = g.taps[k].offset;
          const int64_t i0 = t0 * g.step[0] + offset[0], i1 = t1 * g.step[1] + offset[1];
          const bool inside = i0 >= pixels.low[1] && i0 < pixels.high[1] && i1 >= pixels.low[2] && i1 < pixels.high[2];
          const A* from = rows.row(n, i0, i1) + box.low[3] * step + offset[2] * g.c;
          A* to = out + k * g.c;
          if (!inside)
            for (int64_t l = 0; l < width; ++l) zero(to + l * ld, run);
          else if (run <= 4)
            copy_runs_of<4>(from, step, width, to, ld);
          else if (run <= 8)
            copy_runs_of<8>(from, step, width, to, ld);
          else
            for (int64_t i = 0; i < run; i += patch_piece) copy_runs_of<patch_piece>(from + i, step, width, to + i, ld);
        }
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
  s.source_group = plain ? (p.source_lanes ? p.lane_chunk : p.row_chunk) : round_up(pixels * g.c + at_least(patch_piece, lanes<A>), line);
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
  const CorrelateScratch s = correlate_pieces<accumulator_t<T>>(g, p);
  return s.meetings + s.target + s.source + s.patches;
}

template <class A>
inline const A* same_type(const A* at) {
  return at;
}
inline const float* same_type(const bfloat16*) { return nullptr; }  // bfloat16 is copied, never read in place

// A side in plain mode: channels [first, first + channels) of the block's groups, in place or copied.
template <class T, class A>
Side<A> plain_side(const View& v, const Box& box, int64_t last_extent, const T* from, int64_t per_group, int64_t groups,
                   int64_t first, int64_t channels, bool copy, A* to, int64_t ld, int64_t group) {
  if (!copy) return in_place(v, same_type(from) + first * v.c, per_group * v.c);
  if (channels == per_group && group == per_group) {
    copy_box(v, last_extent, box, from, groups * channels, to, ld,
             (groups - 1) * channels + round_up(channels, lanes<A>));
  } else {
    for (int64_t i = 0; i < groups; ++i)
      copy_box(v, last_extent, box, from + (i * per_group + first) * v.c, channels, to + i * group, ld,
               round_up(channels, lanes<A>));
  }
  return in_copy(box, ld, static_cast<const A*>(to), group);
}

// The memory of `channels` of `all` channels in a box. What it leaves out, or has too much, costs time alone.
template <class T>
Fetch fetch_of(const View& v, const Box& box, const T* from, int64_t channels, int64_t all) {
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

inline Box box_of(const Gather& g, const CorrelationPlan& p, int64_t index) {
  Box box;
  for (int a = 3; a >= 0; index /= p.boxes[a--]) {
    box.low[a] = index % p.boxes[a] * p.extent[a];
    box.high[a] = at_most(box.low[a] + p.extent[a], a == 0 ? g.batch : g.count[a - 1]);
  }
  return box;
}

// sums of one chunk of the filter, over boxes [box_begin, box_end): [group of the block][tap][row][ld], from one group
// to the next p.group_sums.
template <class T>
void correlate(const Gather& g, const CorrelationPlan& p, int64_t group_block, int64_t lane_chunk, int64_t row_chunk,
               int64_t box_begin, int64_t box_end, const T* source, const T* target, accumulator_t<T>* sums,
               accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const CorrelateScratch s = correlate_pieces<A>(g, p);
  Meeting<A>* meetings = reinterpret_cast<Meeting<A>*>(scratch);
  A* copied_target = scratch + s.meetings;
  A* copied_source = copied_target + s.target;
  A* patches = copied_source + s.source;
  const int64_t first_group = group_block * p.group_block, groups = at_most(p.group_block, g.groups - first_group);
  const int64_t row = row_chunk * p.row_chunk, rows = at_most(p.row_chunk, p.rows - row);
  const int64_t lane = lane_chunk * p.lane_chunk, lane_count = at_most(p.lane_chunk, p.lanes - lane);
  const int64_t x_first = p.source_lanes ? lane : row, y_first = p.source_lanes ? row : lane;
  const int64_t x_count = p.source_lanes ? lane_count : rows, y_count = p.source_lanes ? rows : lane_count;
  source += first_group * g.c * g.source.c;
  target += first_group * g.m * g.target.c;
  if (box_begin == box_end) zero(sums, (groups - 1) * p.group_sums + p.chunk_sums);
  for (int64_t b = box_begin; b < box_end; ++b) {
    const Box box = box_of(g, p, b);
    const Side<A> y = plain_side(g.target, box, g.count[2], target, g.m, groups, y_first, y_count, p.copy_target,
                                 copied_target, s.target_ld, s.target_group);
    const bool plain = p.mode == CorrelationMode::plain;
    const Box pixels = source_box(g, box, !plain);
    Side<A> x;
    if (plain) {
      x = plain_side(g.source, pixels, g.extent[2], source, g.c, groups, x_first, x_count, p.copy_source, copied_source,
                     s.source_ld, s.source_group);
    } else {
      int64_t copied = g.c;
      for (int a = 0; a < 4; ++a) copied *= pixels.size(a);
      x = in_copy<A>(pixels, g.c, copied_source, s.source_group);
      for (int64_t i = 0; i < groups; ++i) {
        A* to = copied_source + i * s.source_group;
        copy_box(g.source, g.extent[2], pixels, source + i * g.c * g.source.c, g.c, to, g.c, g.c);
        zero(to + copied, at_least(patch_piece, lanes<A>));
        if (p.mode == CorrelationMode::patch) {
          Side<A> group = x;
          group.at += i * s.source_group;
          copy_patches(g, p, box, pixels, group, patches + i * s.patch_group, s.patch_ld);
        }
      }
      if (p.mode == CorrelationMode::patch) x = in_copy<A>(box, s.patch_ld, patches, s.patch_group);
      x.at += x_first;
    }
    Fetch fetch[2];
    for (Fetch& f : fetch) f = {reinterpret_cast<const char*>(scratch), 0, 0, 0, INT64_MAX};
    if (b + 1 < box_end) {
      const Box next = box_of(g, p, b + 1);
      fetch[0] = fetch_of(g.target, next, target + y_first * g.target.c, y_count, g.m * groups);
      fetch[1] = fetch_of(g.source, source_box(g, next, false), source + (plain ? x_first * g.source.c : 0),
                          plain ? x_count : g.c, g.c * groups);
    }
    const int64_t row_group = p.source_lanes ? y.group : x.group, lane_group = p.source_lanes ? x.group : y.group;
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      const int64_t count = meet(g, p, box, g.taps[tap * p.merged].offset, x, y, meetings);
      if (count == 0 && b > box_begin) continue;
      for (int64_t i = 0; i < groups; ++i)
        correlate_tiles(meetings, count, rows, i * row_group, lane_count, i * lane_group, fetch,
                        sums + i * p.group_sums + tap * p.row_chunk * p.ld, p.ld, b > box_begin);
    }
  }
}

// to[i] = the sum at lane + i, i < count, of this tap and row: its parts added in order.
template <class A>
void add_parts(const CorrelationPlan& p, const A* sums, int64_t tap, int64_t row, int64_t lane, int64_t count, A* to) {
  while (count > 0) {
    const int64_t chunk = lane / p.lane_chunk * p.row_chunks + row / p.row_chunk, l = lane % p.lane_chunk;
    const A* from = sums + chunk * p.chunk_sums + (tap * p.row_chunk + row % p.row_chunk) * p.ld + l;
    const int64_t some = at_most(count, p.lane_chunk - l);
    for (int64_t i = 0; i < some; ++i) to[i] = from[i];
    for (int64_t s = 1; s < p.splits; ++s)
      for (int64_t i = 0; i < some; ++i) to[i] += from[s * p.split_sums + i];
    lane += some, count -= some, to += some;
  }
}

// weight[m, c, tap] of channels [m_begin, m_end), 16 at the most, from the sums of correlate, by way of small blocks
// [tap][c] or [tap][m] that are written in the weight's order.
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
            add_parts(p, sums, tap, m, x, channels, block + t * most_channels);
          else
            add_parts(p, sums, tap, x, m, m_end - m, block + t * most_channels);
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
