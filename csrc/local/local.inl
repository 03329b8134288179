// Included once per capability: locally connected layers, convolutions whose filters differ from position to position.
//
//   y[n, o, t] = bias[o, t] + sum over q = (c, k) of W[o, q, t] * X[n, q, t],  X[n, q, t] = x[n, c, t s + k d - p]
//
// Vectors lie along the positions t, as the weights do in memory. X is made for a chunk of positions, some samples and
// some terms at a time: with it the sums over q, over o (the input gradient, before its terms are added into
// the map) and over n (the weight gradient) are products of vectors, each weight loaded once for several samples.
#pragma once
#include "cpu/numeric.inl"
#include "cpu/tile.inl"

inline int64_t local_blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

// ---- between maps and chunks ----

// The positions from .. from + count of a chunk that starts at t0 read the pixels at, at + stride[1], ... of a map.
// visit(from, count, at) for each run of positions whose tap lies in the input.
template <class Visit>
void for_local_runs(const Local& g, int64_t tap, int64_t t0, int64_t n, Visit visit) {
  const int64_t width = g.output[1], step = g.stride[1];
  const int64_t row_shift = tap / g.kernel[1] * g.dilation[0] - g.before[0];
  const int64_t shift = tap % g.kernel[1] * g.dilation[1] - g.before[1];
  const int64_t low = shift < 0 ? (step - 1 - shift) / step : 0;  // first j with j * step + shift >= 0
  const int64_t left = g.input[1] - shift, high = left > 0 ? (left + step - 1) / step : 0;
  for (int64_t done = 0; done < n;) {
    const int64_t i = (t0 + done) / width, j = (t0 + done) % width, count = at_most(width - j, n - done);
    const int64_t row = i * g.stride[0] + row_shift, first = at_least(low, j), last = at_most(high, j + count);
    if (row >= 0 && row < g.input[0] && first < last)
      visit(done + first - j, last - first, row * g.input[1] + first * step + shift);
    done += count;
  }
}

// Elements from row to row of what is kept as [rows][samples][chunk]: a vector more than they are, since rows a power
// of two apart would take each other's place in the cache.
template <class A>
inline int64_t local_pitch(int64_t samples) {
  return samples * local_chunk<A> + lanes<A>;
}

// chunk: X of the terms q0 <= q < q1 [q1 - q0][samples][chunk], zeros where the padding or nothing is; x: the group's
// channels of the first sample.
template <class T>
void pack_local_input(const Local& g, const T* x, int64_t q0, int64_t q1, int64_t samples, int64_t t0, int64_t n,
                      accumulator_t<T>* __restrict chunk) {
  using A = accumulator_t<T>;
  constexpr int64_t L = local_chunk<A>;
  const int64_t taps = g.taps, sample = g.groups * g.in_per_group * g.pixels;
  const int64_t pitch = local_pitch<A>(samples);
  for (int64_t i = 0; i < (q1 - q0) * pitch; ++i) chunk[i] = 0;
  for (int64_t tap = 0; tap < taps; ++tap)
    for_local_runs(g, tap, t0, n, [&](int64_t from, int64_t count, int64_t at) {
      for (int64_t c = local_blocks(at_least(q0 - tap, 0), taps), q; (q = c * taps + tap) < q1; ++c)
        for (int64_t s = 0; s < samples; ++s) {
          const T* source = x + s * sample + c * g.pixels + at;
          A* target = chunk + (q - q0) * pitch + s * L + from;
          if (g.stride[1] == 1)
            for (int64_t i = 0; i < count; ++i) target[i] = widen(source[i]);
          else
            for (int64_t i = 0; i < count; ++i) target[i] = widen(source[i * g.stride[1]]);
        }
    });
}

// chunk: [rows][samples][chunk] of maps of positions, row r of sample s at from + s * sample + r * positions.
template <class T>
void pack_local_output(const Local& g, const T* from, int64_t rows, int64_t samples, int64_t t0, int64_t n,
                       accumulator_t<T>* __restrict chunk) {
  using A = accumulator_t<T>;
  constexpr int64_t L = local_chunk<A>;
  const int64_t sample = g.groups * g.out_per_group * g.positions;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t s = 0; s < samples; ++s) {
      const T* source = from + s * sample + r * g.positions + t0;
      A* target = chunk + r * local_pitch<A>(samples) + s * L;
      for (int64_t i = 0; i < n; ++i) target[i] = widen(source[i]);
      for (int64_t i = n; i < L; ++i) target[i] = 0;
    }
}

