// Batch normalisation in training, with the ReLU that follows it: two passes over memory forward, two backward.
//
//   forward    mean = Σ x / n,  var = Σ (x − mean)² / n,  y = max(0, (x − mean) · scale + bias),  scale = γ / √(var +
//   ε) backward   g = y ≤ 0 ? 0 : ȳ,  dβ = Σ g,  dγ = Σ g (x − mean) / √(var + ε),
//              dx = scale · (g − Σ g / n − (x − mean) · Σ g (x − mean) / (n (var + ε)))
//
// Moments are taken of runs short enough to be in cache for the second look, about each run's own mean, and runs are
// joined in double by Chan, Golub and LeVeque's formula: no cancellation whatever the mean. The order of all sums is
// fixed by the shape.
#pragma once
#include "cpu/numeric.inl"
#include "cpu/transpose.inl"

constexpr int64_t norm_run = 2048;  // elements of a run where together

// Rows of a run where apart: that lie in the first cache together, without displacing each other.
inline int64_t rows_of_run(const NormRows& n) { return at_most(64, at_least(8, 4096 / n.width)); }

// A vector of a row, of which `left` elements are there; what lies behind them, up to `end`, may be read.
template <class T>
inline vector_t<accumulator_t<T>> load_row(const T* p, int64_t left, const T* end) {
  return p + lanes<accumulator_t<T>> <= end ? load_widened(p) : load_some(p, left);
}

// Joins the moments of `n` more elements of each of `columns` to those of `count`.
template <class A>
inline void join_moments(double count, double n, int64_t columns, const A* mean, const A* squares,
                         double* __restrict mean_all, double* __restrict squares_all) {
  const double share = n / (count + n), between = count * share;
  for (int64_t i = 0; i < columns; ++i) {
    const double delta = mean[i] - mean_all[i];
    mean_all[i] += delta * share;
    squares_all[i] += squares[i] + delta * delta * between;
  }
}

// body(Vectors<V>{}, i) over 0 <= i < width, V vectors of columns at a time: 4, and of what is left 1.
template <int V_>
struct Vectors {
  static constexpr int V = V_;
};
template <class A, class Body>
inline void over_columns(int64_t width, Body body) {
  constexpr int64_t L = lanes<A>;
  int64_t i = 0;
  for (; i + 4 * L <= width; i += 4 * L) body(Vectors<4>{}, i);
  for (; i < width; i += L) body(Vectors<1>{}, i);
}

// What the ReLU lets through of dy where x became y.
template <bool RELU, class V>
inline V norm_passed(V dy, V centred, V scale, V bias) {
  if (!RELU) return dy;
  return centred * scale + bias <= 0 ? V{} : dy;
}

// ---- apart: sums of V vectors of columns over a run of rows ----

template <int V, class T>
inline void moments_of_run(int64_t rows, int64_t pitch, int64_t left, const T* x, const T* end, accumulator_t<T>* mean,
                           accumulator_t<T>* squares) {
  using A = accumulator_t<T>;
  constexpr int64_t L = lanes<A>;
  vector_t<A> sum[V] = {}, square[V] = {};
  for (int64_t r = 0; r < rows; ++r)
    for (int v = 0; v < V; ++v) sum[v] += load_row(x + r * pitch + v * L, left - v * L, end);
  for (int v = 0; v < V; ++v) sum[v] /= static_cast<A>(rows);
  for (int64_t r = 0; r < rows; ++r)
    for (int v = 0; v < V; ++v) {
      const vector_t<A> d = load_row(x + r * pitch + v * L, left - v * L, end) - sum[v];
      square[v] += d * d;
    }
  for (int v = 0; v < V; ++v) store(mean + v * L, sum[v]), store(squares + v * L, square[v]);
}

template <class T>
void moments_apart(const NormRows& n, int64_t split, const T* x, double* mean, double* squares) {
  using A = accumulator_t<T>;
  const int64_t begin = n.rows * split / n.splits, end = n.rows * (split + 1) / n.splits;
  const int64_t run = rows_of_run(n);
  zero(mean, n.width), zero(squares, n.width);
  for (int64_t row = begin; row < end; row += run)
    over_columns<A>(n.width, [&]<class V>(V, int64_t i) {
      constexpr int64_t columns = V::V * lanes<A>;
      const int64_t rows = at_most(run, end - row);
      A run_mean[columns], run_squares[columns];
      moments_of_run<V::V>(rows, n.width, n.width - i, x + row * n.width + i, x + n.rows * n.width, run_mean,
                           run_squares);
      join_moments(static_cast<double>(row - begin), static_cast<double>(rows), at_most(columns, n.width - i), run_mean,
                   run_squares, mean + i, squares + i);
    });
}

