// Pooling whose lanes are the outputs of a row and their channels: output o, channel c is lane o * channels + c. For
// contiguous maps with rows long enough, and for few channels, at steps of one or two along the row.
//
// A row of the input is first copied to where its padding lies around it and, at a step of two, taken apart into its
// pixels at even and at odd places, [pixel][channel] each: a tap of all lanes is then one run.
//
// Rows are written in order, so that one may be written past its end where the next is still to come.

namespace pooling {

// Lanes 0, 2, ... and 1, 3, ... of two vectors side by side; and back, the first or second half.
template <class A>
inline places_t<A> taken_apart(int64_t half) {
  places_t<A> from;
  for (int64_t l = 0; l < lanes<A>; ++l) from[l] = 2 * l + half;
  return from;
}
template <class A>
inline places_t<A> put_together(int64_t half) {
  places_t<A> from;
  for (int64_t l = 0; l < lanes<A>; ++l) from[l] = (half * lanes<A> + l) / 2 + l % 2 * lanes<A>;
  return from;
}

// n elements, and up to kLoose past them written. `room`: and read.
template <class T, class A>
inline void copy_row(const T* from, int64_t n, bool room, A* to) {
  constexpr int64_t L = lanes<A>;
  int64_t i = 0;
  for (; i < n && (room || i + L <= n); i += L) store(to + i, load_widened(from + i));
  for (; i < n; ++i) to[i] = widen(from[i]);
}

// Pixels from[pixel][channel] to even[pixel / 2] and odd[pixel / 2], and up to kLoose elements past them. `room`: twice
// that may be read past the last, too.
template <class T, class A>
inline void take_apart(const T* from, int64_t pixels, int64_t channels, bool room, A* even, A* odd) {
  constexpr int64_t L = lanes<A>;
  int64_t pixel = 0;
  if (channels == 1)
    for (; pixel < pixels && (room || pixel + 2 * L <= pixels); pixel += 2 * L, even += L, odd += L) {
      const vector_t<A> a = load_widened(from + pixel), b = load_widened(from + pixel + L);
      store(even, __builtin_shuffle(a, b, taken_apart<A>(0)));
      store(odd, __builtin_shuffle(a, b, taken_apart<A>(1)));
    }
  for (; pixel < pixels; ++pixel) {
    A*& to = pixel % 2 == 0 ? even : odd;
    copy_row(from + pixel * channels, channels, room, to);
    to += channels;
  }
}

// The rows of the input last used, widened, with their padding.
template <class T, class R>
class PaddedRows {
  using A = accumulator_t<T>;

 public:
  PaddedRows(const PoolGeometry& geometry, const T* input) : g(geometry), x(input) {
    const PoolAxis& a = g.axis[2];
    whole = pool_span(a), low = larger(0, -a.origin[0]);
    high = larger(low, smaller(whole, a.input - a.origin[0]));
    last = (g.planes * inputs(g) - (high - low)) * g.channels - 2 * kLoose;
    for (int64_t slot = 0; slot < kRows; ++slot) {
      held[slot] = -1;
      pad(slot, 0, low);
    }
  }
  // Row `row`, counted through all planes, whose coordinate is i: where its place 0 is.
  const A* of(int64_t row, int64_t i) {
    const int64_t slot = i % kRows;
    if (held[slot] != row) fill(slot, row);
    return place(slot, 0);
  }
  // From place 0 to place `at`.
  int64_t step(int64_t at) const { return place(0, at) - place(0, 0); }

 private:
  A* place(int64_t slot, int64_t at) {
    return halves[slot][at % g.axis[2].stride] + at / g.axis[2].stride * g.channels;
  }
  const A* place(int64_t slot, int64_t at) const { return const_cast<PaddedRows*>(this)->place(slot, at); }
  void pad(int64_t slot, int64_t begin, int64_t end) {
    for (int64_t q = begin; q < end; ++q)
      for (int64_t c = 0; c < g.channels; ++c) place(slot, q)[c] = R::Sum::kPadding;
  }
  void fill(int64_t slot, int64_t row) {
    held[slot] = row;
    const int64_t at = (row * g.axis[2].input + g.axis[2].origin[0] + low) * g.channels;
    if (g.axis[2].stride == 1)
      copy_row(x + at, (high - low) * g.channels, at <= last, place(slot, low));
    else
      take_apart(x + at, high - low, g.channels, at <= last, place(slot, low), place(slot, low + 1));
    pad(slot, high, whole);
  }

