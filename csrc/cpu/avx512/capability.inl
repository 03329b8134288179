// What a file of this folder is compiled for. Headers come before: see kernels.h. TORCHCONV_EMULATE_AVX512: the same
// kernels of pairs of AVX2's registers, by which a machine without AVX-512 tests them.
#if defined(TORCHCONV_EMULATE_AVX512)
#pragma GCC target("avx2,fma")
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#define TORCHCONV_PUSHED
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define TORCHCONV_LEAN false
#define TORCHCONV_VECTOR_BYTES 64
#define TORCHCONV_CAPABILITY avx512
