// Local response normalisation and its derivative, as operators: check, allocate, run over units in parallel.

#include <algorithm>

#include "buffer.h"
#include "dispatch.h"
#include "cpu/kernels.h"

namespace torchconv {
namespace {

ResponseNorm norm_of(const Tensor& x, int64_t size, double alpha, double beta, double k) {
  TORCH_CHECK(x.dim() >= 3, "local_response_norm: expected an input of 3 axes or more, got shape ", x.sizes());
  for_dtype("local_response_norm", x.scalar_type(), [](auto) {});
  TORCH_CHECK(size >= 1, "local_response_norm: size must be at least 1, got ", size);
  ResponseNorm g{};
  g.batch = x.size(0), g.channels = x.size(1), g.positions = 1;
  for (int64_t a = 2; a < x.dim(); ++a) g.positions *= x.size(a);
  const int64_t farthest = std::max<int64_t>(g.channels - 1, 0);  // past it every channel reads zeros
  g.channels_last = is_channels_last(x.suggest_memory_format());
  g.before = std::min(size / 2, farthest), g.after = std::min((size - 1) / 2, farthest);
  g.size = static_cast<double>(size), g.alpha = alpha, g.beta = beta, g.k = k;
  return g;
}

template <class T, class Run>
void parallel(const ResponseNorm& g, Run run) {
  constexpr int64_t kWorthAThread = 32768;
  const int64_t units = lrn_units(g), unit = g.batch * g.channels * g.positions / std::max<int64_t>(units, 1) + 1;
  parallel_for(0, units, std::max<int64_t>(kWorthAThread / unit, 1), [&](int64_t begin, int64_t end) {
    const Buffer<accumulator_t<T>> scratch(lrn_scratch(g));
    run(scratch.get(), begin, end);
  });
}

Tensor local_response_norm(const Tensor& input, int64_t size, double alpha, double beta, double k) {
  const ResponseNorm g = norm_of(input, size, alpha, beta, k);
  const auto format = input.suggest_memory_format();
  const Tensor x = input.contiguous(format), y = empty(input.sizes(), input.scalar_type(), format);
  if (y.numel() > 0)
    for_dtype("local_response_norm", input.scalar_type(), [&]<class T>(T) {
      parallel<T>(g, [&](accumulator_t<T>* scratch, int64_t begin, int64_t end) {
        kernels<T>().local_norm.forward(g, data<T>(x), mutable_data<T>(y), scratch, begin, end);
      });
    });
  return y;
}

Tensor local_response_norm_grad(const Tensor& grad, const Tensor& input, int64_t size, double alpha, double beta,
                                double k) {
  const ResponseNorm g = norm_of(input, size, alpha, beta, k);
  TORCH_CHECK(grad.sizes() == input.sizes() && grad.scalar_type() == input.scalar_type(),
              "local_response_norm: the input is ", input.scalar_type(), " of shape ", input.sizes(),
              " but the output gradient is ", grad.scalar_type(), " of shape ", grad.sizes());
  const auto format = input.suggest_memory_format();
  const Tensor x = input.contiguous(format), dy = grad.contiguous(format);
  const Tensor dx = empty(input.sizes(), input.scalar_type(), format);
  if (dx.numel() > 0)
    for_dtype("local_response_norm", input.scalar_type(), [&]<class T>(T) {
      parallel<T>(g, [&](accumulator_t<T>* scratch, int64_t begin, int64_t end) {
        kernels<T>().local_norm.grad(g, data<T>(dy), data<T>(x), mutable_data<T>(dx), scratch, begin, end);
      });
    });
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("local_response_norm", boxed<local_response_norm>);
  m.impl("local_response_norm_grad", boxed<local_response_norm_grad>);
}

}  // namespace torchconv
