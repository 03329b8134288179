#include "conv/reference/loops.h"

#define TORCHCONV_VECTOR_BYTES 16
#define TORCHCONV_LEAN true

namespace torchconv::reference {
namespace {
#include "cpu/numeric.inl"

void store_rounded(double value, float* to) { *to = static_cast<float>(value); }
void store_rounded(double value, double* to) { *to = value; }
void store_rounded(double value, bfloat16* to) { narrow(static_cast<float>(value), to); }

// visit(o0, o1, o2, k0, k1, k2, i0, i1, i2) for every output position and tap that meet on the map, taps outermost
// within a position: in[a] = out[a] * stride[a] - before[a] + tap[a] * dilation[a].
template <class F>
void for_taps(const Problem& p, const int64_t (&o)[3], F visit) {
  int64_t k[3], i[3];
  for (k[0] = 0; k[0] < p.kernel[0]; ++k[0])
    for (k[1] = 0; k[1] < p.kernel[1]; ++k[1])
      for (k[2] = 0; k[2] < p.kernel[2]; ++k[2]) {
        bool inside = true;
        for (int a = 0; a < 3; ++a) {
          i[a] = o[a] * p.stride[a] - p.before[a] + k[a] * p.dilation[a];
          inside = inside && i[a] >= 0 && i[a] < p.input[a];
        }
        if (inside) visit(k, i);
      }
}

template <class F>
void for_positions(const int64_t (&size)[3], F visit) {
  int64_t o[3];
  for (o[0] = 0; o[0] < size[0]; ++o[0])
    for (o[1] = 0; o[1] < size[1]; ++o[1])
      for (o[2] = 0; o[2] < size[2]; ++o[2]) visit(o);
}

int64_t at(const int64_t (&s)[3], const int64_t (&i)[3]) { return i[0] * s[0] + i[1] * s[1] + i[2] * s[2]; }

}  // namespace

// y[n, o, t] = b[o] + Σ_c Σ_k w[o, c, k] · x[n, c, t·stride − before + k·dilation], with relu no less than 0
template <class T>
void forward(const Problem& p, int64_t n, int64_t o, const T* x, const T* w, const T* bias, T* y) {
  const int64_t first = o / p.out_per_group * p.in_per_group;
  const double floor = floor_of<double>(p.relu);
  for_positions(p.output, [&](const int64_t (&t)[3]) {
    double sum = bias ? widen(bias[o]) : 0;
    for_taps(p, t, [&](const int64_t (&k)[3], const int64_t (&i)[3]) {
      for (int64_t c = 0; c < p.in_per_group; ++c)
        sum += static_cast<double>(widen(w[o * p.weight_o + c * p.weight_c + at(p.weight_k, k)])) *
               static_cast<double>(widen(x[n * p.x.n + (first + c) * p.x.c + at(p.x.s, i)]));
    });
    store_rounded(raised(sum, floor), y + n * p.y.n + o * p.y.c + at(p.y.s, t));
  });
}

// x̄[n, c, i] = Σ_o Σ_k w[o, c, k] · ȳ[n, o, t] over the (t, k) that meet at i
template <class T>
void input_grad(const Problem& p, int64_t n, int64_t i, const T* gy, const T* w, T* gx) {
  const int64_t group = i / p.in_per_group, c = i % p.in_per_group;
  for_positions(p.input, [&](const int64_t (&at_input)[3]) {
    double sum = 0;
    int64_t k[3], t[3];
    for (k[0] = 0; k[0] < p.kernel[0]; ++k[0])
      for (k[1] = 0; k[1] < p.kernel[1]; ++k[1])
        for (k[2] = 0; k[2] < p.kernel[2]; ++k[2]) {
          bool meets = true;
          for (int a = 0; a < 3; ++a) {
            const int64_t from = at_input[a] + p.before[a] - k[a] * p.dilation[a];
            t[a] = from / p.stride[a];
            meets = meets && from >= 0 && from % p.stride[a] == 0 && t[a] < p.output[a];
          }
          for (int64_t o = group * p.out_per_group; meets && o < (group + 1) * p.out_per_group; ++o)
            sum += static_cast<double>(widen(w[o * p.weight_o + c * p.weight_c + at(p.weight_k, k)])) *
                   static_cast<double>(widen(gy[n * p.y.n + o * p.y.c + at(p.y.s, t)]));
        }
    store_rounded(sum, gx + n * p.x.n + i * p.x.c + at(p.x.s, at_input));
  });
}

// w̄[o, c, k] = Σ_n Σ_t ȳ[n, o, t] · x[n, c, t·stride − before + k·dilation]
template <class T>
void weight_grad(const Problem& p, int64_t o, int64_t c, const T* gy, const T* x, T* gw) {
  const int64_t channel = o / p.out_per_group * p.in_per_group + c;
  for_positions(p.kernel, [&](const int64_t (&k)[3]) {
    double sum = 0;
    for (int64_t n = 0; n < p.batch; ++n)
      for_positions(p.output, [&](const int64_t (&t)[3]) {
        int64_t i[3];
        for (int a = 0; a < 3; ++a) {
          i[a] = t[a] * p.stride[a] - p.before[a] + k[a] * p.dilation[a];
          if (i[a] < 0 || i[a] >= p.input[a]) return;
        }
        sum += static_cast<double>(widen(gy[n * p.y.n + o * p.y.c + at(p.y.s, t)])) *
               static_cast<double>(widen(x[n * p.x.n + channel * p.x.c + at(p.x.s, i)]));
      });
    store_rounded(sum, gw + o * p.weight_o + c * p.weight_c + at(p.weight_k, k));
  });
}

#define TORCHCONV_REFERENCE(T)                                                                  \
  template void forward<T>(const Problem&, int64_t, int64_t, const T*, const T*, const T*, T*); \
  template void input_grad<T>(const Problem&, int64_t, int64_t, const T*, const T*, T*);        \
  template void weight_grad<T>(const Problem&, int64_t, int64_t, const T*, const T*, T*);
TORCHCONV_REFERENCE(float)
TORCHCONV_REFERENCE(double)
TORCHCONV_REFERENCE(bfloat16)
#undef TORCHCONV_REFERENCE

}  // namespace torchconv::reference
