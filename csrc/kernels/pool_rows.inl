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
template <int STEP, class T, class R>
class PaddedRows {
  using A = accumulator_t<T>;

 public:
  PaddedRows(const PoolGeometry& g, const T* input)
      : x(input), width(g.axis[2].input * g.channels), channels(g.channels) {
    const PoolAxis& a = g.axis[2];
    whole = pool_span(a), low = larger(0, -a.origin[0]);
    high = larger(low, smaller(whole, a.input - a.origin[0]));
    first = (a.origin[0] + low) * channels;
    last = (g.planes * inputs(g) - (high - low)) * channels - 2 * kLoose;
    for (int64_t slot = 0; slot < kRows; ++slot) {
      held[slot] = -1;
      pad(slot, 0, low);
    }
  }
  // Row `row`, counted through all planes, whose coordinate is i: where its place 0 is.
  const A* of(int64_t row, int64_t i) {
    const int64_t slot = i & (kRows - 1);
    if (held[slot] != row) fill(slot, row);
    return halves[slot][0];
  }
  // From place 0 to place `at`.
  int64_t step(int64_t at) { return place(0, at) - place(0, 0); }

 private:
  A* place(int64_t slot, int64_t at) { return halves[slot][at % STEP] + at / STEP * channels; }
  void pad(int64_t slot, int64_t begin, int64_t end) {
    for (int64_t q = begin; q < end; ++q)
      for (int64_t c = 0; c < channels; ++c) place(slot, q)[c] = R::Sum::kPadding;
  }
  void fill(int64_t slot, int64_t row) {
    held[slot] = row;
    const int64_t at = row * width + first;
    if constexpr (STEP == 1)
      copy_row(x + at, (high - low) * channels, at <= last, place(slot, low));
    else
      take_apart(x + at, high - low, channels, at <= last, place(slot, low), place(slot, low + 1));
    pad(slot, high, whole);
  }

  const T* x;
  int64_t width, channels;
  int64_t first;             // of a row's elements, that at place `low`
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

// K: taps along both axes; or 0, as w says.
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
template <int STEP, int K, class T, class R>
void reduce_rows(const PoolGeometry& g, const T* x, R& r, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  const PoolAxis a0 = g.axis[0], a1 = g.axis[1], a2 = g.axis[2];
  const int64_t n = a2.output * g.channels;
  PaddedRows<STEP, T, R> padded(g, x);
  alignas(64) place_t<A> inside[kRowLanes + kLoose] = {};  // see RowOfWindows
  alignas(64) A by[kRowLanes + kLoose];
  int64_t tap[kRowTaps];
  for (int64_t t = 0; t < a2.taps; ++t) tap[t] = padded.step(t * a2.dilation);
  for (int64_t o = 0; o < a2.output; ++o)
    for (int64_t c = 0; c < g.channels; ++c) {
      inside[o * g.channels + c] = static_cast<place_t<A>>(first_tap(a2, o));
      by[o * g.channels + c] = g.divisor_override != 0 ? A(1) : static_cast<A>(a2.divisor[o]);
    }
  for (int64_t l = n; l < n + kLoose; ++l) by[l] = 1;

  RowOfWindows<A> w;
  w.tap = tap, w.taps = a2.taps, w.inside = inside, w.by = by;
  int64_t o1 = begin % a1.output, o0 = begin / a1.output % a0.output, p = begin / (a1.output * a0.output);
  for (int64_t unit = begin; unit < end; ++unit) {  // divisions at each would take as long as the rest
    const int64_t row = (p * a0.input + a0.origin[o0]) * a1.input;
    w.count = 0;
    if (!empty(a0, o0))
      for (int64_t t1 = a1.first[o1]; t1 < a1.last[o1]; ++t1) {
        const int64_t i1 = a1.origin[o1] + t1 * a1.dilation;
        w.rows[w.count++] = padded.of(row + i1, i1);
      }
    w.first = first_tap(a1, o1) * a2.taps;
    w.factor = static_cast<A>(g.divisor_override != 0 ? g.divisor_override : a0.divisor[o0] * a1.divisor[o1]);
    const bool room = (end - unit - 1) * n >= kLoose;
    if (w.count == K)
      reduce_lanes<K>(w, n, unit * n, room, r);
    else
      reduce_lanes<0>(w, n, unit * n, room, r);
    if (++o1 == a1.output) o1 = 0, ++o0;
    if (o0 == a0.output) o0 = 0, ++p;
  }
}

template <int K, class T, class R>
void reduce_rows(const PoolGeometry& g, const T* x, R& r, int64_t begin, int64_t end) {
  if (g.axis[2].stride == 1) return reduce_rows<1, K>(g, x, r, begin, end);
  reduce_rows<2, K>(g, x, r, begin, end);
}

// ---- the transposed operators, of one channel ----
//
// dx[2 v + h] = sum over rows (o1, t1) and taps t2 that are h + padding in parity, of dy[o1][v + shift(h, t2)]; at a
// step of one there is but h = 0, and dx[v].

// A tap along the row, and from v to the output that has it there.
struct ShiftedTap {
  int64_t tap, shift;
};

// The rows of dy last used, with room for what lies before and past them: there nothing is given. A maximum's come with
// their positions, of a mean they are shares.
template <class T, class P>
class GivenRows {
  using A = accumulator_t<T>;

