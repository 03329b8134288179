// Winograd's forward pass and input gradient, as gathers: cuts the maps into tiles and blocks of tiles, and puts the
// kernels' steps together over them in parallel. Nothing here decides a bit of a result.
#include <unistd.h>

#include "conv/winograd/blocks.h"
#include "conv/winograd/winograd.h"

namespace torchconv {
namespace {

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
constexpr int64_t cached_filters = 150 * 150;          // filters beyond this many are transformed a panel at a time

// Every block by itself, all its channels, against filters transformed beforehand: for filters that stay in cache.
template <class T>
struct BlockPlan {
  int64_t channels, depth;            // source channels and rows of a filter's plane, filled up to whole vectors
  int64_t width, panels;              // target channels of a panel
  int64_t filter_size;                // elements of a panel's filters, [plane][slice tap, channel][column]
  Blocking blocking;                  // of the tiles
  int64_t source_size, product_size;  // elements of a block's planes, [plane][tile][depth] and [plane][tile][width]

  BlockPlan(const Winograd& w, int64_t threads)
      : channels(filled<T>(w)),
        depth(w.slice_taps() * channels),
        width(std::min(winograd<T>().columns, rounded(w.g.m, winograd<T>().vector))),
        panels(blocks_of(w.g.m, width)),
        filter_size(planes_size<A>(w, depth, width)),
        blocking(w, tiles_of(w), threads),
        source_size(planes_size<A>(w, blocking.most_tiles(), depth)),
        product_size(planes_size<A>(w, blocking.most_tiles(), width)) {}

  int64_t elements(const Winograd& w) const {
    return w.g.groups * panels * filter_size + source_size + product_size + scratch_of<T>(w, blocking);
  }

 private:
  using A = accumulator_t<T>;
  int64_t tiles_of(const Winograd& w) const {  // of a block
    const bool cached = w.planes() * depth * w.g.m <= block_filters;
    const int64_t floats = cached ? block_floats : large_block_floats * second_cache();
    return std::clamp(floats / (w.planes() * (depth + width)), block_tiles(), (cached ? 2 : 4) * block_tiles());
  }
};

template <class T>
void by_block(const Winograd& w, const T* source, const T* weight, const T* bias, T* target) {
  using A = accumulator_t<T>;
  const auto& k = winograd<T>();
  const BlockPlan<T> plan(w, get_num_threads());
  const auto [channels, depth, width, panels] = std::tuple(plan.channels, plan.depth, plan.width, plan.panels);
  const int64_t filter_size = plan.filter_size, slab = 2 * k.vector, slabs = blocks_of(w.g.c, slab);
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
  const Blocking& blocking = plan.blocking;
  const int64_t blocks = blocking.count(), most = blocking.most_tiles();
  const int64_t end = w.g.groups * blocks;
  share(end, [&](auto take) {
    std::vector<WinogradTile> tiles, next_tiles;
    Ahead touched;
    WinogradBlock block{}, next{};
    Buffer<A> buffer(plan.source_size + plan.product_size);
    const auto sources = planes_at(buffer.get(), most, depth);
    const auto products = planes_at(buffer.get() + plan.source_size, most, width);
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

// A panel of target channels at a time, its filters transformed as they are needed, against all tiles of a chunk: for
// filters that do not stay in cache, and for few tiles.
template <class T>
struct PanelPlan {
  int64_t channels, depth;                         // as in BlockPlan
  int64_t slab;                                    // source channels of the filters transformed at once
  Blocking blocking;                               // of the tiles, into chunks
  int64_t source_size, filter_size, product_size;  // elements: of a chunk's planes; of a thread's filters and products

  explicit PanelPlan(const Winograd& w)
      : channels(filled<T>(w)),
        depth(w.slice_taps() * channels),
        slab(std::min(channels, rounded(panel_channels, winograd<T>().vector))),
        blocking(w, tiles_of(w), 1),
        source_size(planes_size<A>(w, blocking.most_tiles(), depth)),
        filter_size(planes_size<A>(w, slab, winograd<T>().columns)),
        product_size(planes_size<A>(w, blocking.most_tiles(), winograd<T>().columns)) {}

  int64_t elements(const Winograd& w) const {
    return source_size + filter_size + product_size + scratch_of<T>(w, blocking);
  }

 private:
  using A = accumulator_t<T>;
  int64_t tiles_of(const Winograd& w) const {  // of a chunk
    return std::max<int64_t>(1, std::min(panel_rows, panel_floats / std::max<int64_t>(1, depth)) / w.planes());
  }
};

template <class T>
void by_panel(const Winograd& w, const T* source, const T* weight, const T* bias, T* target) {
  using A = accumulator_t<T>;
  const auto& k = winograd<T>();
  const PanelPlan<T> plan(w);
  const int64_t channels = plan.channels, depth = plan.depth, vectors = blocks_of(w.g.m, k.vector);
  const int64_t panels = std::min(vectors, rounded(blocks_of(w.g.m, k.columns), get_num_threads()));
  const int64_t slab = plan.slab, slabs = blocks_of(w.g.c, slab), part = 16;
  const Blocking& blocking = plan.blocking;
  const int64_t most = blocking.most_tiles();
  Buffer<A> shared(plan.source_size);
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
      Buffer<A> scratch(scratch_size), buffer(plan.filter_size + plan.product_size);
      const auto filters = planes_at(buffer.get(), slab, k.columns);
      const auto products = planes_at(buffer.get() + plan.filter_size, most, k.columns);
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

}  // namespace

template <class T>
void run_winograd(const Gather& g, bool channels_last, const T* source, const T* weight, const T* bias, T* target) {
  const auto run = takes_panels(g) ? by_panel<T> : by_block<T>;
  run(problem_of(g, channels_last), source, weight, bias, target);
}

template <class T>
int64_t winograd_workspace(const Gather& g, bool channels_last) {
  const Winograd w = problem_of(g, channels_last);
  const int64_t elements = takes_panels(g) ? PanelPlan<T>(w).elements(w) : BlockPlan<T>(w, 1).elements(w);
  return elements * static_cast<int64_t>(sizeof(accumulator_t<T>));
}

#define TORCHCONV_INSTANTIATE(T)                                                     \
  template void run_winograd(const Gather&, bool, const T*, const T*, const T*, T*); \
  template int64_t winograd_workspace<T>(const Gather&, bool);
TORCHCONV_INSTANTIATE(float)
TORCHCONV_INSTANTIATE(bfloat16)
#undef TORCHCONV_INSTANTIATE

}  // namespace torchconv