template <bool RELU, int V, class T>
inline void grads_of_run(int64_t rows, int64_t pitch, int64_t left, const NormConstants<accumulator_t<T>>& k, int64_t i,
                         const T* dy, const T* dy_end, const T* x, const T* x_end, accumulator_t<T>* grad,
                         accumulator_t<T>* product) {
  using A = accumulator_t<T>;
  constexpr int64_t L = lanes<A>;
  vector_t<A> sum[V] = {}, sum_product[V] = {}, mean[V], scale[V], bias[V];
  for (int v = 0; v < V; ++v)
    mean[v] = load(k.mean + i + v * L), scale[v] = load(k.scale + i + v * L), bias[v] = load(k.bias + i + v * L);
  for (int64_t r = 0; r < rows; ++r)
    for (int v = 0; v < V; ++v) {
      const vector_t<A> d = load_row(x + r * pitch + v * L, left - v * L, x_end) - mean[v];
      const vector_t<A> g =
          norm_passed<RELU>(load_row(dy + r * pitch + v * L, left - v * L, dy_end), d, scale[v], bias[v]);
      sum[v] += g, sum_product[v] += g * d;
    }
  for (int v = 0; v < V; ++v) store(grad + v * L, sum[v]), store(product + v * L, sum_product[v]);
}

template <bool RELU, class T>
void grad_sums_apart(const NormRows& n, int64_t split, const NormConstants<accumulator_t<T>>& k, const T* dy,
                     const T* x, double* grad, double* product) {
  using A = accumulator_t<T>;
  const int64_t begin = n.rows * split / n.splits, end = n.rows * (split + 1) / n.splits, all = n.rows * n.width;
  const int64_t run = rows_of_run(n);
  zero(grad, n.width), zero(product, n.width);
  for (int64_t row = begin; row < end; row += run)
    over_columns<A>(n.width, [&]<class V>(V, int64_t i) {
      constexpr int64_t columns = V::V * lanes<A>;
      const int64_t at = row * n.width + i;
      A run_grad[columns], run_product[columns];
      grads_of_run<RELU, V::V>(at_most(run, end - row), n.width, n.width - i, k, i, dy + at, dy + all, x + at, x + all,
                               run_grad, run_product);
      for (int64_t l = 0; l < at_most(columns, n.width - i); ++l) grad[i + l] += run_grad[l];
      for (int64_t l = 0; l < at_most(columns, n.width - i); ++l) product[i + l] += run_product[l];
    });
}

// ---- together: sums of one channel's maps, in 4 vectors side by side ----

// Σ f(i) over 0 <= i < length, where f(i, vector) is of a vector's worth and f(i, scalar) of one element.
template <class A, class OfVector, class OfOne>
inline A sum_along(int64_t length, OfVector of_vector, OfOne of_one) {
  constexpr int64_t L = lanes<A>;
  vector_t<A> sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * L <= length; i += 4 * L)
    for (int v = 0; v < 4; ++v) sum[v] += of_vector(i + v * L);
  for (; i + L <= length; i += L) sum[0] += of_vector(i);
  const vector_t<A> all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  A total = 0;
  for (int l = 0; l < L; ++l) total += all[l];
  for (; i < length; ++i) total += of_one(i);
  return total;
}

template <class T>
void moments_together(const NormRows& n, int64_t channel, const T* x, double* mean, double* squares) {
  using A = accumulator_t<T>;
  double count = 0;
  mean[channel] = squares[channel] = 0;
  for (int64_t row = channel; row < n.rows; row += n.channels)
    for (int64_t at = 0; at < n.width; at += norm_run) {
      const int64_t length = at_most(norm_run, n.width - at);
      const T* from = x + row * n.width + at;
      const A of_run =
          sum_along<A>(
              length, [&](int64_t i) { return load_widened(from + i); }, [&](int64_t i) { return widen(from[i]); }) /
          static_cast<A>(length);
      const A square = sum_along<A>(
          length,
          [&](int64_t i) {
            const vector_t<A> d = load_widened(from + i) - of_run;
            return d * d;
          },
          [&](int64_t i) { return (widen(from[i]) - of_run) * (widen(from[i]) - of_run); });
      join_moments(count, static_cast<double>(length), 1, &of_run, &square, mean + channel, squares + channel);
      count += static_cast<double>(length);
    }
}

template <bool RELU, class T>
void grad_sums_together(const NormRows& n, int64_t channel, const NormConstants<accumulator_t<T>>& k, const T* dy,
                        const T* x, double* grad, double* product) {
  using A = accumulator_t<T>;
  using V = vector_t<A>;
  const A mean = k.mean[channel], scale = k.scale[channel], bias = k.bias[channel];
  grad[channel] = product[channel] = 0;
  for (int64_t row = channel; row < n.rows; row += n.channels)
    for (int64_t at = 0; at < n.width; at += norm_run) {
      const T *dys = dy + row * n.width + at, *xs = x + row * n.width + at;
      const auto passed = [&](int64_t i) {
        return norm_passed<RELU>(load_widened(dys + i), load_widened(xs + i) - mean, V{} + scale, V{} + bias);
      };
      const auto passed_one = [&](int64_t i) {
        return RELU && (widen(xs[i]) - mean) * scale + bias <= 0 ? A(0) : widen(dys[i]);
      };
      const int64_t length = at_most(norm_run, n.width - at);
      grad[channel] += sum_along<A>(length, passed, passed_one);
      product[channel] += sum_along<A>(
          length, [&](int64_t i) { return passed(i) * (load_widened(xs + i) - mean); },
          [&](int64_t i) { return passed_one(i) * (widen(xs[i]) - mean); });
    }
}

