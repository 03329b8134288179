// Included once per capability: local response normalisation over windows of channels, and its derivative.
//
//   y[c] = x[c] * s[c]^-beta,   s[c] = k + alpha / size * sum of x[j]^2 over  c - size / 2 <= j <= c + (size - 1) / 2
//   dx[j] = dy[j] * s[j]^-beta - 2 * alpha * beta / size * x[j] * sum of t[c] over the c whose windows j is in,
//   t[c] = dy[c] * x[c] * s[c]^(-beta - 1)
//
// Sums are taken anew for each window, never slid: a large element leaves no trace in windows that do not see it.
#pragma once
#include "cpu/numeric.inl"

// The power of the platform's first glibc in place of that of 2.29, the same but for how errors are told: the library
// then loads wherever torch does.
#if defined(__GLIBC__) && defined(__x86_64__)
extern "C" double torchconv_pow(double, double);
asm(".symver torchconv_pow, pow@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
extern "C" double torchconv_pow(double, double);
asm(".symver torchconv_pow, pow@GLIBC_2.17");
#else
inline double torchconv_pow(double x, double y) { return __builtin_pow(x, y); }
#endif

// p[i] = s[i]^-beta. The exponents that networks use are roots; the C library does the others.
template <class A>
void lrn_power(const ResponseNorm& g, const A* __restrict s, A* __restrict p, int64_t n) {
  if (g.beta == 0.75)
    for (int64_t i = 0; i < n; ++i) {
      const A root = sizeof(A) == 4 ? A(__builtin_sqrtf(s[i])) : A(__builtin_sqrt(s[i]));
      const A fourth_root = sizeof(A) == 4 ? A(__builtin_sqrtf(root)) : A(__builtin_sqrt(root));
      p[i] = A(1) / (root * fourth_root);
    }
  else if (g.beta == 0.5)
    for (int64_t i = 0; i < n; ++i) p[i] = A(1) / (sizeof(A) == 4 ? A(__builtin_sqrtf(s[i])) : A(__builtin_sqrt(s[i])));
  else if (g.beta == 1)
    for (int64_t i = 0; i < n; ++i) p[i] = A(1) / s[i];
  else
    for (int64_t i = 0; i < n; ++i) p[i] = static_cast<A>(torchconv_pow(s[i], -g.beta));
}

// s = k + alpha / size * sum, in place.
template <class A>
void lrn_scale(const ResponseNorm& g, A* __restrict s, int64_t n) {
  const A factor = static_cast<A>(g.alpha / g.size), k = static_cast<A>(g.k);
  for (int64_t i = 0; i < n; ++i) s[i] = k + factor * s[i];
}

template <class T, class A>
void lrn_square(const T* __restrict x, A* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const A value = widen(x[i]);
    out[i] = value * value;
  }
}

template <class A>
void lrn_clear(A* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = 0;
}

// out[i] = sum over w < size of rows[w * stride + i]; stride is kLrnPositions for a ring of rows, 1 along channels.
template <class A>
void lrn_window_sum(const A* __restrict rows, int64_t stride, int64_t size, A* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = rows[i];
  int64_t w = 1;
  for (; w + 2 <= size; w += 2)
    for (int64_t i = 0; i < n; ++i) out[i] = (out[i] + rows[w * stride + i]) + rows[(w + 1) * stride + i];
  if (w < size)
    for (int64_t i = 0; i < n; ++i) out[i] += rows[w * stride + i];
}

template <class T, class A>
void lrn_scale_by(const T* __restrict x, const A* __restrict p, T* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) narrow(widen(x[i]) * p[i], &y[i]);
}

// u = dy * p and t = dy * x * p / s: what the derivative adds up.
template <class T, class A>
void lrn_terms(const T* __restrict dy, const T* __restrict x, const A* __restrict s, const A* __restrict p,
               A* __restrict u, A* __restrict t, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const A scaled = widen(dy[i]) * p[i];
    u[i] = scaled;
    t[i] = scaled * widen(x[i]) / s[i];
  }
}

// dx = u - factor * x * sum
template <class T, class A>
void lrn_result(const ResponseNorm& g, const T* __restrict x, const A* __restrict u, const A* __restrict sum,
                T* __restrict dx, int64_t n) {
  const A factor = static_cast<A>(2 * g.alpha * g.beta / g.size);
  for (int64_t i = 0; i < n; ++i) narrow(u[i] - factor * widen(x[i]) * sum[i], &dx[i]);
}

// ---- contiguous: n positions side by side, their channels one after the other ----

// scratch: squares [window][kLrnPositions], a ring of rows by channel; then s and p [kLrnPositions].
template <class T>
void lrn_rows(const ResponseNorm& g, const T* x, T* y, accumulator_t<T>* scratch, int64_t n) {
  using A = accumulator_t<T>;
  constexpr int64_t B = kLrnPositions;
  const int64_t window = g.window(), after = g.after;
  A *squares = scratch, *s = squares + window * B, *p = s + B;
  lrn_clear(squares, window * B);
  for (int64_t c = 0; c < g.channels + after; ++c) {  // the row that comes in; channel o's window is then complete
    A* row = squares + c % window * B;
    if (c < g.channels)
      lrn_square(x + c * g.positions, row, n);
    else
      lrn_clear(row, n);
    const int64_t o = c - after;
    if (o < 0) continue;
    lrn_window_sum(squares, B, window, s, n);
    lrn_scale(g, s, n);
    lrn_power(g, s, p, n);
    lrn_scale_by(x + o * g.positions, p, y + o * g.positions, n);
  }
}

