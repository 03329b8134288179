// Winograd's weight gradient, as a correlation: the splits of its sum are decided by the shapes alone, all else decides
// no bit of a result.
#include "conv/direct/correlate.h"
#include "conv/winograd/blocks.h"
#include "conv/winograd/winograd.h"

namespace torchconv {
namespace {

// Sizes that fit the caches of a core, measured.
constexpr int64_t correlate_tiles = 64;
constexpr int64_t correlate_range = 256;       // source channels of a task of the weight gradient
constexpr int64_t correlate_block = 128;       // target channels of one, fewer where its sums have more than
constexpr int64_t correlate_sums = 640 << 10;  // elements
constexpr int64_t correlate_part = 48;         // source channels transformed at once
constexpr int64_t correlate_tasks = 16;        // tasks wanted
constexpr int64_t correlate_least = 96;        // tiles of a split
constexpr int64_t correlate_floats = 2 << 20;  // partial sums there is room for

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
  int64_t tasks(const Winograd& w) const { return w.g.groups * w.slice_taps() * c_ranges * m_blocks; }
  int64_t result_size(const Winograd& w) const { return c_range * w.axis[0].taps * w.axis[1].taps * m_block; }

  // Elements of a task's planes: [plane][tile][source channel of a part], [plane][tile][m_block], and for every part
  // the sums [plane][source channel][m_block].
  template <class A>
  int64_t x_size(const Winograd& w) const {
    return planes_size<A>(w, blocking.most_tiles(), correlate_part);
  }
  template <class A>
  int64_t y_size(const Winograd& w) const {
    return planes_size<A>(w, blocking.most_tiles(), m_block);
  }
  template <class A>
  int64_t sums_size(const Winograd& w) const {
    return planes_size<A>(w, correlate_part, m_block);
  }
  template <class T>
  int64_t elements(const Winograd& w) const {
    using A = accumulator_t<T>;
    return x_size<A>(w) + y_size<A>(w) + parts() * sums_size<A>(w) + scratch_of<T>(w, blocking) +
           (splits == 1 ? 1 : splits * tasks(w)) * result_size(w);
  }
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
  const int64_t x_size = plan.x_size<A>(w), y_size = plan.y_size<A>(w), sums_size = plan.sums_size<A>(w);
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
  const int64_t size = plan.result_size(w), tasks = plan.tasks(w), blocks = plan.blocking.count();
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

template <class T>
void run_winograd_correlate(const Gather& g, bool channels_last, const T* source, const T* target, T* weight) {
  if (g.positions() == 0) return run_correlate<T>(g, channels_last, source, target, weight);
  correlate<T>(problem_of(g, channels_last), source, target, weight);
}

template <class T>
int64_t winograd_correlate_workspace(const Gather& g, bool channels_last) {
  const Winograd w = problem_of(g, channels_last);
  return CorrelatePlan(w, 1).elements<T>(w) * static_cast<int64_t>(sizeof(accumulator_t<T>));
}

#define TORCHCONV_INSTANTIATE(T)                                                     \
  template void run_winograd_correlate(const Gather&, bool, const T*, const T*, T*); \
  template int64_t winograd_correlate_workspace<T>(const Gather&, bool);
TORCHCONV_INSTANTIATE(float)
TORCHCONV_INSTANTIATE(bfloat16)
#undef TORCHCONV_INSTANTIATE

}  // namespace torchconv
