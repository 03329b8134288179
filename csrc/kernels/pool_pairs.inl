// Max pooling that steps by two along rows of few channels, forward and back. Lanes are (output of a row, channel), so
// that short rows and few channels fill vectors: output o, channel c is lane o * channels + c.
//
//   max_pool   a row is taken apart into its pixels at even and at odd places, [pixel][channel] each; a tap of all
//              lanes is then one run of either: tap t begins at pixel t / 2 of half t % 2
//   scatter    windows side by side: dx[2 o + t] = p[o] is this row's tap t ? dy[o] : 0, each element written once
//
// Rows are written in order, so that one may be written past its end where the next is still to come.

namespace pooling {

constexpr int64_t kLoose = 16;  // most that is read or written past an end: a vector

template <class A>
using places_t = typename Vector<A>::mask;

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

template <class A>
inline places_t<A> load_bytes(const uint8_t* from) {
  typename Vector<A>::bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, places_t<A>);
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
    const T* at = from + pixel * channels;
    int64_t c = 0;
    for (; c < channels && (room || c + L <= channels); c += L) store(to + c, load_widened(at + c));
    for (; c < channels; ++c) to[c] = widen(at[c]);
    to += channels;
  }
}

// A tap of all lanes: where its elements begin, and its position.
template <class A>
struct PairTap {
  const A* from;
  typename Index<A>::type code;
};

// A row of outputs: `count` taps of n lanes. `first`: the position that is taken if all are -inf. `room`: of y and
// positions, a vector may be written past the end.
template <class T>
inline void max_taps(const PairTap<accumulator_t<T>>* taps, int64_t count, int64_t n,
                     const typename Index<accumulator_t<T>>::type* first, typename Index<accumulator_t<T>>::type none,
                     bool room, T* y, uint8_t* positions) {
  using A = accumulator_t<T>;
  using V = vector_t<A>;
  using Where = places_t<A>;
  constexpr int64_t L = lanes<A>;
  constexpr A kLeast = -static_cast<A>(__builtin_inff());
  for (int64_t i = 0; i < n; i += L) {
    V best = V{} + kLeast;
    Where where;
    std::memcpy(&where, first + i, sizeof where);
    where += none;
    for (int64_t k = 0; k < count; ++k) {
      const V value = load(taps[k].from + i);
      const auto wins = (value > best) | (value != value);
      best = wins ? value : best;
      where = wins ? Where{} + taps[k].code : where;
    }
    const auto bytes = __builtin_convertvector(where, typename Vector<A>::bytes);
    if (room || i + L <= n) {
      store_narrowed(y + i, best);
      std::memcpy(positions + i, &bytes, sizeof bytes);
    } else {
      for (int64_t l = 0; l < n - i; ++l) narrow(best[l], y + i + l), positions[i + l] = bytes[l];
    }
  }
}

template <class T>
void max_pairs(const PoolGeometry& g, const T* x, T* y, uint8_t* positions, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  using I = typename Index<A>::type;
  constexpr A kLeast = -static_cast<A>(__builtin_inff());
  const PoolAxis a0 = g.axis[0], a1 = g.axis[1], a2 = g.axis[2];
  const int64_t channels = g.channels, n = a2.output * channels, origin = a2.origin[0], whole = pool_span(a2);
  // Of a row of windows, pixels [low, high) lie in the input, the others do not and never win.
  const int64_t low = larger(0, -origin), high = larger(low, smaller(whole, a2.input - origin));
  alignas(64) A halves[kPairRows][2][kPairLanes + kLoose];  // [row of the window][place % 2][place / 2][channel]
  for (auto& half : halves)
    for (int64_t q = 0; q < low; ++q)
      for (int64_t c = 0; c < channels; ++c) half[q % 2][q / 2 * channels + c] = kLeast;
  alignas(64) I first[kPairLanes + kLoose] = {};  // [lane]
  for (int64_t o = 0; o < a2.output; ++o)
    for (int64_t c = 0; c < channels; ++c) first[o * channels + c] = static_cast<I>(first_tap(a2, o));

  PairTap<A> taps[256];                                                                // [row][tap along it]
  int64_t taps_of[kPairRows] = {-1, -1, -1, -1};                                       // [row] its place in the window
  const int64_t last = (g.planes * inputs(g) - (high - low)) * channels - 2 * kLoose;  // that may be read loosely from
  int64_t o1 = begin % a1.output, o0 = begin / a1.output % a0.output, plane = begin / (a1.output * a0.output);
  for (int64_t unit = begin; unit < end; ++unit) {  // rows of outputs; divisions at each would take as long as the rest
    const int64_t plane0 = plane * a0.input + a0.origin[o0];
    int64_t row = 0;
    for (int64_t t0 = a0.first[o0]; t0 < a0.last[o0]; ++t0)
      for (int64_t t1 = a1.first[o1]; t1 < a1.last[o1]; ++t1, ++row) {
        const int64_t i = (plane0 + t0 * a0.dilation) * a1.input + a1.origin[o1] + t1 * a1.dilation;
        const int64_t at = (i * a2.input + origin + low) * channels;
        auto& half = halves[row];
        take_apart(x + at, high - low, channels, at <= last, half[low % 2] + low / 2 * channels,
                   half[(low + 1) % 2] + (low + 1) / 2 * channels);
        for (int64_t q = high; q < whole; ++q)
          for (int64_t c = 0; c < channels; ++c) half[q % 2][q / 2 * channels + c] = kLeast;
        if (taps_of[row] != t0 * a1.taps + t1) {  // as before, mostly
          taps_of[row] = t0 * a1.taps + t1;
          for (int64_t t2 = 0, place = 0; t2 < a2.taps; ++t2, place += a2.dilation)
            taps[row * a2.taps + t2] = {half[place % 2] + place / 2 * channels, static_cast<I>(code(g, t0, t1, t2))};
        }
      }
    max_taps(taps, row * a2.taps, n, first, static_cast<I>(code(g, first_tap(a0, o0), first_tap(a1, o1), 0)),
             (end - unit - 1) * n >= kLoose, y + unit * n, positions + unit * n);
    if (++o1 == a1.output) o1 = 0, ++o0;
    if (o0 == a0.output) o0 = 0, ++plane;
  }
}

