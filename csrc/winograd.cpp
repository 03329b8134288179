// The driver of Winograd convolution: cuts the maps into tiles and blocks of tiles, and puts the kernels' steps
// together over them in parallel. Nothing here decides a bit of a result except correlate's splits, which the shapes
// alone decide.
#include "winograd.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "buffer.h"
#include "correlate.h"
#include "kernels/kernels.h"

namespace torchconv {
namespace {

int64_t rounded(int64_t value, int64_t multiple) { return blocks_of(value, multiple) * multiple; }

// A core's second cache in megabytes, 1 or 2, by which some of the sizes below go. It decides no bit of a result.
int64_t second_cache() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t megabytes = std::clamp<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE) >> 20, 1, 2);
  return megabytes;
#else
  return 1;
#endif
}

// Sizes that fit the caches of a core, measured: V and M of a block beside its filters' panel.
constexpr int64_t block_floats = 120 << 10;        // of V and M, of by_block, where the filters stay beside them:
constexpr int64_t block_filters = 160 << 10;       // at most so many floats of them
constexpr int64_t large_block_floats = 100 << 10;  // where they do not, and every block reads them from the third cache
int64_t block_tiles() { return 12 * second_cache(); }  // at least; at most a few times as many
constexpr int64_t panel_floats = 2 << 20;              // of V, of by_panel, that all threads share
constexpr int64_t panel_rows = 96 * 64;                // of V and M, over all planes
constexpr int64_t panel_channels = 64;                 // source channels of the filters transformed at once
constexpr int64_t correlate_tiles = 64;
constexpr int64_t cached_filters = 150 * 150;  // filters beyond this many are transformed a panel at a time
constexpr int64_t correlate_range = 256;       // source channels of a task of the weight gradient
constexpr int64_t correlate_block = 128;       // target channels of one, fewer where its sums have more than
constexpr int64_t correlate_sums = 640 << 10;  // elements
constexpr int64_t correlate_part = 48;         // source channels transformed at once
constexpr int64_t correlate_tasks = 16;        // tasks wanted
constexpr int64_t correlate_least = 96;        // tiles of a split
constexpr int64_t correlate_floats = 2 << 20;  // partial sums there is room for

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

