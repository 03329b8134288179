// Pooling. Every window, regular or adaptive, is what PoolGeometry's tables say.
//
//   max_pool   p[o] = argmax over t of x[origin[o] + t], y[o] = x[p[o]]
//   scatter    dx[p[o]] += dy[o]          gather  y[o] = x[p[o]]
//   avg_pool   y[o] = (sum over t of x[origin[o] + t]) / divisor[o]
//   spread     dx[origin[o] + t] += dy[o] / divisor[o]
//
// One body runs over channels (pool_forward.inl, and pool_backward.inl for what is transposed), but for maxima of 3 by
// 3 a step apart (pool_3x3_s1.inl); contiguous planes are first turned into channels (pool_planar.inl), but for windows
// of 2 by 2 side by side (pool_2x2.inl). In this file are the operators.
//
// Each output is reduced in scan order by itself, and what an input is given is summed in the order of the outputs: no
// result depends on how the units are divided among threads, or on what else is in the batch.
#pragma once
#include "pool/pool_2x2.inl"
#include "pool/pool_3x3_s1.inl"
#include "pool/pool_backward.inl"
#include "pool/pool_forward.inl"
#include "pool/pool_planar.inl"
#include "pool/windows.inl"

namespace pooling {

template <class T>
void max_pool(const PoolGeometry& g, const T* x, T* y, void* positions, accumulator_t<T>* scratch, int64_t begin,
              int64_t end) {
  using A = accumulator_t<T>;
  if constexpr (tuned<T>)
    if (g.path == PoolPath::planes_2x2)
      return pool_pairs(g, ReducedPairs<T, true>{x, y, static_cast<uint8_t*>(positions), A(1)}, begin, end);
  const auto run = [&]<int K, class P>(Vectors<K>, P* kept) {
    Maxima<T, P> maxima{y, kept};
    if constexpr (K == 3)
      if (g.path == PoolPath::channels_3x3) return pool_triples(g, x, maxima, begin, end);
    if (g.path != PoolPath::planes) return reduce_channels<K>(g, x, maxima, begin, end);
    const Tiles<A> tiles(g, scratch);
    Maxima<A, place_t<A>> in_tiles{tiles.output, tiles.places};
    reduce_planes<K>(g, x, tiles, in_tiles, begin, end, [&](const Block& out, int64_t p, int64_t planes) {
      out.turned_back(static_cast<const A*>(tiles.output), p, planes, y);
      out.turned_back(tiles.place_bits(), p, planes, kept);
    });
  };
  if constexpr (tuned<T>) {  // positions in so small a window are bytes
    auto* const kept = static_cast<uint8_t*>(positions);
    if (unrolled(g) == 2) return run(Vectors<2>(), kept);
    if (unrolled(g) == 3) return run(Vectors<3>(), kept);
  }
  with_positions(g, positions, [&]<class P>(const P*) { run(Vectors<0>(), static_cast<P*>(positions)); });
}

template <class T>
void avg_pool(const PoolGeometry& g, const T* x, T* y, accumulator_t<T>* scratch, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  if constexpr (tuned<T>)
    if (g.path == PoolPath::planes_2x2)
      return pool_pairs(g, ReducedPairs<T, false>{x, y, nullptr, static_cast<A>(divisor(g, 0, 0, 0))}, begin, end);
  const auto run = [&]<int K>(Vectors<K>) {
    Means<T> means{y};
    if (g.path != PoolPath::planes) return reduce_channels<K>(g, x, means, begin, end);
    const Tiles<A> tiles(g, scratch);
    Means<A> in_tiles{tiles.output};
    reduce_planes<K>(g, x, tiles, in_tiles, begin, end, [&](const Block& out, int64_t p, int64_t planes) {
      out.turned_back(static_cast<const A*>(tiles.output), p, planes, y);
    });
  };
  if constexpr (tuned<T>) {
    if (unrolled(g) == 2) return run(Vectors<2>());
    if (unrolled(g) == 3) return run(Vectors<3>());
  }
  run(Vectors<0>());
}

template <class T>
void scatter(const PoolGeometry& g, const T* dy, const void* positions, T* dx, accumulator_t<T>* scratch, int64_t begin,
             int64_t end) {
  if constexpr (tuned<T>)
    if (g.path == PoolPath::planes_2x2) {
      const auto* kept = static_cast<const uint8_t*>(positions);
      return pool_pairs(g, SpreadPairs<T, true>{dx, dy, kept, accumulator_t<T>(1)}, begin, end);
    }
  with_positions(g, positions, [&](auto* kept) {
    if (g.path == PoolPath::outputs) return scatter_kept(g, dy, kept, dx, scratch, begin, end);
    if (g.path == PoolPath::planes) return scatter_planes(g, dy, kept, dx, scratch, begin, end);
    scatter_channels(g, dy, kept, dx, begin, end);
  });
}

template <class T>
void spread(const PoolGeometry& g, const T* dy, T* dx, accumulator_t<T>* scratch, int64_t begin, int64_t end) {
  if constexpr (tuned<T>)
    if (g.path == PoolPath::planes_2x2) {
      const auto by = static_cast<accumulator_t<T>>(divisor(g, 0, 0, 0));
      return pool_pairs(g, SpreadPairs<T, false>{dx, dy, nullptr, by}, begin, end);
    }
  if (g.path == PoolPath::outputs) return spread_windows(g, dy, dx, scratch, begin, end);
  if (g.path == PoolPath::planes) return spread_planes(g, dy, dx, scratch, begin, end);
  spread_channels(g, dy, dx, scratch, begin, end);
}

template <class T>
void gather(const PoolGeometry& g, const T* x, const void* positions, T* y, int64_t begin, int64_t end) {
  const uint64_t size = static_cast<uint64_t>(inputs(g));
  for (int64_t unit = begin; unit < end; ++unit) {
    const Part p = part(g, unit);
    const T* from = x + p.p0 * inputs(g) * g.channels;
    const int64_t channels = g.channels;
    with_positions(g, positions, [&](auto* kept) {
      for_each_kept(g, p, kept, kNowhere, [=](int64_t out, const Kept& k) {
        y[out] = static_cast<uint64_t>(k.position) < size ? from[(k.plane + k.position) * channels + k.channel] : T{};
      });
    });
  }
}

inline void indices(const PoolGeometry& g, const void* positions, int64_t* indices, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit)
    with_positions(g, positions, [&](auto* kept) {
      for_each_kept(g, part(g, unit), kept, 0, [=](int64_t out, const Kept& k) { indices[out] = k.position; });
    });
}

}  // namespace pooling

template <class T>
PoolKernels<T> pool_kernels() {
  return {.lanes = tuned<T> ? lanes<accumulator_t<T>> : 0,
          .max_pool = pooling::max_pool<T>,
          .avg_pool = pooling::avg_pool<T>,
          .scatter = pooling::scatter<T>,
          .spread = pooling::spread<T>,
          .gather = pooling::gather<T>,
          .indices = pooling::indices};
}
TORCHCONV_EACH_TYPE(PoolKernels, pool_kernels)
