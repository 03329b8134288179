// The transposed poolings, whose lanes are channels as in pool_forward.inl, a row of inputs at a time:
//
//   scatter   dx[i] = sum over i's links (o, t) of p[o] == t ? dy[o] : 0
//   spread    dx[i] = sum over i's links (o, t) of share[o],  share[o] = dy[o] / divisor[o];
//             the sum of dy[o] over the divisor, if all have the same
//
// They gather: each element of dx is summed in a register, in the order of the outputs, and written once.
#pragma once
#include "pool/pool_forward.inl"
#include "pool/windows.inl"

namespace pooling {

// All ones where a position is this tap.
template <class A, class P>
inline places_t<A> places_at(const P* kept, place_t<A> tap) {
  if constexpr (sizeof(P) == 1) {
    typename Vector<A>::bytes bytes;
    std::memcpy(&bytes, kept, sizeof bytes);
    return __builtin_convertvector(bytes == static_cast<uint8_t>(tap), places_t<A>);
  } else {
    return load_places<A>(kept) == tap;
  }
}

// What an output gives to a tap of its window, all lanes or the first n.
template <class S, class P>
struct Taken {
  using A = accumulator_t<S>;
  static constexpr bool common = sizeof(P) == 1;  // of which there are bodies for few windows
  const S* dy;
  const P* kept;
  static vector_t<A> where(places_t<A> taken, vector_t<A> value) { return taken ? value : vector_t<A>{}; }
  vector_t<A> at(int64_t output, place_t<A> tap) const {
    return where(places_at<A>(kept + output, tap), load_widened(dy + output));
  }
  // sum += at(output, tap). A sum that began at +0 is never -0, which adding nothing would change.
  void add_to(vector_t<A>& sum, int64_t output, place_t<A> tap) const {
#if defined(__AVX512BW__) && TORCHCONV_VECTOR_BYTES == 64
    if constexpr (sizeof(A) == 4 && sizeof(P) == 1) {  // a mask of bytes is one of numbers too
      typedef char bytes __attribute__((vector_size(16)));
      bytes places;
      std::memcpy(&places, kept + output, sizeof places);
      const auto taken =
          __builtin_ia32_pcmpeqb128_mask(places, bytes{} + static_cast<char>(static_cast<uint8_t>(tap)), 0xffff);
      constexpr int kRoundAsUsual = 4;
      sum = __builtin_ia32_addps512_mask(sum, load_widened(dy + output), sum, taken, kRoundAsUsual);
      return;
    }
#endif
    sum += at(output, tap);
  }
  vector_t<A> some(int64_t output, place_t<A> tap, int64_t n) const {
    return where(load_some_places<A>(kept + output, n) == tap, load_some(dy + output, n));
  }
  vector_t<A> whole(vector_t<A> sum) const { return sum; }
};
// a / by. To divide takes longer than to store the quotient: where there are fused multiply-adds, the product with the
// inverse is mended by what it leaves of `a`, which rounds as a division by a window's size does, unless the quotient
// is under 2^-100. What is left of an infinity is NaN.
template <class A>
inline vector_t<A> quotient(vector_t<A> a, A by) {
  if constexpr (TORCHCONV_VECTOR_BYTES == 16) return a / by;
  const A inverse = 1 / by;
  const vector_t<A> product = a * inverse, left = a - product * by;
  return left == left ? product + left * inverse : product;
}
template <class S>
struct Shared {
  using A = accumulator_t<S>;
  static constexpr bool common = true;
  const S* share;
  A by;  // that sums are divided by
  void add_to(vector_t<A>& sum, int64_t output, place_t<A>) const { sum += load_widened(share + output); }
  vector_t<A> some(int64_t output, place_t<A>, int64_t n) const { return load_some(share + output, n); }
  vector_t<A> whole(vector_t<A> sum) const { return quotient<A>(sum, by); }
};

// A row of windows that reach a row of inputs: where their outputs begin, and the position of their first tap there.
struct Reaching {
  int64_t output, code;
};
constexpr int64_t kReaching = 64;  // most of them

// V vectors of inputs, to `to` and `out` from one to the next; what they are given lies side by side. LINKS: how many
// windows of a row each is in, or 0: as many as begin to end.
template <int V, int LINKS, class G, class S>
inline void gather_linked(const Reaching* rows, int64_t count, const PoolLink* begin, const PoolLink* end,
                          int64_t channels, const G& given, int64_t first, S* to, int64_t out) {
  constexpr int64_t L = lanes<typename G::A>;
  const int64_t links = LINKS == 0 ? end - begin : LINKS;
  vector_t<typename G::A> sums[V] = {};
  for (int64_t r = 0; r < count; ++r)
#pragma GCC unroll 3
    for (int64_t k = 0; k < links; ++k)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        given.add_to(sums[v], rows[r].output + begin[k].output * channels + first + v * L, rows[r].code + begin[k].tap);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) store_narrowed(to + v * out, given.whole(sums[v]));
}
template <int V, class G, class S>
inline void gather_vectors(const Reaching* rows, int64_t count, const PoolLink* begin, const PoolLink* end,
                           int64_t channels, const G& given, int64_t first, S* to, int64_t out) {
  if (V == 1) return gather_linked<V, 0>(rows, count, begin, end, channels, given, first, to, out);
  if (end - begin == 1) return gather_linked<V, 1>(rows, count, begin, end, channels, given, first, to, out);
  if (end - begin == 2) return gather_linked<V, 2>(rows, count, begin, end, channels, given, first, to, out);
  if (end - begin == 3) return gather_linked<V, 3>(rows, count, begin, end, channels, given, first, to, out);
  gather_linked<V, 0>(rows, count, begin, end, channels, given, first, to, out);
}