// ---- sums over terms, with the weights as they lie in memory ----

// sums[i][s] += sum over r of W[i * w_row + r * w_term] * chunk[r][s], vectors of positions all.
template <class T>
struct LocalSum {
  int64_t terms, samples, vectors;
  int64_t pitch;  // local_pitch
  int64_t w_row, w_term;
  const T* end;  // of the weight, past which nothing is read
};

// A vector of weights; past the end of the tensor, where no position is, zeros.
template <class T>
inline vector_t<accumulator_t<T>> load_weights(const T* w, const T* end) {
  constexpr int N = lanes<accumulator_t<T>>;
  if (end - w >= N) return load_widened(w);
  T part[N] = {};
  for (int64_t i = 0; i < end - w; ++i) part[i] = w[i];
  return load_widened(part);
}

// Term r of a tile's sums; INSIDE: its weights end before the tensor does.
template <bool INSIDE, class T, int I, int B, int V>
inline void add_local_term(const LocalSum<T>& m, int64_t r, const T* w, const accumulator_t<T>* chunk,
                           vector_t<accumulator_t<T>> (&sum)[I][B][V]) {
  using A = accumulator_t<T>;
  constexpr int64_t L = local_chunk<A>, N = lanes<A>;
  vector_t<A> weights[I][V];
  for (int i = 0; i < I; ++i)
    for (int v = 0; v < V; ++v) {
      const T* p = w + i * m.w_row + r * m.w_term + v * N;
      __builtin_prefetch(p + I * m.w_row);  // the next rows': they lie too far apart for the processor to guess
      if constexpr (INSIDE)
        weights[i][v] = load_widened(p);
      else
        weights[i][v] = load_weights(p, m.end);
    }
  for (int s = 0; s < B; ++s)
    for (int v = 0; v < V; ++v) {
      const vector_t<A> x = load(chunk + r * m.pitch + s * L + v * N);
      for (int i = 0; i < I; ++i) sum[i][s][v] += weights[i][v] * x;
    }
}

// One tile: I rows, B samples, V vectors.
template <class T, int I, int B, int V>
void local_tile(const LocalSum<T>& m, const T* w, const accumulator_t<T>* chunk, accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  constexpr int64_t L = local_chunk<A>, N = lanes<A>;
  vector_t<A> sum[I][B][V];
  for (int i = 0; i < I; ++i)
    for (int s = 0; s < B; ++s)
      for (int v = 0; v < V; ++v) sum[i][s][v] = load(sums + i * m.pitch + s * L + v * N);
  const int64_t inside = at_least(m.terms - local_blocks(N, m.w_term), 0);
  for (int64_t r = 0; r < inside; ++r) add_local_term<true>(m, r, w, chunk, sum);
  for (int64_t r = inside; r < m.terms; ++r) add_local_term<false>(m, r, w, chunk, sum);
  for (int i = 0; i < I; ++i)
    for (int s = 0; s < B; ++s)
      for (int v = 0; v < V; ++v) store(sums + i * m.pitch + s * L + v * N, sum[i][s][v]);
}

// I rows by B samples, V vectors at a time while there are so many.
template <class T, int I, int B, int V>
inline void local_vectors(const LocalSum<T>& m, const T* w, const accumulator_t<T>* chunk, accumulator_t<T>* sums) {
  constexpr int N = lanes<accumulator_t<T>>;
  int64_t v = 0;
  if constexpr (V > 1)
    for (; v + V <= m.vectors; v += V) local_tile<T, I, B, V>(m, w + v * N, chunk + v * N, sums + v * N);
  for (; v < m.vectors; ++v) local_tile<T, I, B, 1>(m, w + v * N, chunk + v * N, sums + v * N);
}

