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

// The filters of all groups, transformed: [group][panel] planes [slice tap, channel][column].
template <class T>
struct FilterPlan {
  int64_t channels, depth;      // source channels and rows of a filter's plane, filled up to whole vectors
  int64_t width, panels, size;  // target channels of a panel; panels; elements of a panel's filters

  explicit FilterPlan(const Winograd& w)
      : channels(filled<T>(w)),
        depth(w.slice_taps() * channels),
        width(std::min(winograd<T>().columns, rounded(w.g.m, winograd<T>().vector))),
        panels(blocks_of(w.g.m, width)),
        size(planes_size<A>(w, depth, width)) {}

  int64_t elements(const Winograd& w) const { return w.g.groups * panels * size; }
  // Nothing is written through a plane of filters that are read.
  WinogradPlanes<accumulator_t<T>> planes(const accumulator_t<T>* filters, int64_t group, int64_t panel) const {
    return planes_at(const_cast<A*>(filters) + (group * panels + panel) * size, depth, width);
  }

 private:
  using A = accumulator_t<T>;
};

template <class T>
void transform_filters(const Winograd& w, const FilterPlan<T>& plan, const T* weight, accumulator_t<T>* filters) {
  const auto& k = winograd<T>();
  const int64_t slab = 2 * k.vector, slabs = blocks_of(w.g.c, slab), vectors = blocks_of(w.g.m, k.vector);
  const int64_t group_tasks = vectors * w.slice_taps() * slabs;
  share(w.g.groups * group_tasks, [&](auto take) {
    for (int64_t i = take(); i < w.g.groups * group_tasks; i = take()) {
      const int64_t group = i / group_tasks, c = i % slabs * slab, s = i / slabs % w.slice_taps();
      const int64_t m = i % group_tasks / slabs / w.slice_taps() * k.vector;
      auto to = plan.planes(filters, group, m / plan.width);
      to.data += (s * plan.channels + c) * plan.width + m % plan.width;
      k.filter(w, group, s, c, std::min(w.g.c, c + slab), m, std::min(w.g.m, m + k.vector), weight, to);
    }
  });
}

// Every block by itself, all its channels, against filters transformed beforehand: for filters that stay in cache.
template <class T>
struct BlockPlan {
  FilterPlan<T> filters;
  Blocking blocking;                  // of the tiles
  int64_t source_size, product_size;  // elements of a block's planes, [plane][tile][depth] and [plane][tile][width]

  BlockPlan(const Winograd& w, int64_t threads)
      : filters(w),
        blocking(w, tiles_of(w), threads),
        source_size(planes_size<A>(w, blocking.most_tiles(), filters.depth)),
        product_size(planes_size<A>(w, blocking.most_tiles(), filters.width)) {}

  int64_t elements(const Winograd& w) const {
    return filters.elements(w) + source_size + product_size + scratch_of<T>(w, blocking);
  }

 private:
  using A = accumulator_t<T>;
  int64_t tiles_of(const Winograd& w) const {  // of a block
    const bool cached = w.planes() * filters.depth * w.g.m <= block_filters;
    const int64_t floats = cached ? block_floats : large_block_floats * second_cache();
    return std::clamp(floats / (w.planes() * (filters.depth + filters.width)), block_tiles(),
                      (cached ? 2 : 4) * block_tiles());
  }
};

template <class T>
void by_block(const Winograd& w, const BlockPlan<T>& plan, const T* source, const accumulator_t<T>* filters,
              const T* bias, T* target) {
  using A = accumulator_t<T>;
  const auto& k = winograd<T>();
  const int64_t channels = plan.filters.channels, depth = plan.filters.depth;
  const int64_t width = plan.filters.width, panels = plan.filters.panels;
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
        k.multiply(w, block, depth_of<T>(w), m_end - m, sources, plan.filters.planes(filters, group, panel), products,
                   false, ahead);
        k.target(w, block, 0, block.count, group, m, m_end, products, bias, target, space);
      }
    }
  });
}

