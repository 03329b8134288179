// Convolution through the Fourier transform, over tiles of the result: PyTorch's transforms, and between them products
// of frequencies by the direct kernels, so that a result depends neither on the batch nor on the number of threads.
//
// With stride 1, of a patch X of L points along each axis and a filter of K (dilated) points padded with zeros to L,
//   z = IDFT(DFT(X) · conj(DFT(w)))   holds  z[u] = Σ_k w[k] X[u + k]  at 0 <= u <= L − K, free of wrapped points,
//   x̄ = IDFT(DFT(Ȳ) · DFT(w))         holds  x̄[u] = Σ_k w[k] Ȳ[u − k]  at K − 1 <= u < L,
//   w̄ = IDFT(Σ DFT(X) · conj(DFT(Ȳ))) holds  w̄[k] = Σ_u Ȳ[u] X[u + k]  where Ȳ is zero beyond L − K.
// A stride keeps every stride-th z, and puts zeros between the elements of Ȳ. Source: Oppenheim and Schafer,
// overlap-save.
#include <algorithm>
#include <vector>

#include "buffer.h"
#include "conv/algorithm.h"
#include "conv/direct/correlate.h"
#include "conv/direct/direct.h"
#include "conv/fft/tiles.h"
#include "cpu/kernels.h"
#include "dispatch.h"
#include "conv/gather.h"

