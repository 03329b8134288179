#include "depthwise.h"

#include <algorithm>

#include "dispatch.h"
#include "gather.h"

namespace torchconv {
namespace {

// Whether vectors can run along channels; else channels-last tensors are copied to contiguous ones and back.
template <class T>
bool takes_pixels(const ConvParams& p) {
  return p.channels_last && p.out_per_group() == 1 && p.in_channels >= kernels<T>().depthwise.channels;
}

Tensor planes(const Tensor& t) { return t.contiguous(MemoryFormat::Contiguous); }
Tensor planes_like(const Tensor& t) { return empty(t.sizes(), t.scalar_type(), MemoryFormat::Contiguous); }

std::vector<Gather> plain(const std::vector<TappedGather>& tapped) {
  std::vector<Gather> gathers;
  for (const TappedGather& t : tapped) gathers.push_back(t.gather);
  return gathers;
}

// Targets of `gathers`, one for each residue of the stride, from all that its sums need. A target is the same chain of
// operations however the maps or rows are shared out.
template <class T>
void run(const std::vector<TappedGather>& tapped, bool pixels, const T* source, const T* weight, int64_t weights,
         const T* bias, T* target) {
  const auto& k = kernels<T>().depthwise;
  const std::vector<Gather> gathers = plain(tapped);
  const Gather& first = gathers.front();
  const int64_t count = static_cast<int64_t>(gathers.size());
  Buffer<accumulator_t<T>> packed(weights);
  k.pack(gathers.data(), count, pixels, weight, packed.get());
  if (!pixels)
    return parallel_for(0, first.batch * first.groups * first.m, 1, [&](int64_t begin, int64_t end) {
      Buffer<accumulator_t<T>> scratch(k.planes_scratch(gathers.data(), count));
      k.planes(gathers.data(), count, begin, end, source, packed.get(), bias, target, scratch.get());
    });
  const int64_t rows = first.count[0] * first.count[1];
  parallel_for(0, first.batch * rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin, next; i < end; i = next) {
      next = std::min(end, (i / rows + 1) * rows);
      const int64_t n = i / rows;
      k.pixels(gathers.data(), count, n, i - n * rows, next - n * rows, source, packed.get(), bias, target);
    }
  });
}

constexpr int64_t grad_tasks = 32;        // wanted of a weight gradient
constexpr int64_t grad_room = 512 << 10;  // doubles of partial sums there is room for

// Into how many parts the sum over rows of targets is cut: by the shape alone, since a part is a rounding of its own.
int64_t parts_of(const Gather& g) {
  const int64_t blocks = blocks_of(g.groups, depthwise_grad_channels), rows = g.batch * g.count[0] * g.count[1];
  const int64_t most = std::max<int64_t>(2, grad_room / (g.tap_count * g.groups));
  return std::min({blocks_of(grad_tasks, blocks), most, std::max<int64_t>(1, rows)});
}

template <class T>
void run_grad(const Gather& g, bool pixels, const T* source, const T* target, T* weight) {
  const auto& k = kernels<T>().depthwise;
  if (!pixels)
    return parallel_for(0, g.groups * g.m, 1, [&](int64_t begin, int64_t end) {
      Buffer<accumulator_t<T>> scratch(k.planes_grad_scratch(g));
      k.planes_grad(g, begin, end, source, target, weight, scratch.get());
    });
  const int64_t parts = parts_of(g), blocks = blocks_of(g.groups, depthwise_grad_channels);
  const int64_t rows = g.batch * g.count[0] * g.count[1], sums = g.tap_count * g.groups;
  Buffer<double> totals(parts * sums);
  parallel_for(0, parts * blocks, 1, [&](int64_t begin, int64_t end) {
    Buffer<accumulator_t<T>> scratch(g.tap_count * depthwise_grad_channels);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i / blocks;
      k.pixels_grad(g, i % blocks, rows * part / parts, rows * (part + 1) / parts, source, target,
                    totals.get() + part * sums, scratch.get());
    }
  });
  k.store_grad(g, totals.get(), parts, weight);
}

}  // namespace

void depthwise_forward(const ConvParams& p, const Tensor& x, const Tensor& weight, const void* bias, bool relu,
                       const Tensor& y) {
  for_dtype("convolution", p.dtype, [&](auto t) {
    using T = decltype(t);
    const bool pixels = takes_pixels<T>(p), copies = p.channels_last && !pixels;
    const Tensor from = copies ? planes(x) : x, to = copies ? planes_like(y) : y;
    TappedGather g = forward_gather(p, view(from), view(to), view(weight));
    g.gather.relu = relu;
    run<T>({g}, pixels, data<T>(from), data<T>(weight), weight.numel(), static_cast<const T*>(bias),
           mutable_data<T>(to));
    if (copies) y.copy_(to);
  });
}

void depthwise_input_grad(const ConvParams& p, const Tensor& gy, const Tensor& weight, const Tensor& gx) {
  for_dtype("convolution", p.dtype, [&](auto t) {
    using T = decltype(t);
    const bool pixels = takes_pixels<T>(p), copies = p.channels_last && !pixels;
    const Tensor from = copies ? planes(gy) : gy, to = copies ? planes_like(gx) : gx;
    run<T>(input_grad_gathers(p, view(to), view(from), view(weight)), pixels, data<T>(from), data<T>(weight),
           weight.numel(), nullptr, mutable_data<T>(to));
    if (copies) gx.copy_(to);
  });
}

void depthwise_weight_grad(const ConvParams& p, const Tensor& gy, const Tensor& x, const Tensor& gw) {
  for_dtype("convolution", p.dtype, [&](auto t) {
    using T = decltype(t);
    const bool pixels = takes_pixels<T>(p), copies = p.channels_last && !pixels;
    const Tensor target = copies ? planes(gy) : gy, source = copies ? planes(x) : x;
    const TappedGather g = forward_gather(p, view(source), view(target), view(gw));
    run_grad<T>(g.gather, pixels, data<T>(source), data<T>(target), mutable_data<T>(gw));
  });
}

int64_t depthwise_workspace(const ConvParams& p, Direction direction) {
  int64_t bytes = 0;
  for_dtype("convolution", p.dtype, [&](auto t) {
    using T = decltype(t);
    constexpr int64_t size = sizeof(accumulator_t<T>);
    const auto& k = kernels<T>().depthwise;
    const View none{};
    const bool pixels = takes_pixels<T>(p);
    const TappedGather forward = forward_gather(p, none, none, none);
    const int64_t weights = p.taps() * p.out_channels;
    if (direction == Direction::weight_grad) {
      bytes = pixels ? parts_of(forward.gather) * weights * sizeof(double) + p.taps() * depthwise_grad_channels * size
                     : k.planes_grad_scratch(forward.gather) * size;
    } else {
      const auto tapped =
          direction == Direction::forward ? std::vector{forward} : input_grad_gathers(p, none, none, none);
      const auto gathers = plain(tapped);  // they point at the taps of `tapped`
      const int64_t count = static_cast<int64_t>(gathers.size());
      bytes = (weights + (pixels ? 0 : k.planes_scratch(gathers.data(), count))) * size;
    }
  });
  return bytes;
}

}  // namespace torchconv
