// Convolutions whose D·T output maps, T transforms of each of D filters, are reduced to D: over chunks of samples, so
// that the T-fold maps exist for one chunk at a time. With z = conv(x, w) [N, D·T, *]:
//   convolution_max      y = max_t z[t], and which t
//   convolution_select   y = z[winner], and its two transposes: linear in x and in w
//   convolution_norm     y = √Σ_t z[t]², and its gradients, for which each chunk's z is computed again
// A sample's result is independent of its chunk, and the weight gradient is summed in the order of the chunks, which
// depend on shapes alone.

#include <algorithm>
#include <numeric>

#include "conv/conv.h"
#include "dispatch.h"
#include "cpu/kernels.h"
#include "conv/select.h"

namespace torchconv {
namespace {

constexpr int64_t chunk_bytes = 8 << 20;  // of T-fold output: what stays in a last-level cache

// One such convolution. `conv` is that of all D·T maps. In channels-last the maps of one transform are made neighbours,
// so that a pixel's T vectors of D/groups are; contiguous planes are read where they are.
struct Reduced {
  ConvParams conv;
  Window window;
  int64_t transforms, filters, positions;

  int64_t per_group() const { return filters / conv.groups; }
  Reduction reduction(int64_t samples) const {
    if (conv.channels_last) return {samples * positions * conv.groups, transforms, per_group()};
    return {samples * filters, transforms, positions};
  }
  // Samples of a chunk: enough for its maps to outweigh the weight, which each chunk reads and may transform.
  int64_t samples() const {
    const int64_t element = element_size(conv.dtype);
    const int64_t weights = conv.out_channels * conv.in_per_group() * conv.taps() * element;
    const int64_t sample = conv.out_channels * positions * element;
    return std::max<int64_t>(1, std::max(chunk_bytes, weights) / std::max<int64_t>(sample, 1));
  }
  std::vector<int64_t> reduced_sizes() const {
    auto sizes = conv.output_sizes();
    sizes[1] = filters;
    return sizes;
  }

