// The one-dimensional transforms of Winograd's minimal filtering, on vectors of channels.
//
// A correlation y_i = Σ_j w_j x_{i+j}, of m outputs and r taps, is the transpose of a product of polynomials, and that
// is interpolation: with n = m + r − 1 points p, the last "∞" (the leading coefficient),
//   y = V_mᵀ [(S V_r w) ⊙ (Bᵀ x)],   V_k[p][j] = pʲ (∞: 1 at j = k − 1),   S = diag(1 / Π_{q≠p} (p − q)),
//   (Bᵀ x)_p = Σ_j [coefficient of zʲ in Π_{q≠p} (z − q)] x_j.
// (Toom–Cook and its transposition: Lavin & Gray, "Fast algorithms for convolutional neural networks", 2015; Blahut,
// "Fast Algorithms for Signal Processing", 2010.) V_r w is `evaluate`, Bᵀ x `interpolate`, V_mᵀ `collect`; the weight
// gradient, w̄ = V_rᵀ S [(V_m ȳ) ⊙ (Bᵀ x)], is the same three.
//
// Tiles of fewer outputs use fewer of the same points. Their S differs, so it is taken from the whole set of points,
// and Bᵀ makes up for it with the factor Π (p − q) over the points q that the tile leaves out.
#pragma once
#include "cpu/numeric.inl"

// In the order they are taken; number 1 is ∞. Halves and twos in turns keep the matrices' entries, and so the rounding
// errors, small.
constexpr double point_value[winograd_points] = {0, 0, 1, -1, 0.5, -2, 2, -0.5};
constexpr int infinity = 1;

// Π (p − q) over the finite points q of [begin, end) other than p.
constexpr double product_of_differences(int p, int begin, int end) {
  double product = 1;
  for (int q = begin; q < end; ++q)
    if (q != p && q != infinity) product *= point_value[p] - point_value[q];
  return product;
}

// Bᵀ of the first N of MOST points.
template <class A, int N, int MOST>
struct Interpolation {
  A b[N][N];
  constexpr Interpolation() : b{} {
    for (int p = 0; p < N; ++p) {
      double c[N + 1] = {1};  // coefficients of Π (z − q), ascending
      int degree = 0;
      for (int q = 0; q < N; ++q) {
        if (q == p || q == infinity) continue;
        ++degree;
        for (int j = degree; j >= 0; --j) c[j] = (j > 0 ? c[j - 1] : 0) - point_value[q] * (j < degree ? c[j] : 0);
      }
      const double factor = p == infinity ? 1 : product_of_differences(p, N, MOST);
      for (int j = 0; j < N; ++j) b[p][j] = static_cast<A>(c[j] * factor);
    }
  }
};

// V_K on the first N of MOST points; SCALED: S V_K.
template <class A, int K, int N, int MOST, bool SCALED>
struct Evaluation {
  A v[N][K];
  constexpr Evaluation() : v{} {
    for (int p = 0; p < N; ++p) {
      double power = SCALED && p != infinity ? 1 / product_of_differences(p, 0, MOST) : 1;
      for (int j = 0; j < K; ++j, power *= point_value[p]) v[p][j] = static_cast<A>(p == infinity ? j == K - 1 : power);
    }
  }
};

// sum += factor · x, where the factor is known when this is compiled and often 0 or ±1.
template <class V, class A>
inline __attribute__((always_inline)) void add_scaled(V& sum, bool& started, A factor, V x) {
  if (factor == 0) return;
  if (!started)
    sum = factor == 1 ? x : factor == -1 ? -x : factor * x;
  else if (factor == 1)
    sum += x;
  else if (factor == -1)
    sum -= x;
  else
    sum += factor * x;
  started = true;
}

// Bᵀ for MOST points is that for N with each row times a factor.
template <class A, int N, int MOST>
inline __attribute__((always_inline)) void scale_rows(vector_t<A> (&y)[N]) {
#pragma GCC unroll 8
  for (int p = 0; p < N; ++p) {
    const A factor = p == infinity ? 1 : static_cast<A>(product_of_differences(p, N, MOST));
    if (factor != 1) y[p] = factor * y[p];
  }
}