// All rows for B samples, a few terms at a time: their part of the chunk stays in the nearest cache.
template <class T, int B, int V>
void local_rows(const LocalSum<T>& m, int64_t rows, const T* w, const accumulator_t<T>* chunk, accumulator_t<T>* sums) {
  for (int64_t r = 0; r < m.terms; r += kLocalNearTerms) {
    LocalSum<T> part = m;
    part.terms = at_most(m.terms - r, kLocalNearTerms);
    const T* from = w + r * m.w_term;
    const accumulator_t<T>* x = chunk + r * m.pitch;
    int64_t i = 0;
    for (; i + 2 <= rows; i += 2) local_vectors<T, 2, B, V>(part, from + i * m.w_row, x, sums + i * m.pitch);
    if (i < rows) local_vectors<T, 1, B, V>(part, from + i * m.w_row, x, sums + i * m.pitch);
  }
}

template <class T>
void local_sum(const LocalSum<T>& m, int64_t rows, const T* w, const accumulator_t<T>* chunk, accumulator_t<T>* sums) {
  constexpr int64_t L = local_chunk<accumulator_t<T>>;
  int64_t s = 0;
#if TORCHCONV_VECTOR_BYTES == 64
  for (; s + 8 <= m.samples; s += 8) local_rows<T, 8, 1>(m, rows, w, chunk + s * L, sums + s * L);
#endif
  for (; s + 4 <= m.samples; s += 4) local_rows<T, 4, 1>(m, rows, w, chunk + s * L, sums + s * L);
  for (; s + 2 <= m.samples; s += 2) local_rows<T, 2, 2>(m, rows, w, chunk + s * L, sums + s * L);
  for (; s < m.samples; ++s) local_rows<T, 1, 4>(m, rows, w, chunk + s * L, sums + s * L);
}

// ---- forward: units are (group, chunk, block of output channels, block of samples) ----

template <class T>
int64_t local_forward_units(const Local& g) {
  return g.groups * local_blocks(g.positions, local_chunk<accumulator_t<T>>) *
         local_blocks(g.out_per_group, kLocalOutputs) * local_blocks(g.batch, kLocalSamples);
}

template <class T>
int64_t local_forward_scratch(const Local& g) {
  return (at_most(g.terms, kLocalTerms) + at_most(g.out_per_group, kLocalOutputs)) *
         local_pitch<accumulator_t<T>>(at_most(g.batch, kLocalSamples));
}

// scratch: chunk [kLocalTerms][samples][chunk], sums [kLocalOutputs][samples][chunk].
template <class T>
void local_forward_unit(const Local& g, const T* x, const T* weight, const T* bias, T* y, accumulator_t<T>* scratch,
                        int64_t unit) {
  using A = accumulator_t<T>;
  constexpr int64_t L = local_chunk<A>;
  const int64_t positions = g.positions, terms = g.terms, out_channels = g.groups * g.out_per_group;
  const int64_t n0 = unit % local_blocks(g.batch, kLocalSamples) * kLocalSamples;
  unit /= local_blocks(g.batch, kLocalSamples);
  const int64_t first = unit % local_blocks(g.out_per_group, kLocalOutputs) * kLocalOutputs;
  unit /= local_blocks(g.out_per_group, kLocalOutputs);
  const int64_t t0 = unit % local_blocks(positions, L) * L, group = unit / local_blocks(positions, L);
  const int64_t samples = at_most(g.batch - n0, kLocalSamples), n = at_most(positions - t0, L);
  const int64_t rows = at_most(g.out_per_group - first, kLocalOutputs), o = group * g.out_per_group + first;

  const int64_t pitch = local_pitch<A>(samples);
  A *chunk = scratch, *sums = scratch + at_most(terms, kLocalTerms) * pitch;
  for (int64_t i = 0; i < rows * pitch; ++i) sums[i] = 0;
  const T* from = x + (n0 * g.groups + group) * g.in_per_group * g.pixels;
  for (int64_t q0 = 0; q0 < terms; q0 += kLocalTerms) {
    const int64_t q1 = at_most(q0 + kLocalTerms, terms);
    pack_local_input(g, from, q0, q1, samples, t0, n, chunk);
    const LocalSum<T> m{q1 - q0,
                        samples,
                        local_blocks(n, lanes<A>),
                        pitch,
                        terms * positions,
                        positions,
                        weight + out_channels * terms * positions};
    local_sum(m, rows, weight + (o * terms + q0) * positions + t0, chunk, sums);
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t s = 0; s < samples; ++s) {
      const A* sum = sums + r * pitch + s * L;
      T* to = y + ((n0 + s) * out_channels + o + r) * positions + t0;
      const T* b = bias ? bias + (o + r) * positions + t0 : nullptr;
      for (int64_t i = 0; i < n; ++i) narrow(b ? sum[i] + widen(b[i]) : sum[i], &to[i]);
    }
}

