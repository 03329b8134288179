// The bias gradient, b̄[c] = Σ ȳ[n, c, p] over samples and positions; and under a ReLU of the output y, in the same
// pass, what the ReLU lets through: masked = y ≤ 0 ? 0 : ȳ, whose sum it then is. NaN in y lets ȳ through, as in torch.
//
// A split is a range of samples where contiguous, of pixels in channels-last. Its sums[split][channel] are of runs of
// at most bias_run terms, summed in A, that are summed in double; store_bias adds the splits up. So the order is one
// that the shape alone decides.
#pragma once
#include "cpu/numeric.inl"

// By value: of references, GCC 12 turns the condition into masked loads, and the masks are wrong.
template <class T>
inline T let_through(T output, T grad) {
  return widen(output) <= 0 ? T{} : grad;
}

// p + by, where there is a p.
template <bool MASKED, class P>
inline P* moved(P* p, int64_t by) {
  return MASKED ? p + by : p;
}

// Σ of grad[0, length), in bias_lanes sums side by side.
constexpr int64_t bias_lanes = 16;
template <class T, bool MASKED>
accumulator_t<T> sum_run(int64_t length, const T* grad, const T* output, T* __restrict masked) {
  constexpr int64_t width = bias_lanes;
  accumulator_t<T> partial[width] = {};
  const auto add = [&](int64_t i, int64_t count) __attribute__((always_inline)) {
    for (int64_t l = 0; l < count; ++l) {
      const T g = MASKED ? let_through(output[i + l], grad[i + l]) : grad[i + l];
      if (MASKED) masked[i + l] = g;
      partial[l] += widen(g);
    }
  };
  int64_t i = 0;
  for (; i + width <= length; i += width) add(i, width);
  add(i, length - i);
  for (int64_t half = width / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) partial[l] += partial[l + half];
  return partial[0];
}

// sums[c / run] += Σ of grad[i][c], c < width, over `rows` rows that are `pitch` apart.
constexpr int64_t bias_row = 512;  // most channels, or elements of small maps, summed side by side

template <class T, bool MASKED>
void sum_rows(int64_t rows, int64_t width, int64_t pitch, int64_t run, const T* grad, const T* output,
              T* __restrict masked, double* sums) {
  for (int64_t first = 0; first < rows; first += bias_run) {
    accumulator_t<T> partial[bias_row];
    zero(partial, width);
    for (int64_t i = first, at = first * pitch; i < at_most(rows, first + bias_run); ++i, at += pitch)
      for (int64_t c = 0; c < width; ++c) {
        const T g = MASKED ? let_through(output[at + c], grad[at + c]) : grad[at + c];
        if (MASKED) masked[at + c] = g;
        partial[c] += widen(g);
      }
    if (run == 1)
      for (int64_t c = 0; c < width; ++c) sums[c] += partial[c];
    else
      for (int64_t c = 0; c < width; c += run)
        for (int64_t l = 0; l < run; ++l) sums[c / run] += partial[c + l];
  }
}

// Pixels [begin, end) of channels-last; where they are short, several are taken together as one.
template <class T, bool MASKED>
void sum_pixels(const BiasGrad& b, int64_t begin, int64_t end, const T* grad, const T* output, T* masked,
                double* sums) {
  const int64_t together = at_least(1, 64 / at_least(1, b.channels)), rows = (end - begin) / together;
  if (together > 1) {
    const int64_t at = begin * b.channels, width = together * b.channels;
    double wide[64] = {};
    sum_rows<T, MASKED>(rows, width, width, 1, grad + at, moved<MASKED>(output, at), moved<MASKED>(masked, at), wide);
    for (int64_t i = 0; i < width; ++i) sums[i % b.channels] += wide[i];
    begin += rows * together;
  }
  for (int64_t p = begin; p < end; p += bias_run)
    for (int64_t c = 0; c < b.channels; c += bias_row) {
      const int64_t at = p * b.channels + c;
      sum_rows<T, MASKED>(at_most(bias_run, end - p), at_most(bias_row, b.channels - c), b.channels, 1, grad + at,
                          moved<MASKED>(output, at), moved<MASKED>(masked, at), sums + c);
    }
}

// Contiguous samples [begin, end): maps by themselves, or small ones side by side.
template <class T, bool MASKED>
void sum_maps(const BiasGrad& b, int64_t begin, int64_t end, const T* grad, const T* output, T* masked, double* sums) {
  constexpr int64_t longest = bias_lanes * bias_run;
  const int64_t sample = b.channels * b.positions, together = bias_row / at_least(1, b.positions);
  if (together >= 4) {
    for (int64_t c = 0; c < b.channels; c += together) {
      const int64_t at = begin * sample + c * b.positions, width = at_most(together, b.channels - c) * b.positions;
      sum_rows<T, MASKED>(end - begin, width, sample, b.positions, grad + at, moved<MASKED>(output, at),
                          moved<MASKED>(masked, at), sums + c);
    }
    return;
  }
  for (int64_t row = begin * b.channels; row < end * b.channels; ++row)
    for (int64_t p = 0, at = row * b.positions; p < b.positions; p += longest, at += longest)
      sums[row % b.channels] += sum_run<T, MASKED>(at_most(longest, b.positions - p), grad + at,
                                                   moved<MASKED>(output, at), moved<MASKED>(masked, at));
}

template <class T, bool MASKED>
void bias_grad_split(bool channels_last, const BiasGrad& b, int64_t split, const T* grad, const T* output, T* masked,
                     double* sums) {
  const int64_t rows = channels_last ? b.batch * b.positions : b.batch;
  const int64_t begin = rows * split / b.splits, end = rows * (split + 1) / b.splits;
  sums += split * b.channels;
  zero(sums, b.channels);
  (channels_last ? sum_pixels<T, MASKED> : sum_maps<T, MASKED>)(b, begin, end, grad, output, masked, sums);
}

// output and masked are null where there is no mask.
template <class T>
void bias_grad(bool channels_last, const BiasGrad& b, int64_t split, const T* grad, const T* output, T* masked,
               double* sums) {
  (output ? bias_grad_split<T, true> : bias_grad_split<T, false>)(channels_last, b, split, grad, output, masked, sums);
}

// out[c] = Σ over splits of sums[split][c], in order.
template <class T>
void store_bias(const BiasGrad& b, const double* sums, T* out) {
  for (int64_t c = 0; c < b.channels; ++c) {
    double total = 0;
    for (int64_t i = 0; i < b.splits; ++i) total += sums[i * b.channels + c];
    narrow(static_cast<accumulator_t<T>>(total), out + c);
  }
}
