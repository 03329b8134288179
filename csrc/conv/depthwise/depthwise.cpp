// The driver of depth-wise convolution: runs the kernels over maps, rows or channels in parallel.
#include <algorithm>

#include "buffer.h"
#include "conv/algorithm.h"
#include "conv/cost.h"
#include "dispatch.h"
#include "conv/gather.h"

namespace torchconv {
namespace {

// Whether vectors can run along channels; else channels-last tensors are copied to contiguous ones and back.
template <class T>
bool takes_pixels(const ConvParams& p) {
  return p.channels_last && p.out_per_group() == 1 && p.in_channels >= kernels<T>().depthwise.channels;
}

Tensor planes(const Tensor& t) { return t.contiguous(MemoryFormat::Contiguous); }
Tensor planes_like(const Tensor& t) { return empty(t.sizes(), t.scalar_type(), MemoryFormat::Contiguous); }

// Of a forward pass or an input gradient so many samples are copied at a time: as many as fit in a cache, and enough
// maps for the threads.
constexpr double copied_elements = 1 << 20;
constexpr int64_t copied_maps = 64;

double sample_elements(const ConvParams& p) {
  return static_cast<double>(p.in_channels) * volume(p.input) + static_cast<double>(p.out_channels) * volume(p.output);
}

int64_t copied_samples(const ConvParams& p) {
  const auto fit = static_cast<int64_t>(copied_elements / std::max(1.0, sample_elements(p)));
  return std::min(p.batch, std::max({fit, blocks_of(copied_maps, p.in_channels), int64_t{1}}));
}

// A forward pass or an input gradient: the gathers of all residues of the stride, and its buffers, in elements.
template <class T>
struct Plan {
  std::vector<TappedGather> tapped;  // what the gathers' taps are in
  std::vector<Gather> gathers;
  bool pixels;
  int64_t weights;      // packed, of all channels and taps
  int64_t scratch = 0;  // of a task

  Plan(const ConvParams& p, std::vector<TappedGather> of)
      : tapped(std::move(of)), pixels(takes_pixels<T>(p)), weights(p.taps() * p.out_channels) {
    for (const TappedGather& t : tapped) gathers.push_back(t.gather);
    if (!pixels) scratch = kernels<T>().depthwise.planes_scratch(gathers.data(), count());
  }
  int64_t count() const { return static_cast<int64_t>(gathers.size()); }
  int64_t bytes() const { return (weights + scratch) * static_cast<int64_t>(sizeof(accumulator_t<T>)); }
};

template <class T>
void pack(const Plan<T>& plan, const T* weight, accumulator_t<T>* packed) {
  kernels<T>().depthwise.pack(plan.gathers.data(), plan.count(), plan.pixels, weight, packed);
}

// A target is the same chain of operations however the maps or rows are shared out.
template <class T>
void run(const Plan<T>& plan, const T* source, const accumulator_t<T>* packed, const T* bias, T* target) {
  const auto& k = kernels<T>().depthwise;
  const Gather *gathers = plan.gathers.data(), &first = *gathers;
  const int64_t count = plan.count();
  if (!plan.pixels)
    return parallel_for(0, first.batch * first.groups * first.m, 1, [&](int64_t begin, int64_t end) {
      Buffer<accumulator_t<T>> scratch(plan.scratch);
      k.planes(gathers, count, begin, end, source, packed, bias, target, scratch.get());
    });
  const int64_t rows = first.count[0] * first.count[1];
  parallel_for(0, first.batch * rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin, next; i < end; i = next) {
      next = std::min(end, (i / rows + 1) * rows);
      const int64_t n = i / rows;
      k.pixels(gathers, count, n, i - n * rows, next - n * rows, source, packed, bias, target);
    }
  });
}

constexpr int64_t grad_tasks = 32;        // wanted of a weight gradient
constexpr int64_t grad_room = 512 << 10;  // doubles of partial sums there is room for

// A weight gradient. Its sum over rows of targets is cut into parts by the shape alone, since a part is a rounding of
// its own.
template <class T>
struct GradPlan {
  bool pixels;
  int64_t parts = 1, blocks = 1, rows = 1;  // of the sum; of channels; of targets
  int64_t sums = 0;                         // doubles of a part, [tap][channel]
  int64_t scratch;                          // elements, of a task

