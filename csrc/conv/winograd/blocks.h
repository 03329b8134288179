// What Winograd's two drivers share: planes in memory, tiles put together to blocks, and memory fetched ahead.
#pragma once
#include <algorithm>
#include <atomic>
#include <vector>

#include "buffer.h"
#include "cpu/kernels.h"

namespace torchconv {

inline int64_t rounded(int64_t value, int64_t multiple) { return blocks_of(value, multiple) * multiple; }

// Tiles along an axis of `count` positions, the fewest that the points allow: the larger the tiles, the fewer products.
inline int64_t winograd_tiles(int64_t taps, int64_t count) {
  if (taps == 1 || count == 0) return std::max<int64_t>(1, count);
  return blocks_of(count, winograd_points + 1 - taps);
}

// Planes of rows × columns one after the other, each an odd number of cache lines further: no two of them on one set.
template <class A>
WinogradPlanes<A> planes_at(A* data, int64_t rows, int64_t columns) {
  const int64_t line = 64 / sizeof(A), size = rounded(rows * columns, line);
  return {data, size / line % 2 ? size : size + line, columns};
}
template <class A>
int64_t planes_size(const Winograd& w, int64_t rows, int64_t columns) {
  return planes_at<A>(nullptr, rows, columns).pitch * w.planes();
}

inline Winograd problem_of(const Gather& g, bool channels_last) {
  Winograd w{g, {}, channels_last};
  for (int i = 0; i < 2; ++i) {
    const int64_t taps = g.grid[i + 1], count = g.count[i + 1], tiles = winograd_tiles(taps, count);
    w.axis[i] = {taps, g.taps[0].offset[i + 1], count, g.extent[i + 1], tiles, blocks_of(count, tiles)};
  }
  return w;
}

// body(take) on every thread: take() gives it one of the tasks 0 … count − 1 that no thread has yet, then others. Every
// thread has a first one of its own, so that none takes two before another has begun.
template <class Body>
void share(int64_t count, Body body) {
  const int64_t threads = std::min<int64_t>(count, get_num_threads());
  std::atomic<int64_t> next{threads};
  parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    int64_t first = begin;
    body([&] { return first < end ? first++ : next++; });
  });
}

// Blocks of tiles, about equal: whole rows of tiles, or parts of one row where a row has more than `most`. Their number
// is a multiple of `parts` where that can be. Where there are few of them they have up to twice as many rows, if
// `parts` are busier so: a block also costs as much as half of its usual rows, for its filters.
struct Blocking {
  int64_t tiles_y, tiles_x, rows, block_rows, segments;

  Blocking(const Winograd& w, int64_t most, int64_t parts)
      : tiles_y(w.axis[0].tiles),
        tiles_x(w.axis[1].tiles),
        rows(w.g.batch * w.g.count[0] * tiles_y),
        block_rows(std::max<int64_t>(1, most / tiles_x)),
        segments(blocks_of(tiles_x, most)) {
    const int64_t usual = block_rows, blocks = blocks_of(rows, usual);
    block_rows = std::max<int64_t>(1, blocks_of(rows, std::max<int64_t>(1, rounded(blocks, parts))));
    if (parts == 1 || blocks > 2 * parts) return;
    const auto cost = [&](int64_t r) { return blocks_of(blocks_of(rows, r), parts) * (2 * r + usual); };
    for (int64_t r = 1; r <= std::min(2 * usual, rows); ++r)
      if (cost(r) < cost(block_rows)) block_rows = r;
  }
  // Of all rows, the share of the busiest of `parts`.
  double share(int64_t parts) const {
    return static_cast<double>(std::min(rows, blocks_of(blocks_of(rows, block_rows), parts) * block_rows)) /
           static_cast<double>(std::max<int64_t>(1, rows));
  }
  int64_t count() const { return blocks_of(rows, block_rows) * segments; }
  int64_t most_tiles() const { return block_rows * blocks_of(tiles_x, segments); }
};

