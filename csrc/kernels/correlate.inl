// The weight gradient as a blocked matrix product over positions: sums[k][m] = Σ_p patch[k][p] · target[p][m], 192
// positions at a time; the target's block is packed as [panel of m][position][columns], the patches as in gemm.

template <class T>
int64_t correlate_scratch(const Gather& g) {
  using A = accumulator_t<T>;
  return segment_space<A> + patch_space<A> + round_up(g.m, tile_columns<A>) * gemm_positions;
}

// out[panel][position][column] = target[n, panel · columns + column, t], zero-padded columns.
template <class T, class A>
void pack_target(const Gather& g, bool channels_last, const Segment* runs, int64_t run_count, int64_t positions,
                 const T* target, A* out) {
  constexpr int64_t width = tile_columns<A>;
  const int64_t stride = g.spacing[2] * g.target.s[2];
  for (int64_t m = 0; m < g.m; m += width, out += positions * width) {
    const int64_t columns = at_most(width, g.m - m);
    for (int64_t i = 0; i < run_count; ++i) {
      const T* from = target + target_offset(g, runs[i]) + m * g.target.c;
      A* to = out + runs[i].first * width;
      if (channels_last)
        for (int64_t l = 0; l < runs[i].length; ++l) copy_strided(from + l * stride, 1, columns, to + l * width);
      else
        for (int64_t j = 0; j < columns; ++j)
          for (int64_t l = 0; l < runs[i].length; ++l) to[l * width + j] = widen(from[j * g.target.c + l * stride]);
      for (int64_t l = 0; l < runs[i].length && columns < width; ++l) zero(to + l * width + columns, width - columns);
    }
  }
}

template <class T>
void correlate(const Gather& g, bool channels_last, int64_t group, const T* source, const T* target, int64_t begin,
               int64_t end, int64_t k_begin, int64_t k_end, accumulator_t<T>* sums, accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  constexpr int64_t width = tile_columns<A>;
  Segment* runs = reinterpret_cast<Segment*>(scratch);
  A* patches = scratch + segment_space<A>;
  A* packed = patches + patch_space<A>;
  const int64_t ldm = round_up(g.m, width);  // sums is [k][ldm]
  source += group * g.c * g.source.c;
  target += group * g.m * g.target.c;
  if (begin == end) zero(sums, (k_end - k_begin) * ldm);
  for (int64_t p = begin; p < end; p += gemm_positions) {
    const int64_t positions = at_most(gemm_positions, end - p), run_count = segments(g, p, p + positions, runs);
    pack_target(g, channels_last, runs, run_count, positions, target, packed);
    for (int64_t k = k_begin; k < k_end; k += depth_block) {
      const int64_t rows = at_most(depth_block, k_end - k);
      if (channels_last)
        pack_rows(g, runs, run_count, source, k, k + rows, patches, depth_stride<A>);
      else
        pack_columns(g, runs, run_count, source, k, k + rows, positions, positions, patches, patch_stride<A>);
      const int64_t a_row = channels_last ? 1 : patch_stride<A>, a_k = channels_last ? depth_stride<A> : 1;
      for (int64_t m = 0; m < g.m; m += width)
        for (int64_t r = 0; r < rows; r += tile_rows)
          run<A, false>(at_most(tile_rows, rows - r), g.m - m,
                        {positions, patches + r * a_row, a_row, a_k, packed + m * positions, width,
                         sums + (k - k_begin + r) * ldm + m, ldm, p > begin});
    }
  }
}

// weight[m, c, tap] of channels [m_begin, m_end) from the partial sums [splits][depth][target columns], added in order.
template <class T>
void store_weight(const Gather& g, int64_t group, const accumulator_t<T>* sums, int64_t splits, int64_t split_stride,
                  int64_t m_begin, int64_t m_end, T* weight) {
  using A = accumulator_t<T>;
  const int64_t ldm = round_up(g.m, tile_columns<A>);
  weight += group * g.weight_g;
  for (int64_t tap = 0; tap < g.tap_count; ++tap)
    for (int64_t c = 0; c < g.c; ++c) {
      T* to = weight + g.taps[tap].weight + c * g.weight_c;
      const A* from = sums + (tap * g.c + c) * ldm;
      for (int64_t m = m_begin; m < m_end; ++m) {
        A sum = from[m];
        for (int64_t s = 1; s < splits; ++s) sum += from[s * split_stride + m];
        narrow(sum, to + m * g.weight_m);
      }
    }
}

// Σ over samples and positions of one channel (contiguous) or of a block of bias_block channels (channels-last) of
// [batch, channels, positions]; totals in double, in an order that only the shape decides.
template <class T>
void bias_grad(bool channels_last, int64_t batch, int64_t channels, int64_t positions, int64_t item, const T* grad,
               T* out) {
  using A = accumulator_t<T>;
  const int64_t first = channels_last ? item * bias_block : item;
  const int64_t width = channels_last ? at_most(bias_block, channels - first) : 1;
  double total[bias_block] = {};
  for (int64_t n = 0; n < batch; ++n) {
    const T* from = grad + n * channels * positions + (channels_last ? first : first * positions);
    for (int64_t p = 0; p < positions; p += bias_run) {
      const int64_t length = at_most(bias_run, positions - p);
      A partial[bias_block] = {};
      if (channels_last && width == bias_block)
        for (int64_t i = 0; i < length; ++i)
          for (int64_t l = 0; l < bias_block; ++l) partial[l] += widen(from[(p + i) * channels + l]);
      else if (channels_last)
        for (int64_t i = 0; i < length; ++i)
          for (int64_t l = 0; l < width; ++l) partial[l] += widen(from[(p + i) * channels + l]);
      else
        for (int64_t i = 0; i < length; i += bias_block)
          for (int64_t l = 0; l < at_most(bias_block, length - i); ++l) partial[l] += widen(from[p + i + l]);
      for (int64_t l = 0; l < bias_block; ++l) total[channels_last ? l : 0] += partial[l];
    }
  }
  for (int64_t l = 0; l < width; ++l) narrow(static_cast<A>(total[l]), out + first + l);
}