Winograd problem_of(const Gather& g, bool channels_last) {
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
// is a multiple of `parts` where that can be.
struct Blocking {
  int64_t tiles_y, tiles_x, rows, block_rows, segments;

  Blocking(const Winograd& w, int64_t most, int64_t parts)
      : tiles_y(w.axis[0].tiles),
        tiles_x(w.axis[1].tiles),
        rows(w.g.batch * w.g.count[0] * tiles_y),
        block_rows(std::max<int64_t>(1, most / tiles_x)),
        segments(blocks_of(tiles_x, most)) {
    block_rows =
        std::max<int64_t>(1, blocks_of(rows, std::max<int64_t>(1, rounded(blocks_of(rows, block_rows), parts))));
  }
  int64_t count() const { return blocks_of(rows, block_rows) * segments; }
  int64_t most_tiles() const { return block_rows * blocks_of(tiles_x, segments); }
};

// Tile i along an axis: the large ones come first.
int64_t begin_of(const WinogradAxis& a, int64_t i) {
  return i * a.outputs - std::max<int64_t>(0, i - (a.tiles - a.small_tiles()));
}

// The tiles of one block, with their rows in the planes.
WinogradBlock block_of(const Winograd& w, const Blocking& b, int64_t index, std::vector<WinogradTile>& tiles) {
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
  if (!scratch.defined() || scratch.numel() < bytes) scratch = empty({bytes}, ScalarType::Byte);
  return static_cast<accumulator_t<T>*>(scratch.mutable_data_ptr());
}

// Columns of a panel of by_block, and tiles of a block.
template <class T>
int64_t panel_width(const Winograd& w) {
  return std::min(winograd<T>().columns, rounded(w.g.m, winograd<T>().vector));
}
template <class T>
int64_t tiles_of_block(const Winograd& w) {
  const int64_t columns = w.slice_taps() * filled<T>(w) + panel_width<T>(w);
  const bool cached = w.planes() * w.slice_taps() * filled<T>(w) * w.g.m <= block_filters;
  const int64_t floats = cached ? block_floats : large_block_floats * second_cache();
  return std::clamp(floats / (w.planes() * columns), block_tiles(), (cached ? 2 : 4) * block_tiles());
}

// Every block by itself, all its channels, against filters transformed beforehand: for filters that stay in cache.
template <class T>
void by_block(const Winograd& w, const T* source, const T* weight, const T* bias, T* target) {
  using A = accumulator_t<T>;
  const auto& k = winograd<T>();
  const int64_t channels = filled<T>(w), depth = w.slice_taps() * channels;
  const int64_t width = panel_width<T>(w), panels = blocks_of(w.g.m, width);
  const int64_t filter_size = planes_size<A>(w, depth, width), slab = 2 * k.vector, slabs = blocks_of(w.g.c, slab);
  Buffer<A> filters(w.g.groups * panels * filter_size);  // [group][panel] planes [slice tap, channel][column]
  const int64_t vectors = blocks_of(w.g.m, k.vector), group_tasks = vectors * w.slice_taps() * slabs;
  share(w.g.groups * group_tasks, [&](auto take) {
    for (int64_t i = take(); i < w.g.groups * group_tasks; i = take()) {
      const int64_t group = i / group_tasks, c = i % slabs * slab, s = i / slabs % w.slice_taps();
      const int64_t m = i % group_tasks / slabs / w.slice_taps() * k.vector;
      A* to = filters.get() + (group * panels + m / width) * filter_size + (s * channels + c) * width;
      k.filter(w, group, s, c, std::min(w.g.c, c + slab), m, std::min(w.g.m, m + k.vector), weight,
               {to + m % width, planes_at<A>(nullptr, depth, width).pitch, width});
    }
  });
  const Blocking blocking(w, tiles_of_block<T>(w), get_num_threads());
  const int64_t blocks = blocking.count(), most = blocking.most_tiles();
  const int64_t end = w.g.groups * blocks;
  share(end, [&](auto take) {
    std::vector<WinogradTile> tiles, next_tiles;
    Ahead touched;
    WinogradBlock block{}, next{};
    Buffer<A> buffer(planes_size<A>(w, most, depth) + planes_size<A>(w, most, width));
    const auto sources = planes_at(buffer.get(), most, depth);
    const auto products = planes_at(buffer.get() + planes_size<A>(w, most, depth), most, width);
    Tensor scratch;
    int64_t i = take(), after;  // this block and the next
    if (i < end) next = block_of(w, blocking, i % blocks, next_tiles);
    for (; i < end; i = after) {
      const int64_t group = i / blocks;
      after = take();
      tiles.swap(next_tiles), block = next;
      A* space = scratch_for<T>(w, block, scratch);
      for (int64_t s = 0; s < w.slice_taps(); ++s)
        k.source(w, block, 0, block.count, group, s, 0, w.g.c, source,
                 {sources.data + s * channels, sources.pitch, sources.ld}, space);
      touched.runs.clear();
      touched.add(w, block, false, w.g.m, static_cast<const T*>(target) + group * w.g.m * w.g.target.c);
      if (after < end) {
        next = block_of(w, blocking, after % blocks, next_tiles);
        touched.add(w, next, true, w.g.c, source + after / blocks * w.g.c * w.g.source.c);
      }
      WinogradAhead ahead = touched.over(panels * w.planes() * blocks_of(block.count, k.rows));
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t m = panel * width, m_end = std::min(w.g.m, m + width);
        k.multiply(w, block, depth_of<T>(w), m_end - m, sources,
                   planes_at(filters.get() + (group * panels + panel) * filter_size, depth, width), products, false,
                   ahead);
        k.target(w, block, 0, block.count, group, m, m_end, products, bias, target, space);
      }
    }
  });
}

