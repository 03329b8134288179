#include "correlate.h"

#include <ATen/Parallel.h>

#include "buffer.h"

namespace torchconv {
// Tasks are (part of the sum, block of groups, chunk of the filter): the parts are fixed by the shape, so the number of
// threads changes no bit.
template <class T>
void run_correlate(const Gather& g, bool channels_last, const T* source, const T* target, T* weight) {
  using A = accumulator_t<T>;
  const auto& k = kernels<T>().conv;
  const CorrelationPlan p = k.correlation_plan(g, channels_last);
  const int64_t boxes = p.boxes[0] * p.boxes[1] * p.boxes[2] * p.boxes[3], chunks = p.lane_chunks * p.row_chunks;
  Buffer<A> sums(p.splits * p.split_sums);
  at::parallel_for(0, p.splits * p.group_blocks * chunks, 1, [&](int64_t begin, int64_t end) {
    Buffer<A> scratch(k.correlate_scratch(g, p));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task % chunks, block = task / chunks % p.group_blocks;
      const int64_t split = task / chunks / p.group_blocks;
      k.correlate(g, p, block, chunk / p.row_chunks, chunk % p.row_chunks, boxes * split / p.splits,
                  boxes * (split + 1) / p.splits, source, target,
                  sums.get() + split * p.split_sums + block * p.group_block * p.group_sums + chunk * p.chunk_sums,
                  scratch.get());
    }
  });
  const int64_t m_block = 16, m_blocks = blocks_of(g.m, m_block), grain = 1 + 16384 / (1 + g.depth() * m_block);
  at::parallel_for(0, g.groups * m_blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      k.store_correlation(g, p, i / m_blocks, sums.get(), i % m_blocks * m_block,
                          std::min(g.m, (i % m_blocks + 1) * m_block), weight);
  });
}

template <class T>
int64_t correlate_workspace(const Gather& g, bool channels_last) {
  const auto& k = kernels<T>().conv;
  const CorrelationPlan p = k.correlation_plan(g, channels_last);
  return (p.splits * p.split_sums + k.correlate_scratch(g, p)) * static_cast<int64_t>(sizeof(accumulator_t<T>));
}

// Tasks are (part of the rows or samples, block of channels), the parts fixed by the shape.
template <class T>
void run_bias_grad(bool channels_last, int64_t batch, int64_t channels, int64_t positions, const T* grad, T* out) {
  // A block is whole rows of channels, maps that make a row of that length, or some larger maps.
  const int64_t width = channels_last ? bias_block : positions <= 64 ? bias_block / std::max<int64_t>(1, positions) : 16;
  const int64_t blocks = blocks_of(channels, width);
  const int64_t rows = channels_last ? batch * positions : batch, tasks = 16;
  const int64_t parts = std::max<int64_t>(1, std::min(blocks_of(tasks, blocks), rows / (channels_last ? 256 : 1)));
  Buffer<double> totals(parts * channels);  // [parts][channels]
  const int64_t grain = 1 + 32768 / (1 + batch * positions * channels / (parts * blocks));
  at::parallel_for(0, parts * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i / blocks, c = i % blocks * width;
      kernels<T>().conv.bias_grad(channels_last, channels, positions, rows * part / parts, rows * (part + 1) / parts, c,
                                  std::min(channels, c + width), grad, totals.get() + part * channels);
    }
  });
  kernels<T>().conv.store_bias(parts, channels, totals.get(), out);
}

#define TORCHCONV_INSTANTIATE(T)                                                 \
  template void run_correlate(const Gather&, bool, const T*, const T*, T*);     \
  template int64_t correlate_workspace<T>(const Gather&, bool);                 \
  template void run_bias_grad(bool, int64_t, int64_t, int64_t, const T*, T*);
TORCHCONV_INSTANTIATE(float)
TORCHCONV_INSTANTIATE(double)
TORCHCONV_INSTANTIATE(bfloat16)
#undef TORCHCONV_INSTANTIATE

}  // namespace torchconv
