// The operators of batch normalisation in training, with a ReLU after it or without: see kernels/norm.inl.

#include <cmath>

#include "dispatch.h"
#include "cpu/kernels.h"
#include "conv/params.h"

namespace torchconv {
namespace {

constexpr int64_t smallest_map = 64;       // contiguous maps below are taken sample by sample, not one by one
constexpr int64_t thread_grain = 1 << 15;  // elements that are worth a thread

// An input as the kernels see it. Where apart, column i of a row is of channel i / repeat % channels.
struct NormPlan {
  MemoryFormat format;
  NormRows n{};
  int64_t repeat = 1, units = 1;

  NormPlan(const Tensor& x, bool relu) : format(MemoryFormat::Contiguous) {
    const int64_t batch = x.size(0), channels = x.size(1),
                  positions = x.numel() / std::max<int64_t>(1, batch * channels);
    if (x.dim() >= 4 && answers_channels_last(x, x))
      format = x.dim() == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d;
    n.channels = channels, n.relu = relu;
    if (format != MemoryFormat::Contiguous || positions == 1) {
      n.rows = batch * positions, n.width = channels;
    } else if (positions < smallest_map) {
      n.rows = batch, n.width = channels * positions, repeat = positions;
    } else {
      n.rows = batch * channels, n.width = positions, n.together = true;
    }
    // Several short rows are one long one, so that vectors are full.
    constexpr int64_t full = 64, longest = 1024;
    while (!n.together && n.width % full != 0 && n.rows % 2 == 0 && n.width <= longest) n.width *= 2, n.rows /= 2;
    constexpr int64_t split = 1 << 17, most = 64;  // elements of a split, splits
    n.splits = n.together ? 1 : std::max<int64_t>(1, std::min({n.rows / 8, x.numel() / split, most}));
    units = n.together ? channels : n.splits;
  }
  int64_t elements() const { return n.rows * n.width; }  // of each channel: elements() / n.channels
  double each() const { return static_cast<double>(elements() / std::max<int64_t>(1, n.channels)); }
  double columns() const { return n.together ? 1 : static_cast<double>(n.width / n.channels); }  // of a channel
  int64_t split_rows(int64_t i) const { return n.rows * (i + 1) / n.splits - n.rows * i / n.splits; }
};

// Two sums a channel and split: first[split][channels], then second.
struct Sums {
  std::vector<double> values;
  int64_t channels, splits;
  explicit Sums(const NormRows& n) : values(2 * n.splits * n.channels), channels(n.channels), splits(n.splits) {}
  double* first(int64_t split) { return values.data() + split * channels; }
  double* second(int64_t split) { return values.data() + (splits + split) * channels; }
};

template <class Run>
void over_rows(const NormRows& n, Run run) {
  parallel_for(0, n.rows, std::max<int64_t>(1, thread_grain / std::max<int64_t>(1, n.width)), run);
}

// Sums over the columns of each channel of f(column, channel), added to `to`.
template <class F>
void fold(const NormPlan& plan, double* to, F f) {
  const int64_t channels = plan.n.channels, period = channels * plan.repeat;
  for (int64_t first = 0; first < plan.n.width; first += period)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = first + c * plan.repeat; i < first + (c + 1) * plan.repeat; ++i) to[c] += f(i, c);
}

// run(unit, first, second) for all units, channels where together and splits where apart; there done(split, first,
// second) then brings columns to channels.
template <class Run, class Done>
void over_units(const NormPlan& plan, Sums& sums, Run run, Done done) {
  parallel_for(0, plan.units, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> columns(plan.n.together ? 0 : 2 * plan.n.width);
    for (int64_t i = begin; i < end; ++i) {
      if (plan.n.together) {
        run(i, sums.first(0), sums.second(0));
      } else {
        run(i, columns.data(), columns.data() + plan.n.width);
        done(i, columns.data(), columns.data() + plan.n.width);
      }
    }
  });
}

// The kernels' constants: arrays of one value a constant and a vector beyond.
template <class A>
class Constants {
 public:
  explicit Constants(const NormPlan& plan) : plan_(plan), pitch_(plan.n.constants() + 16), values_(5 * pitch_, A(0)) {}
  // Array `which`, of value(channel).
  template <class Value>
  void set(int which, Value value) {
    A* to = values_.data() + which * pitch_;
    if (plan_.n.together) {
      for (int64_t c = 0; c < plan_.n.channels; ++c) to[c] = static_cast<A>(value(c));
      return;
    }
    const int64_t period = plan_.n.channels * plan_.repeat;
    for (int64_t c = 0; c < plan_.n.channels; ++c)
      std::fill_n(to + c * plan_.repeat, plan_.repeat, static_cast<A>(value(c)));
    for (int64_t first = period; first < plan_.n.width; first += period) std::copy_n(to, period, to + first);
  }
  NormConstants<A> get() const {
    const A* v = values_.data();
    return {v, v + pitch_, v + 2 * pitch_, v + 3 * pitch_, v + 4 * pitch_};
  }

