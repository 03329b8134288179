// Pooling. Every window, regular or adaptive, is what PoolGeometry's tables say; the two reductions (maximum and sum)
// share two walks over the outputs, and the three operators that look up kept positions share a third.
//
//   max_pool   p[o] = argmax over t of x[origin[o] + t], y[o] = x[p[o]]
//   scatter    dx[p[o]] += dy[o]          gather  y[o] = x[p[o]]
//   avg_pool   y[o] = (sum over t of x[origin[o] + t]) / divisor[o]
//   spread     dx[origin[o] + t] += dy[o] / divisor[o]
//
// Each output is reduced in scan order by itself, and each plane is scattered to by itself in the order of its outputs:
// no result depends on how the units are divided among threads, or on what else is in the batch.

namespace pooling {

constexpr int64_t kLanes = 256;  // of a buffer

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t volume(int64_t a, int64_t b, int64_t c) { return a * b * c; }
inline int64_t inputs(const PoolGeometry& g) { return volume(g.axis[0].input, g.axis[1].input, g.axis[2].input); }
inline int64_t outputs(const PoolGeometry& g) { return volume(g.axis[0].output, g.axis[1].output, g.axis[2].output); }

// The first tap in the input. A window wholly in the padding has none: there it is the first one past the front padding.
inline int64_t first_tap(const PoolAxis& a, int64_t o) { return smaller(a.first[o], a.taps - 1); }
inline bool empty(const PoolAxis& a, int64_t o) { return a.first[o] >= a.last[o]; }

inline int64_t code(const PoolGeometry& g, int64_t t0, int64_t t1, int64_t t2) {
  return (t0 * g.axis[1].taps + t1) * g.axis[2].taps + t2;
}

inline int64_t divisor(const PoolGeometry& g, int64_t o0, int64_t o1, int64_t o2) {
  if (g.divisor_override != 0) return g.divisor_override;
  return volume(g.axis[0].divisor[o0], g.axis[1].divisor[o1], g.axis[2].divisor[o2]);
}

// ---- the reductions: begin a row of lanes, take one tap of lanes lo <= i < hi, and put the results away ----

// As wide as the values, so that one mask selects both.
template <class A> struct Index { using type = int32_t; };
template <> struct Index<double> { using type = int64_t; };

// The largest and where it was. As PyTorch: the first of equal ones, the last NaN, and the first tap if all are -inf.
template <class T, class P>
struct Maximum {
  using A = accumulator_t<T>;
  using I = typename Index<A>::type;
  T* y;
  P* positions;
  A best[kLanes];
  I where[kLanes];

  template <class First>
  void begin(int64_t n, First first) {
    for (int64_t i = 0; i < n; ++i) best[i] = -static_cast<A>(__builtin_inff()), where[i] = static_cast<I>(first(i));
  }
  template <class Load>
  void take(int64_t at, int64_t lo, int64_t hi, Load load) {
    const I here = static_cast<I>(at);
#pragma GCC ivdep
    for (int64_t i = lo; i < hi; ++i) {
      const A x = load(i);
      const bool wins = (x > best[i]) | (x != x);
      best[i] = wins ? x : best[i];
      where[i] = wins ? here : where[i];
    }
  }
  template <class Divisor>
  void put(int64_t out, int64_t step, int64_t n, Divisor) {
    for (int64_t i = 0; i < n; ++i) narrow(best[i], y + out + i * step);
    for (int64_t i = 0; i < n; ++i) positions[out + i * step] = static_cast<P>(where[i]);
  }
};

template <class T>
struct Mean {
  using A = accumulator_t<T>;
  T* y;
  A sum[kLanes];