  const PoolGeometry& g;
  const T* x;
  int64_t whole, low, high;  // places of a row of windows, of which [low, high) lie in the input
  int64_t last;              // element that may be read loosely from
  int64_t held[kRows];       // rows
  alignas(64) A halves[kRows][2][kRowLanes + kLoose];  // [slot][place % step][place / step][channel]
};

// A row of outputs. `rows`: its windows' that lie in the input, `count` of them; `tap`: from place 0 to that of a tap.
template <class A>
struct RowOfWindows {
  const A* rows[kRows];
  const int64_t* tap;
  int64_t count, taps;
  int64_t first;             // position of the first row's first tap
  const place_t<A>* inside;  // [lane] the first tap along the row that lies in the input
  const A* by;               // [lane] what a sum is divided by, the last axis's factor of it
  A factor;                  // and the others'
};

// K: taps along both axes, all in the input but for what the padding holds; or 0.
template <int K, class R, class A>
inline void reduce_lanes(const RowOfWindows<A>& w, int64_t n, int64_t at, bool room, R& r) {
  constexpr int64_t L = lanes<A>;
  for (int64_t i = 0; i < n; i += L) {
    typename R::Sum sum;
    const auto first = load_places<A>(w.inside + i) + static_cast<place_t<A>>(w.first);
    if constexpr (K != 0) {
#pragma GCC unroll 3
      for (int t1 = 0; t1 < K; ++t1)
#pragma GCC unroll 3
        for (int t2 = 0; t2 < K; ++t2) {
          const vector_t<A> x = load(w.rows[t1] + w.tap[t2] + i);
          if (t1 + t2 == 0)
            sum.begin_with(x, first);
          else
            sum.take(x, t1 * K + t2);
        }
    } else {
      sum.begin_with(vector_t<A>{} + R::Sum::kPadding, first);
      for (int64_t t1 = 0; t1 < w.count; ++t1)
        for (int64_t t2 = 0; t2 < w.taps; ++t2) sum.take(load(w.rows[t1] + w.tap[t2] + i), w.first + t1 * w.taps + t2);
    }
    const vector_t<A> by = load(w.by + i) * w.factor;
    if (room || i + L <= n)
      r.put(sum, at + i, by);
    else
      r.put_some(sum, at + i, by, n - i);
  }
}

// Units are rows of outputs.
template <int K, class T, class R>
void reduce_rows(const PoolGeometry& g, const T* x, R& r, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  const PoolAxis a0 = g.axis[0], a1 = g.axis[1], a2 = g.axis[2];
  const int64_t n = a2.output * g.channels;
  PaddedRows<T, R> padded(g, x);
  alignas(64) place_t<A> inside[kRowLanes + kLoose] = {};
  alignas(64) A by[kRowLanes + kLoose] = {};
  int64_t tap[64];
  for (int64_t t = 0; t < a2.taps; ++t) tap[t] = padded.step(t * a2.dilation);
  for (int64_t o = 0; o < a2.output; ++o)
    for (int64_t c = 0; c < g.channels; ++c) {
      inside[o * g.channels + c] = static_cast<place_t<A>>(first_tap(a2, o));
      by[o * g.channels + c] = g.divisor_override != 0 ? A(1) : static_cast<A>(a2.divisor[o]);
    }
  for (int64_t l = n; l < n + kLoose; ++l) by[l] = 1;

  RowOfWindows<A> w;
  w.tap = tap, w.taps = a2.taps, w.inside = inside, w.by = by;
  int64_t o1 = begin % a1.output, image = begin / a1.output;  // divisions at each row would take as long as the rest
  for (int64_t unit = begin; unit < end; ++unit) {
    w.count = 0;
    const int64_t row = image / a0.output * a0.input + a0.origin[image % a0.output];
    if (!empty(a0, image % a0.output))
      for (int64_t t1 = a1.first[o1]; t1 < a1.last[o1]; ++t1) {
        const int64_t i1 = a1.origin[o1] + t1 * a1.dilation;
        w.rows[w.count++] = padded.of(row * a1.input + i1, i1);
      }
    w.first = first_tap(a1, o1) * a2.taps;
    w.factor =
        static_cast<A>(g.divisor_override != 0 ? g.divisor_override : a0.divisor[image % a0.output] * a1.divisor[o1]);
    const bool room = (end - unit - 1) * n >= kLoose;
    if (w.count == K)
      reduce_lanes<K>(w, n, unit * n, room, r);
    else
      reduce_lanes<0>(w, n, unit * n, room, r);
    if (++o1 == a1.output) o1 = 0, ++image;
  }
}

}  // namespace pooling