 private:
  const NormPlan& plan_;
  int64_t pitch_;
  std::vector<A> values_;
};

// The parameters and statistics of a normalisation, in the accumulator's type.
template <class A>
struct Statistics {
  Tensor weight, bias, mean, var;
  double eps;

  const A *weights = weight.defined() ? data<A>(weight) : nullptr, *variances = data<A>(var);

  double scale(int64_t c) const { return 1 / std::sqrt(variances[c] + eps); }
  double gamma(int64_t c) const { return weights ? weights[c] : 1.0; }
  void set(Constants<A>& constants) const {
    const A *means = data<A>(mean), *biases = bias.defined() ? data<A>(bias) : nullptr;
    constants.set(0, [&](int64_t c) { return means[c]; });
    constants.set(1, [&](int64_t c) { return gamma(c) * scale(c); });
    constants.set(2, [&](int64_t c) { return biases ? biases[c] : 0.0; });
  }
};

Tensor in(const std::optional<Tensor>& t, ScalarType type) {
  return t.has_value() ? t->to(type).contiguous() : Tensor();
}
ScalarType accumulator_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// name: of the operator.
void check(const char* name, const Tensor& input, const std::optional<Tensor>& weight,
           const std::optional<Tensor>& bias) {
  TORCH_CHECK(input.dim() >= 2 && input.dim() <= 5, name, ": expected an input of 2 to 5 axes, got shape ",
              input.sizes());
  TORCH_CHECK(input.numel() > 0, name, ": expected an input with at least one element, got shape ", input.sizes());
  for (const auto& t : {weight, bias}) {
    if (!t.has_value()) continue;
    TORCH_CHECK(t->dim() == 1 && t->size(0) == input.size(1), name, ": expected a weight and a bias of ", input.size(1),
                " elements for an input of shape ", input.sizes(), ", got shape ", t->sizes());
    TORCH_CHECK(t->scalar_type() == input.scalar_type() || t->scalar_type() == accumulator_type(input), name,
                ": expected a weight and a bias of ", accumulator_type(input), ", or of the input's ",
                input.scalar_type(), ", got ", t->scalar_type());
  }
}

void check_statistic(const char* what, const Tensor& t, const Tensor& input) {
  TORCH_CHECK(t.dim() == 1 && t.size(0) == input.size(1) && t.scalar_type() == accumulator_type(input),
              "batch_norm_grad: expected ", what, " of ", input.size(1), " ", accumulator_type(input),
              " elements for a ", input.scalar_type(), " input of shape ", input.sizes(), ", got ", t.scalar_type(),
              " of shape ", t.sizes());
}

// A split's moments of channels, from those of columns, all of as many rows.
void fold_moments(const NormPlan& plan, int64_t split, const double* means, const double* squares, Sums& sums) {
  const double rows = static_cast<double>(plan.split_rows(split));
  double *mean = sums.first(split), *square = sums.second(split);
  fold(plan, mean, [&](int64_t i, int64_t) { return means[i]; });
  for (int64_t c = 0; c < plan.n.channels; ++c) mean[c] /= plan.columns();
  fold(plan, square,
       [&](int64_t i, int64_t c) { return squares[i] + rows * (means[i] - mean[c]) * (means[i] - mean[c]); });
}

// Means and biased variances of the channels, from those of the splits.
template <class A>
void store_moments(const NormPlan& plan, Sums& sums, const Tensor& mean, const Tensor& var) {
  for (int64_t c = 0; c < plan.n.channels; ++c) {
    double count = 0, all = 0, squares = 0;
    for (int64_t split = 0; split < plan.n.splits; ++split) {
      const double n = static_cast<double>(plan.n.together ? 1 : plan.split_rows(split));
      const double delta = sums.first(split)[c] - all, share = n / (count + n);
      // In units of rows, of which each has as many elements of the channel.
      all += delta * share, squares += sums.second(split)[c] + delta * delta * count * share * plan.columns(),
          count += n;
    }
    mutable_data<A>(mean)[c] = static_cast<A>(all);
    mutable_data<A>(var)[c] = static_cast<A>(squares / plan.each());
  }
}