// All channels, a vector of them at least, of one input that ROWS by LINKS windows give to.
template <int V, int ROWS, int LINKS, class G, class S>
inline __attribute__((always_inline)) void gather_given(const int64_t (&output)[ROWS][LINKS],
                                                        const int64_t (&tap)[ROWS][LINKS], const G& given,
                                                        int64_t first, S* to) {
  constexpr int64_t L = lanes<typename G::A>;
  vector_t<typename G::A> sums[V] = {};
#pragma GCC unroll 3
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
    for (int k = 0; k < LINKS; ++k)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) given.add_to(sums[v], output[r][k] + first + v * L, tap[r][k]);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) store_narrowed(to + first + v * L, given.whole(sums[v]));
}
template <int ROWS, int LINKS, class G, class S>
inline __attribute__((always_inline)) void gather_windows(const Reaching* rows, const PoolLink* links, int64_t channels,
                                                          const G& given, S* to) {
  constexpr int64_t L = lanes<typename G::A>;
  int64_t output[ROWS][LINKS], tap[ROWS][LINKS], c = 0;
#pragma GCC unroll 3
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
    for (int k = 0; k < LINKS; ++k)
      output[r][k] = rows[r].output + links[k].output * channels, tap[r][k] = rows[r].code + links[k].tap;
  for (; c + 4 * L <= channels; c += 4 * L) gather_given<4>(output, tap, given, c, to);
  for (; c + L <= channels; c += L) gather_given<1>(output, tap, given, c, to);
  if (c < channels) gather_given<1>(output, tap, given, channels - L, to);  // again some of the last vector's
}

// All channels of one input.
template <class G, class S>
__attribute__((noinline)) void gather_point(const Reaching* rows, int64_t count, const PoolLink* begin,
                                            const PoolLink* end, int64_t channels, const G& given, S* to, bool room) {
  using A = typename G::A;
  constexpr int64_t L = lanes<A>;
  int64_t c = 0;
  for (; c + L <= channels; c += L) gather_vectors<1>(rows, count, begin, end, channels, given, c, to + c, L);
  if (c == channels) return;
  if (c > 0 || room) {
    c = c > 0 ? channels - L : 0;
    return gather_vectors<1>(rows, count, begin, end, channels, given, c, to + c, L);
  }
  vector_t<A> sum = {};
  for (int64_t r = 0; r < count; ++r)
    for (const PoolLink* link = begin; link < end; ++link)
      sum += given.some(rows[r].output + link->output * channels, rows[r].code + link->tap, channels);
  store_some(to, given.whole(sum), channels);
}