// ---- input gradient: units are (group, block of input channels, block of samples) ----

// How many input channels and samples are summed at once.
inline int64_t local_inputs(const Local& g) {
  return at_least(at_most(at_most(g.in_per_group, kLocalInputs), kLocalPixels / g.pixels), 1);
}
inline int64_t local_plane_samples(const Local& g) {
  return at_least(at_most(at_most(g.batch, kLocalSamples), kLocalPixels / (local_inputs(g) * g.pixels)), 1);
}

template <class T>
int64_t local_input_grad_units(const Local& g) {
  return g.groups * local_blocks(g.in_per_group, local_inputs(g)) * local_blocks(g.batch, local_plane_samples(g));
}

template <class T>
int64_t local_input_grad_scratch(const Local& g) {
  return local_plane_samples(g) * local_inputs(g) * g.pixels +
         (at_most(g.out_per_group, kLocalTerms) + kLocalRows) * local_pitch<accumulator_t<T>>(local_plane_samples(g));
}

// The sums over o of the rows (c, k) from q0 on, for a chunk, added into their channels' planes [channel][sample].
template <class T>
void add_local_rows(const Local& g, const accumulator_t<T>* sums, int64_t q0, int64_t rows, int64_t samples, int64_t t0,
                    int64_t n, accumulator_t<T>* planes) {
  using A = accumulator_t<T>;
  for (int64_t r = 0; r < rows; ++r)
    for_local_runs(g, (q0 + r) % g.taps, t0, n, [&](int64_t from, int64_t count, int64_t at) {
      for (int64_t s = 0; s < samples; ++s) {
        const A* __restrict sum = sums + r * local_pitch<A>(samples) + s * local_chunk<A> + from;
        A* __restrict target = planes + ((q0 + r) / g.taps * samples + s) * g.pixels + at;
        if (g.stride[1] == 1)
          for (int64_t i = 0; i < count; ++i) target[i] += sum[i];
        else
          for (int64_t i = 0; i < count; ++i) target[i * g.stride[1]] += sum[i];
      }
    });
}

// scratch: planes [channels][samples][pixels], chunk [kLocalTerms][samples][chunk], sums [kLocalRows][samples][chunk].
template <class T>
void local_input_grad_unit(const Local& g, const T* dy, const T* weight, T* dx, accumulator_t<T>* scratch,
                           int64_t unit) {
  using A = accumulator_t<T>;
  constexpr int64_t L = local_chunk<A>;
  const int64_t positions = g.positions, pixels = g.pixels, terms = g.terms, outputs = g.out_per_group;
  const int64_t at_once = local_plane_samples(g), n0 = unit % local_blocks(g.batch, at_once) * at_once;
  unit /= local_blocks(g.batch, at_once);
  const int64_t width = local_inputs(g), blocks = local_blocks(g.in_per_group, width);
  const int64_t c0 = unit % blocks * width, group = unit / blocks, channels = at_most(g.in_per_group - c0, width);
  const int64_t samples = at_most(g.batch - n0, at_once), all_rows = channels * g.taps;

  A *planes = scratch, *chunk = planes + width * at_once * pixels;
  const int64_t pitch = local_pitch<A>(samples);
  A* sums = chunk + at_most(outputs, kLocalTerms) * pitch;
  for (int64_t i = 0; i < channels * samples * pixels; ++i) planes[i] = 0;
  const T* from = dy + (n0 * g.groups + group) * outputs * positions;
  const T* w = weight + (group * outputs * terms + c0 * g.taps) * positions;
  for (int64_t t0 = 0; t0 < positions; t0 += L) {
    const int64_t n = at_most(positions - t0, L);
    for (int64_t q0 = 0; q0 < all_rows; q0 += kLocalRows) {
      const int64_t rows = at_most(all_rows - q0, kLocalRows);
      for (int64_t i = 0; i < rows * pitch; ++i) sums[i] = 0;
      for (int64_t o = 0; o < outputs; o += kLocalTerms) {
        const int64_t count = at_most(outputs - o, kLocalTerms);
        if (q0 == 0 || outputs > kLocalTerms) pack_local_output(g, from + o * positions, count, samples, t0, n, chunk);
        const LocalSum<T> m{count,
                            samples,
                            local_blocks(n, lanes<A>),
                            pitch,
                            positions,
                            terms * positions,
                            weight + g.groups * outputs * terms * positions};
        local_sum(m, rows, w + (o * terms + q0) * positions + t0, chunk, sums);
      }
      add_local_rows<T>(g, sums, q0, rows, samples, t0, n, planes);
    }
  }
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t s = 0; s < samples; ++s) {
      const A* plane = planes + (c * samples + s) * pixels;
      T* to = dx + (((n0 + s) * g.groups + group) * g.in_per_group + c0 + c) * pixels;
      for (int64_t i = 0; i < pixels; ++i) narrow(plane[i], &to[i]);
    }
}