// Whether scatter_pairs serves: windows of whole pairs, side by side from the start of each axis and inside it.
inline bool serves_pairs_back(const PoolGeometry& g) {
  const auto apart = [](const PoolAxis& a) {
    return a.dilation == 1 && a.taps <= a.stride && a.output > 0 && a.origin[0] == 0;
  };
  const PoolAxis& a2 = g.axis[2];
  return apart(g.axis[0]) && apart(g.axis[1]) && apart(a2) && a2.stride == 2 && a2.taps == 2 &&
         2 * a2.output <= a2.input && g.position_bytes == 1 &&
         ((g.channels == 1 && a2.output >= kPairLeast) ||
          (g.channels >= kPairLeast && g.channels <= kPoolChannels));  // fewer: half-empty vectors
}

// What dy gives to a tap, lane by lane.
template <class T>
inline vector_t<accumulator_t<T>> given(const T* dy, const uint8_t* kept, int64_t tap) {
  using A = accumulator_t<T>;
  using V = vector_t<A>;
  const auto none = places_t<A>{};
  return load_bytes<A>(kept) == none + static_cast<typename Index<A>::type>(tap) ? load_widened(dy) + 0 : V{};
}
template <class T>
inline void give(const T* dy, const uint8_t* kept, int64_t tap, T* to) {
  narrow(*kept == tap ? widen(*dy) + 0 : 0, to);
}

// to[pixel][channel]: what a row of dy[output][channel] gives to its taps `tap` and `tap + 1`, side by side. `room`: it
// may be written up to 2 kLoose past its end, and dy and kept be read so.
template <class T>
inline void give_pairs(const T* dy, const uint8_t* kept, int64_t tap, int64_t outputs, int64_t channels, bool room,
                       T* to) {
  using A = accumulator_t<T>;
  constexpr int64_t L = lanes<A>;
  int64_t o = 0;
  if (channels == 1)
    for (; o < outputs && (room || o + L <= outputs); o += L) {
      const auto a = given(dy + o, kept + o, tap), b = given(dy + o, kept + o, tap + 1);
      store_narrowed(to + 2 * o, __builtin_shuffle(a, b, put_together<A>(0)));
      store_narrowed(to + 2 * o + L, __builtin_shuffle(a, b, put_together<A>(1)));
    }
  for (; o < outputs; ++o)
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t from = o * channels, at = (2 * o + half) * channels;
      int64_t c = 0;
      for (; c < channels && (room || c + L <= channels); c += L)
        store_narrowed(to + at + c, given(dy + from + c, kept + from + c, tap + half));
      for (; c < channels; ++c) give(dy + from + c, kept + from + c, tap + half, to + at + c);
    }
}

// The output of an axis whose window an input is in, and its tap; the next input's from this one's.
struct Place {
  int64_t output = 0, tap = 0;
  bool inside(const PoolAxis& a) const { return output < a.output && tap < a.taps; }
  void next(const PoolAxis& a) {
    if (++tap == a.stride) tap = 0, ++output;
  }
};

// Planes [p0, p1).
template <class T>
void scatter_pairs(const PoolGeometry& g, int64_t p0, int64_t p1, const T* dy, const uint8_t* kept, T* dx) {
  const PoolAxis &a0 = g.axis[0], &a1 = g.axis[1], &a2 = g.axis[2];
  const int64_t width = a2.input * g.channels, length = a2.output * g.channels;
  const T* const end = dx + p1 * inputs(g) * g.channels;
  const T* const dy_end = dy + g.planes * outputs(g) * g.channels;
  T* to = dx + p0 * inputs(g) * g.channels;
  for (int64_t plane = p0; plane < p1; ++plane) {
    Place place0;
    for (int64_t i0 = 0; i0 < a0.input; ++i0, place0.next(a0)) {
      Place place1;
      for (int64_t i1 = 0; i1 < a1.input; ++i1, place1.next(a1), to += width) {
        int64_t done = 0;  // elements of the row
        if (place0.inside(a0) && place1.inside(a1)) {
          const int64_t from = ((plane * a0.output + place0.output) * a1.output + place1.output) * length;
          const bool room = dy_end - (dy + from) >= length + kLoose && end - to >= 2 * (length + kLoose);
          give_pairs(dy + from, kept + from, code(g, place0.tap, place1.tap, 0), a2.output, g.channels, room, to);
          done = 2 * length;
        }
        if (done < width) std::memset(to + done, 0, sizeof(T) * (width - done));
      }
    }
  }
}

}  // namespace pooling