// A row of inputs, of a vector of channels at least, that ROWS rows of windows reach.
template <int ROWS, class G, class S>
void gather_inputs(const PoolAxis& a, const Reaching* rows, int64_t channels, const G& given, S* to) {
  for (int64_t i = 0; i < a.input; ++i, to += channels) {
    const PoolLink *const begin = a.links + a.reach[i], *const end = a.links + a.reach[i + 1];
    if (end - begin == 1)
      gather_windows<ROWS, 1>(rows, begin, channels, given, to);
    else if (end - begin == 2)
      gather_windows<ROWS, 2>(rows, begin, channels, given, to);
    else if (end - begin == 3)
      gather_windows<ROWS, 3>(rows, begin, channels, given, to);
    else
      gather_point(rows, ROWS, begin, end, channels, given, to, false);
  }
}

// Four inputs one after the other, each in one window: link[v] is the v-th's.
template <class G, class S>
inline void gather_singles(const Reaching* rows, int64_t count, const PoolLink* link, int64_t channels, const G& given,
                           S* to) {
  vector_t<typename G::A> sums[4] = {};
  for (int64_t r = 0; r < count; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v)
      given.add_to(sums[v], rows[r].output + link[v].output * channels, rows[r].code + link[v].tap);
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) store_narrowed(to + v * channels, given.whole(sums[v]));
}

// Whether input j has the same taps of later windows, as many later as it is steps further.
inline bool alike(const PoolAxis& a, int64_t i, int64_t j) {
  return a.reach[i + 1] - a.reach[i] == a.reach[j + 1] - a.reach[j] && a.reach[i] < a.reach[i + 1] &&
         a.links[a.reach[i]].tap == a.links[a.reach[j]].tap;
}

// A row of inputs that `count` rows of windows reach. `room`: pixels of the row that may be written a vector past their
// end, and have that much read of what they are given.
template <class G, class S>
__attribute__((noinline)) void gather_reached(const PoolAxis& a2, const Reaching* rows, int64_t count, int64_t channels,
                                              const G& given, S* to, int64_t room) {
  constexpr int64_t L = lanes<typename G::A>;
  const auto links = [&](int64_t i) { return a2.links + a2.reach[i]; };
  const auto point = [&](int64_t i) {
    gather_point(rows, count, links(i), links(i + 1), channels, given, to + i * channels, i < room);
  };
  if (channels <= L && a2.taps <= a2.stride && a2.dilation == 1) {  // windows side by side
    for (int64_t i2 = 0; i2 < a2.input; ++i2)
      if (i2 + 4 <= a2.input && a2.reach[i2 + 4] - a2.reach[i2] == 4 && (channels == L || i2 + 3 < room)) {
        gather_singles(rows, count, links(i2), channels, given, to + i2 * channels);
        i2 += 3;
      } else {
        point(i2);
      }
    return;
  }
  if constexpr (tuned<S> && G::common) {
    if (channels > L && count == 1) return gather_inputs<1>(a2, rows, channels, given, to);
    if (channels > L && count == 2) return gather_inputs<2>(a2, rows, channels, given, to);
    if (channels > L && count == 3) return gather_inputs<3>(a2, rows, channels, given, to);
  }
  if (channels != L) {
    for (int64_t i2 = 0; i2 < a2.input; ++i2) point(i2);
    return;
  }
  const int64_t step = a2.stride;  // by fours of inputs that are the same taps
  for (int64_t i2 = 0; i2 < a2.input; i2 += 4 * step)
    for (int64_t i = i2; i < at_most(i2 + step, a2.input); ++i)
      if (i + 3 * step < a2.input && alike(a2, i, i + 3 * step))
        gather_vectors<4>(rows, count, links(i), links(i + 1), L, given, 0, to + i * L, step * L);
      else
        for (int64_t j = i; j < at_most(i + 4 * step, a2.input); j += step) point(j);
}

// Row (i0, i1) of plane p: `outputs` says where the rows of outputs lie, by plane and two coordinates.
template <class G, class S, class Where>
inline void gather_row(const PoolGeometry& g, int64_t channels, int64_t i0, int64_t i1, const G& given, Where outputs,
                       S* to, int64_t room) {
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1];
  Reaching rows[kReaching];
  int64_t count = 0;
  for (int64_t k0 = a0.reach[i0]; k0 < a0.reach[i0 + 1]; ++k0)
    for (int64_t k1 = a1.reach[i1]; k1 < a1.reach[i1 + 1]; ++k1) {
      const PoolLink l0 = a0.links[k0], l1 = a1.links[k1];
      rows[count++] = {outputs(l0.output, l1.output), code(g, l0.tap, l1.tap, 0)};
    }
  gather_reached(g.axis[2], rows, count, channels, given, to, room);
}

