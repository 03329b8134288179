// Depth-wise convolution: y[n, c·M + j] is x[n, c] with filter c·M + j, M the multiplier. Rows are summed in a buffer of
// accumulators, tap after tap, so that each element is the same chain of operations whatever the batch.

template <class T>
void pack_depthwise(const Depthwise& d, const T* weight, accumulator_t<T>* packed) {
  const int64_t channels = d.channels * d.multiplier;
  for (int64_t k0 = 0; k0 < d.kernel[0]; ++k0)
    for (int64_t k1 = 0; k1 < d.kernel[1]; ++k1)
      for (int64_t k2 = 0; k2 < d.kernel[2]; ++k2, packed += channels)
        for (int64_t m = 0; m < channels; ++m)
          packed[m] = widen(weight[m * d.weight_m + k0 * d.weight_k[0] + k1 * d.weight_k[1] + k2 * d.weight_k[2]]);
}

// Doubles of the weight gradient's totals, or one row or pixel of accumulators.
template <class T>
int64_t depthwise_scratch(const Depthwise& d) {
  const int64_t taps = d.kernel[0] * d.kernel[1] * d.kernel[2];
  const int64_t row = at_least(at_least(d.input[2], d.output[2]), d.channels * d.multiplier);
  return at_least(row, taps * depthwise_block * static_cast<int64_t>(sizeof(double) / sizeof(accumulator_t<T>)));
}

// The input index that output index o meets at tap k, on one axis; may lie off the map.
inline int64_t input_index(const Depthwise& d, int axis, int64_t o, int64_t k) {
  return o * d.stride[axis] - d.before[axis] + k * d.dilation[axis];
}

// The output index that meets input index i at tap k, or -1 where there is none.
inline int64_t output_index(const Depthwise& d, int axis, int64_t i, int64_t k) {
  const int64_t at = i + d.before[axis] - k * d.dilation[axis];
  return at >= 0 && at % d.stride[axis] == 0 && at / d.stride[axis] < d.output[axis] ? at / d.stride[axis] : -1;
}

// Output columns [low, high) whose input column at tap k lies on the map.
struct Columns {
  int64_t low, high, first;  // first: the input column of output column 0
};

inline Columns columns(const Depthwise& d, int64_t k) {
  const int64_t first = input_index(d, 2, 0, k), s = d.stride[2];
  const int64_t low = at_most(first < 0 ? (-first + s - 1) / s : 0, d.output[2]);
  const int64_t last = first < d.input[2] ? (d.input[2] - first + s - 1) / s : 0;
  return {low, at_least(low, at_most(last, d.output[2])), first};
}

// For each tap (k0, k1) whose input row is on the map: visit(tap row, k0, k1, i0, i1).
template <class F>
inline void for_rows(const Depthwise& d, int64_t o0, int64_t o1, F visit) {
  for (int64_t k0 = 0; k0 < d.kernel[0]; ++k0)
    for (int64_t k1 = 0; k1 < d.kernel[1]; ++k1) {
      const int64_t i0 = input_index(d, 0, o0, k0), i1 = input_index(d, 1, o1, k1);
      if (i0 >= 0 && i0 < d.input[0] && i1 >= 0 && i1 < d.input[1])
        visit((k0 * d.kernel[1] + k1) * d.kernel[2], i0, i1);
    }
}

// For each tap (k0, k1) that reaches input row (i0, i1) from an output row: visit(tap row, o0, o1).
template <class F>
inline void for_output_rows(const Depthwise& d, int64_t i0, int64_t i1, F visit) {
  for (int64_t k0 = 0; k0 < d.kernel[0]; ++k0)
    for (int64_t k1 = 0; k1 < d.kernel[1]; ++k1) {
      const int64_t o0 = output_index(d, 0, i0, k0), o1 = output_index(d, 1, i1, k1);
      if (o0 >= 0 && o1 >= 0) visit((k0 * d.kernel[1] + k1) * d.kernel[2], o0, o1);
    }
}