// ---- weight gradient: units are (group, chunk, block of output channels) ----

template <class T>
int64_t local_weight_grad_units(const Local& g) {
  return g.groups * local_blocks(g.positions, local_chunk<accumulator_t<T>>) *
         local_blocks(g.out_per_group, kLocalGradOutputs);
}

template <class T>
int64_t local_weight_grad_scratch(const Local& g) {
  const int64_t outputs = at_most(g.out_per_group, kLocalGradOutputs), terms = at_most(g.terms, kLocalGradTerms);
  const int64_t samples = at_most(g.batch, kLocalGradSamples);
  using A = accumulator_t<T>;
  return (outputs + terms) * local_pitch<A>(samples) + outputs * terms * local_chunk<A>;
}

// sums[i][j] += sum over samples of a[i][s] * b[j][s], vectors of positions: I by J of them.
template <class A, int I, int J>
void local_outer_tile(const A* a, const A* b, A* sums, int64_t samples, int64_t sums_row) {
  constexpr int64_t L = local_chunk<A>;
  const int64_t pitch = local_pitch<A>(samples);
  vector_t<A> sum[I][J];
  for (int i = 0; i < I; ++i)
    for (int j = 0; j < J; ++j) sum[i][j] = load(sums + i * sums_row + j * L);
  for (int64_t s = 0; s < samples; ++s) {
    vector_t<A> left[I];
    for (int i = 0; i < I; ++i) left[i] = load(a + i * pitch + s * L);
    for (int j = 0; j < J; ++j) {
      const vector_t<A> right = load(b + j * pitch + s * L);
      for (int i = 0; i < I; ++i) sum[i][j] += left[i] * right;
    }
  }
  for (int i = 0; i < I; ++i)
    for (int j = 0; j < J; ++j) store(sums + i * sums_row + j * L, sum[i][j]);
}

// I rows by all columns.
template <class A, int I>
void local_outer_rows(const A* a, const A* b, A* sums, int64_t columns, int64_t samples) {
  constexpr int64_t L = local_chunk<A>;
  int64_t j = 0;
  for (; j + 4 <= columns; j += 4)
    local_outer_tile<A, I, 4>(a, b + j * local_pitch<A>(samples), sums + j * L, samples, columns * L);
  for (; j < columns; ++j)
    local_outer_tile<A, I, 1>(a, b + j * local_pitch<A>(samples), sums + j * L, samples, columns * L);
}

// a: [rows][samples][chunk], b: [columns][samples][chunk], sums: [rows][columns][chunk].
template <class A>
void local_outer(const A* a, const A* b, A* sums, int64_t rows, int64_t columns, int64_t samples, int64_t vectors) {
  constexpr int I = TORCHCONV_VECTOR_BYTES == 64 ? 4 : 2;
  const int64_t pitch = local_pitch<A>(samples), sums_row = columns * local_chunk<A>;
  for (int64_t v = 0; v < vectors * lanes<A>; v += lanes<A>) {
    int64_t i = 0;
    for (; i + I <= rows; i += I)
      local_outer_rows<A, I>(a + i * pitch + v, b + v, sums + i * sums_row + v, columns, samples);
    for (; i < rows; ++i) local_outer_rows<A, 1>(a + i * pitch + v, b + v, sums + i * sums_row + v, columns, samples);
  }
}