bool takes_panels(const Gather& g) { return g.c * g.m * g.groups > cached_filters; }

// Tiles of a chunk.
template <class T>
int64_t chunk_tiles(const Winograd& w) {
  const int64_t depth = std::max<int64_t>(1, w.slice_taps() * filled<T>(w));
  return std::max<int64_t>(1, std::min(panel_rows, panel_floats / depth) / w.planes());
}

// A panel of target channels at a time, its filters transformed as they are needed, against all tiles of a chunk: for
// filters that do not stay in cache, and for few tiles.
template <class T>
void by_panel(const Winograd& w, const T* source, const T* weight, const T* bias, T* target) {
  using A = accumulator_t<T>;
  const auto& k = winograd<T>();
  const int64_t channels = filled<T>(w), depth = w.slice_taps() * channels, vectors = blocks_of(w.g.m, k.vector);
  const int64_t panels = std::min(vectors, rounded(blocks_of(w.g.m, k.columns), get_num_threads()));
  const int64_t slab = std::min(channels, rounded(panel_channels, k.vector)), slabs = blocks_of(w.g.c, slab), part = 16;
  const Blocking blocking(w, chunk_tiles<T>(w), 1);
  const int64_t most = blocking.most_tiles();
  Buffer<A> shared(planes_size<A>(w, most, depth));
  const auto sources = planes_at(shared.get(), most, depth);
  std::vector<WinogradTile> tiles;
  for (int64_t chunk = 0; chunk < w.g.groups * blocking.count(); ++chunk) {
    const int64_t group = chunk / blocking.count();
    const WinogradBlock block = block_of(w, blocking, chunk % blocking.count(), tiles);
    const int64_t scratch_size = k.scratch(w, block), parts = blocks_of(block.count, part);
    parallel_for(0, parts * w.slice_taps() * slabs, 1, [&](int64_t begin, int64_t end) {
      Buffer<A> scratch(scratch_size);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = i / slabs / w.slice_taps() * part, s = i / slabs % w.slice_taps(), c = i % slabs * slab;
        k.source(w, block, t, std::min(block.count, t + part), group, s, c, std::min(w.g.c, c + slab), source,
                 {sources.data + s * channels + c, sources.pitch, sources.ld}, scratch.get());
      }
    });
    share(panels, [&](auto take) {
      const int64_t filter_size = planes_size<A>(w, slab, k.columns);
      Buffer<A> scratch(scratch_size), buffer(filter_size + planes_size<A>(w, most, k.columns));
      const auto filters = planes_at(buffer.get(), slab, k.columns);
      const auto products = planes_at(buffer.get() + filter_size, most, k.columns);
      WinogradAhead none{};
      for (int64_t panel = take(); panel < panels; panel = take()) {
        const int64_t m = vectors * panel / panels * k.vector;
        const int64_t m_end = std::min(w.g.m, vectors * (panel + 1) / panels * k.vector);
        for (int64_t s = 0; s < w.slice_taps(); ++s)
          for (int64_t c = 0; c < w.g.c; c += slab) {
            const int64_t c_end = std::min(w.g.c, c + slab);
            k.filter(w, group, s, c, c_end, m, m_end, weight, filters);
            k.multiply(w, block, c_end - c, m_end - m, {sources.data + s * channels + c, sources.pitch, sources.ld},
                       filters, products, s + c > 0, none);
          }
        k.target(w, block, 0, block.count, group, m, m_end, products, bias, target, scratch.get());
      }
    });
  }
}