template <class A, int N, int MOST>
inline __attribute__((always_inline)) void interpolate(const vector_t<A> (&x)[N], vector_t<A> (&y)[N]) {
  if constexpr (N == 6) {
    // The same matrix by its common factors: z² + 1.5 z − 1 for ½ and −2, z² − 1 for ±1.
    const A h = static_cast<A>(1.5), half = static_cast<A>(0.5);
    const vector_t<A> t0 = x[2] - x[0] + h * x[1], t1 = x[3] - x[1] + h * x[2];
    const vector_t<A> t2 = x[4] - x[2] + h * x[3], t3 = x[5] - x[3] + h * x[4];
    const vector_t<A> s1 = x[3] - x[1], s2 = x[4] - x[2];
    y[0] = t2 - t0, y[1] = t3 - t1;
    y[2] = t2 + t1, y[3] = t2 - t1;
    y[4] = s2 + 2 * s1, y[5] = s2 - half * s1;
    scale_rows<A, N, MOST>(y);
  } else if constexpr (N == 7) {
    // By z − ½, times z² − 4 for ±1 and times z² − 1 for ±2; z (z² − 1) (z² − 4) for ½.
    const A half = static_cast<A>(0.5);
    vector_t<A> d[6], t[4];
#pragma GCC unroll 8
    for (int j = 0; j < 6; ++j) d[j] = x[j + 1] - half * x[j];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) t[j] = d[j + 2] - 4 * d[j];
    const vector_t<A> s1 = d[3] - d[1], s2 = d[4] - d[2];
    y[0] = t[2] - t[0], y[1] = t[3] - t[1];
    y[2] = t[2] + t[1], y[3] = t[2] - t[1];
    y[4] = x[5] - 5 * x[3] + 4 * x[1];
    y[5] = s2 - 2 * s1, y[6] = s2 + 2 * s1;
    scale_rows<A, N, MOST>(y);
  } else if constexpr (N == 8 && MOST == 8) {
    // Points ±p in pairs: Π (z − q) = z (z + p) Q(z²), of which the even and the odd part serve both.
    constexpr Interpolation<A, N, MOST> m;
    constexpr int pairs[3][2] = {{2, 3}, {4, 7}, {6, 5}};
#pragma GCC unroll 4
    for (int i = 0; i < 3; ++i) {
      const int plus = pairs[i][0], minus = pairs[i][1];
      const vector_t<A> even = m.b[plus][2] * x[2] + m.b[plus][4] * x[4] + x[6];
      const vector_t<A> odd = m.b[plus][1] * x[1] + m.b[plus][3] * x[3] + m.b[plus][5] * x[5];
      y[plus] = even + odd, y[minus] = even - odd;
    }
    y[0] = m.b[0][0] * x[0] + m.b[0][2] * x[2] + m.b[0][4] * x[4] + m.b[0][6] * x[6];
    y[1] = m.b[1][1] * x[1] + m.b[1][3] * x[3] + m.b[1][5] * x[5] + m.b[1][7] * x[7];
  } else {
    constexpr Interpolation<A, N, MOST> m;
#pragma GCC unroll 8
    for (int p = 0; p < N; ++p) {
      bool started = false;
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) add_scaled(y[p], started, m.b[p][j], x[j]);
    }
  }
}

template <class A, int K, int N, int MOST, bool SCALED>
inline __attribute__((always_inline)) void evaluate(const vector_t<A> (&x)[K], vector_t<A> (&y)[N]) {
  constexpr Evaluation<A, K, N, MOST, SCALED> m;
#pragma GCC unroll 8
  for (int p = 0; p < N; ++p) {
    vector_t<A> even = {}, odd = {};  // in z: ±p share them
    bool has_even = false, has_odd = false;
#pragma GCC unroll 8
    for (int j = 0; j < K; j += 2) add_scaled(even, has_even, m.v[p][j], x[j]);
#pragma GCC unroll 8
    for (int j = 1; j < K; j += 2) add_scaled(odd, has_odd, m.v[p][j], x[j]);
    y[p] = !has_odd ? even : !has_even ? odd : even + odd;
  }
}

template <class A, int K, int N, int MOST, bool SCALED>
inline __attribute__((always_inline)) void collect(const vector_t<A> (&x)[N], vector_t<A> (&y)[K]) {
  constexpr Evaluation<A, K, N, MOST, SCALED> m;
  constexpr int other[winograd_points] = {0, 1, 3, 2, 7, 6, 5, 4};  // −p of point p
  constexpr int order[winograd_points] = {2, 3, 5, 6, 4, 7, 0, 1};
  vector_t<A> z[N];  // of a pair ±p that is not scaled: the sum, which even powers take, and the difference
#pragma GCC unroll 8
  for (int p = 0; p < N; ++p) {
    const bool pair = !SCALED && p > 1 && other[p] < N;
    z[p] = !pair ? x[p] : point_value[p] > 0 ? x[p] + x[other[p]] : x[other[p]] - x[p];
  }
#pragma GCC unroll 8
  for (int j = 0; j < K; ++j) {
    bool started = false;
#pragma GCC unroll 8
    for (int i = 0; i < winograd_points; ++i) {
      const int p = order[i];
      if (p >= N) continue;
      const bool pair = !SCALED && p > 1 && other[p] < N;
      const bool used = !pair || (point_value[p] > 0) == (j % 2 == 0);
      if (used) add_scaled(y[j], started, pair && j % 2 ? -m.v[p][j] : m.v[p][j], z[p]);
    }
  }
}
