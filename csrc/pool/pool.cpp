// The pooling operators: check once, allocate in the memory format PyTorch would answer in, and run the kernel over
// units of work in parallel.

#include <algorithm>
#include <memory>
#include <new>

#include "checked.h"
#include "dispatch.h"
#include "cpu/kernels.h"
#include "pool/params.h"
#include "pool/pool.h"

namespace torchconv {
namespace {

// Calls run(scratch, begin, end) over blocks of the plan's units, with accumulators of T to itself. `work` is the
// elements touched in all: small poolings stay on one thread.
template <class T, class Run>
void parallel(const PoolGeometry& g, int64_t work, Run run) {
  using A = accumulator_t<T>;
  constexpr int64_t kWorthAThread = 32768;
  struct Free {
    void operator()(A* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  const int64_t unit = std::max<int64_t>(work / std::max<int64_t>(g.units, 1), 1);
  parallel_for(0, g.units, std::max<int64_t>(kWorthAThread / unit, 1), [&](int64_t begin, int64_t end) {
    const std::unique_ptr<A[], Free> scratch(
        g.scratch == 0 ? nullptr : static_cast<A*>(::operator new[](g.scratch * sizeof(A), std::align_val_t(64))));
    run(scratch.get(), begin, end);
  });
}

void check_same_shape(const std::string& name, const char* what, IntArrayRef size, IntArrayRef expected) {
  TORCH_CHECK(size == expected, name, ": expected ", what, " of shape ", expected, ", got ", size);
}

void check_positions(const std::string& name, const Tensor& positions, const PoolPlan& plan) {
  check_same_shape(name, "positions", positions.sizes(), plan.output_sizes);
  TORCH_CHECK(positions.scalar_type() == plan.position_dtype, name, ": expected positions of dtype ",
              plan.position_dtype, " for a window of ", plan.geometry.window, " elements, got ",
              positions.scalar_type());
}

// The output's spatial size, which is that of the positions or of the gradient handed in. Raises unless its maps are
// the input's: a plan's tables are as long as the sides that it is told.
IntArrayRef spatial(const std::string& name, const char* what, const Tensor& t, IntArrayRef input_size) {
  TORCH_CHECK(t.dim() >= 3 && t.dim() <= 5, name, ": expected a batched tensor of 3 to 5 axes, got shape ", t.sizes());
  if (static_cast<int64_t>(input_size.size()) == t.dim()) {  // or the plan refuses
    std::vector<int64_t> expected = t.sizes().vec();
    std::copy(input_size.begin(), input_size.begin() + 2, expected.begin());
    check_same_shape(name, what, t.sizes(), expected);
  }
  return t.sizes().slice(2);
}

std::tuple<Tensor, Tensor> max_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                                    IntArrayRef padding, IntArrayRef dilation, IntArrayRef output_size) {
  const PoolWindow window{"max_pool", kernel_size, stride, padding, dilation};
  const auto format = input.suggest_memory_format();
  const PoolPlan plan(window, input.scalar_type(), input.sizes(), output_size, is_channels_last(format),
                      PoolDirection::forward);
  const auto output = empty(plan.output_sizes, input.scalar_type(), format);
  const auto positions = empty(plan.output_sizes, plan.position_dtype, format);
  const auto x = input.contiguous(format);
  for_dtype(window.name, input.scalar_type(), [&]<class T>(T) {
    parallel<T>(plan.geometry, or_most(Checked(output.numel()) * plan.geometry.window),
                [&](accumulator_t<T>* scratch, int64_t begin, int64_t end) {
                  kernels<T>().pool.max_pool(plan.geometry, data<T>(x), mutable_data<T>(output),
                                             positions.mutable_data_ptr(), scratch, begin, end);
                });
  });
  return {output, positions};
}

std::tuple<Tensor, Tensor> max_pool_relu(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                                         IntArrayRef padding, IntArrayRef dilation, IntArrayRef output_size) {
  auto result = max_pool(input, kernel_size, stride, padding, dilation, output_size);
  call("aten::relu_", "",
       std::get<0>(result));  // of the pooled map, which is in cache: max(0, ·) and the maximum of a window commute
  return result;
}

Tensor max_pool_scatter(const Tensor& grad, const Tensor& positions, IntArrayRef input_size, IntArrayRef kernel_size,
                        IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation) {
  const PoolWindow window{"max_pool_scatter", kernel_size, stride, padding, dilation};
  check_same_shape(window.name, "a gradient", grad.sizes(), positions.sizes());
  const auto format = positions.suggest_memory_format();
  const PoolPlan plan(window, grad.scalar_type(), input_size, spatial(window.name, "positions", positions, input_size),
                      is_channels_last(format), PoolDirection::transposed);
  check_positions(window.name, positions, plan);
  const auto output = empty(input_size, grad.scalar_type(), format);
  const auto dy = grad.contiguous(format), kept = positions.contiguous(format);
  for_dtype(window.name, grad.scalar_type(), [&]<class T>(T) {
    parallel<T>(plan.geometry, output.numel(), [&](accumulator_t<T>* scratch, int64_t begin, int64_t end) {
      kernels<T>().pool.scatter(plan.geometry, data<T>(dy), kept.const_data_ptr(), mutable_data<T>(output), scratch,
                                begin, end);
    });
  });
  return output;
}

Tensor max_pool_gather(const Tensor& input, const Tensor& positions, IntArrayRef kernel_size, IntArrayRef stride,
                       IntArrayRef padding, IntArrayRef dilation) {
  const PoolWindow window{"max_pool_gather", kernel_size, stride, padding, dilation};
  const auto format = positions.suggest_memory_format();
  const PoolPlan plan(window, input.scalar_type(), input.sizes(),
                      spatial(window.name, "positions", positions, input.sizes()), is_channels_last(format),
                      PoolDirection::kept);
  check_positions(window.name, positions, plan);
  const auto output = empty(plan.output_sizes, input.scalar_type(), format);
  const auto x = input.contiguous(format), kept = positions.contiguous(format);
  for_dtype(window.name, input.scalar_type(), [&]<class T>(T) {
    parallel<T>(plan.geometry, output.numel(), [&](accumulator_t<T>*, int64_t begin, int64_t end) {
      kernels<T>().pool.gather(plan.geometry, data<T>(x), kept.const_data_ptr(), mutable_data<T>(output), begin, end);
    });
  });
  return output;
}

Tensor max_pool_indices(const Tensor& positions, IntArrayRef input_size, IntArrayRef kernel_size, IntArrayRef stride,
                        IntArrayRef padding, IntArrayRef dilation) {
  const PoolWindow window{"max_pool_indices", kernel_size, stride, padding, dilation};
  const auto format = positions.suggest_memory_format();
  const PoolPlan plan(window, ScalarType::Float, input_size, spatial(window.name, "positions", positions, input_size),
                      is_channels_last(format), PoolDirection::kept);
  check_positions(window.name, positions, plan);
  const auto output = empty(plan.output_sizes, ScalarType::Long, format);
  const auto kept = positions.contiguous(format);
  parallel<float>(plan.geometry, output.numel(), [&](float*, int64_t begin, int64_t end) {
    kernels<float>().pool.indices(plan.geometry, kept.const_data_ptr(), mutable_data<int64_t>(output), begin, end);
  });
  return output;
}

// A mean's windows are never dilated.
std::vector<int64_t> undilated(IntArrayRef kernel_size) { return std::vector<int64_t>(kernel_size.size(), 1); }

Tensor avg_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                IntArrayRef output_size, bool count_include_pad, std::optional<int64_t> divisor_override) {
  const auto dilation = undilated(kernel_size);
  const PoolWindow window{"avg_pool", kernel_size, stride, padding, dilation};
  const auto format = input.suggest_memory_format();
  const PoolPlan plan(window, input.scalar_type(), input.sizes(), output_size, is_channels_last(format),
                      PoolDirection::forward, PoolDivisor{count_include_pad, divisor_override});
  const auto output = empty(plan.output_sizes, input.scalar_type(), format);
  const auto x = input.contiguous(format);
  for_dtype(window.name, input.scalar_type(), [&]<class T>(T) {
    parallel<T>(plan.geometry, or_most(Checked(output.numel()) * plan.geometry.window),
                [&](accumulator_t<T>* scratch, int64_t begin, int64_t end) {
                  kernels<T>().pool.avg_pool(plan.geometry, data<T>(x), mutable_data<T>(output), scratch, begin, end);
                });
  });
  return output;
}

Tensor avg_pool_spread(const Tensor& grad, IntArrayRef input_size, IntArrayRef kernel_size, IntArrayRef stride,
                       IntArrayRef padding, bool count_include_pad, std::optional<int64_t> divisor_override,
                       MemoryFormat format) {
  const auto dilation = undilated(kernel_size);
  const PoolWindow window{"avg_pool_spread", kernel_size, stride, padding, dilation};
  const PoolPlan plan(window, grad.scalar_type(), input_size, spatial(window.name, "a gradient", grad, input_size),
                      is_channels_last(format), PoolDirection::transposed,
                      PoolDivisor{count_include_pad, divisor_override});
  check_same_shape(window.name, "a gradient", grad.sizes(), plan.output_sizes);
  const auto output = empty(input_size, grad.scalar_type(), format);
  const auto dy = grad.contiguous(format);
  for_dtype(window.name, grad.scalar_type(), [&]<class T>(T) {
    parallel<T>(plan.geometry, output.numel(), [&](accumulator_t<T>* scratch, int64_t begin, int64_t end) {
      kernels<T>().pool.spread(plan.geometry, data<T>(dy), mutable_data<T>(output), scratch, begin, end);
    });
  });
  return output;
}

}  // namespace

Tensor run_max_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                    IntArrayRef dilation, IntArrayRef output_size, bool relu) {
  const auto pool = relu ? max_pool_relu : max_pool;
  return std::get<0>(pool(input, kernel_size, stride, padding, dilation, output_size));
}

Tensor run_avg_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                    IntArrayRef output_size, bool count_include_pad, std::optional<int64_t> divisor_override) {
  return avg_pool(input, kernel_size, stride, padding, output_size, count_include_pad, divisor_override);
}

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("max_pool", boxed<max_pool>);
  m.impl("max_pool_relu", boxed<max_pool_relu>);
  m.impl("max_pool_scatter", boxed<max_pool_scatter>);
  m.impl("max_pool_gather", boxed<max_pool_gather>);
  m.impl("max_pool_indices", boxed<max_pool_indices>);
  m.impl("avg_pool", boxed<avg_pool>);
  m.impl("avg_pool_spread", boxed<avg_pool_spread>);
}

}  // namespace torchconv