bool takes_panels(const Gather& g) { return g.c * g.m * g.groups > cached_filters; }

// A panel of target channels at a time against all tiles of a chunk, its filters transformed as they are needed: for
// filters that do not stay in cache, and for few tiles.
template <class T>
struct PanelPlan {
  int64_t channels, depth;                         // as in FilterPlan
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

// multiply_panels(block, group, sources): on every thread, the products of some panels and what becomes of them.
template <class T, class Multiply>
void over_chunks(const Winograd& w, const PanelPlan<T>& plan, const T* source, Multiply multiply_panels) {
  using A = accumulator_t<T>;
  const auto& k = winograd<T>();
  const int64_t slab = plan.slab, slabs = blocks_of(w.g.c, slab), most = 16, threads = get_num_threads();
  Buffer<A> shared(plan.source_size);
  const auto sources = planes_at(shared.get(), plan.blocking.most_tiles(), plan.depth);
  std::vector<WinogradTile> tiles;
  for (int64_t chunk = 0; chunk < w.g.groups * plan.blocking.count(); ++chunk) {
    const int64_t group = chunk / plan.blocking.count();
    const WinogradBlock block = block_of(w, plan.blocking, chunk % plan.blocking.count(), tiles);
    const int64_t scratch_size = k.scratch(w, block), others = w.slice_taps() * slabs;
    int64_t parts = blocks_of(block.count, most);
    while (parts < block.count && parts * others % threads != 0) ++parts;  // so that all threads have as much to do
    const int64_t part = blocks_of(block.count, parts);
    parts = blocks_of(block.count, part);
    parallel_for(0, parts * others, 1, [&](int64_t begin, int64_t end) {
      Buffer<A> scratch(scratch_size);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = i / slabs / w.slice_taps() * part, s = i / slabs % w.slice_taps(), c = i % slabs * slab;
        k.source(w, block, t, std::min(block.count, t + part), group, s, c, std::min(w.g.c, c + slab), source,
                 {sources.data + s * plan.channels + c, sources.pitch, sources.ld}, scratch.get());
      }
    });
    multiply_panels(block, group, sources);
  }
}

template <class T>
void by_panel(const Winograd& w, const T* source, const T* weight, const T* bias, T* target) {
  using A = accumulator_t<T>;
  const auto& k = winograd<T>();
  const PanelPlan<T> plan(w);
  const int64_t vectors = blocks_of(w.g.m, k.vector);
  const int64_t panels = std::min(vectors, rounded(blocks_of(w.g.m, k.columns), get_num_threads()));
  over_chunks(w, plan, source, [&](const WinogradBlock& block, int64_t group, const WinogradPlanes<A>& sources) {
    share(panels, [&](auto take) {
      Buffer<A> scratch(k.scratch(w, block)), buffer(plan.filter_size + plan.product_size);
      const auto filters = planes_at(buffer.get(), plan.slab, k.columns);
      const auto products = planes_at(buffer.get() + plan.filter_size, plan.blocking.most_tiles(), k.columns);
      WinogradAhead none{};
      for (int64_t panel = take(); panel < panels; panel = take()) {
        const int64_t m = vectors * panel / panels * k.vector;
        const int64_t m_end = std::min(w.g.m, vectors * (panel + 1) / panels * k.vector);
        for (int64_t s = 0; s < w.slice_taps(); ++s)
          for (int64_t c = 0; c < w.g.c; c += plan.slab) {
            const int64_t c_end = std::min(w.g.c, c + plan.slab);
            k.filter(w, group, s, c, c_end, m, m_end, weight, filters);
            k.multiply(w, block, c_end - c, m_end - m,
                       {sources.data + s * plan.channels + c, sources.pitch, sources.ld}, filters, products, s + c > 0,
                       none);
          }
        k.target(w, block, 0, block.count, group, m, m_end, products, bias, target, scratch.get());
      }
    });
  });
}

