// Pooling of contiguous maps whose rows do not fill vectors: a block of planes is turned into channels that lie side by
// side, [pixel][plane] with a vector of planes, pooled like channels (pool_forward.inl), and turned back.
//
// A unit is a block of kPoolPlanes planes and a strip of rows: those of the output, or of dx for what is transposed.
#pragma once
#include "cpu/transpose.inl"
#include "pool/pool_backward.inl"
#include "pool/pool_forward.inl"
#include "pool/windows.inl"

namespace pooling {

// A vector from what a map holds, and back: numbers as they are, positions as bits.
template <class A, class S>
inline vector_t<A> lanes_at(const S* p) {
  if constexpr (kIsPosition<S>)
    return reinterpret_cast<vector_t<A>>(load_places<A>(p));
  else
    return load_widened(p);
}
template <class A, class S>
inline void put_lanes(S* p, vector_t<A> v) {
  if constexpr (kIsPosition<S>)
    store_places<A>(p, reinterpret_cast<places_t<A>>(v));
  else
    store_narrowed(p, v);
}

// Planes from[plane][ld] to tile[pixel][lane]. Lanes that have no plane repeat the last one. `ahead`: from an element
// to the one in its place in the next block, which is fetched into the cache meanwhile.
template <class A, class S>
__attribute__((noinline)) void turn(const S* from, int64_t ld, int64_t planes, int64_t pixels, A* tile, int64_t ahead) {
  constexpr int64_t L = lanes<A>;
  S staged[L * L];  // [plane][pixels] and what is read past the last; short rows only
  if (pixels < L) {
    if (ld == pixels)
      std::memcpy(staged, from, sizeof(S) * planes * pixels);
    else
      for (int64_t i = 0; i < planes; ++i) std::memcpy(staged + i * pixels, from + i * ld, sizeof(S) * pixels);
    from = staged, ld = pixels;
  }
  for (int64_t j = 0; j < pixels; j += L) {
    const int64_t at = at_least(0, at_most(j, pixels - L)), n = at_most(L, pixels);
    vector_t<A> square[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      const S* const here = from + at_most(i, planes - 1) * ld + at;
      square[i] = lanes_at<A>(here);
      if (pixels >= L) __builtin_prefetch(here + ahead, 0, 2);
    }
    transpose_square<1>(square);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
      if (i < n) store(tile + (at + i) * L, square[i]);
  }
}

// And back: tile[pixel][lane] to to[plane][ld]. A vector of rows past the last may be read.
template <class A, class S>
__attribute__((noinline)) void turn_back(const A* tile, int64_t planes, int64_t pixels, S* to, int64_t ld,
                                         int64_t ahead) {
  constexpr int64_t L = lanes<A>;
  S staged[L * L];  // [plane][pixels] and what is written past the last; short rows only
  const bool whole = pixels >= L;
  S* const out = whole ? to : staged;
  const int64_t step = whole ? ld : pixels;
  for (int64_t j = 0; j < pixels; j += L) {
    const int64_t at = at_least(0, at_most(j, pixels - L));
    vector_t<A> square[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) square[i] = load(tile + (at + i) * L);
    transpose_square<1>(square);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
      if (i < planes) {
        put_lanes<A>(out + i * step + at, square[i]);
        if (whole) __builtin_prefetch(out + i * step + at + ahead, 1, 2);
      }
  }
  if (whole) return;
  if (ld == pixels)
    std::memcpy(to, staged, sizeof(S) * planes * pixels);
  else
    for (int64_t i = 0; i < planes; ++i) std::memcpy(to + i * ld, staged + i * pixels, sizeof(S) * pixels);
}

// Rows r0 x r1 of a block of planes of one map, of axes a0, a1 and a row of `width`, and the tile they are turned into.
struct Block {
  PoolRange r0, r1;
  int64_t axis0, axis1, width;  // of the whole map
  int64_t from(int64_t plane, int64_t i0) const { return ((plane * axis0 + i0) * axis1 + r1.begin) * width; }
  int64_t map() const { return axis0 * axis1 * width; }
  int64_t strip() const { return r1.size() * width; }  // pixels
  template <class A>
  int64_t ahead() const {  // to the next block: its planes, or its strip
    return r1.size() == axis1 ? lanes<A> * map() : strip();
  }
  template <class A>
  Rows rows() const {  // in the tile
    constexpr int64_t L = lanes<A>;
    return {0, strip() * L, width * L, (r0.begin * strip() + r1.begin * width) * L};
  }
  template <class A, class S>
  void turned(const S* map_of, int64_t plane, int64_t planes, A* tile) const {
    for (int64_t i = r0.begin; i < r0.end; ++i)
      turn(map_of + from(plane, i), map(), planes, strip(), tile + (i - r0.begin) * strip() * lanes<A>, ahead<A>());
  }
  template <class A, class S>
  void turned_back(const A* tile, int64_t plane, int64_t planes, S* map_of) const {
    for (int64_t i = r0.begin; i < r0.end; ++i)
      turn_back(tile + (i - r0.begin) * strip() * lanes<A>, planes, strip(), map_of + from(plane, i), map(),
                ahead<A>());
  }
};

// Calls run(first plane, planes: at most a vector's, row along axis 0, rows along axis 1) for units of work.
template <class A, class Run>
inline void for_strips(const PoolGeometry& g, int64_t along0, int64_t along1, int64_t begin, int64_t end, Run run) {
  const int64_t strips = g.strips.count;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t strip = unit % strips, i0 = unit / strips % along0, first = unit / (strips * along0) * kPoolPlanes;
    const PoolRange rows{strip * g.strips.rows, at_most((strip + 1) * g.strips.rows, along1)};
    for (int64_t p = first; p < at_most(first + kPoolPlanes, g.planes); p += lanes<A>)
      run(p, at_most(lanes<A>, g.planes - p), i0, rows);
  }
}