// The weight gradient's parts: a range of source channels by a block of target channels, whose sums a thread keeps
// while the tiles pass by; and splits of the tiles, by the shapes alone, since the order of summation is part of the
// result.
struct CorrelatePlan {
  int64_t c_ranges, c_range, m_blocks, m_block, splits;
  Blocking blocking;

  CorrelatePlan(const Winograd& w, int64_t threads)
      : c_ranges(blocks_of(w.g.c, correlate_range)),
        c_range(part_of(w.g.c, c_ranges)),
        m_blocks(blocks_of(w.g.m, correlate_sums / (w.planes() * c_range) < correlate_block ? 64 : correlate_block)),
        m_block(part_of(w.g.m, m_blocks)),
        splits(1),
        blocking(w, correlate_tiles, 1) {
    const Gather& g = w.g;
    const int64_t filters = std::max<int64_t>(1, g.groups * g.c * g.m * g.tap_count);
    const int64_t tiles = blocking.rows * blocking.tiles_x, others = g.groups * w.slice_taps() * c_ranges;
    int64_t most = tiles / correlate_least;
    if (others * m_blocks < 4) most = std::max(most, std::min<int64_t>(2, tiles / (correlate_least / 4)));
    most = std::max<int64_t>(1, std::min(correlate_floats / filters, most));
    splits = std::min(blocks_of(correlate_tasks, others * m_blocks), most);
    const auto idle = [&] { return others * m_blocks * splits % threads && others * m_blocks * splits < 4 * threads; };
    while (idle() && m_block > 32) m_block = part_of(g.m, ++m_blocks);  // decides no bit, as the splits do
    m_blocks = blocks_of(g.m, m_block);
    blocking = Blocking(w, correlate_tiles, splits);
    splits = std::max<int64_t>(1, std::min(splits, blocking.count()));
  }
  static int64_t part_of(int64_t channels, int64_t parts) {
    return rounded(std::max<int64_t>(1, blocks_of(channels, std::max<int64_t>(1, parts))), 16);
  }
  int64_t parts() const { return blocks_of(c_range, correlate_part); }
};

// One range by one block of channels, over the tiles of one split.
struct CorrelateTask {
  int64_t group, slice_tap, c, c_end, m, m_end, first, last;  // channels; blocks of tiles
};

// The sums of a task, transformed back: out [c][tap][m], rows of m_block.
template <class T>
void run_task(const Winograd& w, const CorrelatePlan& plan, const CorrelateTask& t, const T* source, const T* grad,
              accumulator_t<T>* out) {
  using A = accumulator_t<T>;
  const auto& k = winograd<T>();
  const int64_t part = correlate_part, most = plan.blocking.most_tiles(), area = w.axis[0].taps * w.axis[1].taps;
  const int64_t x_size = planes_size<A>(w, most, part), y_size = planes_size<A>(w, most, plan.m_block);
  const int64_t sums_size = planes_size<A>(w, part, plan.m_block);
  Buffer<A> buffer(x_size + y_size + plan.parts() * sums_size);
  const auto x = planes_at(buffer.get(), most, part), y = planes_at(buffer.get() + x_size, most, plan.m_block);
  const auto sums = [&](int64_t c) {  // of the part that begins with channel c
    return planes_at(buffer.get() + x_size + y_size + (c - t.c) / part * sums_size, part, plan.m_block);
  };
  std::vector<WinogradTile> tiles, next_tiles;
  Ahead touched;
  WinogradBlock block{}, next{};
  Tensor scratch;
  for (int64_t i = t.first; i < t.last; ++i) {
    if (i == t.first) next = block_of(w, plan.blocking, i, next_tiles);
    tiles.swap(next_tiles), block = next;
    touched.runs.clear();
    if (i + 1 < t.last) {
      next = block_of(w, plan.blocking, i + 1, next_tiles);
      touched.add(w, next, true, t.c_end - t.c, source + (t.group * w.g.c + t.c) * w.g.source.c);
      touched.add(w, next, false, t.m_end - t.m, grad + (t.group * w.g.m + t.m) * w.g.target.c);
    }
    WinogradAhead ahead =
        touched.over(w.planes() * blocks_of(t.c_end - t.c, k.rows) * blocks_of(t.m_end - t.m, k.columns));
    A* space = scratch_for<T>(w, block, scratch);
    k.grad(w, block, 0, block.count, t.group, t.m, t.m_end, grad, y, space);
    for (int64_t c = t.c; c < t.c_end; c += part) {
      const int64_t c_end = std::min(t.c_end, c + part);
      k.source(w, block, 0, block.count, t.group, t.slice_tap, c, c_end, source, x, space);
      k.accumulate(w, block, c_end - c, t.m_end - t.m, x, y, sums(c), i > t.first, ahead);
    }
  }
  for (int64_t c = t.c; c < t.c_end; c += part)
    k.weight(w, std::min(t.c_end - c, part), t.m_end - t.m, sums(c), out + (c - t.c) * area * plan.m_block,
             plan.m_block);
}