// The same with filters transformed beforehand.
template <class T>
void by_prepared_panel(const Winograd& w, const T* source, const accumulator_t<T>* filters, const T* bias, T* target) {
  using A = accumulator_t<T>;
  const auto& k = winograd<T>();
  const PanelPlan<T> plan(w);
  const FilterPlan<T> of_filters(w);
  over_chunks(w, plan, source, [&](const WinogradBlock& block, int64_t group, const WinogradPlanes<A>& sources) {
    share(of_filters.panels, [&](auto take) {
      Buffer<A> scratch(k.scratch(w, block)), buffer(plan.product_size);
      const auto products = planes_at(buffer.get(), plan.blocking.most_tiles(), of_filters.width);
      WinogradAhead none{};
      for (int64_t panel = take(); panel < of_filters.panels; panel = take()) {
        const int64_t m = panel * of_filters.width, m_end = std::min(w.g.m, m + of_filters.width);
        k.multiply(w, block, depth_of<T>(w), m_end - m, sources, of_filters.planes(filters, group, panel), products,
                   false, none);
        k.target(w, block, 0, block.count, group, m, m_end, products, bias, target, scratch.get());
      }
    });
  });
}

}  // namespace

template <class T>
void run_winograd(const Gather& g, bool channels_last, const T* source, const T* weight, const T* bias, T* target) {
  const Winograd w = problem_of(g, channels_last);
  if (takes_panels(g)) return by_panel(w, source, weight, bias, target);
  const BlockPlan<T> plan(w, get_num_threads());
  const Buffer<accumulator_t<T>> filters(plan.filters.elements(w));
  transform_filters(w, plan.filters, weight, filters.get());
  by_block<T>(w, plan, source, filters.get(), bias, target);
}

template <class T>
int64_t winograd_workspace(const Gather& g, bool channels_last) {
  const Winograd w = problem_of(g, channels_last);
  const int64_t elements = takes_panels(g) ? PanelPlan<T>(w).elements(w) : BlockPlan<T>(w, 1).elements(w);
  return elements * static_cast<int64_t>(sizeof(accumulator_t<T>));
}

template <class T>
int64_t winograd_filters(const Gather& g, bool channels_last) {
  const Winograd w = problem_of(g, channels_last);
  return FilterPlan<T>(w).elements(w);
}

template <class T>
void prepare_winograd(const Gather& g, bool channels_last, const T* weight, accumulator_t<T>* filters) {
  const Winograd w = problem_of(g, channels_last);
  transform_filters(w, FilterPlan<T>(w), weight, filters);
}

// By panels too where there are few blocks and panels keep the threads as busy, each of which then reads its own
// filters only: a sum is the same either way.
template <class T>
void run_prepared_winograd(const Gather& g, bool channels_last, const T* source, const accumulator_t<T>* filters,
                           const T* bias, T* target) {
  const Winograd w = problem_of(g, channels_last);
  const int64_t threads = get_num_threads();
  const BlockPlan<T> plan(w, threads);
  const auto panels = static_cast<double>(plan.filters.panels);
  const bool few = threads > 1 && plan.blocking.count() * g.groups < 4 * threads;
  if (takes_panels(g) || (few && blocks_of(plan.filters.panels, threads) <= panels * plan.blocking.share(threads)))
    return by_prepared_panel(w, source, filters, bias, target);
  by_block(w, plan, source, filters, bias, target);
}

#define TORCHCONV_INSTANTIATE(T)                                                     \
  template void run_winograd(const Gather&, bool, const T*, const T*, const T*, T*); \
  template int64_t winograd_workspace<T>(const Gather&, bool);                       \
  template int64_t winograd_filters<T>(const Gather&, bool);                         \
  template void prepare_winograd(const Gather&, bool, const T*, accumulator_t<T>*);  \
  template void run_prepared_winograd(const Gather&, bool, const T*, const accumulator_t<T>*, const T*, T*);
TORCHCONV_INSTANTIATE(float)
TORCHCONV_INSTANTIATE(bfloat16)
#undef TORCHCONV_INSTANTIATE

}  // namespace torchconv
