// The avx512 capability with direct convolution of bfloat16 by the processor's dot product.
#include "cpu/dot_bf16.h"
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif
#define TORCHCONV_LEAN false
#define TORCHCONV_VECTOR_BYTES 64

namespace torchconv {
namespace avx512_bf16 {
#include "cpu/numeric.inl"
#include "cpu/tile.inl"

// In this file a float of what the tiles multiply is the bits of two bfloat16, and the product is of both:
// sum + x[0] · column[0] + x[1] · column[1], rounded after each. The instruction takes and makes no denormals.
inline part_t<16, float> add_product(part_t<16, float> sum, float x, part_t<16, float> column) {
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_ps(x), (__m512bh)column);
}
inline part_t<8, float> add_product(part_t<8, float> sum, float x, part_t<8, float> column) {
  return _mm256_dpbf16_ps(sum, (__m256bh)_mm256_set1_ps(x), (__m256bh)column);
}

#include "conv/direct/dot_bf16_correlate.inl"
}  // namespace avx512_bf16

const KernelTable& avx512_bf16_table() {
  static const KernelTable table = [] {
    KernelTable t = avx512_table();
    t.capability = "avx512_bf16";
    t.bf16.conv.packed_size = avx512_bf16::pairs_packed_size;
    t.bf16.conv.pack_weight = avx512_bf16::pairs_pack_weight;
    t.bf16.conv.direct_scratch = avx512_bf16::pairs_direct_scratch;
    t.bf16.conv.direct = avx512_bf16::pairs_direct;
    t.bf16.conv.correlate_scratch = avx512_bf16::pairs_correlate_scratch;
    t.bf16.conv.correlate = avx512_bf16::pairs_correlate;
    t.bf16.conv.prefers_planes = avx512_bf16::pairs_prefers_planes;
    return t;
  }();
  return table;
}

}  // namespace torchconv
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