// scratch: gradients [kLocalGradOutputs][samples][chunk], inputs [kLocalGradTerms][samples][chunk], sums
// [kLocalGradOutputs][kLocalGradTerms][chunk].
template <class T>
void local_weight_grad_unit(const Local& g, const T* dy, const T* x, T* dw, accumulator_t<T>* scratch, int64_t unit) {
  using A = accumulator_t<T>;
  constexpr int64_t L = local_chunk<A>;
  const int64_t positions = g.positions, terms = g.terms, out_channels = g.groups * g.out_per_group;
  const int64_t first = unit % local_blocks(g.out_per_group, kLocalGradOutputs) * kLocalGradOutputs;
  unit /= local_blocks(g.out_per_group, kLocalGradOutputs);
  const int64_t t0 = unit % local_blocks(positions, L) * L, group = unit / local_blocks(positions, L);
  const int64_t rows = at_most(g.out_per_group - first, kLocalGradOutputs), o = group * g.out_per_group + first;
  const int64_t n = at_most(positions - t0, L), most = at_most(g.batch, kLocalGradSamples);

  const int64_t most_pitch = local_pitch<A>(most);
  A *grads = scratch, *inputs = grads + rows * most_pitch,
    *sums = inputs + at_most(terms, kLocalGradTerms) * most_pitch;
  for (int64_t q0 = 0; q0 < terms; q0 += kLocalGradTerms) {
    const int64_t columns = at_most(terms - q0, kLocalGradTerms);
    for (int64_t i = 0; i < rows * columns * L; ++i) sums[i] = 0;
    for (int64_t n0 = 0; n0 < g.batch; n0 += kLocalGradSamples) {
      const int64_t samples = at_most(g.batch - n0, kLocalGradSamples);
      if (q0 == 0 || g.batch > kLocalGradSamples)
        pack_local_output(g, dy + (n0 * out_channels + o) * positions, rows, samples, t0, n, grads);
      const T* from = x + (n0 * g.groups + group) * g.in_per_group * g.pixels;
      pack_local_input(g, from, q0, q0 + columns, samples, t0, n, inputs);
      local_outer<A>(grads, inputs, sums, rows, columns, samples, local_blocks(n, lanes<A>));
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t q = 0; q < columns; ++q) {
        const A* sum = sums + (r * columns + q) * L;
        T* to = dw + ((o + r) * terms + q0 + q) * positions + t0;
        for (int64_t i = 0; i < n; ++i) narrow(sum[i], &to[i]);
      }
  }
}

// ---- ranges of units ----

template <class T>
void local_forward(const Local& g, const T* x, const T* weight, const T* bias, T* y, accumulator_t<T>* scratch,
                   int64_t begin, int64_t end) {
  for (int64_t u = begin; u < end; ++u) local_forward_unit(g, x, weight, bias, y, scratch, u);
}
template <class T>
void local_input_grad(const Local& g, const T* dy, const T* weight, T* dx, accumulator_t<T>* scratch, int64_t begin,
                      int64_t end) {
  for (int64_t u = begin; u < end; ++u) local_input_grad_unit(g, dy, weight, dx, scratch, u);
}
template <class T>
void local_weight_grad(const Local& g, const T* dy, const T* x, T* dw, accumulator_t<T>* scratch, int64_t begin,
                       int64_t end) {
  for (int64_t u = begin; u < end; ++u) local_weight_grad_unit(g, dy, x, dw, scratch, u);
}

template <class T>
LocalKernels<T> local_kernels() {
  return {.forward_units = local_forward_units<T>,
          .forward_scratch = local_forward_scratch<T>,
          .forward = local_forward<T>,
          .input_grad_units = local_input_grad_units<T>,
          .input_grad_scratch = local_input_grad_scratch<T>,
          .input_grad = local_input_grad<T>,
          .weight_grad_units = local_weight_grad_units<T>,
          .weight_grad_scratch = local_weight_grad_scratch<T>,
          .weight_grad = local_weight_grad<T>};
}
TORCHCONV_EACH_TYPE(LocalKernels, local_kernels)