  template <class First>
  void begin(int64_t n, First) {
    for (int64_t i = 0; i < n; ++i) sum[i] = 0;
  }
  template <class Load>
  void take(int64_t, int64_t lo, int64_t hi, Load load) {
#pragma GCC ivdep
    for (int64_t i = lo; i < hi; ++i) sum[i] += load(i);
  }
  template <class Divisor>
  void put(int64_t out, int64_t step, int64_t n, Divisor divisor) {
    for (int64_t i = 0; i < n; ++i) narrow(sum[i] / static_cast<A>(divisor(i)), y + out + i * step);
  }
};

// ---- the walks ----

// Lanes are outputs of one row: unit is (plane, o0, o1). Elements of a tap are where origin says, or evenly spaced.
template <class T, class Reduction>
void reduce_rows(const PoolGeometry& g, const T* x, Reduction& r, int64_t begin, int64_t end) {
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t o1 = unit % a1.output, o0 = unit / a1.output % a0.output, plane = unit / (a1.output * a0.output);
    for (int64_t o2 = 0; o2 < a2.output; o2 += kLanes) {
      const int64_t n = smaller(kLanes, a2.output - o2);
      const int32_t* origin = a2.origin + o2;
      r.begin(n, [&](int64_t i) { return code(g, first_tap(a0, o0), first_tap(a1, o1), first_tap(a2, o2 + i)); });
      for (int64_t t0 = a0.first[o0]; t0 < a0.last[o0]; ++t0)
        for (int64_t t1 = a1.first[o1]; t1 < a1.last[o1]; ++t1) {
          const int64_t i0 = a0.origin[o0] + t0 * a0.dilation, i1 = a1.origin[o1] + t1 * a1.dilation;
          const int64_t row = ((plane * a0.input + i0) * a1.input + i1) * a2.input;
          for (const PoolRun* run = g.runs; run < g.runs + g.run_count; ++run) {
            const int64_t lo = larger(run->begin - o2, 0), hi = smaller(run->end - o2, n);
            const int64_t at = code(g, t0, t1, run->tap), from = row + run->tap * a2.dilation;
            const int64_t even = from + origin[0];  // where output o2's element is, should it have one
            if (a2.stride == 1)
              r.take(at, lo, hi, [=](int64_t i) { return widen(x[even + i]); });
            else if (a2.stride == 2)
              r.take(at, lo, hi, [=](int64_t i) { return widen(x[even + 2 * i]); });
            else
              r.take(at, lo, hi, [=](int64_t i) { return widen(x[from + origin[i]]); });
          }
        }
      r.put(unit * a2.output + o2, 1, n, [&](int64_t i) { return divisor(g, o0, o1, o2 + i); });
    }
  }
}

// Lanes are channels or planes of one output: unit is (group of lanes, o0, o1).
template <bool kChannels, class T, class Reduction>
void reduce_points(const PoolGeometry& g, const T* x, Reduction& r, int64_t begin, int64_t end) {
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  const int64_t in_lane = kChannels ? 1 : inputs(g), out_lane = kChannels ? 1 : outputs(g);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t o1 = unit % a1.output, o0 = unit / a1.output % a0.output, group = unit / (a1.output * a0.output);
    const int64_t plane = kChannels ? group : group * kPoolPlanes;
    const int64_t count = kChannels ? g.channels : smaller(kPoolPlanes, g.planes - plane);
    for (int64_t o2 = 0; o2 < a2.output; ++o2) {
      const int64_t out = (((plane * a0.output + o0) * a1.output + o1) * a2.output + o2) * g.channels;
      for (int64_t lane = 0; lane < count; lane += kLanes) {
        const int64_t n = smaller(kLanes, count - lane);
        const int64_t first = code(g, first_tap(a0, o0), first_tap(a1, o1), first_tap(a2, o2));
        r.begin(n, [=](int64_t) { return first; });
        for (int64_t t0 = a0.first[o0]; t0 < a0.last[o0]; ++t0)
          for (int64_t t1 = a1.first[o1]; t1 < a1.last[o1]; ++t1)
            for (int64_t t2 = a2.first[o2]; t2 < a2.last[o2]; ++t2) {
              const int64_t i0 = a0.origin[o0] + t0 * a0.dilation, i1 = a1.origin[o1] + t1 * a1.dilation;
              const int64_t i2 = a2.origin[o2] + t2 * a2.dilation;
              const int64_t position = ((plane * a0.input + i0) * a1.input + i1) * a2.input + i2;
              const T* from = x + position * g.channels + lane * in_lane;
              if (kChannels)
                r.take(code(g, t0, t1, t2), 0, n, [=](int64_t i) { return widen(from[i]); });
              else
                r.take(code(g, t0, t1, t2), 0, n, [=](int64_t i) { return widen(from[i * in_lane]); });
            }
        const int64_t by = divisor(g, o0, o1, o2);
        r.put(out + lane * out_lane, out_lane, n, [=](int64_t) { return by; });
      }
    }
  }
}