// scratch: three rings of rows by channel [window][kLrnPositions], squares, u and t; then s, p and a sum
// [kLrnPositions].
template <class T>
void lrn_grad_rows(const ResponseNorm& g, const T* dy, const T* x, T* dx, accumulator_t<T>* scratch, int64_t n) {
  using A = accumulator_t<T>;
  constexpr int64_t B = kLrnPositions;
  const int64_t window = g.window(), before = g.before, after = g.after;
  A *squares = scratch, *u = squares + window * B, *t = u + window * B, *s = t + window * B, *p = s + B, *sum = p + B;
  lrn_clear(squares, 3 * window * B);
  for (int64_t c = 0; c < g.channels + after + before; ++c) {
    if (c < g.channels)
      lrn_square(x + c * g.positions, squares + c % window * B, n);
    else
      lrn_clear(squares + c % window * B, n);
    const int64_t o = c - after, at = o * g.positions;  // its s is now known
    if (o < 0) continue;
    if (o < g.channels) {
      lrn_window_sum(squares, B, window, s, n);
      lrn_scale(g, s, n);
      lrn_power(g, s, p, n);
      lrn_terms(dy + at, x + at, s, p, u + o % window * B, t + o % window * B, n);
    } else {
      lrn_clear(t + o % window * B, n);
    }
    const int64_t j = o - before;  // all windows that it is in are now known
    if (j < 0) continue;
    lrn_window_sum(t, B, window, sum, n);
    lrn_result(g, x + j * g.positions, u + j % window * B, sum, dx + j * g.positions, n);
  }
}

// ---- channels-last: the channels of one pixel side by side, zeros before and after ----

// scratch: squares [window - 1 + channels], s and p [channels].
template <class T>
void lrn_pixel(const ResponseNorm& g, const T* x, T* y, accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const int64_t channels = g.channels, window = g.window(), before = g.before;
  A *squares = scratch, *s = squares + channels + window, *p = s + channels;
  lrn_clear(squares, before);
  lrn_square(x, squares + before, channels);
  lrn_clear(squares + before + channels, g.after);
  lrn_window_sum(squares, 1, window, s, channels);
  lrn_scale(g, s, channels);
  lrn_power(g, s, p, channels);
  lrn_scale_by(x, p, y, channels);
}

// scratch: squares and t [window - 1 + channels], s, p and u [channels].
template <class T>
void lrn_grad_pixel(const ResponseNorm& g, const T* dy, const T* x, T* dx, accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const int64_t channels = g.channels, window = g.window(), before = g.before, after = g.after;
  A *squares = scratch, *t = squares + channels + window, *s = t + channels + window, *p = s + channels,
    *u = p + channels;
  lrn_clear(squares, before);
  lrn_square(x, squares + before, channels);
  lrn_clear(squares + before + channels, after);
  lrn_window_sum(squares, 1, window, s, channels);
  lrn_scale(g, s, channels);
  lrn_power(g, s, p, channels);
  lrn_clear(t, after);
  lrn_terms(dy, x, s, p, u, t + after, channels);
  lrn_clear(t + after + channels, before);
  lrn_window_sum(t, 1, window, s, channels);
  lrn_result(g, x, u, s, dx, channels);
}

// ---- units ----

// Calls rows(offset, count) or pixel(offset) for what the units cover.
template <class Rows, class Pixel>
void for_norm_units(const ResponseNorm& g, int64_t begin, int64_t end, Rows rows, Pixel pixel) {
  if (g.channels_last) {
    const int64_t pixels = g.batch * g.positions, last = end * kLrnPixels < pixels ? end * kLrnPixels : pixels;
    for (int64_t i = begin * kLrnPixels; i < last; ++i) pixel(i * g.channels);
    return;
  }
  const int64_t blocks = (g.positions + kLrnPositions - 1) / kLrnPositions;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t first = u % blocks * kLrnPositions, left = g.positions - first;
    rows(u / blocks * g.channels * g.positions + first, left < kLrnPositions ? left : kLrnPositions);
  }
}

template <class T>
void lrn_forward(const ResponseNorm& g, const T* x, T* y, accumulator_t<T>* scratch, int64_t begin, int64_t end) {
  for_norm_units(
      g, begin, end, [&](int64_t at, int64_t n) { lrn_rows(g, x + at, y + at, scratch, n); },
      [&](int64_t at) { lrn_pixel(g, x + at, y + at, scratch); });
}

template <class T>
void lrn_grad(const ResponseNorm& g, const T* dy, const T* x, T* dx, accumulator_t<T>* scratch, int64_t begin,
              int64_t end) {
  for_norm_units(
      g, begin, end, [&](int64_t at, int64_t n) { lrn_grad_rows(g, dy + at, x + at, dx + at, scratch, n); },
      [&](int64_t at) { lrn_grad_pixel(g, dy + at, x + at, dx + at, scratch); });
}

template <class T>
LocalNormKernels<T> local_norm_kernels() {
  return {.forward = lrn_forward<T>, .grad = lrn_grad<T>};
}
TORCHCONV_EACH_TYPE(LocalNormKernels, local_norm_kernels)