// The tiles in scratch.
template <class A>
struct Tiles {
  A *input, *output, *rest;
  place_t<A>* places;
  Tiles(const PoolGeometry& g, A* scratch) {
    input = scratch;
    output = input + g.strips.input * kPoolPlanes;
    A* const last = output + g.strips.output * kPoolPlanes;
    places = reinterpret_cast<place_t<A>*>(last);
    rest = last + g.strips.output * kPoolPlanes;
  }
  const A* place_bits() const { return reinterpret_cast<const A*>(places); }
  A* place_bits() { return reinterpret_cast<A*>(places); }
};

// `results`: the reduction's, from tiles; put_back(block of outputs, first plane, planes).
template <int K, class T, class R, class PutBack>
void reduce_planes(const PoolGeometry& g, const T* x, const Tiles<accumulator_t<T>>& tiles, R& results, int64_t begin,
                   int64_t end, PutBack put_back) {
  using A = accumulator_t<T>;
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  for_strips<A>(g, a0.output, a1.output, begin, end, [&](int64_t p, int64_t planes, int64_t o0, PoolRange rows) {
    const Block in{pool_seen(a0, {o0, o0 + 1}), pool_seen(a1, rows), a0.input, a1.input, a2.input};
    const Block out{{o0, o0 + 1}, rows, a0.output, a1.output, a2.output};
    in.turned(x, p, planes, tiles.input);
    for (int64_t o1 = rows.begin; o1 < rows.end; ++o1)
      reduce_row<K>(g, lanes<A>, o0, o1, static_cast<const A*>(tiles.input), Ends<A>{}, in.rows<A>(), 0,
                    (o1 - rows.begin) * a2.output * lanes<A>, results);
    put_back(out, p, planes);
  });
}

// What the transposed operators share: turns dy, calls gather(row i0, row i1, where the tile's rows of outputs lie, to)
// for each row of dx, and turns those back.
template <class T, class Turn, class Gather>
void gather_planes(const PoolGeometry& g, const T* dy, T* dx, const Tiles<accumulator_t<T>>& tiles, int64_t begin,
                   int64_t end, Turn turn_more, Gather gather) {
  using A = accumulator_t<T>;
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  for_strips<A>(g, a0.input, a1.input, begin, end, [&](int64_t p, int64_t planes, int64_t i0, PoolRange rows) {
    const Block out{pool_reached(a0, {i0, i0 + 1}), pool_reached(a1, rows), a0.output, a1.output, a2.output};
    const Block in{{i0, i0 + 1}, rows, a0.input, a1.input, a2.input};
    out.turned(dy, p, planes, tiles.output);
    turn_more(out, p, planes);
    gather(out.rows<A>(), i0, rows, a2.input * lanes<A>);
    in.turned_back(static_cast<const A*>(tiles.input), p, planes, dx);
  });
}

template <class T, class P>
void scatter_planes(const PoolGeometry& g, const T* dy, const P* kept, T* dx, accumulator_t<T>* scratch, int64_t begin,
                    int64_t end) {
  using A = accumulator_t<T>;
  Tiles<A> tiles(g, scratch);
  gather_planes(
      g, dy, dx, tiles, begin, end,
      [&](const Block& out, int64_t p, int64_t planes) { out.turned(kept, p, planes, tiles.place_bits()); },
      [&](const Rows& outputs, int64_t i0, PoolRange rows, int64_t width) {
        const Taken<A, place_t<A>> taken{tiles.output, tiles.places};
        for (int64_t i1 = rows.begin; i1 < rows.end; ++i1)
          gather_row(
              g, lanes<A>, i0, i1, taken, [&](int64_t o0, int64_t o1) { return outputs.at(0, o0, o1); },
              tiles.input + (i1 - rows.begin) * width, 0);
      });
}

template <class T>
void spread_planes(const PoolGeometry& g, const T* dy, T* dx, accumulator_t<T>* scratch, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  Tiles<A> tiles(g, scratch);
  const bool one = one_divisor(g);
  gather_planes(
      g, dy, dx, tiles, begin, end, [](const Block&, int64_t, int64_t) {},
      [&](const Rows& outputs, int64_t i0, PoolRange rows, int64_t width) {
        const auto spread = [&](const auto& shared, auto where) {
          for (int64_t i1 = rows.begin; i1 < rows.end; ++i1)
            gather_row(g, lanes<A>, i0, i1, shared, where, tiles.input + (i1 - rows.begin) * width, 0);
        };
        if (one)
          return spread(Shared<A>{tiles.output, static_cast<A>(divisor(g, 0, 0, 0))},
                        [&](int64_t o0, int64_t o1) { return outputs.at(0, o0, o1); });
        Shares<A> shares(g, lanes<A>, tiles.output, outputs, tiles.rest);
        spread(Shared<A>{tiles.rest, 1}, [&](int64_t o0, int64_t o1) { return shares.of(0, o0, o1); });
      });
}

}  // namespace pooling
