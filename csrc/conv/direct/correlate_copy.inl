// The sides of a correlation, a block of positions at a time: in place, or copied to [place][channel].
#pragma once
#include "conv/direct/correlate_plan.inl"
#include "conv/patch.inl"
#include "cpu/tile.inl"
#include "cpu/transpose.inl"

// Where a side's channels stand: place (n, i0, i1, i2) of group 0 of the block at `at` + n · step[0] + i · step[1..3].
template <class A>
struct Side {
  const A* at;
  int64_t group, step[4];

  const A* row(int64_t n, int64_t i0, int64_t i1) const { return at + n * step[0] + i0 * step[1] + i1 * step[2]; }
};

template <class A>
Side<A> in_place(const View& v, const A* at, int64_t group) {
  return {at, group, {v.n, v.s[0], v.s[1], v.s[2]}};
}
template <class A>
Side<A> in_copy(const Block& box, int64_t ld, const A* at, int64_t group) {
  Side<A> s{at, group, {}};
  s.step[3] = ld;
  for (int a = 2; a >= 0; --a) s.step[a] = s.step[a + 1] * box.size(a + 1);
  for (int a = 0; a < 4; ++a) s.at -= box.low[a] * s.step[a];
  return s;
}

// to[l · ld + r] = from[r · stride + l] for a square of N × N, rows past `rows` zero unless ALL are there.
template <int N, bool ALL, class T, class A>
void copy_square(const T* from, int64_t stride, int64_t rows, A* to, int64_t ld) {
  part_t<N, A> square[N];
#pragma GCC unroll 16
  for (int r = 0; r < N; ++r) square[r] = ALL || r < rows ? load_part<N, A>(from + r * stride) : part_t<N, A>{};
  transpose_square<1>(square);
#pragma GCC unroll 16
  for (int r = 0; r < N; ++r) *reinterpret_cast<typename Part<N, A>::unaligned*>(to + r * ld) = square[r];
}

// to[l · ld + c] = from[c · stride + l] in such squares; the last along the run overlaps the one before.
template <int N, class T, class A>
void copy_squares(const T* from, int64_t stride, int64_t channels, int64_t length, A* to, int64_t ld) {
  for (int64_t c = 0; c < channels; c += N)
    for (int64_t l = 0; l < length; l += N) {
      const int64_t at = at_most(l, length - N);
      if (channels - c >= N)
        copy_square<N, true>(from + c * stride + at, stride, N, to + at * ld + c, ld);
      else
        copy_square<N, false>(from + c * stride + at, stride, channels - c, to + at * ld + c, ld);
    }
}

// `length` runs of `size` elements, to_l apart. SIZE of each are copied, the least power of 2 that is enough, or all if
// that is no more than a vector: what is too much is overwritten by the next run, or stands where nothing is read.
template <int SIZE, class T, class A>
inline void copy_runs_of(const T* from, int64_t from_l, int64_t length, A* to, int64_t to_l) {
  for (int64_t l = 0; l < length; ++l) {
    A run[SIZE];
    for (int i = 0; i < SIZE; ++i) run[i] = widen(from[l * from_l + i]);
    for (int i = 0; i < SIZE; ++i) to[l * to_l + i] = run[i];
  }
}

// to[l · ld + c] = from[c · from_c + l · from_l], and zeros in channels [channels, fill).
template <class T, class A>
void copy_run(const T* from, int64_t from_l, int64_t from_c, int64_t channels, int64_t length, A* to, int64_t ld,
              int64_t fill) {
  constexpr int n = lanes<A>;
  if (from_l == ld && channels == ld && (from_c == 1 || channels == 1)) {
    for (int64_t i = 0; i < length * ld; ++i) to[i] = widen(from[i]);
    return;
  }
  if (from_c == 1 && fill <= channels) {
    if (channels == 4) return copy_runs_of<4>(from, from_l, length, to, ld);
    if (channels == 8) return copy_runs_of<8>(from, from_l, length, to, ld);
    if (channels == 16) return copy_runs_of<16>(from, from_l, length, to, ld);
  }
  if (from_c == 1) {
    for (int64_t l = 0; l < length; ++l) {
      for (int64_t c = 0; c < channels; ++c) to[l * ld + c] = widen(from[l * from_l + c]);
      zero(to + l * ld + channels, fill - channels);
    }
    return;
  }
  // Squares of a vector, of half of one or of a quarter, that fit into the run and into the channels' room.
  constexpr int half = n > 2 ? n / 2 : n, quarter = half > 2 ? half / 2 : half;
  const auto fits = [&](int64_t size) { return from_l == 1 && length >= size && round_up(channels, size) <= ld; };
  int64_t written = channels;
  if (fits(n) && channels > quarter)
    copy_squares<n>(from, from_c, channels, length, to, ld), written = round_up(channels, n);
  else if (fits(half) && channels > quarter)
    copy_squares<half>(from, from_c, channels, length, to, ld), written = round_up(channels, half);
  else if (fits(quarter) && channels > 1)
    copy_squares<quarter>(from, from_c, channels, length, to, ld), written = round_up(channels, quarter);
  else
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t l = 0; l < length; ++l) to[l * ld + c] = widen(from[c * from_c + l * from_l]);
  for (int64_t l = 0; l < length && written < fill; ++l) zero(to + l * ld + written, fill - written);
}