 public:
  GivenRows(const PoolGeometry& geometry, const T* gradients, const P* positions)
      : g(geometry), n(g.axis[2].output), dy(gradients), kept(positions) {
    for (int64_t slot = 0; slot < kRows; ++slot) {
      held[slot] = -1;
      for (int64_t l = 0; l < kBefore; ++l) given[slot][l] = 0, places[slot][l] = -1;
      for (int64_t l = 0; l < 2 * kLoose; ++l) given[slot][kBefore + n + l] = 0, places[slot][kBefore + n + l] = -1;
    }
    last = g.planes * outputs(g) - n - kLoose;
  }
  // Row (o0, o1) of a plane, which is row `row` of all: its place in the buffers.
  int64_t of(int64_t row, int64_t o0, int64_t o1) {
    const int64_t slot = o1 & (kRows - 1);
    if (held[slot] != row) fill(slot, row, o0, o1);
    return slot * kWidth + kBefore;
  }
  vector_t<A> at(int64_t place, place_t<A> code) const {
    const vector_t<A> value = load(given[0] + place);
    if constexpr (kMaximum)
      return Taken<A, place_t<A>>::where(load_places<A>(places[0] + place) == code, value);
    else
      return value;
  }

 private:
  static constexpr bool kMaximum = kIsPosition<P>;
  static constexpr int64_t kBefore = kLoose, kWidth = kBefore + kRowLanes + 2 * kLoose;

  void fill(int64_t slot, int64_t row, int64_t o0, int64_t o1) {
    constexpr int64_t L = lanes<A>;
    held[slot] = row;
    const T* from = dy + row * n;
    A* to = given[slot] + kBefore;
    const int64_t whole = row * n <= last ? n : n / L * L;  // what may be read in vectors
    if constexpr (kMaximum) {
      const P* at = kept + row * n;
      place_t<A>* where = places[slot] + kBefore;
      int64_t l = 0;
      for (; l < whole; l += L)
        store(to + l, load_widened(from + l)), store_places<A>(where + l, load_places<A>(at + l));
      for (; l < n; ++l) to[l] = widen(from[l]), where[l] = at[l];
      for (l = n; l < n + kLoose; ++l) where[l] = -1;
    } else {
      const bool even = g.divisor_override != 0;
      const A factor = static_cast<A>(even ? g.divisor_override : g.axis[0].divisor[o0] * g.axis[1].divisor[o1]);
      const int32_t* by = g.axis[2].divisor;
      for (int64_t l = 0; l < n; ++l) to[l] = widen(from[l]) / (even ? factor : factor * static_cast<A>(by[l]));
    }
    for (int64_t l = n; l < n + kLoose; ++l) to[l] = 0;
  }