// MKL's own, where PyTorch's transforms are MKL's; null elsewhere.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace torchconv {
namespace fft {
namespace {

// MKL rounds some transforms otherwise where it may use several threads: within the life of this it may use one. Torch
// tells MKL its own number once on every thread, when that is first asked for the number: this comes before.
struct OneThread {
  int before = 0;
  OneThread() {
    get_num_threads();
    if (MKL_Set_Num_Threads_Local) before = MKL_Set_Num_Threads_Local(1);
  }
  ~OneThread() {
    if (MKL_Set_Num_Threads_Local) MKL_Set_Num_Threads_Local(before);
  }
};

// A sample and the first target position of a tile of it.
struct Place {
  int64_t n, at[3];
};
Place place_of(const Axes& axes, int64_t i) {
  Place place{};
  for (int a = 2; a >= 0; --a) place.at[a] = i % axes[a].tiles() * axes[a].tile, i /= axes[a].tiles();
  place.n = i;
  return place;
}

// [N, C, spatial...] with three spatial axes.
Tensor lifted(Tensor t) {
  while (t.dim() < 5) t = t.unsqueeze(2);
  return t;
}

// The part of `whole` [C, D, H, W] whose elements lie at positions step·e of [begin, end) along each axis, and where in
// a patch that begins at `begin` they go: both empty where there are none.
struct Overlap {
  Tensor whole, patch;
};
Overlap overlap(Tensor whole, Tensor patch, const std::array<int64_t, 3>& begin, const std::array<int64_t, 3>& length,
                const std::array<int64_t, 3>& step, int64_t offset) {
  for (int a = 0; a < 3; ++a) {
    const int64_t first = std::max<int64_t>(0, (begin[a] + step[a] - 1) / step[a]);
    const int64_t end = begin[a] + length[a], last = end <= 0 ? 0 : (end - 1) / step[a] + 1;  // elements [first, last)
    const int64_t count = std::max<int64_t>(0, std::min(last, whole.size(1 + a)) - first);
    whole = whole.narrow(1 + a, count > 0 ? first : 0, count);
    patch = count > 0 ? patch.slice(1 + a, first * step[a] - begin[a] + offset,
                                    (first + count - 1) * step[a] - begin[a] + offset + 1, step[a])
                      : patch.narrow(1 + a, 0, 0);
  }
  return {whole, patch};
}

// Maps [first, first + count) of item `item` of [items, maps, D, H, W], as a tensor of its own: it may be read and
// written on any thread, where a view of an inference tensor may not.
Tensor maps_of(const Tensor& all, int64_t item, int64_t first, int64_t count) {
  const int64_t map = all.stride(1), offset = item * all.stride(0) + first * map;
  auto* data = static_cast<char*>(const_cast<void*>(all.const_data_ptr())) + offset * element_size(all.scalar_type());
  return from_blob(data, {count, all.size(2), all.size(3), all.size(4)}, all.scalar_type());
}

// to[i][j] = f(from[i][j]) for maps j of items i, some maps of one item at a time, each on one thread. MKL rounds a map
// otherwise by how many it is given with and where it stands among them, so no part holds maps of two items.
template <class F>
void in_parts(const Tensor& source, const Tensor& to, F f) {
  constexpr int64_t worth_a_task = 1 << 16;
  const Tensor from = source.contiguous();
  const int64_t items = from.size(0), maps = from.size(1);
  const int64_t points = std::max<int64_t>(1, from.numel() / std::max<int64_t>(1, items * maps));
  const int64_t each = std::max<int64_t>(1, worth_a_task / points), parts = blocks_of(maps, each);
  parallel_for(0, items * parts, 1, [&](int64_t begin, int64_t end) {
    const OneThread one;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % parts * each, count = std::min(maps - first, each);
      maps_of(to, i / parts, first, count).copy_(f(maps_of(from, i / parts, first, count)));
    }
  });
}

constexpr std::array<int64_t, 3> spatial{1, 2, 3};  // of maps [maps, D, H, W]
using Sizes = std::optional<IntArrayRef>;
using Name = std::optional<std::string>;  // of a normalisation: the default one

// [n, c, D, H, W] real -> [n, c, D, H, W / 2 + 1] complex, and back.
Tensor transform(const Tensor& t) {
  const auto type = t.scalar_type() == ScalarType::Double ? ScalarType::ComplexDouble : ScalarType::ComplexFloat;
  const Tensor out = empty({t.size(0), t.size(1), t.size(2), t.size(3), t.size(4) / 2 + 1}, type);
  in_parts(t, out,
           [](const Tensor& maps) { return call("aten::fft_rfftn", "", maps, Sizes(), Sizes(spatial), Name()); });
  return out;
}
Tensor inverse(const Tensor& t, const Axes& axes) {
  const auto size = each(axes, &Axis::points);
  const auto type = t.scalar_type() == ScalarType::ComplexDouble ? ScalarType::Double : ScalarType::Float;
  const Tensor out = empty({t.size(0), t.size(1), size[0], size[1], size[2]}, type);
  in_parts(t, out,
           [&](const Tensor& maps) { return call("aten::fft_irfftn", "", maps, Sizes(size), Sizes(spatial), Name()); });
  return out;
}

ScalarType working_type(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// [patches, channels, frequencies...]: the transforms of patches [begin, end) of `source`, each of `length` positions.
Tensor patches(const Axes& axes, const Tensor& source, int64_t begin, int64_t end, const std::array<int64_t, 3>& shift,
               const std::array<int64_t, 3>& length, const std::array<int64_t, 3>& step) {
  const auto size = each(axes, &Axis::points);
  Tensor all = zeros({end - begin, source.size(1), size[0], size[1], size[2]}, working_type(source.scalar_type()));
  for (int64_t i = begin; i < end; ++i) {
    const Place place = place_of(axes, i);
    std::array<int64_t, 3> first{};
    for (int a = 0; a < 3; ++a) first[a] = place.at[a] + shift[a];
    const Overlap parts = overlap(source.select(0, place.n), all.select(0, i - begin), first, length, step, 0);
    if (parts.whole.numel() > 0) parts.patch.copy_(parts.whole);
  }
  return transform(all);
}

// run(begin, end) over all (sample, tile)s, a chunk at a time.
template <class Run>
void over_chunks(const ConvParams& p, const Axes& axes, Run run) {
  const int64_t chunk = chunk_of(p, axes), all = p.batch * tiles(axes);
  for (int64_t begin = 0; begin < all; begin += chunk) run(begin, std::min(all, begin + chunk));
}

// The transform of the filters [O, C/groups, frequencies...].
Tensor filters(const ConvParams& p, const Axes& axes, const Tensor& weight) {
  const auto size = each(axes, &Axis::points);
  Tensor all = zeros({p.out_channels, p.in_per_group(), size[0], size[1], size[2]}, working_type(weight.scalar_type()));
  Tensor part = all;
  for (int a = 0; a < 3; ++a) part = part.slice(2 + a, 0, axes[a].reach, p.dilation[a]);
  part.copy_(lifted(weight));
  return transform(all);
}

// ---- products of frequencies ----

// [n, groups·c, F...] complex -> [F, groups, (re, im), c, n] real.
Tensor by_frequency(const Tensor& t, int64_t groups) {
  return view_as_real(t.contiguous())
      .view({t.size(0), groups, t.size(1) / groups, -1, 2})
      .permute({3, 1, 4, 2, 0})
      .contiguous();
}

// The 1×1 convolution in one dimension, of as many groups as frequencies and groups, that a product of frequencies is.
ConvParams product_params(int64_t all_groups, int64_t c, int64_t m, int64_t n, ScalarType type) {
  const std::array<int64_t, 1> one{1};
  const std::array<int64_t, 2> none{0, 0};
  return conv_params({1, all_groups * c, n}, {all_groups * m, c, 1}, {one, none, one, all_groups}, type, false);
}

// Y = X · W over channels: X [n, groups·c, F...] complex, matrix [F, groups, 2m, 2c] real, of (re, im) by channels.
Tensor multiplied(const ConvParams& p, const Tensor& x, const Tensor& matrix) {
  const int64_t groups = p.groups, all = matrix.size(0) * groups, m = matrix.size(2), c = matrix.size(3), n = x.size(0);
  const Tensor source = by_frequency(x, groups).view({1, all * c, n}), weight = matrix.view({all * m, c, 1});
  Tensor target = empty({1, all * m, n}, source.scalar_type());
  const ConvParams product = product_params(all, c, m, n, source.scalar_type());
  const auto run = [&]<class T>(T) {
    run_direct<T>(alone(forward_gather(product, view(source), view(target), view(weight))), false, data<T>(source),
                  data<T>(weight), nullptr, mutable_data<T>(target));
  };
  for_dtype("fft", source.scalar_type(), run);
  std::vector<int64_t> size = x.sizes().vec();
  size[1] = groups * m / 2;
  return view_as_complex(target.view({matrix.size(0), groups, 2, m / 2, n}).permute({4, 1, 3, 0, 2}).contiguous())
      .view(size);
}

// sums [F, groups, 2m, 2c] += Σ over patches of Ȳ's parts times X's.
void add_products(const ConvParams& p, const Tensor& gy, const Tensor& x, Tensor& sums) {
  const int64_t all = sums.size(0) * p.groups, m = sums.size(2), c = sums.size(3), n = x.size(0);
  const Tensor source = by_frequency(x, p.groups).view({1, all * c, n});
  const Tensor grad = by_frequency(gy, p.groups).view({1, all * m, n});
  Tensor part = empty({all * m, c, 1}, source.scalar_type());
  const ConvParams product = product_params(all, c, m, n, source.scalar_type());
  for_dtype("fft", source.scalar_type(), [&]<class T>(T) {
    run_correlate<T>(forward_gather(product, view(source), view(grad), view(part)).gather, false, data<T>(source),
                     data<T>(grad), mutable_data<T>(part));
  });
  sums.add_(part.view(sums.sizes()));
}

// The filters' transform as the real matrix of `multiplied`: conj(W) from c to m channels, or W from m to c.
Tensor matrix_of(const ConvParams& p, const Tensor& w, bool back) {
  const int64_t m = p.out_per_group(), c = p.in_per_group(), all = w.numel() / (w.size(0) * w.size(1));
  const Tensor parts = view_as_real(w).view({p.groups, m, c, all, 2});
  const Tensor order = (back ? parts.permute({4, 3, 0, 2, 1}) : parts.permute({4, 3, 0, 1, 2})).contiguous();
  const Tensor re = order.select(0, 0), im = order.select(0, 1);  // [F, groups, m, c], or [.., c, m]
  Tensor matrix = empty({all, p.groups, 2, re.size(2), 2, re.size(3)}, re.scalar_type());
  const auto part = [&](int64_t i, int64_t j) { return matrix.select(2, i).select(3, j); };
  part(0, 0).copy_(re), part(1, 1).copy_(re);
  // (a + bi)(re − im i) = (a re + b im) + (b re − a im) i, and (a + bi)(re + im i)
  part(0, 1).copy_(im), part(1, 0).copy_(im);
  call("aten::neg_", "", part(back ? 0 : 1, back ? 1 : 0));
  return matrix.view({all, p.groups, 2 * re.size(2), 2 * re.size(3)});
}

// Where each group has one input channel, products are element by element.
// out[i] = Σ over `terms` of a[i]·b[i] or a[i]·conj(b[i]), for `items` rows of `length`.
template <class Offsets>
void products_by_row(const Tensor& a, const Tensor& b, const Tensor& out, bool conjugate, int64_t items, int64_t terms,
                     int64_t length, Offsets offsets) {
  const Tensor ar = view_as_real(a), br = view_as_real(b), to = view_as_real(out);
  for_dtype("fft", ar.scalar_type(), [&]<class T>(T) {
    using A = accumulator_t<T>;
    parallel_for(0, items, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t t = 0; t < terms; ++t) {
          const auto [a_row, b_row] = offsets(i, t);
          kernels<T>().complex.products(length, data<A>(ar) + 2 * a_row * length, data<A>(br) + 2 * b_row * length,
                                        conjugate, t > 0, mutable_data<A>(to) + 2 * i * length);
        }
    });
  });
}

