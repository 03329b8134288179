// The driver of gemm: a blocked matrix product of patches and the weight, over groups, channels and positions in
// parallel. See gemm.inl.
#include <algorithm>

#include "buffer.h"
#include "conv/algorithm.h"
#include "conv/direct/direct.h"
#include "conv/gathered.h"
#include "cpu/kernels.h"

namespace torchconv {
namespace {

// The weight of every group, packed: [groups][packed_size].
template <class T>
Buffer<accumulator_t<T>> packed_weight(const Gather& g, Broadcast broadcast, const T* weight) {
  const auto& k = kernels<T>().conv;
  const int64_t size = k.packed_size(g, broadcast), panels = k.panels(g, broadcast);
  Buffer<accumulator_t<T>> packed(g.groups * size);
  parallel_for(0, g.groups * panels, 1 + 32768 / (1 + size / panels), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      k.pack_weight(g, broadcast, i / panels, weight, i % panels, i % panels + 1, packed.get() + i / panels * size);
  });
  return packed;
}

Broadcast gemm_broadcast(bool channels_last) { return channels_last ? Broadcast::source : Broadcast::weight; }

// Tasks are (group, channels of some panels, 192 positions). How the work is cut changes no result: every output is its
// own chain of operations (gemm.inl), so the number of threads may have a say in it.
template <class T>
void run_gemm(const Gather& g, bool channels_last, const T* source, const T* weight, const T* bias, T* target) {
  const auto& k = kernels<T>().conv;
  const Broadcast broadcast = gemm_broadcast(channels_last);
  const auto packed = packed_weight<T>(g, broadcast, weight);
  const int64_t panels = k.panels(g, broadcast), size = k.packed_size(g, broadcast);
  const int64_t blocks = blocks_of(g.positions(), gemm_positions);
  const int64_t most = std::max<int64_t>(1, gemm_channels * panels / std::max<int64_t>(g.m, gemm_channels));
  int64_t chunks = blocks_of(panels, most);
  while (chunks < panels && g.groups * blocks * chunks < 2 * get_num_threads()) ++chunks;
  const int64_t scratch_size = k.gemm_scratch(g);
  parallel_for(0, g.groups * chunks * blocks, 1, [&](int64_t begin, int64_t end) {
    Buffer<accumulator_t<T>> scratch(scratch_size);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task % blocks, chunk = task / blocks % chunks, group = task / blocks / chunks;
      k.gemm(g, channels_last, group, source, packed.get() + group * size, bias, target, block * gemm_positions,
             std::min(g.positions(), (block + 1) * gemm_positions), panels * chunk / chunks,
             panels * (chunk + 1) / chunks, scratch.get());
    }
  });
}

// ---- the record ----

std::string refuse(const ConvParams&, Direction direction) {
  return direction == Direction::weight_grad ? "has no weight gradient" : "";
}

double cost(const ConvParams& p, Direction direction) {  // patches besides
  return 1.3 * direct_cost(p, direction, 1);
}

int64_t workspace(const ConvParams& p, Direction direction) {
  int64_t bytes = 0;
  for_dtype("gemm", p.dtype, [&]<class T>(T) {
    const auto& k = kernels<T>().conv;
    for (const TappedGather& t : gathers_of(p, direction)) {
      const int64_t packed = t.gather.groups * k.packed_size(t.gather, gemm_broadcast(p.channels_last));
      bytes = std::max<int64_t>(bytes, (packed + k.gemm_scratch(t.gather)) * sizeof(accumulator_t<T>));
    }
  });
  return bytes;
}

void forward(const ConvParams& p, const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu,
             const Tensor& y) {
  gathered_forward(p, x, weight, bias, relu, y, [&](const auto& gathers, auto*... operands) {
    run_gemm(gathers.front().gather, p.channels_last, operands...);
  });
}

void input_grad(const ConvParams& p, const Tensor& gy, const Tensor& weight, const Tensor& gx) {
  gathered_input_grad(p, gy, weight, gx, [&](const auto& gathers, auto*... operands) {
    for (const TappedGather& g : gathers) run_gemm(g.gather, p.channels_last, operands...);
  });
}

void weight_grad(const ConvParams&, const Tensor&, const Tensor&, const Tensor&) {
  TORCH_CHECK(false, "gemm refuses weight gradients");
}

}  // namespace

constexpr ConvAlgorithm gemm_algorithm{
    .name = "gemm",
    .refuse = refuse,
    .cost = cost,
    .filters = direct_filters,
    .workspace = workspace,
    .bound = 2e-6,
    .weight_grad_bound = 1e-5,
    .forward = forward,
    .input_grad = input_grad,
    .weight_grad = weight_grad,
};

}  // namespace torchconv