template <class T, class A>
inline void add_product(A w, const T* x, int64_t stride, int64_t length, A* sum) {
  if (stride == 1)
    for (int64_t i = 0; i < length; ++i) sum[i] += w * widen(x[i]);
  else
    for (int64_t i = 0; i < length; ++i) sum[i] += w * widen(x[i * stride]);
}

template <class T, class A>
void forward_map(const Depthwise& d, int64_t n, int64_t c, const T* x, const A* w, const T* bias, T* y, A* sum) {
  const int64_t channels = d.channels * d.multiplier;
  const A floor = floor_of<A>(d.relu);
  for (int64_t m = c * d.multiplier; m < (c + 1) * d.multiplier; ++m)
    for (int64_t o0 = 0; o0 < d.output[0]; ++o0)
      for (int64_t o1 = 0; o1 < d.output[1]; ++o1) {
        zero(sum, d.output[2]);
        for_rows(d, o0, o1, [&](int64_t tap, int64_t i0, int64_t i1) {
          const T* row = x + n * d.x.n + c * d.x.c + i0 * d.x.s[0] + i1 * d.x.s[1];
          for (int64_t k = 0; k < d.kernel[2]; ++k) {
            const Columns r = columns(d, k);
            add_product(w[(tap + k) * channels + m], row + r.first + r.low * d.stride[2], d.stride[2], r.high - r.low,
                        sum + r.low);
          }
        });
        T* to = y + n * d.y.n + m * d.y.c + o0 * d.y.s[0] + o1 * d.y.s[1];
        for (int64_t o = 0; o < d.output[2]; ++o)
          narrow(raised(bias ? sum[o] + widen(bias[m]) : sum[o], floor), to + o);
      }
}

template <class T, class A>
void forward_row(const Depthwise& d, int64_t n, int64_t row, const T* x, const A* w, const T* bias, T* y, A* sum) {
  const int64_t o0 = row / d.output[1], o1 = row % d.output[1], channels = d.channels * d.multiplier;
  const A floor = floor_of<A>(d.relu);
  for (int64_t o = 0; o < d.output[2]; ++o) {
    zero(sum, channels);
    for_rows(d, o0, o1, [&](int64_t tap, int64_t i0, int64_t i1) {
      for (int64_t k = 0; k < d.kernel[2]; ++k) {
        const int64_t i = input_index(d, 2, o, k);
        if (i < 0 || i >= d.input[2]) continue;
        const T* pixel = x + n * d.x.n + i0 * d.x.s[0] + i1 * d.x.s[1] + i * d.x.s[2];
        const A* v = w + (tap + k) * channels;
        if (d.multiplier == 1)
          for (int64_t c = 0; c < channels; ++c) sum[c] += v[c] * widen(pixel[c]);
        else
          for (int64_t m = 0; m < channels; ++m) sum[m] += v[m] * widen(pixel[m / d.multiplier]);
      }
    });
    T* to = y + n * d.y.n + o0 * d.y.s[0] + o1 * d.y.s[1] + o * d.y.s[2];
    for (int64_t m = 0; m < channels; ++m) narrow(raised(bias ? sum[m] + widen(bias[m]) : sum[m], floor), to + m);
  }
}

template <class T>
void depthwise_forward(const Depthwise& d, bool channels_last, int64_t n, int64_t item, const T* x,
                       const accumulator_t<T>* w, const T* bias, T* y, accumulator_t<T>* scratch) {
  (channels_last ? forward_row<T, accumulator_t<T>> : forward_map<T, accumulator_t<T>>)(d, n, item, x, w, bias, y,
                                                                                        scratch);
}

