// How a correlation is summed: which side fills the vectors, what counts as a tap, the blocks, chunks and parts.
#pragma once
#include "cpu/tile.inl"

// Rows of a tile two vectors and one vector wide: 24 or 12 sums in registers.
constexpr int correlate_rows = TORCHCONV_VECTOR_BYTES == 64 ? 12 : 6;
constexpr int correlate_single_rows = 2 * correlate_rows;

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

// The lowest and the highest tap offset of an axis.
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

// The positions t, first <= t < last, of those from begin to end, at which a tap offset sees the map.
struct Seen {
  int64_t first, last;
};
inline Seen seen(const Gather& g, int axis, int64_t offset, int64_t begin, int64_t end) {
  const int64_t step = g.step[axis], inside = g.extent[axis] - offset;
  const int64_t first = at_least(begin, offset < 0 ? (-offset + step - 1) / step : 0);
  return {first, at_least(first, at_most(end, inside > 0 ? (inside + step - 1) / step : 0))};
}

constexpr int64_t positions_sums = 1024;  // vectors of sums there is room for where positions fill them

// Whether positions may fill the vectors.
inline bool fits_positions(const Gather& g) {
  if (g.step[2] != 1 || g.tap_count == 0 || g.m * g.depth() > positions_sums) return false;
  for (int a = 0; a < 3; ++a) {
    const TapSpan span = tap_span(g, a);
    if (span.low < 0 || (g.count[a] - 1) * g.step[a] + span.high >= g.extent[a]) return false;
  }
  return true;
}

// What a row of positions costs, in the units of correlation_plan.
template <class A>
int64_t positions_cost(const Gather& g, bool channels_last) {
  const int64_t vectors = (g.count[2] + lanes<A> - 1) / lanes<A>;
  const int64_t copied = g.count[2] * (g.c * g.step[0] * g.step[1] + g.m);
  return vectors * g.m * g.depth() * 9 / 8 + (channels_last ? copied : copied / 4);
}

// Whether places so many elements apart contend for few sets of the first cache: a block of them would not stay there.
template <class A>
bool contend(int64_t elements) {
  return elements * sizeof(A) % 2048 == 0;
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
  if (fits_positions(g) && positions_cost<A>(g, channels_last) < best.cost)
    best = {CorrelationMode::positions, 1, false, 0};
  const bool positions = best.mode == CorrelationMode::positions;
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
  int64_t left =
      at_most(4 * correlate_positions, static_cast<int64_t>(correlate_positions * (double(all) / double(pairs))));
  if (positions) left = correlate_positions * lanes<A>;
  const int64_t counts[4] = {g.batch, g.count[0], g.count[1], g.count[2]};
  for (int a = 3; a >= 0; --a) {
    const int64_t most = a == 0 && positions ? 1 : at_least(1, at_most(counts[a], left)),
                  boxes = (counts[a] + most - 1) / most;
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
  p.copy_source = !in_place || p.mode != CorrelationMode::plain || (p.source_lanes && g.c % lanes<A> != 0) ||
                  contend<A>(g.groups * g.c * g.step[2]);
  p.copy_target = !in_place || (!p.source_lanes && g.m % lanes<A> != 0) || contend<A>(g.groups * g.m);
  return p;
}

// A block: samples, then the three axes, of positions or of pixels.
struct Block {
  int64_t low[4], high[4];
  int64_t size(int a) const { return high[a] - low[a]; }
};

inline Block block_of(const Gather& g, const CorrelationPlan& p, int64_t index) {
  Block box;
  for (int a = 3; a >= 0; index /= p.boxes[a--]) {
    box.low[a] = index % p.boxes[a] * p.extent[a];
    box.high[a] = at_most(box.low[a] + p.extent[a], a == 0 ? g.batch : g.count[a - 1]);
  }
  return box;
}

// The source pixels that a box of positions sees; along the last axis, `whole`, those off the map too.
inline Block source_block(const Gather& g, const Block& box, bool whole) {
  Block s = box;
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