  const PoolGeometry& g;
  int64_t n, last;  // last: element that may be read loosely from
  const T* dy;
  const P* kept;
  int64_t held[kRows];
  alignas(64) A given[kRows][kWidth];
  alignas(64) place_t<A> places[kRows][kWidth];
};

// Of a row of dx what `rows` give to it.
template <class Given, class A>
inline vector_t<A> gathered(const Given& given, const Reaching* rows, int64_t count, const ShiftedTap* taps,
                            int64_t tap_count, int64_t v) {
  vector_t<A> sum = {};
  for (int64_t r = 0; r < count; ++r)
    for (int64_t t = 0; t < tap_count; ++t)
      sum += given.at(rows[r].output + v + taps[t].shift, rows[r].code + taps[t].tap);
  return sum;
}

// Units are rows of dx.
template <int STEP, class T, class P>
void gather_rows(const PoolGeometry& g, const T* dy, const P* kept, T* dx, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  using Given = GivenRows<T, P>;
  constexpr int64_t L = lanes<A>;
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  Given given(g, dy, kept);
  ShiftedTap taps[2][kRowTaps];
  int64_t counts[2] = {};
  for (int64_t h = 0; h < STEP; ++h)  // by output: from the last tap on
    for (int64_t t = a2.taps - 1; t >= 0; --t)
      if ((h - a2.origin[0] - t) % STEP == 0) taps[h][counts[h]++] = {t, (h - a2.origin[0] - t) / STEP};
  int64_t i1 = begin % a1.input, i0 = begin / a1.input % a0.input, p = begin / (a1.input * a0.input);
  for (int64_t unit = begin; unit < end; ++unit) {
    Reaching rows[kReaching];
    int64_t count = 0;
    for (int64_t k0 = a0.reach[i0]; k0 < a0.reach[i0 + 1]; ++k0)
      for (int64_t k1 = a1.reach[i1]; k1 < a1.reach[i1 + 1]; ++k1) {
        const int64_t o0 = a0.links[k0].output, o1 = a1.links[k1].output;
        const int64_t row = (p * a0.output + o0) * a1.output + o1;
        rows[count++] = {given.of(row, o0, o1), a1.links[k1].tap * a2.taps};
      }
    T* const to = dx + unit * a2.input;
    const bool room = (end - unit - 1) * a2.input >= 2 * kLoose;
    for (int64_t v = 0; v * STEP < a2.input; v += L) {
      vector_t<A> sums[2];
      for (int h = 0; h < STEP; ++h) sums[h] = gathered<Given, A>(given, rows, count, taps[h], counts[h], v);
      if constexpr (STEP == 2) {
        const auto even = sums[0], odd = sums[1];
        sums[0] = __builtin_shuffle(even, odd, put_together<A>(0));
        sums[1] = __builtin_shuffle(even, odd, put_together<A>(1));
      }
      for (int h = 0; h < STEP; ++h) {
        const int64_t at = v * STEP + h * L, left = a2.input - at;
        if (room || left >= L)
          store_narrowed(to + at, sums[h]);
        else if (left > 0)
          store_some(to + at, sums[h], left);
      }
    }
    if (++i1 == a1.input) i1 = 0, ++i0;
    if (i0 == a0.input) i0 = 0, ++p;
  }
}

template <class T, class P>
void gather_rows(const PoolGeometry& g, const T* dy, const P* kept, T* dx, int64_t begin, int64_t end) {
  if (g.axis[2].stride == 1) return gather_rows<1>(g, dy, kept, dx, begin, end);
  gather_rows<2>(g, dy, kept, dx, begin, end);
}

}  // namespace pooling
