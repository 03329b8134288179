// Products of complex numbers, (re, im) side by side: out = a · b or a · conj(b), or that added to `out`.
//   (x + y i)(c ± d i) = (x c ∓ y d) + (y c ± x d) i
#pragma once
#include "cpu/numeric.inl"

template <class A>
void complex_products(int64_t count, const A* a, const A* b, bool conjugate, bool add, A* out) {
  using V = vector_t<A>;
  constexpr int64_t L = lanes<A>;
  typename Vector<A>::mask even, odd, swapped;
  V sign;
  for (int l = 0; l < L; ++l) {
    even[l] = l & ~1, odd[l] = l | 1, swapped[l] = l ^ 1;
    sign[l] = (l % 2 == 0) == conjugate ? A(1) : A(-1);
  }
  for (int64_t i = 0; i < 2 * count; i += L) {
    const int64_t left = 2 * count - i;
    const V x = left >= L ? load(a + i) : load_some(a + i, left), y = left >= L ? load(b + i) : load_some(b + i, left);
    V z = x * shuffled(y, even) + shuffled(x, swapped) * (shuffled(y, odd) * sign);
    if (add) z += left >= L ? load(out + i) : load_some(out + i, left);
    if (left >= L)
      store(out + i, z);
    else
      for (int64_t l = 0; l < left; ++l) out[i + l] = z[l];
  }
}

template <class A>
ComplexKernels<A> complex_kernels() {
  return {.products = complex_products<A>};
}
template ComplexKernels<float> complex_kernels<float>();
template ComplexKernels<double> complex_kernels<double>();