  // The weight, or a bias, in the order of the chunks' maps, and back.
  Tensor arranged(const Tensor& t) const { return exchanged(t, per_group(), transforms); }
  Tensor restored(const Tensor& t) const { return exchanged(t, transforms, per_group()); }
  Tensor exchanged(const Tensor& t, int64_t first, int64_t second) const {
    if (!conv.channels_last || first == 1 || second == 1) return t;
    std::vector<int64_t> order(t.dim() + 2);
    std::iota(order.begin(), order.end(), 0);
    std::swap(order[1], order[2]);
    return t.unflatten(0, {conv.groups, first, second}).permute(order).contiguous().view(t.sizes());
  }
};

Reduced reduced(IntArrayRef input_size, IntArrayRef weight_size, int64_t filters, const Window& window,
                ScalarType dtype, bool channels_last) {
  Reduced r{conv_params(input_size, weight_size, window, dtype, channels_last), window, 0, filters, 1};
  const int64_t maps = r.conv.out_channels;
  TORCH_CHECK(filters > 0 && maps % filters == 0 && filters % r.conv.groups == 0 && maps / filters <= 256, "conv",
              r.conv.dims, "d: ", maps, " maps in ", r.conv.groups,
              " groups are not at most 256 transforms of each of ", filters, " filters: weight of shape ", weight_size);
  r.transforms = maps / filters;
  for (const int64_t side : r.conv.output) r.positions *= side;
  return r;
}

int64_t filters_of(const Tensor& weight, int64_t transforms) {
  TORCH_CHECK(weight.dim() >= 3 && transforms > 0 && weight.size(0) % transforms == 0, "weight of shape ",
              weight.sizes(), " does not hold ", transforms, " transforms of each filter");
  return weight.size(0) / transforms;
}

// Raises where an operand is unlike the activation or the algorithm cannot run, be there samples or none.
void check_operands(const Reduced& r, const char* name, const Tensor& activation, const char* other_name,
                    const Tensor& other, Direction direction, std::string_view algorithm) {
  check_alike(r.conv, activation, name, other, other_name);
  check_algorithm(r.conv, direction, algorithm);
}

// Raises unless t is a reduced map of this dtype.
void check_tensor(const Reduced& r, const char* what, const Tensor& t, ScalarType dtype) {
  TORCH_CHECK(t.sizes() == IntArrayRef(r.reduced_sizes()) && t.scalar_type() == dtype, "conv", r.conv.dims,
              "d: expected ", what, " of shape ", IntArrayRef(r.reduced_sizes()), " and dtype ", dtype, ", got ",
              t.sizes(), " and ", t.scalar_type());
}

// Winners in the memory format. Raises unless they are reduced maps of transforms that there are.
Tensor checked_winners(const Reduced& r, const Tensor& winners) {
  check_tensor(r, "winners", winners, ScalarType::Byte);
  const Tensor which = winners.contiguous(r.conv.memory_format());
  uint8_t most = 0;
  for (const uint8_t *p = data<uint8_t>(which), *end = p + which.numel(); p < end; ++p) most = std::max(most, *p);
  TORCH_CHECK(which.numel() == 0 || most < r.transforms, "conv", r.conv.dims, "d: winners hold ", int64_t{most},
              ", beyond ", r.transforms, " transforms");
  return which;
}

// Calls run(first, count) for each chunk of samples.
template <class Run>
void for_chunks(const Reduced& r, Run run) {
  const int64_t most = r.samples();
  for (int64_t n = 0; n < r.conv.batch; n += most) run(n, std::min(most, r.conv.batch - n));
}

// kernel(reduction, begin, end) over a chunk in parallel.
template <class Kernel>
void parallel(const Reduction& r, Kernel kernel) {
  const int64_t work = std::max<int64_t>(r.transforms * r.inner, 1);
  parallel_for(0, r.outer, std::max<int64_t>(32768 / work, 1), [&](int64_t a, int64_t b) { kernel(a, b); });
}

// A chunk's T-fold maps z, dense in the memory format.
Tensor chunk_maps(const Reduced& r, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                  std::string_view algorithm) {
  return run_convolution(x, weight, bias, r.window, algorithm).contiguous(r.conv.memory_format());
}

// The bias of all D·T maps, arranged.
std::optional<Tensor> bias_of(const Reduced& r, const Tensor& input, const std::optional<Tensor>& bias) {
  if (!bias.has_value()) return std::nullopt;
  check_alike(r.conv, input, "input", *bias, "bias");
  TORCH_CHECK(bias->dim() == 1 && bias->size(0) == r.filters, "conv", r.conv.dims, "d: ", r.filters,
              " filters expect a bias of shape [", r.filters, "], got ", bias->sizes());
  const Tensor repeated = empty({r.filters, r.transforms}, bias->scalar_type());
  return r.arranged(repeated.copy_(bias->unsqueeze(1)).view(-1));
}

Tensor like(const Tensor& t, IntArrayRef sizes, const Reduced& r) {
  return empty(sizes, t.scalar_type(), r.conv.memory_format());
}

std::tuple<Tensor, Tensor> convolution_max(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                                           int64_t transforms, IntArrayRef stride, IntArrayRef padding,
                                           IntArrayRef dilation, int64_t groups, std::string_view algorithm) {
  const Reduced r =
      reduced(input.sizes(), weight.sizes(), filters_of(weight, transforms), {stride, padding, dilation, groups},
              input.scalar_type(), answers_channels_last(input, weight));
  check_operands(r, "input", input, "weight", weight, Direction::forward, algorithm);
  const Tensor x = input.contiguous(r.conv.memory_format()), w = r.arranged(weight);
  const auto b = bias_of(r, input, bias);
  Tensor y = like(input, r.reduced_sizes(), r);
  Tensor winners = empty(y.sizes(), ScalarType::Byte, r.conv.memory_format());
  for_chunks(r, [&](int64_t first, int64_t count) {
    const Tensor z = chunk_maps(r, x.narrow(0, first, count), w, b, algorithm);
    const Tensor to = y.narrow(0, first, count), which = winners.narrow(0, first, count);
    const Reduction reduction = r.reduction(count);
    for_dtype("convolution_max", r.conv.dtype, [&]<class T>(T) {
      parallel(reduction, [&](int64_t begin, int64_t end) {
        kernels<T>().transform.max(reduction, data<T>(z), mutable_data<T>(to), mutable_data<uint8_t>(which), begin,
                                   end);
      });
    });
  });
  return {y, winners};
}

Tensor convolution_select(const Tensor& input, const Tensor& weight, const Tensor& winners, IntArrayRef stride,
                          IntArrayRef padding, IntArrayRef dilation, int64_t groups, std::string_view algorithm) {
  TORCH_CHECK(winners.dim() > 1, "expected winners [N, filters, *], got shape ", winners.sizes());
  const Reduced r = reduced(input.sizes(), weight.sizes(), winners.size(1), {stride, padding, dilation, groups},
                            input.scalar_type(), answers_channels_last(input, weight));
  check_operands(r, "input", input, "weight", weight, Direction::forward, algorithm);
  const Tensor which = checked_winners(r, winners);
  const Tensor x = input.contiguous(r.conv.memory_format()), w = r.arranged(weight);
  Tensor y = like(input, r.reduced_sizes(), r);
  for_chunks(r, [&](int64_t first, int64_t count) {
    const Tensor z = chunk_maps(r, x.narrow(0, first, count), w, std::nullopt, algorithm);
    const Tensor to = y.narrow(0, first, count), chosen = which.narrow(0, first, count);
    const Reduction reduction = r.reduction(count);
    for_dtype("convolution_select", r.conv.dtype, [&]<class T>(T) {
      parallel(reduction, [&](int64_t begin, int64_t end) {
        kernels<T>().transform.select(reduction, data<T>(z), data<uint8_t>(chosen), mutable_data<T>(to), begin, end);
      });
    });
  });
  return y;
}

// A chunk's T-fold gradient: grad at the winners, zero elsewhere. Both are in the memory format.
Tensor scattered(const Reduced& r, const Tensor& grad, const Tensor& winners) {
  auto sizes = r.conv.output_sizes();
  sizes[0] = grad.size(0);
  Tensor z = like(grad, sizes, r);
  const Reduction reduction = r.reduction(grad.size(0));
  for_dtype("convolution_select", r.conv.dtype, [&]<class T>(T) {
    parallel(reduction, [&](int64_t begin, int64_t end) {
      kernels<T>().transform.scatter(reduction, data<T>(grad), data<uint8_t>(winners), mutable_data<T>(z), begin, end);
    });
  });
  return z;
}

// The sum of the chunks' weight gradients: in float32 for bfloat16, so that it is rounded once.
struct WeightSum {
  Tensor sum;
  void add(const Tensor& chunk) {
    const Tensor part = chunk.scalar_type() == ScalarType::BFloat16 ? chunk.to(ScalarType::Float) : chunk;
    if (sum.defined())
      sum.add_(part);
    else
      sum = part;
  }
  Tensor result(const Reduced& r, IntArrayRef size, const Tensor& like) const {
    if (!sum.defined()) return zeros(size, like.scalar_type());
    return r.restored(sum).to(like.scalar_type()).contiguous();
  }
};

std::vector<int64_t> of_chunk(IntArrayRef size, int64_t count) {
  auto out = size.vec();
  out[0] = count;
  return out;
}

Tensor convolution_select_input_grad(const Tensor& grad, const Tensor& winners, const Tensor& weight,
                                     IntArrayRef input_size, IntArrayRef stride, IntArrayRef padding,
                                     IntArrayRef dilation, int64_t groups, std::string_view algorithm) {
  TORCH_CHECK(grad.dim() > 1, "expected a gradient [N, filters, *], got shape ", grad.sizes());
  const Reduced r = reduced(input_size, weight.sizes(), grad.size(1), {stride, padding, dilation, groups},
                            grad.scalar_type(), answers_channels_last(grad, weight));
  check_operands(r, "a gradient", grad, "weight", weight, Direction::input_grad, algorithm);
  check_tensor(r, "a gradient", grad, weight.scalar_type());
  const Tensor which = checked_winners(r, winners);
  const auto format = r.conv.memory_format();
  const Tensor gy = grad.contiguous(format), w = r.arranged(weight);
  Tensor gx = like(grad, input_size, r);
  for_chunks(r, [&](int64_t first, int64_t count) {
    const Tensor gz = scattered(r, gy.narrow(0, first, count), which.narrow(0, first, count));
    gx.narrow(0, first, count)
        .copy_(run_convolution_input_grad(gz, w, of_chunk(input_size, count), r.window, algorithm));
  });
  return gx;
}

Tensor convolution_select_weight_grad(const Tensor& grad, const Tensor& winners, const Tensor& input,
                                      IntArrayRef weight_size, IntArrayRef stride, IntArrayRef padding,
                                      IntArrayRef dilation, int64_t groups, std::string_view algorithm) {
  TORCH_CHECK(grad.dim() > 1, "expected a gradient [N, filters, *], got shape ", grad.sizes());
  const Reduced r = reduced(input.sizes(), weight_size, grad.size(1), {stride, padding, dilation, groups},
                            grad.scalar_type(), answers_channels_last(input, grad));
  check_operands(r, "a gradient", grad, "input", input, Direction::weight_grad, algorithm);
  check_tensor(r, "a gradient", grad, input.scalar_type());
  const Tensor which = checked_winners(r, winners);
  const auto format = r.conv.memory_format();
  const Tensor gy = grad.contiguous(format), x = input.contiguous(format);
  WeightSum sum;
  for_chunks(r, [&](int64_t first, int64_t count) {
    const Tensor gz = scattered(r, gy.narrow(0, first, count), which.narrow(0, first, count));
    sum.add(run_convolution_weight_grad(gz, x.narrow(0, first, count), weight_size, r.window, algorithm));
  });
  return sum.result(r, weight_size, grad);
}

Tensor convolution_norm(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                        int64_t transforms, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                        int64_t groups, std::string_view algorithm) {
  const Reduced r =
      reduced(input.sizes(), weight.sizes(), filters_of(weight, transforms), {stride, padding, dilation, groups},
              input.scalar_type(), answers_channels_last(input, weight));
  check_operands(r, "input", input, "weight", weight, Direction::forward, algorithm);
  const Tensor x = input.contiguous(r.conv.memory_format()), w = r.arranged(weight);
  const auto b = bias_of(r, input, bias);
  Tensor y = like(input, r.reduced_sizes(), r);
  for_chunks(r, [&](int64_t first, int64_t count) {
    const Tensor z = chunk_maps(r, x.narrow(0, first, count), w, b, algorithm), to = y.narrow(0, first, count);
    const Reduction reduction = r.reduction(count);
    for_dtype("convolution_norm", r.conv.dtype, [&]<class T>(T) {
      parallel(reduction, [&](int64_t begin, int64_t end) {
        kernels<T>().transform.euclidean_norm(reduction, data<T>(z), mutable_data<T>(to), begin, end);
      });
    });
  });
  return y;
}

// The gradients of input, weight and bias, given the norms `output` and their gradient; empty where not asked for.
std::tuple<Tensor, Tensor, Tensor> convolution_norm_grad(const Tensor& grad, const Tensor& output, const Tensor& input,
                                                         const Tensor& weight, const std::optional<Tensor>& bias,
                                                         bool to_input, bool to_weight, bool to_bias,
                                                         IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                                                         int64_t groups, std::string_view algorithm) {
  TORCH_CHECK(output.dim() > 1, "expected an output [N, filters, *], got shape ", output.sizes());
  const Reduced r = reduced(input.sizes(), weight.sizes(), output.size(1), {stride, padding, dilation, groups},
                            input.scalar_type(), answers_channels_last(input, weight));
  check_operands(r, "input", input, "weight", weight, Direction::forward, algorithm);
  if (to_input) check_algorithm(r.conv, Direction::input_grad, algorithm);
  if (to_weight) check_algorithm(r.conv, Direction::weight_grad, algorithm);
  check_tensor(r, "a gradient", grad, input.scalar_type());
  check_tensor(r, "an output", output, input.scalar_type());
  const auto format = r.conv.memory_format();
  const Tensor x = input.contiguous(format), gy = grad.contiguous(format), y = output.contiguous(format);
  const Tensor w = r.arranged(weight);
  const auto b = bias_of(r, input, bias);
  Tensor gx = to_input ? like(input, input.sizes(), r) : empty({0}, input.scalar_type());
  Tensor gb = zeros({to_bias ? r.filters : 0}, ScalarType::Double);
  WeightSum sum;
  for_chunks(r, [&](int64_t first, int64_t count) {
    const Tensor xs = x.narrow(0, first, count), gz = chunk_maps(r, xs, w, b, algorithm);
    const Tensor gys = gy.narrow(0, first, count), ys = y.narrow(0, first, count);
    const Reduction reduction = r.reduction(count);
    for_dtype("convolution_norm", r.conv.dtype, [&]<class T>(T) {
      parallel(reduction, [&](int64_t begin, int64_t end) {
        kernels<T>().transform.euclidean_norm_grad(reduction, data<T>(gys), data<T>(ys), mutable_data<T>(gz), begin,
                                                   end);
      });
    });
    if (to_input)
      gx.narrow(0, first, count)
          .copy_(run_convolution_input_grad(gz, w, of_chunk(input.sizes(), count), r.window, algorithm));
    if (to_weight) sum.add(run_convolution_weight_grad(gz, xs, weight.sizes(), r.window, algorithm));
    if (to_bias) {
      const Tensor maps = run_convolution_bias_grad(gz).to(ScalarType::Double);  // [D·T], arranged
      constexpr std::array<int64_t, 1> last{1};
      const Tensor rows = r.restored(maps).view({r.filters, r.transforms});
      gb.add_(
          call("aten::sum", "dim_IntList", rows, std::optional<IntArrayRef>(last), false, std::optional<ScalarType>()));
    }
  });
  const Tensor gw = to_weight ? sum.result(r, weight.sizes(), grad) : empty({0}, input.scalar_type());
  return {gx, gw, gb.to(input.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("convolution_max", boxed<convolution_max>);
  m.impl("convolution_select", boxed<convolution_select>);
  m.impl("convolution_select_input_grad", boxed<convolution_select_input_grad>);
  m.impl("convolution_select_weight_grad", boxed<convolution_select_weight_grad>);
  m.impl("convolution_norm", boxed<convolution_norm>);
  m.impl("convolution_norm_grad", boxed<convolution_norm_grad>);
}

}  // namespace torchconv