// Tile i along an axis: the large ones come first.
inline int64_t begin_of(const WinogradAxis& a, int64_t i) {
  return i * a.outputs - std::max<int64_t>(0, i - (a.tiles - a.small_tiles()));
}

// The tiles of one block, with their rows in the planes.
inline WinogradBlock block_of(const Winograd& w, const Blocking& b, int64_t index, std::vector<WinogradTile>& tiles) {
  const int64_t segment = index % b.segments, begin = index / b.segments * b.block_rows;
  const int64_t end = std::min(b.rows, begin + b.block_rows);
  const int64_t x_begin = b.tiles_x * segment / b.segments, x_end = b.tiles_x * (segment + 1) / b.segments;
  const WinogradAxis &v = w.axis[0], &h = w.axis[1];
  WinogradBlock block{};
  tiles.resize((end - begin) * (x_end - x_begin));
  for (int64_t row = begin; row < end; ++row)
    for (int64_t x = x_begin; x < x_end; ++x) {
      WinogradTile& t = tiles[block.count++];
      const int64_t y = row % b.tiles_y;
      t.y = static_cast<int32_t>(begin_of(v, y)), t.x = static_cast<int32_t>(begin_of(h, x));
      t.slice = row / b.tiles_y % w.g.count[0], t.n = row / b.tiles_y / w.g.count[0];
      t.my = static_cast<int32_t>(begin_of(v, y + 1) - t.y), t.mx = static_cast<int32_t>(begin_of(h, x + 1) - t.x);
      for (int i = 0; i <= (t.my == v.outputs); ++i)
        for (int j = 0; j <= (t.mx == h.outputs); ++j) t.row[2 * i + j] = static_cast<int32_t>(block.rows[2 * i + j]++);
    }
  block.tiles = tiles.data();
  return block;
}

// The memory that a block will touch, to be fetched during a product of `steps` tiles.
struct Ahead {
  std::vector<WinogradTouch> runs;

  WinogradAhead over(int64_t steps) const {
    int64_t lines = 0;
    for (const WinogradTouch& t : runs) lines += t.count * blocks_of(t.bytes + 63, 64);
    return {runs.data(), static_cast<int64_t>(runs.size()), blocks_of(lines, steps), 0, 0, 0};
  }
  template <class T>
  void add(const Winograd& w, const WinogradBlock& block, bool in_source, int64_t channels, const T* base) {
    const size_t before = runs.size();
    runs.resize(before + block.count);
    runs.resize(before + kernels<T>().winograd.touches(w, block, in_source, channels, base, runs.data() + before));
  }
};

template <class T>
const WinogradKernels<T>& winograd() {
  return kernels<T>().winograd;
}

// Rows of a filter's plane: (slice tap, channel), each slice tap's channels filled up to whole vectors but the last's.
template <class T>
int64_t filled(const Winograd& w) {
  return rounded(w.g.c, winograd<T>().vector);
}
template <class T>
int64_t depth_of(const Winograd& w) {
  return (w.slice_taps() - 1) * filled<T>(w) + w.g.c;
}

// The kernels' scratch for a block, in a tensor that grows as it must.
template <class T>
accumulator_t<T>* scratch_for(const Winograd& w, const WinogradBlock& block, Tensor& scratch) {
  const int64_t bytes = winograd<T>().scratch(w, block) * static_cast<int64_t>(sizeof(accumulator_t<T>));
  if (!scratch.defined() || scratch.numel() < bytes) {
    scratch = Tensor();  // before there is a larger one
    scratch = empty({bytes}, ScalarType::Byte);
  }
  return static_cast<accumulator_t<T>*>(scratch.mutable_data_ptr());
}

// Elements of the kernels' scratch for a block: the most of the first 16, since blocks of all samples are alike.
template <class T>
int64_t scratch_of(const Winograd& w, const Blocking& blocking) {
  std::vector<WinogradTile> tiles;
  int64_t most = 0;
  for (int64_t i = 0; i < std::min<int64_t>(blocking.count(), 16); ++i)
    most = std::max(most, winograd<T>().scratch(w, block_of(w, blocking, i, tiles)));
  return most;
}

}  // namespace torchconv