template <class T, class Reduction>
void reduce(const PoolGeometry& g, const T* x, Reduction& r, int64_t begin, int64_t end) {
  if (g.lanes == PoolLanes::row) return reduce_rows(g, x, r, begin, end);
  if (g.lanes == PoolLanes::channels) return reduce_points<true>(g, x, r, begin, end);
  return reduce_points<false>(g, x, r, begin, end);
}

// The plane and the channels c0 <= c < c1 of a transposed operator's unit.
struct Part {
  int64_t plane, c0, c1;
};
inline Part part(const PoolGeometry& g, int64_t unit) {
  const int64_t parts = (g.channels + kPoolChannels - 1) / kPoolChannels;
  const int64_t c0 = unit % parts * kPoolChannels;
  return {unit / parts, c0, smaller(c0 + kPoolChannels, g.channels)};
}

// Calls body(element of the output map, channel, position in the input's plane, whether that is one) for all outputs of
// a part. Positions are data that a caller hands in: whatever they hold, `valid` ones are inside the plane.
template <class P, class Body>
inline void for_each_kept(const PoolGeometry& g, const Part& p, const P* positions, Body body) {
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  const uint64_t end = static_cast<uint64_t>(inputs(g)), window = static_cast<uint64_t>(g.window);
  int64_t out = p.plane * outputs(g) * g.channels;
  for (int64_t o0 = 0; o0 < a0.output; ++o0)
    for (int64_t o1 = 0; o1 < a1.output; ++o1) {
      const int64_t row = (a0.origin[o0] * a1.input + a1.origin[o1]) * a2.input;
      const bool nothing = empty(a0, o0) || empty(a1, o1);
      for (int64_t o2 = 0; o2 < a2.output; ++o2, out += g.channels) {
        const bool none = nothing || empty(a2, o2);
        for (int64_t c = p.c0; c < p.c1; ++c) {
          const uint64_t at = static_cast<uint64_t>(positions[out + c]);
          const int64_t position = row + a2.origin[o2] + (at < window ? g.tap_offset[at] : 0);
          body(out + c, c, position, !none && at < window && static_cast<uint64_t>(position) < end);
        }
      }
    }
}

// Calls body with the positions as what they are kept in.
template <class Body>
inline void with_positions(const PoolGeometry& g, const void* positions, Body body) {
  if (g.position_bytes == 1) return body(static_cast<const uint8_t*>(positions));
  if (g.position_bytes == 2) return body(static_cast<const int16_t*>(positions));
  return body(static_cast<const int32_t*>(positions));
}

// Where a part of dx is summed: dx itself, or for a storage type narrower than its accumulator the scratch.
// Element (position s, channel c) is at[s * pitch + c - c0].
template <class A>
struct Sums {
  A* at;
  int64_t pitch;
};
template <class T>
inline Sums<accumulator_t<T>> open_sums(const PoolGeometry& g, const Part& p, T* dx, accumulator_t<T>* scratch) {
  Sums<accumulator_t<T>> sums{scratch, p.c1 - p.c0};
  if constexpr (sizeof(T) == sizeof(accumulator_t<T>)) sums = {dx + p.plane * inputs(g) * g.channels + p.c0, g.channels};
  for (int64_t s = 0; s < inputs(g); ++s)
    for (int64_t c = 0; c < p.c1 - p.c0; ++c) sums.at[s * sums.pitch + c] = 0;
  return sums;
}
template <class T>
inline void close_sums(const PoolGeometry& g, const Part& p, const Sums<accumulator_t<T>>& sums, T* dx) {
  if constexpr (sizeof(T) == sizeof(accumulator_t<T>)) return;
  T* to = dx + p.plane * inputs(g) * g.channels + p.c0;
  for (int64_t s = 0; s < inputs(g); ++s)
    for (int64_t c = 0; c < p.c1 - p.c0; ++c) narrow(sums.at[s * sums.pitch + c], to + s * g.channels + c);
}