  GradPlan(const ConvParams& p, const Gather& g) : pixels(takes_pixels<T>(p)) {
    if (!pixels) {
      scratch = kernels<T>().depthwise.planes_grad_scratch(g);
      return;
    }
    blocks = blocks_of(g.groups, depthwise_grad_channels), rows = g.batch * g.count[0] * g.count[1];
    sums = g.tap_count * g.groups, scratch = g.tap_count * depthwise_grad_channels;
    const int64_t most = std::max<int64_t>(2, grad_room / sums);
    parts = std::min({blocks_of(grad_tasks, blocks), most, std::max<int64_t>(1, rows)});
  }
  int64_t bytes() const {
    return parts * sums * static_cast<int64_t>(sizeof(double)) +
           scratch * static_cast<int64_t>(sizeof(accumulator_t<T>));
  }
};

template <class T>
void run_grad(const GradPlan<T>& plan, const Gather& g, const T* source, const T* target, T* weight) {
  const auto& k = kernels<T>().depthwise;
  if (!plan.pixels)
    return parallel_for(0, g.groups * g.m, 1, [&](int64_t begin, int64_t end) {
      Buffer<accumulator_t<T>> scratch(plan.scratch);
      k.planes_grad(g, begin, end, source, target, weight, scratch.get());
    });
  Buffer<double> totals(plan.parts * plan.sums);
  parallel_for(0, plan.parts * plan.blocks, 1, [&](int64_t begin, int64_t end) {
    Buffer<accumulator_t<T>> scratch(plan.scratch);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i / plan.blocks;
      k.pixels_grad(g, i % plan.blocks, plan.rows * part / plan.parts, plan.rows * (part + 1) / plan.parts, source,
                    target, totals.get() + part * plan.sums, scratch.get());
    }
  });
  k.store_grad(g, totals.get(), plan.parts, weight);
}

// ---- the record ----

std::string refuse(const ConvParams& p, Direction) {
  if (p.depthwise()) return "";
  return str("needs one input channel a group, got ", p.in_channels, " channels in ", p.groups, " groups");
}

// Memory's time and a row's beside the products; contiguous rows are filled up to whole vectors. With several filters a
// map, or fewer maps than a vector, channels-last tensors are copied to contiguous ones and back.
double cost(const ConvParams& p, Direction) {
  constexpr double product = 1.2, element = 4, copy = 16;  // measured in multiply-adds of one vector
  const double elements = sample_elements(p);
  const double products = static_cast<double>(p.out_channels) * meetings(p);
  const bool pixels = p.channels_last && p.out_per_group() == 1 && filled(p.in_channels) < 2 * p.in_channels;
  const double width = static_cast<double>(p.output[2]), whole = pixels ? 1 : filled(width) / width;
  return products * whole * product + elements * (element + (p.channels_last && !pixels ? copy : 0));
}

int64_t workspace(const ConvParams& p, Direction direction) {
  int64_t bytes = 0;
  for_dtype("depthwise", p.dtype, [&]<class T>(T) {
    auto gathers = gathers_of(p, direction);
    bytes = direction == Direction::weight_grad ? GradPlan<T>(p, gathers.front().gather).bytes()
                                                : Plan<T>(p, std::move(gathers)).bytes();
    if (!p.channels_last || takes_pixels<T>(p)) return;
    const int64_t samples = direction == Direction::weight_grad ? p.batch : copied_samples(p);  // copied to planes
    bytes += samples * static_cast<int64_t>(sample_elements(p)) * static_cast<int64_t>(sizeof(T));
  });
  return bytes;
}

