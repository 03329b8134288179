// The table of kernels: what the files above this folder may call. One table per CPU capability, from the same sources
// (*.inl), which a folder for each capability compiles in a few units; kernels() is the one picked when the library
// loaded. Raw pointers only: nothing of torch, and no inline function of the standard library, is compiled there, so
// that no code for a wider instruction set can be merged by the linker into a narrower path.
#pragma once
#include <cstdint>
#include <cstring>

#include "conv/conv_kernels.h"
#include "norm/norm_kernels.h"
#include "local/local_kernels.h"
#include "lrn/lrn_kernels.h"
#include "pool/pool_kernels.h"
#include "transform/transform_kernels.h"
#include "conv/winograd/winograd_kernels.h"

namespace torchconv {

template <class A>
struct ComplexKernels {
  // out = a · b, or a · conj(b), of `count` pairs (re, im); or that added to out.
  void (*products)(int64_t count, const A* a, const A* b, bool conjugate, bool add, A* out);
};

template <class T>
struct CommonKernels {
  ConvKernels<T> conv;
  DepthwiseKernels<T> depthwise;
  PoolKernels<T> pool;
  NormKernels<T> norm;
  ComplexKernels<accumulator_t<T>> complex;
  LocalKernels<T> local;
  LocalNormKernels<T> local_norm;
  TransformKernels<T> transform;
};
template <class T>
struct KernelSet : CommonKernels<T> {
  WinogradKernels<T> winograd;
};
// float64 has no Winograd, since it is asked for where rounding matters.
template <>
struct KernelSet<double> : CommonKernels<double> {};

struct KernelTable {
  const char* capability;  // "default", "avx2", "avx512" or "avx512_bf16": see dot_bf16.h
  int64_t vector;          // float32 in one
  KernelSet<float> f32;
  KernelSet<double> f64;
  KernelSet<bfloat16> bf16;
};

// Of a processor that has the capability only: making the table runs its code.
const KernelTable& baseline_table();
#if defined(__x86_64__)
const KernelTable& avx2_table();
const KernelTable& avx512_table();
#endif

// The table in use: the widest this processor runs, or what TORCHCONV_CPU_CAPABILITY caps it to.
const KernelTable& kernel_table();

template <class T>
const KernelSet<T>& kernels();
template <>
inline const KernelSet<float>& kernels<float>() {
  return kernel_table().f32;
}
template <>
inline const KernelSet<double>& kernels<double>() {
  return kernel_table().f64;
}
template <>
inline const KernelSet<bfloat16>& kernels<bfloat16>() {
  return kernel_table().bf16;
}

}  // namespace torchconv