// ---- the operators ----

template <class T>
void max_pool(const PoolGeometry& g, const T* x, T* y, void* positions, int64_t begin, int64_t end) {
  with_positions(g, positions, [&]<class P>(const P*) {
    Maximum<T, P> maximum;
    maximum.y = y;
    maximum.positions = static_cast<P*>(positions);
    reduce(g, x, maximum, begin, end);
  });
}

template <class T>
void avg_pool(const PoolGeometry& g, const T* x, T* y, int64_t begin, int64_t end) {
  Mean<T> mean;
  mean.y = y;
  reduce(g, x, mean, begin, end);
}

template <class T>
void scatter(const PoolGeometry& g, const T* dy, const void* positions, T* dx, accumulator_t<T>* scratch,
             int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const Part p = part(g, unit);
    const auto sums = open_sums(g, p, dx, scratch);
    with_positions(g, positions, [&](auto* kept) {
      for_each_kept(g, p, kept, [&](int64_t out, int64_t c, int64_t position, bool valid) {
        if (valid) sums.at[position * sums.pitch + c - p.c0] += widen(dy[out]);
      });
    });
    close_sums(g, p, sums, dx);
  }
}

template <class T>
void gather(const PoolGeometry& g, const T* x, const void* positions, T* y, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const Part p = part(g, unit);
    const T* from = x + p.plane * inputs(g) * g.channels;
    with_positions(g, positions, [&](auto* kept) {
      for_each_kept(g, p, kept, [&](int64_t out, int64_t c, int64_t position, bool valid) {
        y[out] = valid ? from[position * g.channels + c] : T{};
      });
    });
  }
}

inline void indices(const PoolGeometry& g, const void* positions, int64_t* indices, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit)
    with_positions(g, positions, [&](auto* kept) {
      for_each_kept(g, part(g, unit), kept,
                    [&](int64_t out, int64_t, int64_t position, bool) { indices[out] = position; });
    });
}

template <class T>
void spread(const PoolGeometry& g, const T* dy, T* dx, accumulator_t<T>* scratch, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  A share[kPoolChannels];  // [channel] what each element of the window gets
  for (int64_t unit = begin; unit < end; ++unit) {
    const Part p = part(g, unit);
    const auto sums = open_sums(g, p, dx, scratch);
    const T* from = dy + p.plane * outputs(g) * g.channels + p.c0;
    const int64_t n = p.c1 - p.c0;
    for (int64_t o0 = 0; o0 < a0.output; ++o0)
      for (int64_t o1 = 0; o1 < a1.output; ++o1)
        for (int64_t o2 = 0; o2 < a2.output; ++o2, from += g.channels) {
          const A by = static_cast<A>(divisor(g, o0, o1, o2));
          for (int64_t c = 0; c < n; ++c) share[c] = widen(from[c]) / by;
          for (int64_t t0 = a0.first[o0]; t0 < a0.last[o0]; ++t0)
            for (int64_t t1 = a1.first[o1]; t1 < a1.last[o1]; ++t1) {
              const int64_t i0 = a0.origin[o0] + t0 * a0.dilation, i1 = a1.origin[o1] + t1 * a1.dilation;
              const int64_t row = (i0 * a1.input + i1) * a2.input + a2.origin[o2];
              for (int64_t t2 = a2.first[o2]; t2 < a2.last[o2]; ++t2) {
                A* to = sums.at + (row + t2 * a2.dilation) * sums.pitch;
#pragma GCC ivdep
                for (int64_t c = 0; c < n; ++c) to[c] += share[c];
              }
            }
        }
    close_sums(g, p, sums, dx);
  }
}

}  // namespace pooling

template <class T> constexpr PoolKernels<T> pool_kernels() {
  return {pooling::max_pool<T>, pooling::avg_pool<T>, pooling::scatter<T>,
          pooling::gather<T>,   pooling::spread<T>,   pooling::indices};
}