// body(p, from, to, T{}) with both activations as the kernels take them: all samples at once, or some at a time as
// planes.
template <class Body>
void with_layout(const ConvParams& p, const Tensor& source, const Tensor& target, Body body) {
  for_dtype("depthwise", p.dtype, [&]<class T>(T) {
    if (!p.channels_last || takes_pixels<T>(p)) return body(p, source, target, T{});
    ConvParams some = p;
    for (int64_t n = 0; n < p.batch; n += some.batch) {
      some.batch = std::min(copied_samples(p), p.batch - n);
      const Tensor from = planes(source.narrow(0, n, some.batch)), part = target.narrow(0, n, some.batch);
      const Tensor to = planes_like(part);
      body(some, from, to, T{});
      part.copy_(to);
    }
  });
}

template <class T>
void run_packing(const Plan<T>& plan, const T* source, const T* weight, const T* bias, T* target) {
  const Buffer<accumulator_t<T>> packed(plan.weights);
  pack(plan, weight, packed.get());
  run<T>(plan, source, packed.get(), bias, target);
}

template <class T>
Plan<T> forward_plan(const ConvParams& p, const View& x, const View& y, const View& weight, bool relu) {
  TappedGather g = forward_gather(p, x, y, weight);
  g.gather.relu = relu;
  return {p, alone(std::move(g))};
}

void forward(const ConvParams& p, const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu,
             const Tensor& y) {
  with_layout(p, x, y, [&]<class T>(const ConvParams& some, const Tensor& from, const Tensor& to, T) {
    run_packing<T>(forward_plan<T>(some, view(from), view(to), view(weight), relu), data<T>(from), data<T>(weight),
                   bias.defined() ? data<T>(bias) : nullptr, mutable_data<T>(to));
  });
}

void input_grad(const ConvParams& p, const Tensor& gy, const Tensor& weight, const Tensor& gx) {
  with_layout(p, gy, gx, [&]<class T>(const ConvParams& some, const Tensor& from, const Tensor& to, T) {
    run_packing<T>({some, input_grad_gathers(some, view(to), view(from), view(weight))}, data<T>(from), data<T>(weight),
                   nullptr, mutable_data<T>(to));
  });
}

void weight_grad(const ConvParams& p, const Tensor& gy, const Tensor& x, const Tensor& gw) {
  for_dtype("depthwise", p.dtype, [&]<class T>(T) {
    const bool copies = p.channels_last && !takes_pixels<T>(p);
    const Tensor target = copies ? planes(gy) : gy, source = copies ? planes(x) : x;
    const TappedGather g = forward_gather(p, view(source), view(target), view(gw));
    run_grad<T>({p, g.gather}, g.gather, data<T>(source), data<T>(target), mutable_data<T>(gw));
  });
}

// ---- with prepared filters: packed ----

int64_t prepared_bytes(const ConvParams& p) {
  int64_t bytes = 0;
  for_dtype("depthwise", p.dtype,
            [&]<class T>(T) { bytes = p.taps() * p.out_channels * static_cast<int64_t>(sizeof(accumulator_t<T>)); });
  return bytes;
}

void prepare(const ConvParams& p, const Tensor& weight, void* filters) {
  const View strides = view(weight);
  for_dtype("depthwise", p.dtype, [&]<class T>(T) {
    pack(Plan<T>(p, gathers_of(p, Direction::forward, &strides)), data<T>(weight),
         static_cast<accumulator_t<T>*>(filters));
  });
}

void run_prepared(const ConvParams& p, const Tensor& x, const void* filters, const void* bias, bool relu,
                  const Tensor& y) {
  with_layout(p, x, y, [&]<class T>(const ConvParams& some, const Tensor& from, const Tensor& to, T) {
    run<T>(forward_plan<T>(some, view(from), view(to), {}, relu), data<T>(from),
           static_cast<const accumulator_t<T>*>(filters), static_cast<const T*>(bias), mutable_data<T>(to));
  });
}

constexpr PreparedForward prepared_forward{prepared_bytes, prepare, run_prepared};

}  // namespace

constexpr ConvAlgorithm depthwise_algorithm{
    .name = "depthwise",
    .refuse = refuse,
    .cost = cost,
    .workspace = workspace,
    .bound = 2e-6,
    .weight_grad_bound = 1e-5,
    .forward = forward,
    .input_grad = input_grad,
    .weight_grad = weight_grad,
    .prepared = &prepared_forward,
};

}  // namespace torchconv
