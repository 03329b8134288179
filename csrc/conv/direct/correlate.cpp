#include "conv/direct/correlate.h"

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
  parallel_for(0, p.splits * p.group_blocks * chunks, 1, [&](int64_t begin, int64_t end) {
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
  if (p.splits > 1)
    parallel_for(0, p.split_sums, 1 + 131072 / p.splits,
                 [&](int64_t begin, int64_t end) { k.add_parts(p, begin, end, sums.get()); });
  const int64_t m_block = 16, m_blocks = blocks_of(g.m, m_block), grain = 1 + 16384 / (1 + g.depth() * m_block);
  parallel_for(0, g.groups * m_blocks, grain, [&](int64_t begin, int64_t end) {
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

#define TORCHCONV_INSTANTIATE(T)                                            \
  template void run_correlate(const Gather&, bool, const T*, const T*, T*); \
  template int64_t correlate_workspace<T>(const Gather&, bool);
TORCHCONV_INSTANTIATE(float)
TORCHCONV_INSTANTIATE(double)
TORCHCONV_INSTANTIATE(bfloat16)
#undef TORCHCONV_INSTANTIATE

}  // namespace torchconv