// The rows of pixels some tap sees: the first `count` of every `step`, from `first`.
struct SeenRows {
  int64_t first = 0, step = 1, count = 1;
  bool operator()(int64_t i) const { return (i - first) % step < count; }
};

inline SeenRows seen_rows(const Gather& g) {
  const TapSpan span = tap_span(g, 1);
  return {span.low, g.step[1], span.high - span.low + 1};
}

// A block of a tensor's pixels as [n][i0][i1][i2][ld]; along the last axis it may reach over the map, into zeros.
template <class T, class A>
void copy_block(const View& v, int64_t last_extent, const Block& box, const SeenRows& rows, const T* from,
                int64_t channels, A* to, int64_t ld, int64_t fill) {
  const int64_t width = box.size(3), low = at_most(at_least(box.low[3], 0), box.high[3]);
  const int64_t high = at_least(low, at_most(box.high[3], last_extent));
  const bool whole = width == last_extent && low == box.low[3] && high == box.high[3] && v.s[1] == width * v.s[2];
  const int64_t at_once = whole && rows.count >= rows.step ? at_least(1, box.size(2)) : 1;
  for (int64_t n = box.low[0]; n < box.high[0]; ++n)
    for (int64_t i0 = box.low[1]; i0 < box.high[1]; ++i0)
      for (int64_t i1 = box.low[2]; i1 < box.high[2]; i1 += at_once, to += at_once * width * ld) {
        if (!rows(i1)) continue;
        if (low > box.low[3]) zero(to, (low - box.low[3]) * ld);
        copy_run(from + n * v.n + i0 * v.s[0] + i1 * v.s[1] + low * v.s[2], v.s[2], v.c, channels,
                 at_once * (high - low), to + (low - box.low[3]) * ld, ld, fill);
        if (high < box.high[3]) zero(to + (high - box.low[3]) * ld, (box.high[3] - high) * ld);
      }
}

constexpr int64_t patch_piece = 16;  // elements of a run of taps copied at once, at the most

// Patches out[position][tap][channel] from rows copied by copy_block. A run of taps is copied in whole vectors: what is
// too much is overwritten by the next run, and the last one has room for it.
template <class A>
void copy_patches(const Gather& g, const CorrelationPlan& p, const Block& box, const Block& pixels, const Side<A>& rows,
                  A* out, int64_t ld) {
  const int64_t run = p.run * g.c, width = box.size(3), step = g.step[2] * g.c;
  for (int64_t n = box.low[0]; n < box.high[0]; ++n)
    for (int64_t t0 = box.low[1]; t0 < box.high[1]; ++t0)
      for (int64_t t1 = box.low[2]; t1 < box.high[2]; ++t1, out += width * ld)
        for (int64_t k = 0; k < g.tap_count; k += p.run) {
          const int64_t* offset = g.taps[k].offset;
          const int64_t i0 = t0 * g.step[0] + offset[0], i1 = t1 * g.step[1] + offset[1];
          const bool inside = i0 >= pixels.low[1] && i0 < pixels.high[1] && i1 >= pixels.low[2] && i1 < pixels.high[2];
          const A* from = rows.row(n, i0, i1) + box.low[3] * step + offset[2] * g.c;
          A* to = out + k * g.c;
          if (!inside)
            for (int64_t l = 0; l < width; ++l) zero(to + l * ld, run);
          else if (run <= 4)
            copy_runs_of<4>(from, step, width, to, ld);
          else if (run <= 8)
            copy_runs_of<8>(from, step, width, to, ld);
          else
            for (int64_t i = 0; i < run; i += patch_piece) copy_runs_of<patch_piece>(from + i, step, width, to + i, ld);
        }
}