template <class T, class A>
void input_grad_map(const Depthwise& d, int64_t n, int64_t c, const T* gy, const A* w, T* gx, A* sum) {
  const int64_t channels = d.channels * d.multiplier, s = d.stride[2];
  for (int64_t i0 = 0; i0 < d.input[0]; ++i0)
    for (int64_t i1 = 0; i1 < d.input[1]; ++i1) {
      zero(sum, d.input[2]);
      for (int64_t m = c * d.multiplier; m < (c + 1) * d.multiplier; ++m)
        for_output_rows(d, i0, i1, [&](int64_t tap, int64_t o0, int64_t o1) {
          const T* row = gy + n * d.y.n + m * d.y.c + o0 * d.y.s[0] + o1 * d.y.s[1];
          for (int64_t k = 0; k < d.kernel[2]; ++k) {
            const Columns r = columns(d, k);
            const A v = w[(tap + k) * channels + m];
            A* to = sum + r.first;
            if (s == 1)
              for (int64_t o = r.low; o < r.high; ++o) to[o] += v * widen(row[o]);
            else
              for (int64_t o = r.low; o < r.high; ++o) to[o * s] += v * widen(row[o]);
          }
        });
      T* to = gx + n * d.x.n + c * d.x.c + i0 * d.x.s[0] + i1 * d.x.s[1];
      for (int64_t i = 0; i < d.input[2]; ++i) narrow(sum[i], to + i);
    }
}

template <class T, class A>
void input_grad_row(const Depthwise& d, int64_t n, int64_t row, const T* gy, const A* w, T* gx, A* sum) {
  const int64_t i0 = row / d.input[1], i1 = row % d.input[1], channels = d.channels * d.multiplier;
  for (int64_t i = 0; i < d.input[2]; ++i) {
    zero(sum, d.channels);
    for_output_rows(d, i0, i1, [&](int64_t tap, int64_t o0, int64_t o1) {
      for (int64_t k = 0; k < d.kernel[2]; ++k) {
        const int64_t o = output_index(d, 2, i, k);
        if (o < 0) continue;
        const T* pixel = gy + n * d.y.n + o0 * d.y.s[0] + o1 * d.y.s[1] + o * d.y.s[2];
        const A* v = w + (tap + k) * channels;
        if (d.multiplier == 1)
          for (int64_t c = 0; c < channels; ++c) sum[c] += v[c] * widen(pixel[c]);
        else
          for (int64_t m = 0; m < channels; ++m) sum[m / d.multiplier] += v[m] * widen(pixel[m]);
      }
    });
    T* to = gx + n * d.x.n + i0 * d.x.s[0] + i1 * d.x.s[1] + i * d.x.s[2];
    for (int64_t c = 0; c < d.channels; ++c) narrow(sum[c], to + c);
  }
}

template <class T>
void depthwise_input_grad(const Depthwise& d, bool channels_last, int64_t n, int64_t item, const T* gy,
                          const accumulator_t<T>* w, T* gx, accumulator_t<T>* scratch) {
  (channels_last ? input_grad_row<T, accumulator_t<T>> : input_grad_map<T, accumulator_t<T>>)(d, n, item, gy, w, gx,
                                                                                              scratch);
}

// Σ a[i] · b[i · stride], added to depthwise_block partial sums lane by lane.
template <class T, class A>
inline void dot(const T* a, const T* b, int64_t stride, int64_t length, A* partial) {
  int64_t i = 0;
  for (; i + depthwise_block <= length; i += depthwise_block)
    for (int64_t l = 0; l < depthwise_block; ++l) partial[l] += widen(a[i + l]) * widen(b[(i + l) * stride]);
  for (int64_t l = 0; i + l < length; ++l) partial[l] += widen(a[i + l]) * widen(b[(i + l) * stride]);
}

// Where filter m's weight at this tap lies.
inline int64_t filter_at(const Depthwise& d, int64_t m, int64_t tap) {
  const int64_t k2 = tap % d.kernel[2], k1 = tap / d.kernel[2] % d.kernel[1], k0 = tap / d.kernel[2] / d.kernel[1];
  return m * d.weight_m + k0 * d.weight_k[0] + k1 * d.weight_k[1] + k2 * d.weight_k[2];
}

