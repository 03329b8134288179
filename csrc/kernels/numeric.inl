// Included once per capability, inside its namespace: conversions between storage and accumulator, and vectors.
// Everything is static to the namespace, so that each capability has its own compiled copy.

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

// A full register of accumulators, written with GCC's vector extension: the compiler picks the instructions of the
// capability this file is compiled for. `unaligned` is what memory holds.
template <class A>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(TORCHCONV_VECTOR_BYTES)));
  typedef float unaligned __attribute__((vector_size(TORCHCONV_VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(TORCHCONV_VECTOR_BYTES)));
  typedef double unaligned __attribute__((vector_size(TORCHCONV_VECTOR_BYTES), aligned(8), may_alias));
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
typedef uint32_t words __attribute__((vector_size(TORCHCONV_VECTOR_BYTES)));
typedef uint16_t halves __attribute__((vector_size(TORCHCONV_VECTOR_BYTES / 2)));

inline vector_t<float> load_widened(const float* p) { return load(p); }
inline vector_t<double> load_widened(const double* p) { return load(p); }
inline vector_t<float> load_widened(const bfloat16* p) {
  halves h;
  std::memcpy(&h, p, sizeof h);
  const words wide = __builtin_convertvector(h, words) << 16;
  vector_t<float> y;
  std::memcpy(&y, &wide, sizeof y);
  return y;
}

inline void store_narrowed(float* p, vector_t<float> v) { store(p, v); }
inline void store_narrowed(double* p, vector_t<double> v) { store(p, v); }
inline void store_narrowed(bfloat16* p, vector_t<float> v) {  // as narrow
  words bits;
  std::memcpy(&bits, &v, sizeof bits);
  const words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, quiet_nan = (bits >> 16) | 0x40u;
  const halves h = __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded, halves);
  std::memcpy(p, &h, sizeof h);
}