template <class T>
void correlate(const Winograd& w, const T* source, const T* grad, T* weight) {
  using A = accumulator_t<T>;
  const auto& k = winograd<T>();
  const CorrelatePlan plan(w, get_num_threads());
  const int64_t size = plan.c_range * w.axis[0].taps * w.axis[1].taps * plan.m_block;  // of one task's result
  const int64_t tasks = w.g.groups * w.slice_taps() * plan.c_ranges * plan.m_blocks, blocks = plan.blocking.count();
  const auto task_of = [&](int64_t i, int64_t split) {
    const int64_t m = i % plan.m_blocks * plan.m_block, c = i / plan.m_blocks % plan.c_ranges * plan.c_range;
    const int64_t rest = i / plan.m_blocks / plan.c_ranges;
    return CorrelateTask{rest / w.slice_taps(),
                         rest % w.slice_taps(),
                         c,
                         std::min(w.g.c, c + plan.c_range),
                         m,
                         std::min(w.g.m, m + plan.m_block),
                         blocks * split / plan.splits,
                         blocks * (split + 1) / plan.splits};
  };
  const auto store = [&](const CorrelateTask& t, int64_t c, int64_t c_end, const A* sums) {
    k.store(w, t.group, t.slice_tap, c, c_end, t.m, t.m_end, plan.splits, tasks * size, sums, plan.m_block, weight);
  };
  Buffer<A> sums(plan.splits == 1 ? 0 : plan.splits * tasks * size);  // [split][task][c][tap][m_block]
  share(plan.splits * tasks, [&](auto take) {
    Buffer<A> own(plan.splits == 1 ? size : 0);
    for (int64_t i = take(); i < plan.splits * tasks; i = take()) {
      const CorrelateTask t = task_of(i % tasks, i / tasks);
      A* out = plan.splits == 1 ? own.get() : sums.get() + i * size;
      run_task(w, plan, t, source, grad, out);
      if (plan.splits == 1) store(t, t.c, t.c_end, out);
    }
  });
  if (plan.splits == 1) return;
  const int64_t slab = 16, slabs = blocks_of(plan.c_range, slab);
  parallel_for(0, tasks * slabs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const CorrelateTask t = task_of(i / slabs, 0);
      const int64_t c = t.c + i % slabs * slab;
      if (c < t.c_end)
        store(t, c, std::min(t.c_end, c + slab),
              sums.get() + i / slabs * size + i % slabs * slab * (size / plan.c_range));
    }
  });
}

}  // namespace

int64_t winograd_tiles(int64_t taps, int64_t count) {
  if (taps == 1 || count == 0) return std::max<int64_t>(1, count);
  return blocks_of(count, winograd_points + 1 - taps);
}