// Whether all sums are divided by the same number.
inline bool one_divisor(const PoolGeometry& g) {
  if (g.divisor_override != 0) return true;
  for (const PoolAxis& a : g.axis)
    for (int64_t o = 1; o < a.output; ++o)
      if (a.divisor[o] != a.divisor[0]) return false;
  return true;
}

// Of a mean's rows of outputs the shares, [output][channel], each computed once for all the rows of inputs it reaches.
template <class S>
class Shares {
  using A = accumulator_t<S>;

 public:
  // ring: of rows, in scratch
  Shares(const PoolGeometry& geometry, int64_t channels, const S* gradients, const Rows& rows, A* ring)
      : g(geometry), channels(channels), dy(gradients), rows(rows), ring(ring) {
    for (int64_t slot = 0; slot < kReaching; ++slot) held[slot] = -1;
  }
  // The row's place in the ring.
  int64_t of(int64_t p, int64_t o0, int64_t o1) {
    const int64_t slot = (o0 & (g.ring[0] - 1)) * g.ring[1] + (o1 & (g.ring[1] - 1));
    const int64_t n = g.axis[2].output * channels, row = rows.at(p, o0, o1);
    if (held[slot] == row) return slot * n;
    held[slot] = row;
    A* to = ring + slot * n;
    const S* from = dy + row;
    for (int64_t o2 = 0; o2 < g.axis[2].output; ++o2) {
      const A by = static_cast<A>(divisor(g, o0, o1, o2));
      TORCHCONV_INDEPENDENT
      for (int64_t c = o2 * channels; c < (o2 + 1) * channels; ++c) to[c] = widen(from[c]) / by;
    }
    return slot * n;
  }

 private:
  const PoolGeometry& g;
  int64_t channels;
  const S* dy;
  Rows rows;
  A* ring;
  int64_t held[kReaching];
};

// Units are rows of the input. run(p, i0, i1, row in dx)
template <class Run>
inline void for_input_rows(const PoolGeometry& g, int64_t begin, int64_t end, Run run) {
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1];
  for (int64_t unit = begin; unit < end; ++unit)
    run(unit / (a1.input * a0.input), unit / a1.input % a0.input, unit % a1.input);
}

template <class T, class P>
void scatter_channels(const PoolGeometry& g, const T* dy, const P* kept, T* dx, int64_t begin, int64_t end) {
  const Rows outputs = output_rows(g), inputs = input_rows(g);
  const int64_t last = end * inputs.axis1;
  for_input_rows(g, begin, end, [&](int64_t p, int64_t i0, int64_t i1) {
    const int64_t to = inputs.at(p, i0, i1);
    const int64_t dy_room = (g.planes - p - 1) * outputs.plane - kLoose;
    const int64_t room = dy_room < 0 ? 0 : (last - to - kLoose) / g.channels;
    gather_row(
        g, g.channels, i0, i1, Taken<T, P>{dy, kept}, [&](int64_t o0, int64_t o1) { return outputs.at(p, o0, o1); },
        dx + to, room);
  });
}

template <class T>
void spread_channels(const PoolGeometry& g, const T* dy, T* dx, accumulator_t<T>* scratch, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  const Rows outputs = output_rows(g), inputs = input_rows(g);
  const int64_t last = end * inputs.axis1;
  const auto spread = [&](const auto& shared, auto where) {
    for_input_rows(g, begin, end, [&](int64_t p, int64_t i0, int64_t i1) {
      const int64_t to = inputs.at(p, i0, i1);
      const int64_t dy_room = (g.planes - p - 1) * outputs.plane - kLoose;
      const int64_t room = dy_room < 0 ? 0 : (last - to - kLoose) / g.channels;
      gather_row(
          g, g.channels, i0, i1, shared, [&](int64_t o0, int64_t o1) { return where(p, o0, o1); }, dx + to, room);
    });
  };
  if (one_divisor(g))
    return spread(Shared<T>{dy, static_cast<A>(divisor(g, 0, 0, 0))},
                  [&](int64_t p, int64_t o0, int64_t o1) { return outputs.at(p, o0, o1); });
  Shares<T> shares(g, g.channels, dy, outputs, scratch);
  spread(Shared<A>{scratch, 1}, [&](int64_t p, int64_t o0, int64_t o1) { return shares.of(p, o0, o1); });
}

}  // namespace pooling
