// correlate for bfloat16, two positions at a time. The sides are copied as accumulators, then every element is joined
// with the one that stands where the next position meets it: the bits of a pair. So a row of n meetings is n / 2
// pairs, from its first place on, and if n is odd a last place alone, of whose pairs the other halves are not to be
// seen: they may be of another row, and not finite.
#pragma once
#include "conv/direct/correlate.inl"
#include "conv/direct/dot_bf16.inl"

// to[i] = the pair of what stands at i and at i + next.
inline void join_pairs(float* to, int64_t count, int64_t next) {
  constexpr int n = lanes<float>;
  const words high = words{} + 0xffff0000u;
  int64_t i = 0;
  for (; i + n <= count - next; i += n) {
    const words own = reinterpret_cast<words>(load(to + i)), other = reinterpret_cast<words>(load(to + i + next));
    store(to + i, reinterpret_cast<vector_t<float>>(own >> 16 | (other & high)));
  }
  for (; i < count; ++i) {
    BF16Pair pair{};
    narrow(to[i], &pair.of[0]);
    if (i + next < count) narrow(to[i + next], &pair.of[1]);
    std::memcpy(to + i, &pair, sizeof pair);
  }
}

// The same tile as correlate's, of meetings [0, pairs) of pairs and [pairs, count) of single places.
template <int ROWS, int VECTORS>
void pairs_tile(const Meeting<float>* at, int64_t pairs, int64_t count, int64_t row, int64_t lane, Fetch& fetch,
                float* sums, int64_t ld, bool add) {
  vector_t<float> sum[ROWS][VECTORS] = {};
  Fetch ahead = fetch;
  const auto products = [&](int64_t first, int64_t last, uint32_t kept) __attribute__((always_inline)) {
    for (int64_t i = first; i < last; ++i) {
      const float* a = at[i].side[0] + row;
      const float* b = at[i].side[1] + lane;
      ahead.step();
      asm("" : "+r"(a));  // as in correlate_tile
      vector_t<float> column[VECTORS];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j)
        column[j] =
            reinterpret_cast<vector_t<float>>(reinterpret_cast<words>(load(b + j * lanes<float>)) & (words{} + kept));
#pragma GCC unroll 24
      for (int r = 0; r < ROWS; ++r) {
        uint32_t x;
        std::memcpy(&x, a + r, sizeof x);
        x &= kept;
        float pair;
        std::memcpy(&pair, &x, sizeof pair);
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) sum[r][j] = add_product(sum[r][j], pair, column[j]);
      }
    }
  };
  products(0, pairs, 0xffffffffu);
  products(pairs, count, 0xffffu);
  fetch = ahead;
#pragma GCC unroll 24
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) {
      float* c = sums + r * ld + j * lanes<float>;
      store(c, add ? load(c) + sum[r][j] : sum[r][j]);
    }
  }
}

template <int VECTORS, int ROWS>
void pairs_tile_of(int64_t rows, const Meeting<float>* at, int64_t pairs, int64_t count, int64_t row, int64_t lane,
                   Fetch& fetch, float* sums, int64_t ld, bool add) {
  if (rows == ROWS) return pairs_tile<ROWS, VECTORS>(at, pairs, count, row, lane, fetch, sums, ld, add);
  if constexpr (ROWS > 1) pairs_tile_of<VECTORS, ROWS - 1>(rows, at, pairs, count, row, lane, fetch, sums, ld, add);
}

// sums[rows][lane_count], in the tiles of correlate_tiles.
inline void pairs_tiles(const Meeting<float>* at, int64_t pairs, int64_t count, int64_t rows, int64_t row,
                        int64_t lane_count, int64_t lane, Fetch (&fetch)[2], float* sums, int64_t ld, bool add) {
  for (int64_t l = 0; l < lane_count; l += 2 * lanes<float>) {
    const bool two = lane_count - l > lanes<float>;
    const int64_t height = two ? correlate_rows : correlate_single_rows, tiles = (rows + height - 1) / height;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t r = rows * t / tiles, some = rows * (t + 1) / tiles - r;
      float* to = sums + r * ld + l;
      Fetch& next = fetch[fetch[0].runs <= 0];
      if (two)
        pairs_tile_of<2, correlate_rows>(some, at, pairs, count, row + r, lane + l, next, to, ld, add);
      else
        pairs_tile_of<1, correlate_single_rows>(some, at, pairs, count, row + r, lane + l, next, to, ld, add);
    }
  }
}

// Puts the first place of each pair before the places left alone; meetings are rows of n. Returns how many pairs.
inline int64_t pair_meetings(Meeting<float>* at, int64_t count, int64_t n, Meeting<float>* alone) {
  if (n == 0) return 0;
  int64_t pairs = 0, singles = 0;
  for (int64_t first = 0; first < count; first += n) {
    if (n % 2 == 1) alone[singles++] = at[first + n - 1];
    for (int64_t i = 0; i + 1 < n; i += 2) at[pairs++] = at[first + i];
  }
  for (int64_t i = 0; i < singles; ++i) at[pairs + i] = alone[i];
  return pairs;
}