// Totals over samples are kept in double: a tap's sum runs over the whole batch.
template <class T, class A>
void weight_grad_map(const Depthwise& d, int64_t m, const T* gy, const T* x, T* gw, double* total) {
  const int64_t taps = d.kernel[0] * d.kernel[1] * d.kernel[2];
  zero(total, taps);
  for (int64_t n = 0; n < d.batch; ++n)
    for (int64_t tap = 0; tap < taps; tap += d.kernel[2])
      for (int64_t k = 0; k < d.kernel[2]; ++k) {
        const Columns r = columns(d, k);
        const int64_t k0 = tap / d.kernel[2] / d.kernel[1], k1 = tap / d.kernel[2] % d.kernel[1];
        A partial[depthwise_block] = {};
        for (int64_t o0 = 0; o0 < d.output[0]; ++o0)
          for (int64_t o1 = 0; o1 < d.output[1]; ++o1) {
            const int64_t i0 = input_index(d, 0, o0, k0), i1 = input_index(d, 1, o1, k1);
            if (i0 < 0 || i0 >= d.input[0] || i1 < 0 || i1 >= d.input[1]) continue;
            const T* a = gy + n * d.y.n + m * d.y.c + o0 * d.y.s[0] + o1 * d.y.s[1];
            const T* b = x + n * d.x.n + m / d.multiplier * d.x.c + i0 * d.x.s[0] + i1 * d.x.s[1];
            if (r.high > r.low) dot(a + r.low, b + r.first + r.low * d.stride[2], d.stride[2], r.high - r.low, partial);
          }
        for (int64_t l = 0; l < depthwise_block; ++l) total[tap + k] += partial[l];
      }
  for (int64_t tap = 0; tap < taps; ++tap) narrow(static_cast<A>(total[tap]), gw + filter_at(d, m, tap));
}

// A row of the output's gradient meets the rows of its window while both are in cache; total is [tap][depthwise_block].
template <class T, class A>
void weight_grad_block(const Depthwise& d, int64_t block, const T* gy, const T* x, T* gw, double* total) {
  const int64_t taps = d.kernel[0] * d.kernel[1] * d.kernel[2], first = block * depthwise_block;
  const int64_t width = at_most(depthwise_block, d.channels * d.multiplier - first);
  int64_t map[depthwise_block];
  for (int64_t l = 0; l < width; ++l) map[l] = (first + l) / d.multiplier;
  zero(total, taps * depthwise_block);
  for (int64_t n = 0; n < d.batch; ++n)
    for (int64_t o0 = 0; o0 < d.output[0]; ++o0)
      for (int64_t o1 = 0; o1 < d.output[1]; ++o1)
        for_rows(d, o0, o1, [&](int64_t tap, int64_t i0, int64_t i1) {
          const T* a = gy + n * d.y.n + o0 * d.y.s[0] + o1 * d.y.s[1] + first;
          const T* b = x + n * d.x.n + i0 * d.x.s[0] + i1 * d.x.s[1];
          for (int64_t k = 0; k < d.kernel[2]; ++k) {
            const Columns r = columns(d, k);
            A partial[depthwise_block] = {};
            for (int64_t o = r.low; o < r.high; ++o) {
              const T* u = a + o * d.y.s[2];
              const T* v = b + (r.first + o * d.stride[2]) * d.x.s[2];
              if (d.multiplier == 1 && width == depthwise_block)
                for (int64_t l = 0; l < depthwise_block; ++l) partial[l] += widen(u[l]) * widen(v[first + l]);
              else
                for (int64_t l = 0; l < width; ++l) partial[l] += widen(u[l]) * widen(v[map[l]]);
            }
            for (int64_t l = 0; l < width; ++l) total[(tap + k) * depthwise_block + l] += partial[l];
          }
        });
  for (int64_t tap = 0; tap < taps; ++tap)
    for (int64_t l = 0; l < width; ++l)
      narrow(static_cast<A>(total[tap * depthwise_block + l]), gw + filter_at(d, first + l, tap));
}

template <class T>
void depthwise_weight_grad(const Depthwise& d, bool channels_last, int64_t item, const T* gy, const T* x, T* gw,
                           accumulator_t<T>* scratch) {
  const auto weight_grad =
      channels_last ? weight_grad_block<T, accumulator_t<T>> : weight_grad_map<T, accumulator_t<T>>;
  weight_grad(d, item, gy, x, gw, reinterpret_cast<double*>(scratch));
}
