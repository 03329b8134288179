// direct for bfloat16, two source channels at a time: a pixel's channels are copied as pairs (2 i, 2 i + 1), the last
// with zero where their number is odd, and the weight is packed as the same pairs. To all else a pair is one channel
// of accumulators: a gather of pairs has half the channels, and the products of its tiles are add_product's.
#pragma once
#include "conv/direct/direct.inl"
#include "conv/direct/planes.inl"
#include "conv/gemm/gemm.inl"

inline Gather of_pairs(Gather g) {
  g.c = (g.c + 1) / 2;
  return g;
}

struct BF16Pair {
  bfloat16 of[2];
};

inline int64_t pairs_packed_size(const Gather& g, Broadcast broadcast) {
  return packed_size<bfloat16>(broadcast == Broadcast::source_narrow ? of_pairs(g) : g, broadcast);
}

inline void pairs_pack_weight(const Gather& g, Broadcast broadcast, int64_t group, const bfloat16* weight,
                              int64_t panel_begin, int64_t panel_end, float* packed) {
  if (broadcast != Broadcast::source_narrow)
    return pack_weight(g, broadcast, group, weight, panel_begin, panel_end, packed);
  const int64_t width = panel_width<bfloat16>(g, broadcast);
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    float* to = packed + panel * of_pairs(g).depth() * width;
    const bfloat16* from = weight + group * g.weight_g + panel * width * g.weight_m;
    const int64_t rows = at_most(width, g.m - panel * width);
    for (int64_t tap = 0; tap < g.tap_count; ++tap)
      for (int64_t c = 0; c < g.c; c += 2, to += width) {
        const bfloat16* w = from + g.taps[tap].weight + c * g.weight_c;
        for (int64_t r = 0; r < rows; ++r, w += g.weight_m) {
          const BF16Pair pair{{w[0], c + 1 < g.c ? w[g.weight_c] : bfloat16{}}};
          std::memcpy(to + r, &pair, sizeof pair);
        }
        zero(to + rows, width - rows);
      }
  }
}

// ---- planes to pixels of pairs ----

// to[position][pair] of 16 positions, and of `channels` channels from `from`, at most 32; rows of `to` are ld pairs.
inline void pair_square(const bfloat16* from, int64_t plane, int64_t channels, BF16Pair* to, int64_t ld) {
  words square[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    const auto positions = [&](int64_t c) {
      return c < channels
                 ? __builtin_convertvector(*reinterpret_cast<const unaligned_half_words*>(from + c * plane), words)
                 : words{};
    };
    square[i] = positions(2 * i) | positions(2 * i + 1) << 16;
  }
  transpose_square<1>(square);
  const int64_t pairs = (channels + 1) / 2;
#pragma GCC unroll 16
  for (int l = 0; l < 16; ++l) {
    if (pairs == 16)
      std::memcpy(to + l * ld, &square[l], sizeof square[l]);
    else
      _mm512_mask_storeu_epi32(to + l * ld, (1u << pairs) - 1, (__m512i)square[l]);
  }
}

// to[position][pair] of `length` positions, `step` apart; the last squares overlap those before.
inline void copy_pairs(const bfloat16* from, int64_t plane, int64_t step, int64_t channels, int64_t length,
                       BF16Pair* to) {
  const int64_t ld = (channels + 1) / 2;
  if (step == 1 && length >= 16) {
    for (int64_t c = 0; c < channels; c += 32)
      for (int64_t l = 0; l < length; l += 16) {
        const int64_t at = at_most(l, length - 16);
        pair_square(from + c * plane + at, plane, at_most(32, channels - c), to + at * ld + c / 2, ld);
      }
    return;
  }
  for (int64_t c = 0; c < channels; c += 2)
    for (int64_t l = 0; l < length; ++l) {
      const bfloat16* x = from + c * plane + l * step;
      to[l * ld + c / 2] = {{x[0], c + 1 < channels ? x[plane] : bfloat16{}}};
    }
}

// out[group][n][i0][i1][i2][pair], as copy_source; groups lie `size` pairs apart.
inline void copy_source_pairs(const Gather& g, bool channels_last, int64_t groups, const Box& box,
                              const int64_t (&begin)[3], const int64_t (&end)[3], const bfloat16* source, BF16Pair* out,
                              int64_t size) {
  for (; groups > 1 && !channels_last; --groups, source += g.c * g.source.c, out += size)
    copy_source_pairs(g, channels_last, 1, box, begin, end, source, out, size);
  const int64_t pairs = (g.c + 1) / 2;
  source_lines(g, channels_last, box, begin, end, source, [&](const bfloat16* from, int64_t length) {
    if (!channels_last) copy_pairs(from, g.source.c, g.source.s[2], g.c, length, out);
    for (int64_t l = 0; l < length && channels_last; ++l)
      for (int64_t i = 0; i < groups; ++i) {
        BF16Pair* pixel = out + i * size + l * pairs;
        if (g.c % 2 == 1) pixel[pairs - 1] = {};
        copy_row(from + l * g.source.s[2] + i * g.c, g.c, reinterpret_cast<bfloat16*>(pixel));
      }
    out += length * pairs;
  });
}

// ---- the entry points ----

// Scratch: the gathers of pairs | direct's, for whole channels: more than pairs take.
constexpr int64_t pairs_gather = (sizeof(Gather) + 63) / 64 * 64 / sizeof(float);

inline int64_t pairs_direct_scratch(const Gather* g, int64_t residues, bool channels_last, int64_t groups,
                                    const Box& box) {
  return residues * pairs_gather + direct_scratch<bfloat16>(g, residues, channels_last, groups, box);
}

inline void pairs_direct(const Gather* g, int64_t residues, bool channels_last, int64_t group_begin, int64_t group_end,
                         const bfloat16* source, const float* packed, const bfloat16* bias, bfloat16* target,
                         const Box& box, int64_t panel_begin, int64_t panel_end, float* scratch) {
  Gather* pairs = reinterpret_cast<Gather*>(scratch);
  for (int64_t r = 0; r < residues; ++r) pairs[r] = of_pairs(g[r]);
  source += group_begin * g->c * g->source.c;
  const auto copy = [&](const int64_t (&begin)[3], const int64_t (&end)[3], float* out, int64_t size) {
    copy_source_pairs(*g, channels_last, group_end - group_begin, box, begin, end, source,
                      reinterpret_cast<BF16Pair*>(out), size);
  };
  direct_box(pairs, residues, channels_last, group_begin, group_end, source, copy, packed, bias, target, box,
             panel_begin, panel_end, scratch + residues * pairs_gather);
}

// Planes multiply one channel at a time: for one alone, or where direct's vectors would be half empty.
inline bool pairs_prefers_planes(const Gather* g, int64_t residues, bool channels_last) {
  return (g->c == 1 || g->m <= half_lanes<float>) &&
         avx512_table().bf16.conv.prefers_planes(g, residues, channels_last);
}