inline int64_t places_of(const Block& block) { return block.size(0) * block.size(1) * block.size(2) * block.size(3); }

// The source's side, joined: as correlate's, of one place or of merged taps.
inline Side<float> joined_source(const Gather& g, const CorrelationPlan& p, const CorrelateScratch& s,
                                 const Block& block, const bfloat16* source, const Share& x, float* copied,
                                 float* patches) {
  const Block seen = source_block(g, block, p.mode != CorrelationMode::plain);
  const int64_t size = places_of(seen) * s.source_ld;
  if (p.mode == CorrelationMode::plain) {
    const Side<float> side = plain_side(g.source, g.extent[2], seen, seen_rows(g), source, x, p.source_lanes, true,
                                        copied, s.source_ld, s.source_group);
    join_pairs(copied, size, g.step[2] * s.source_ld);
    return side;
  }
  const Side<float> side = merged_side(g, p, s, block, source, x, copied, patches);
  for (int64_t i = 0; i < x.groups; ++i)
    if (p.mode == CorrelationMode::patch)
      join_pairs(patches + i * s.patch_group, places_of(block) * s.patch_ld, s.patch_ld);
    else
      join_pairs(copied + i * s.source_group, size, g.step[2] * s.source_ld);
  return side;
}

inline int64_t pairs_correlate_scratch(const Gather& g, const CorrelationPlan& p) {
  if (p.mode == CorrelationMode::positions) return avx512_table().bf16.conv.correlate_scratch(g, p);
  const CorrelateScratch s = correlate_pieces<float>(g, p);
  return 2 * s.meetings + s.target + s.source + s.patches;
}

// correlate, but for positions along the vectors, which stays avx512's. Scratch: meetings | those alone | as there.
inline void pairs_correlate(const Gather& g, const CorrelationPlan& p, int64_t group_block, int64_t lane_chunk,
                            int64_t row_chunk, int64_t begin, int64_t end, const bfloat16* source,
                            const bfloat16* target, float* sums, float* scratch) {
  if (p.mode == CorrelationMode::positions)
    return avx512_table().bf16.conv.correlate(g, p, group_block, lane_chunk, row_chunk, begin, end, source, target,
                                              sums, scratch);
  const int64_t first_group = group_block * p.group_block, groups = at_most(p.group_block, g.groups - first_group);
  const CorrelateScratch s = correlate_pieces<float>(g, p);
  Meeting<float>* meetings = reinterpret_cast<Meeting<float>*>(scratch);
  Meeting<float>* alone = reinterpret_cast<Meeting<float>*>(scratch + s.meetings);
  float* copied_target = scratch + 2 * s.meetings;
  float* copied_source = copied_target + s.target;
  float* patches = copied_source + s.source;
  const int64_t row = row_chunk * p.row_chunk, rows = at_most(p.row_chunk, p.rows - row);
  const int64_t lane = lane_chunk * p.lane_chunk, lane_count = at_most(p.lane_chunk, p.lanes - lane);
  const Share x{p.source_lanes ? lane : row, p.source_lanes ? lane_count : rows, g.c, groups};
  const Share y{p.source_lanes ? row : lane, p.source_lanes ? rows : lane_count, g.m, groups};
  source += first_group * g.c * g.source.c;
  target += first_group * g.m * g.target.c;
  for (int64_t i = 0; i < groups && begin == end; ++i) zero(sums + i * p.group_sums, p.chunk_sums);
  for (int64_t b = begin; b < end; ++b) {
    const Block block = block_of(g, p, b);
    const Side<float> of_target = plain_side(g.target, g.count[2], block, {}, target, y, !p.source_lanes, true,
                                             copied_target, s.target_ld, s.target_group);
    join_pairs(copied_target, places_of(block) * s.target_ld, s.target_ld);
    const Side<float> of_source = joined_source(g, p, s, block, source, x, copied_source, patches);
    Fetch fetch[2];
    for (Fetch& f : fetch) f = {reinterpret_cast<const char*>(scratch), 0, 0, 0, INT64_MAX};
    if (b + 1 < end) fetch_next(g, p, block_of(g, p, b + 1), source, x, target, y, fetch);
    const int64_t row_group = p.source_lanes ? of_target.group : of_source.group;
    const int64_t lane_group = p.source_lanes ? of_source.group : of_target.group;
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      const int64_t* offset = g.taps[tap * p.merged].offset;
      const int64_t count = meet(g, p, block, offset, of_source, of_target, meetings);
      if (count == 0 && b > begin) continue;
      const Seen inside = seen(g, 2, offset[2], block.low[3], block.high[3]);
      const int64_t pairs = pair_meetings(
          meetings, count, p.mode == CorrelationMode::plain ? inside.last - inside.first : block.size(3), alone);
      const int64_t places = pairs + count - 2 * pairs;
      for (int64_t i = 0; i < groups; ++i)
        pairs_tiles(meetings, pairs, places, rows, i * row_group, lane_count, i * lane_group, fetch,
                    sums + i * p.group_sums + tap * p.row_chunk * p.ld, p.ld, b > begin);
    }
  }
}