// ---- element by element ----

// Rows [begin, end): to[i] = body(column, row's constants, offset, left) for each vector; whole vectors are written
// past a row's end where the row after is yet to be written.
template <class T, class Body>
inline void each_vector(const NormRows& n, int64_t begin, int64_t end, T* to, Body body) {
  using A = accumulator_t<T>;
  constexpr int64_t L = lanes<A>;
  T* const last = to + end * n.width;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t channel = n.together ? row % n.channels : 0;
    for (int64_t i = 0; i < n.width; i += L) {
      const int64_t at = row * n.width + i, left = n.width - i;
      const vector_t<A> y = body(n.together ? channel : i, at, left);
      if (to + at + L <= last) {
        store_narrowed(to + at, y);
      } else {
        T some[L];
        store_narrowed(some, y);
        for (int64_t l = 0; l < left; ++l) to[at + l] = some[l];
      }
    }
  }
}

// A constant of a vector of elements: the row's one, or theirs.
template <bool TOGETHER, class A>
inline vector_t<A> norm_constant(const A* values, int64_t i) {
  return TOGETHER ? vector_t<A>{} + values[i] : load(values + i);
}

template <bool TOGETHER, class T>
void normalise_rows(const NormRows& n, int64_t begin, int64_t end, const NormConstants<accumulator_t<T>>& k, const T* x,
                    T* y) {
  using A = accumulator_t<T>;
  const A floor = floor_of<A>(n.relu);
  const T* const x_end = x + n.rows * n.width;
  each_vector<T>(n, begin, end, y, [&](int64_t i, int64_t at, int64_t left) {
    const vector_t<A> d = load_row(x + at, left, x_end) - norm_constant<TOGETHER>(k.mean, i);
    const vector_t<A> value = d * norm_constant<TOGETHER>(k.scale, i) + norm_constant<TOGETHER>(k.bias, i);
    return value < floor ? vector_t<A>{} + floor : value;
  });
}

template <bool TOGETHER, bool RELU, class T>
void input_grad_rows(const NormRows& n, int64_t begin, int64_t end, const NormConstants<accumulator_t<T>>& k,
                     const T* dy, const T* x, T* dx) {
  using A = accumulator_t<T>;
  const T *const x_end = x + n.rows * n.width, *const dy_end = dy + n.rows * n.width;
  each_vector<T>(n, begin, end, dx, [&](int64_t i, int64_t at, int64_t left) {
    const auto constant = [&](const A* values) { return norm_constant<TOGETHER>(values, i); };
    const vector_t<A> d = load_row(x + at, left, x_end) - constant(k.mean), scale = constant(k.scale);
    const vector_t<A> g = norm_passed<RELU>(load_row(dy + at, left, dy_end), d, scale, constant(k.bias));
    return scale * (g - constant(k.grad_mean) - d * constant(k.slope));
  });
}

// ---- the entry points ----

template <class T>
void norm_moments(const NormRows& n, int64_t unit, const T* x, double* mean, double* squares) {
  (n.together ? moments_together<T> : moments_apart<T>)(n, unit, x, mean, squares);
}

template <class T>
void norm_normalise(const NormRows& n, int64_t begin, int64_t end, const NormConstants<accumulator_t<T>>& k, const T* x,
                    T* y) {
  (n.together ? normalise_rows<true, T> : normalise_rows<false, T>)(n, begin, end, k, x, y);
}

template <class T>
void norm_grad_sums(const NormRows& n, int64_t unit, const NormConstants<accumulator_t<T>>& k, const T* dy, const T* x,
                    double* grad, double* product) {
  const auto run = n.together ? (n.relu ? grad_sums_together<true, T> : grad_sums_together<false, T>)
                              : (n.relu ? grad_sums_apart<true, T> : grad_sums_apart<false, T>);
  run(n, unit, k, dy, x, grad, product);
}

template <class T>
void norm_input_grad(const NormRows& n, int64_t begin, int64_t end, const NormConstants<accumulator_t<T>>& k,
                     const T* dy, const T* x, T* dx) {
  const auto run = n.together ? (n.relu ? input_grad_rows<true, true, T> : input_grad_rows<true, false, T>)
                              : (n.relu ? input_grad_rows<false, true, T> : input_grad_rows<false, false, T>);
  run(n, begin, end, k, dy, x, dx);
}

template <class T>
NormKernels<T> norm_kernels() {
  return {.moments = norm_moments<T>,
          .normalise = norm_normalise<T>,
          .grad_sums = norm_grad_sums<T>,
          .input_grad = norm_input_grad<T>};
}
TORCHCONV_EACH_TYPE(NormKernels, norm_kernels)