// Runs `product` of transforms of the source's patches to transforms of the target's tiles.
template <class Product>
void run_pass(const ConvParams& p, const Axes& axes, const Tensor& source, const Tensor& target, Product product) {
  const Tensor from = lifted(source), to = lifted(target);
  over_chunks(p, axes, [&](int64_t begin, int64_t end) {
    const Tensor result = inverse(product(patches(axes, from, begin, end, each(axes, &Axis::shift),
                                                  each(axes, &Axis::points), each(axes, &Axis::source_step))),
                                  axes);
    for (int64_t i = begin; i < end; ++i) {
      const Place place = place_of(axes, i);
      Tensor whole = to.select(0, place.n), tile = result.select(0, i - begin);
      for (int a = 0; a < 3; ++a) tile = tile.narrow(1 + a, axes[a].first, axes[a].tile);
      const Overlap parts = overlap(whole, tile, {place.at[0], place.at[1], place.at[2]}, each(axes, &Axis::tile),
                                    each(axes, &Axis::target_step), 0);
      if (parts.whole.numel() > 0) parts.whole.copy_(parts.patch);
    }
  });
}

// ---- the record ----

void forward(const ConvParams& p, const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu,
             const Tensor& y) {
  const Axes axes = axes_of(p, Direction::forward);
  const Tensor w = filters(p, axes, weight);
  const int64_t outputs = p.out_channels, multiplier = p.out_per_group(), length = frequencies(axes);
  if (p.in_per_group() == 1) {
    run_pass(p, axes, x, y, [&](const Tensor& t) {  // [n, C, F...] -> [n, O, F...]
      Tensor out = empty({t.size(0), outputs, t.size(2), t.size(3), t.size(4)}, t.scalar_type());
      products_by_row(t, w, out, true, t.size(0) * outputs, 1, length,
                      [&](int64_t i, int64_t) { return std::pair(i / multiplier, i % outputs); });
      return out;
    });
  } else {
    const Tensor matrix = matrix_of(p, w, false);
    run_pass(p, axes, x, y, [&](const Tensor& t) { return multiplied(p, t, matrix); });
  }
  // A sample at a time, so that what the sum needs besides does not grow with the batch.
  for (int64_t n = 0; bias.defined() && n < y.size(0); ++n) {
    const Tensor sample = lifted(y).select(0, n);
    sample.copy_(subtract(sample, bias.alias().view({-1, 1, 1, 1}), -1));
  }
  if (relu) call("aten::relu_", "", y);
}

