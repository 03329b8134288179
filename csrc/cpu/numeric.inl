// Included once per capability, inside its namespace: conversions between storage and accumulator, and vectors.
// Everything is static to the namespace, so that each capability has its own compiled copy.
#pragma once

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

inline void narrow(float x, float* y) { *y = x; }
inline void narrow(double x, double* y) { *y = x; }
// Round to nearest, ties to even; NaN stays a (quiet) NaN.
inline void narrow(float x, bfloat16* y) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  y->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

// Whether the kernels of this type have bodies for common shapes. Those of float64, and of x86-64 without AVX2, are the
// ones for any shape: each body takes time to compile and room in the library.
template <class T>
constexpr bool tuned = !TORCHCONV_LEAN && sizeof(accumulator_t<T>) == sizeof(float);

// What a sum is not to fall below where it is stored: `raised(y, floor_of<A>(true))` is a ReLU, bit by bit torch's, NaN
// and −0 included; `false` changes nothing.
template <class A>
inline A floor_of(bool relu) {
  return relu ? A(0) : -__builtin_inf();
}
template <class A>
inline A raised(A y, A floor) {
  return y < floor ? floor : y;
}

// A full register of accumulators, written with GCC's vector extension: the compiler picks the instructions of the
// capability this file is compiled for. `unaligned` is what memory holds.
template <class A>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(TORCHCONV_VECTOR_BYTES)));
  typedef float unaligned __attribute__((vector_size(TORCHCONV_VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t mask __attribute__((vector_size(TORCHCONV_VECTOR_BYTES)));  // what comparisons give
  typedef uint8_t bytes __attribute__((vector_size(TORCHCONV_VECTOR_BYTES / 4)));
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(TORCHCONV_VECTOR_BYTES)));
  typedef double unaligned __attribute__((vector_size(TORCHCONV_VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t mask __attribute__((vector_size(TORCHCONV_VECTOR_BYTES)));
  typedef uint8_t bytes __attribute__((vector_size(TORCHCONV_VECTOR_BYTES / 8)));
};
template <class A>
using vector_t = typename Vector<A>::type;
template <class A>
constexpr int lanes = TORCHCONV_VECTOR_BYTES / sizeof(A);

template <class A>
inline vector_t<A> load(const A* p) {
  return *reinterpret_cast<const typename Vector<A>::unaligned*>(p);
}
template <class A>
inline void store(A* p, vector_t<A> v) {
  *reinterpret_cast<typename Vector<A>::unaligned*>(p) = v;
}

// A register of accumulators from and to what the tensors hold.
template <class A>
inline vector_t<A> load_widened(const A* p) {
  return load(p);
}
template <class A>
inline void store_narrowed(A* p, vector_t<A> v) {
  store(p, v);
}

typedef uint16_t half_words __attribute__((vector_size(TORCHCONV_VECTOR_BYTES / 2)));
typedef uint16_t unaligned_half_words __attribute__((vector_size(TORCHCONV_VECTOR_BYTES / 2), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(TORCHCONV_VECTOR_BYTES)));

inline vector_t<float> load_widened(const bfloat16* p) {
  return reinterpret_cast<vector_t<float>>(
      __builtin_convertvector(*reinterpret_cast<const unaligned_half_words*>(p), words) << 16);
}
inline void store_narrowed(bfloat16* p, vector_t<float> v) {  // narrow() of each lane
  const words bits = reinterpret_cast<words>(v), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const words nan = reinterpret_cast<words>((bits & 0x7fffffffu) > 0x7f800000u);
  *reinterpret_cast<unaligned_half_words*>(p) =
      __builtin_convertvector((nan & ((bits >> 16) | 0x40u)) | (~nan & rounded), half_words);
}

// A vector of fewer elements than it has lanes; zeros follow.
template <class T>
inline vector_t<accumulator_t<T>> load_some(const T* p, int64_t count) {
  T some[lanes<accumulator_t<T>>] = {};
  for (int64_t i = 0; i < count; ++i) some[i] = p[i];
  return load_widened(some);
}

// Before a loop whose steps may be taken at once: none reads what another writes.
#if defined(__clang__)
#define TORCHCONV_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define TORCHCONV_INDEPENDENT _Pragma("GCC ivdep")
#endif

// The lanes of x at `from`; the same of x and then y. Clang knows shuffles by constants only.
template <class V, class M>
inline V shuffled(V x, M from) {
#if defined(__clang__)
  V z = x;
  for (unsigned l = 0; l < sizeof(V) / sizeof(x[0]); ++l) z[l] = x[from[l]];
  return z;
#else
  return __builtin_shuffle(x, from);
#endif
}
template <class V, class M>
inline V shuffled(V x, V y, M from) {
#if defined(__clang__)
  constexpr unsigned n = sizeof(V) / sizeof(x[0]);
  V z = x;
  for (unsigned l = 0; l < n; ++l) z[l] = from[l] < static_cast<int>(n) ? x[from[l]] : y[from[l] - n];
  return z;
#else
  return __builtin_shuffle(x, y, from);
#endif
}

template <class A>
inline void zero(A* to, int64_t length) {
  for (int64_t i = 0; i < length; ++i) to[i] = 0;
}

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
