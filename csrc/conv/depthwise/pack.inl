// Depth-wise weights as the kernels read them.
#pragma once
#include "conv/patch.inl"
#include "cpu/numeric.inl"

// Channels-last: [residue][tap][channel]. Contiguous: [target channel][residue][source channel][grid 0][grid 2][grid
// 1].
template <class T>
void depthwise_pack(const Gather* gathers, int64_t count, bool channels_last, const T* weight,
                    accumulator_t<T>* packed) {
  const Gather* end = gathers + count;
  if (channels_last) {
    for (const Gather* g = gathers; g < end; ++g)
      for (int64_t tap = 0; tap < g->tap_count; ++tap)
        for (int64_t c = 0; c < g->groups; ++c) *packed++ = widen(weight[c * g->weight_g + g->taps[tap].weight]);
    return;
  }
  for (int64_t m = 0; m < gathers->groups * gathers->m; ++m)
    for (const Gather* g = gathers; g < end; ++g) {
      const T* filter = weight + m / g->m * g->weight_g + m % g->m * g->weight_m;
      for (int64_t c = 0; g->tap_count > 0 && c < g->c; ++c)
        for (int64_t k0 = 0; k0 < g->grid[0]; ++k0)
          for (int64_t k2 = 0; k2 < g->grid[2]; ++k2)
            for (int64_t k1 = 0; k1 < g->grid[1]; ++k1)
              *packed++ = widen(filter[c * g->weight_c + g->taps[(k0 * g->grid[1] + k1) * g->grid[2] + k2].weight]);
    }
}