void input_grad(const ConvParams& p, const Tensor& gy, const Tensor& weight, const Tensor& gx) {
  const Axes axes = axes_of(p, Direction::input_grad);
  const Tensor w = filters(p, axes, weight);
  const int64_t inputs = p.in_channels, multiplier = p.out_per_group(), length = frequencies(axes);
  if (p.in_per_group() == 1) {
    run_pass(p, axes, gy, gx, [&](const Tensor& t) {  // [n, O, F...] -> [n, C, F...]
      Tensor out = empty({t.size(0), inputs, t.size(2), t.size(3), t.size(4)}, t.scalar_type());
      products_by_row(t, w, out, false, t.size(0) * inputs, multiplier, length,
                      [&](int64_t i, int64_t m) { return std::pair(i * multiplier + m, i % inputs * multiplier + m); });
      return out;
    });
  } else {
    const Tensor matrix = matrix_of(p, w, true);
    run_pass(p, axes, gy, gx, [&](const Tensor& t) { return multiplied(p, t, matrix); });
  }
}

void weight_grad(const ConvParams& p, const Tensor& gy, const Tensor& x, const Tensor& gw) {
  const Axes axes = axes_of(p, Direction::weight_grad);
  const Tensor from = lifted(x), grad = lifted(gy);
  const bool apart = p.in_per_group() == 1;
  const int64_t outputs = p.out_channels, m = p.out_per_group(), c = p.in_per_group(), length = frequencies(axes);
  const std::array<int64_t, 5> size{outputs, c, axes[0].points, axes[1].points, axes[2].points / 2 + 1};
  const auto real = working_type(p.dtype);
  // Transforms of the result as complex numbers where apart, else [F, groups, 2m, 2c] of products of parts.
  Tensor total = view_as_complex(zeros({outputs, c, size[2], size[3], size[4], 2}, real)), sums;
  if (!apart) sums = zeros({length, p.groups, 2 * m, 2 * c}, real);
  over_chunks(p, axes, [&](int64_t begin, int64_t end) {
    const Tensor xs = patches(axes, from, begin, end, each(axes, &Axis::shift), each(axes, &Axis::points), {1, 1, 1});
    const Tensor gs =
        patches(axes, grad, begin, end, {0, 0, 0}, each(axes, &Axis::tile), each(axes, &Axis::target_step));
    if (!apart) return add_products(p, gs, xs, sums);
    Tensor part = empty(size, total.scalar_type());
    products_by_row(xs, gs, part, true, outputs, end - begin, length, [&](int64_t i, int64_t patch) {
      return std::pair(patch * p.in_channels + i / m, patch * outputs + i);
    });
    total.add_(part);
  });
  if (!apart) {
    const auto part = [&](int64_t i, int64_t j) { return sums.narrow(2, i * m, m).narrow(3, j * c, c); };
    const Tensor to = view_as_real(total).view({p.groups, m, c, length, 2});
    to.select(4, 0).copy_(subtract(part(0, 0), part(1, 1), -1).permute({1, 2, 3, 0}));  // Xr Ȳr + Xi Ȳi
    to.select(4, 1).copy_(subtract(part(0, 1), part(1, 0)).permute({1, 2, 3, 0}));      // Xi Ȳr − Xr Ȳi
  }
  Tensor result = inverse(total, axes);
  for (int a = 0; a < 3; ++a) result = result.slice(2 + a, 0, axes[a].reach, p.dilation[a]);
  lifted(gw).copy_(result);
}

