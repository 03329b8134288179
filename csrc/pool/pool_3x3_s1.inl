// Max pooling of channels by windows of 3 by 3 one step apart, padded so that a map keeps its size. The maximum of a
// row of three inputs is found once, for the three windows one below the other that it is part of:
//
//   y[i][j] = max over t of m[i - 1 + t][j],  m[i][j] = max over t of x[i][j - 1 + t],  each the first of equal ones
#pragma once
#include "pool/pool_forward.inl"
#include "pool/windows.inl"

namespace pooling {

template <int FIRST, int LAST>
struct Taps {};

constexpr int64_t kTripleRows = 4;  // of outputs, in which inputs stay in cache from one column to the next

// Outputs [begin, end) of a column, a vector of its channels, the first at `at`; taps FIRST to LAST - 1 of their rows
// are in the input. x: the column's first input. `odd` becomes NaN where the column's inputs are not all finite.
template <int FIRST, int LAST, class S, class R>
inline void reduce_column(const S* x, int64_t channels, int64_t pitch, int64_t height, int64_t begin, int64_t end,
                          int64_t at, R& r, vector_t<typename R::A>& odd) {
  using A = typename R::A;
  const auto row = [&](int64_t i) {
    Best<A> best;
    best.begin(0);  // outside the map: less than any number
    if (i < 0 || i >= height) return best;
    const S* const from = x + i * pitch - channels;
#pragma GCC unroll 3
    for (int t = FIRST; t < LAST; ++t) {
      const vector_t<A> value = load_widened(from + t * channels);
      t == FIRST ? best.begin_with(value, t) : best.take_number(value, t);
      if (t == 1) odd += value * 0;
    }
    return best;
  };
  Best<A> above = row(begin - 1), here = row(begin);
  for (int64_t o = begin; o < end; ++o, at += pitch) {
    const Best<A> below = row(o + 1);
    Best<A> best = above;
    best.take_other(here, 3);
    best.take_other(below, 6);
    r.put(best, at, 1);
    above = here, here = below;
  }
}

// Rows [begin, end) of outputs of the plane x, the first of which lie from `at` on. False if not all that it read was
// finite: then they have to be done again.
template <class S, class R>
bool reduce_triples(const PoolGeometry& g, const S* x, int64_t begin, int64_t end, int64_t at, R& r) {
  using A = typename R::A;
  constexpr int64_t L = lanes<A>;
  const int64_t channels = g.channels, height = g.axis[1].input, width = g.axis[2].input, pitch = width * channels;
  vector_t<A> odd = {};
  const auto columns = [&]<int FIRST, int LAST>(Taps<FIRST, LAST>, int64_t j) {
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t first = j * channels + at_most(c, channels - L);
      reduce_column<FIRST, LAST>(x + first, channels, pitch, height, begin, end, at + first, r, odd);
    }
  };
  columns(Taps<1, 3>(), 0);
  for (int64_t j = 1; j < width - 1; ++j) columns(Taps<0, 3>(), j);
  columns(Taps<0, 2>(), width - 1);
  return !any_nan<A>(odd);
}

template <class T, class R>
void pool_triples(const PoolGeometry& g, const T* x, R& r, int64_t begin, int64_t end) {
  const int64_t height = g.axis[1].output, row = g.axis[2].output * g.channels;
  for (int64_t unit = begin; unit < end;) {
    const int64_t o = unit % height, rows = at_most(kTripleRows, at_most(height - o, end - unit));
    if (!reduce_triples(g, x + unit / height * height * row, o, o + rows, unit * row, r))
      reduce_channels<3>(g, x, r, unit, unit + rows);
    unit += rows;
  }
}

}  // namespace pooling
