// The operators of filters under transforms: the sparse map, its transpose, and its derivative to its own weights.

#include <algorithm>

#include "buffer.h"
#include "checked.h"
#include "dispatch.h"
#include "cpu/kernels.h"

namespace torchconv {
namespace {

// Of the sides of a kernel: memory for each is taken before the filters', so they are bounded here.
int64_t taps_of(const char* name, IntArrayRef kernel) {
  check_sizes(name, "kernel", kernel);
  int64_t taps = 1;
  for (const int64_t side : kernel) taps *= side;
  TORCH_CHECK(taps <= INT32_MAX, name, ": a kernel of ", kernel, " has more than ", INT32_MAX, " taps");
  return taps;
}

void check_map(const char* name, const FilterMap& map, const Tensor& pointers, const Tensor& columns) {
  const int64_t rows = pointers.numel() - 1, entries = columns.numel();
  const bool ordered = std::is_sorted(map.pointers, map.pointers + rows + 1);
  TORCH_CHECK(ordered && map.pointers[0] == 0 && map.pointers[rows] == entries, name, ": the map's ", rows + 1,
              " row pointers must rise from 0 to its ", entries, " entries, got ", map.pointers[0], " to ",
              map.pointers[rows], ordered ? "" : " in disorder");
  for (int64_t e = 0; e < entries; ++e)
    TORCH_CHECK(map.columns[e] >= 0 && map.columns[e] < map.taps, name, ": the map's entry ", e, " reads tap ",
                map.columns[e], " of a filter of ", map.taps);
}

// The most entries of a row and of a column: memory for each tap, which the filters have too.
void count_entries(FilterMap& map) {
  std::vector<int64_t> of_column(map.taps);
  for (int64_t t = 0; t < map.transforms; ++t) {
    std::fill(of_column.begin(), of_column.end(), 0);
    for (int64_t row = t * map.out_taps; row < (t + 1) * map.out_taps; ++row) {
      map.row_entries = std::max(map.row_entries, map.pointers[row + 1] - map.pointers[row]);
      for (int64_t e = map.pointers[row]; e < map.pointers[row + 1]; ++e)
        map.column_entries = std::max(map.column_entries, ++of_column[map.columns[e]]);
    }
  }
}

// The map between filters [D, C, taps...] and [D·T, C, out taps...]; `filters` D.
FilterMap filter_map(const char* name, const Tensor& pointers, const Tensor& columns, int64_t filters, int64_t channels,
                     IntArrayRef kernel, IntArrayRef out_kernel) {
  TORCH_CHECK(pointers.scalar_type() == ScalarType::Long && columns.scalar_type() == ScalarType::Long &&
                  pointers.dim() == 1 && columns.dim() == 1,
              name, ": the map's pointers and columns must be vectors of int64, got ", pointers.scalar_type(), " ",
              pointers.sizes(), " and ", columns.scalar_type(), " ", columns.sizes());
  FilterMap map{filters, channels, 0, taps_of(name, kernel), taps_of(name, out_kernel), nullptr, nullptr, 0, 0};
  TORCH_CHECK(!kernel.empty() && !out_kernel.empty() && map.taps > 0 && map.out_taps > 0, name,
              ": an empty kernel: ", kernel, " to ", out_kernel);
  const int64_t rows = pointers.numel() - 1;
  TORCH_CHECK(rows > 0 && rows % map.out_taps == 0, name, ": a map to kernels of ", out_kernel, " needs ", map.out_taps,
              " rows a transform, got ", std::max<int64_t>(rows, 0));
  map.transforms = rows / map.out_taps;
  map.pointers = data<int64_t>(pointers);
  map.columns = data<int64_t>(columns);
  check_map(name, map, pointers, columns);
  return map;
}

void check_values(const char* name, const Tensor& values, const Tensor& columns, const Tensor& filters) {
  TORCH_CHECK(values.sizes() == columns.sizes() && values.scalar_type() == filters.scalar_type(), name, ": a map of ",
              columns.numel(), " entries on ", filters.scalar_type(), " filters expects as many ",
              filters.scalar_type(), " values, got ", values.scalar_type(), " of shape ", values.sizes());
}

void check_filters(const char* name, const char* what, const Tensor& filters) {
  TORCH_CHECK(filters.dim() >= 3, name, ": expected ", what, " of at least 3 axes, got shape ", filters.sizes());
  for_dtype(name, filters.scalar_type(), [](auto) {});
}

// The result [filters, channels, kernel...].
Tensor result(const char* name, Checked filters, int64_t channels, IntArrayRef kernel, ScalarType dtype) {
  std::vector<int64_t> size{filters.value, channels};
  size.insert(size.end(), kernel.begin(), kernel.end());
  TORCH_CHECK(filters.fits, name, ": more filters than can be counted");
  check_sizes(name, "result", size);
  return empty(size, dtype);
}

// Items of the map, or of its transpose, in parallel, each thread with scratch of its own.
template <class T, class Run>
void for_items(const FilterMap& map, bool transposed, Run run) {
  const int64_t work = map.pointers[map.transforms * map.out_taps] * transform_block;
  const int64_t grain = std::max<int64_t>(1, 131072 / std::max<int64_t>(work, 1));
  parallel_for(0, map.items(), grain, [&](int64_t begin, int64_t end) {
    Buffer<accumulator_t<T>> scratch(map.scratch(transposed));
    run(begin, end, scratch.get());
  });
}

Tensor transform_filters(const Tensor& weight, const Tensor& pointers, const Tensor& columns, const Tensor& values,
                         IntArrayRef kernel_size) {
  const char* name = "transform_filters";
  check_filters(name, "a weight", weight);
  const Tensor w = weight.contiguous(), rows = pointers.contiguous(), cols = columns.contiguous();
  FilterMap map = filter_map(name, rows, cols, w.size(0), w.size(1), w.sizes().slice(2), kernel_size);
  check_values(name, values, columns, weight);
  const Tensor v = values.contiguous();
  Tensor out = result(name, Checked(map.filters) * map.transforms, map.channels, kernel_size, weight.scalar_type());
  if (out.numel() == 0) return out;
  count_entries(map);
  for_dtype(name, weight.scalar_type(), [&]<class T>(T) {
    for_items<T>(map, false, [&](int64_t begin, int64_t end, accumulator_t<T>* scratch) {
      kernels<T>().transform.apply(map, begin, end, data<T>(v), data<T>(w), mutable_data<T>(out), scratch);
    });
  });
  return out;
}

// The map that the gradient [D·T, C, out taps...] came through, from filters of kernel_size.
FilterMap map_of_grad(const char* name, const Tensor& grad, const Tensor& pointers, const Tensor& columns,
                      IntArrayRef kernel_size) {
  check_filters(name, "a gradient", grad);
  FilterMap map = filter_map(name, pointers, columns, 0, grad.size(1), kernel_size, grad.sizes().slice(2));
  TORCH_CHECK(grad.size(0) % map.transforms == 0, name, ": a map of ", map.transforms, " transforms cannot have given ",
              grad.size(0), " filters: gradient of shape ", grad.sizes());
  map.filters = grad.size(0) / map.transforms;
  return map;
}

Tensor transform_filters_transpose(const Tensor& grad, const Tensor& pointers, const Tensor& columns,
                                   const Tensor& values, IntArrayRef kernel_size) {
  const char* name = "transform_filters_transpose";
  const Tensor g = grad.contiguous(), rows = pointers.contiguous(), cols = columns.contiguous();
  FilterMap map = map_of_grad(name, g, rows, cols, kernel_size);
  check_values(name, values, columns, grad);
  const Tensor v = values.contiguous();
  Tensor weight = result(name, map.filters, map.channels, kernel_size, grad.scalar_type());
  if (weight.numel() == 0) return weight;
  count_entries(map);
  for_dtype(name, grad.scalar_type(), [&]<class T>(T) {
    for_items<T>(map, true, [&](int64_t begin, int64_t end, accumulator_t<T>* scratch) {
      kernels<T>().transform.transpose(map, begin, end, data<T>(v), data<T>(g), mutable_data<T>(weight), scratch);
    });
  });
  return weight;
}

Tensor transform_values_grad(const Tensor& grad, const Tensor& weight, const Tensor& pointers, const Tensor& columns) {
  const char* name = "transform_values_grad";
  check_filters(name, "a weight", weight);
  const Tensor g = grad.contiguous(), w = weight.contiguous();
  const Tensor rows = pointers.contiguous(), cols = columns.contiguous();
  const FilterMap map = map_of_grad(name, g, rows, cols, w.sizes().slice(2));
  TORCH_CHECK(w.size(0) == map.filters && w.size(1) == map.channels && w.scalar_type() == g.scalar_type(), name, ": a ",
              g.scalar_type(), " gradient of shape ", g.sizes(), " under ", map.transforms,
              " transforms is not of the ", w.scalar_type(), " filters of shape ", w.sizes());
  // By the shape alone, so that the sums have one order: at most 64 parts of at least 16 items.
  const int64_t splits = std::clamp<int64_t>(map.items() / 16, 1, 64), entries = cols.numel();
  const Tensor sums = zeros({splits, entries}, ScalarType::Double);
  for_dtype(name, g.scalar_type(), [&]<class T>(T) {
    parallel_for(0, splits, 1, [&](int64_t a, int64_t b) {
      Buffer<accumulator_t<T>> scratch(map.scratch(false));
      for (int64_t i = a; i < b; ++i)
        kernels<T>().transform.values_grad(map, map.items() * i / splits, map.items() * (i + 1) / splits, data<T>(g),
                                           data<T>(w), mutable_data<double>(sums) + i * entries, scratch.get());
    });
  });
  double* total = mutable_data<double>(sums);
  for (int64_t i = 1; i < splits; ++i)
    for (int64_t e = 0; e < entries; ++e) total[e] += total[i * entries + e];
  return empty({entries}, g.scalar_type()).copy_(sums.select(0, 0));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("transform_filters", boxed<transform_filters>);
  m.impl("transform_filters_transpose", boxed<transform_filters_transpose>);
  m.impl("transform_values_grad", boxed<transform_values_grad>);
}

}  // namespace torchconv