int64_t workspace(const ConvParams& p, Direction direction) {
  const Axes axes = axes_of(p, direction);
  const int64_t real = working_type(p.dtype) == ScalarType::Double ? 8 : 4;
  const int64_t patches = std::min(chunk_of(p, axes), p.batch * tiles(axes)) * (p.in_channels + p.out_channels);
  const int64_t filter = p.out_channels * p.in_per_group();
  // Patches and their transforms, filters and their transforms; but for products element by element those as matrices,
  // the filters' of four parts.
  const int64_t of_patch = p.in_per_group() == 1 ? 2 : 4, of_filter = p.in_per_group() == 1 ? 2 : 6;
  return real * (patches * (points(axes) + of_patch * frequencies(axes)) +
                 filter * (points(axes) + of_filter * frequencies(axes)));
}

double cost(const ConvParams& p, Direction direction) { return cost_of(p, axes_of(p, direction)); }

// Their real matrix of four parts, and what it is made of.
double filters(const ConvParams& p, Direction direction) {
  const Axes axes = axes_of(p, direction);
  return static_cast<double>(p.out_channels * p.in_per_group() * (points(axes) + 6 * frequencies(axes)));
}

}  // namespace
}  // namespace fft

constexpr ConvAlgorithm fft_algorithm{
    .name = "fft",
    .refuse = never,
    .cost = fft::cost,
    .filters = fft::filters,
    .workspace = fft::workspace,
    .least_saving = 2,
    .rounds = "by the loudest value of its transform",
    .bound = 2e-6,
    .weight_grad_bound = 1e-5,
    .forward = fft::forward,
    .input_grad = fft::input_grad,
    .weight_grad = fft::weight_grad,
};

}  // namespace torchconv