std::string winograd_refusal(const ConvParams& p) {
  if (p.dtype == ScalarType::Double) return "float64 is not rounded more than it must";
  for (int a = 1; a < 3; ++a) {
    if (p.stride[a] != 1) return str("needs stride 1, got ", p.stride[a]);
    if (p.kernel[a] == 1) continue;
    if (p.kernel[a] != 3 && p.kernel[a] != 5) return str("needs filters of 1, 3 or 5 a side, got ", p.kernel[a]);
    if (p.dilation[a] != 1) return str("needs dilation 1, got ", p.dilation[a]);
  }
  if (p.kernel[1] == 1 && p.kernel[2] == 1) return "has nothing to save on filters of one point";
  return "";
}

template <class T>
void run_winograd(const Gather& g, bool channels_last, const T* source, const T* weight, const T* bias, T* target) {
  const auto run = takes_panels(g) ? by_panel<T> : by_block<T>;
  run(problem_of(g, channels_last), source, weight, bias, target);
}

template <class T>
void run_winograd_correlate(const Gather& g, bool channels_last, const T* source, const T* target, T* weight) {
  if (g.positions() == 0) return run_correlate<T>(g, channels_last, source, target, weight);
  correlate<T>(problem_of(g, channels_last), source, target, weight);
}

template <class T>
int64_t winograd_workspace(const Gather& g, bool channels_last, bool weight_grad) {
  using A = accumulator_t<T>;
  if constexpr (std::is_same_v<T, double>) {
    return 0;
  } else {
    const Winograd w = problem_of(g, channels_last);
    const auto& k = winograd<T>();
    const int64_t depth = w.slice_taps() * filled<T>(w), width = panel_width<T>(w), panels = blocks_of(g.m, width);
    int64_t floats = 0;
    if (weight_grad) {
      const CorrelatePlan plan(w, 1);
      const int64_t most = plan.blocking.most_tiles(), taps = w.axis[0].taps * w.axis[1].taps;
      const int64_t tasks = g.groups * w.slice_taps() * plan.c_ranges * plan.m_blocks;
      floats = planes_size<A>(w, most, correlate_part) + planes_size<A>(w, most, plan.m_block) +
               plan.parts() * planes_size<A>(w, correlate_part, plan.m_block) +
               (plan.splits == 1 ? 1 : plan.splits * tasks) * plan.c_range * taps * plan.m_block;
    } else if (takes_panels(g)) {
      const int64_t most = Blocking(w, chunk_tiles<T>(w), 1).most_tiles();
      floats = planes_size<A>(w, most, depth) + planes_size<A>(w, most, k.columns) +
               planes_size<A>(w, std::min(filled<T>(w), rounded(panel_channels, k.vector)), k.columns);
    } else {
      const int64_t most = Blocking(w, tiles_of_block<T>(w), 1).most_tiles();
      floats = g.groups * panels * planes_size<A>(w, depth, width) + planes_size<A>(w, most, depth) +
               planes_size<A>(w, most, width);
    }
    return floats * static_cast<int64_t>(sizeof(A));
  }
}
template int64_t winograd_workspace<float>(const Gather&, bool, bool);
template int64_t winograd_workspace<double>(const Gather&, bool, bool);
template int64_t winograd_workspace<bfloat16>(const Gather&, bool, bool);

template <>
void run_winograd_correlate(const Gather&, bool, const double*, const double*, double*) {
  TORCH_CHECK(false, "winograd refuses float64");
}
template void run_winograd_correlate(const Gather&, bool, const float*, const float*, float*);
template void run_winograd_correlate(const Gather&, bool, const bfloat16*, const bfloat16*, bfloat16*);

template <>
void run_winograd(const Gather&, bool, const double*, const double*, const double*, double*) {
  TORCH_CHECK(false, "winograd refuses float64");
}
template void run_winograd(const Gather&, bool, const float*, const float*, const float*, float*);
template void run_winograd(const Gather&, bool, const bfloat16*, const bfloat16*, const bfloat16*, bfloat16*);

}  // namespace torchconv