std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& input, const std::optional<Tensor>& weight,
                                              const std::optional<Tensor>& bias, double eps, bool relu) {
  check("batch_norm", input, weight, bias);
  const NormPlan plan(input, relu);
  const Tensor x = input.contiguous(plan.format);
  const auto type = accumulator_type(input);
  Tensor y = empty(input.sizes(), input.scalar_type(), plan.format);
  Tensor mean = empty({input.size(1)}, type), var = empty({input.size(1)}, mean.scalar_type());
  for_dtype("batch_norm", input.scalar_type(), [&]<class T>(T) {
    using A = accumulator_t<T>;
    const auto& k = kernels<T>().norm;
    Sums sums(plan.n);
    over_units(
        plan, sums,
        [&](int64_t i, double* means, double* squares) { k.moments(plan.n, i, data<T>(x), means, squares); },
        [&](int64_t i, double* means, double* squares) { fold_moments(plan, i, means, squares, sums); });
    store_moments<A>(plan, sums, mean, var);
    Constants<A> constants(plan);
    Statistics<A>{in(weight, type), in(bias, type), mean, var, eps}.set(constants);
    over_rows(plan.n, [&](int64_t begin, int64_t end) {
      k.normalise(plan.n, begin, end, constants.get(), data<T>(x), mutable_data<T>(y));
    });
  });
  return {y, mean, var};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_grad(const Tensor& grad, const Tensor& input,
                                                   const std::optional<Tensor>& weight,
                                                   const std::optional<Tensor>& bias, const Tensor& mean,
                                                   const Tensor& var, double eps, bool relu) {
  check("batch_norm_grad", input, weight, bias);
  TORCH_CHECK(grad.sizes() == input.sizes() && grad.scalar_type() == input.scalar_type(),
              "batch_norm_grad: the gradient is ", grad.scalar_type(), " of shape ", grad.sizes(), " but the input ",
              input.scalar_type(), " of shape ", input.sizes());
  check_statistic("a mean", mean, input);
  check_statistic("a variance", var, input);
  const NormPlan plan(input, relu);
  const Tensor x = input.contiguous(plan.format), dy = grad.contiguous(plan.format);
  const auto type = accumulator_type(input);
  Tensor dx = empty(input.sizes(), input.scalar_type(), plan.format);
  Tensor dweight = empty({input.size(1)}, mean.scalar_type()), dbias = empty({input.size(1)}, mean.scalar_type());
  for_dtype("batch_norm_grad", input.scalar_type(), [&]<class T>(T) {
    using A = accumulator_t<T>;
    const auto& k = kernels<T>().norm;
    const Statistics<A> s{in(weight, type), in(bias, type), mean.contiguous(), var.contiguous(), eps};
    Constants<A> constants(plan);
    s.set(constants);
    Sums sums(plan.n);
    over_units(
        plan, sums,
        [&](int64_t i, double* grads, double* products) {
          k.grad_sums(plan.n, i, constants.get(), data<T>(dy), data<T>(x), grads, products);
        },
        [&](int64_t i, double* grads, double* products) {
          fold(plan, sums.first(i), [&](int64_t column, int64_t) { return grads[column]; });
          fold(plan, sums.second(i), [&](int64_t column, int64_t) { return products[column]; });
        });
    std::vector<double> grads(plan.n.channels), products(plan.n.channels), scale(plan.n.channels);
    for (int64_t c = 0; c < plan.n.channels; ++c) {
      for (int64_t split = 0; split < plan.n.splits; ++split)
        grads[c] += sums.first(split)[c], products[c] += sums.second(split)[c];
      scale[c] = s.scale(c);
      mutable_data<A>(dbias)[c] = static_cast<A>(grads[c]);
      mutable_data<A>(dweight)[c] = static_cast<A>(products[c] * scale[c]);
    }
    constants.set(3, [&](int64_t c) { return grads[c] / plan.each(); });
    constants.set(4, [&](int64_t c) { return products[c] * scale[c] * scale[c] / plan.each(); });
    over_rows(plan.n, [&](int64_t begin, int64_t end) {
      k.input_grad(plan.n, begin, end, constants.get(), data<T>(dy), data<T>(x), mutable_data<T>(dx));
    });
  });
  return {dx, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("batch_norm", boxed<batch_norm>);
  m.impl("batch_norm_grad", boxed<batch_norm_grad>);
}

}  // namespace torchconv
