// Winograd convolution: the matrix product of each plane, and the table of its steps.
#pragma once
#include "conv/winograd/filters.inl"
#include "conv/winograd/tiles.inl"
#include "cpu/tile.inl"

// Products summed in one chain. The transforms magnify what its sums round, which grows with its length.
constexpr int64_t winograd_chain = 64;

template <class A, int VECTORS = winograd_vectors>
void winograd_tile(int64_t rows, int64_t columns, const Tile<A>& t) {
  if constexpr (VECTORS > 1)
    if (columns <= (VECTORS - 1) * lanes<A>) return winograd_tile<A, VECTORS - 1>(rows, columns, t);
  run_rows<A, VECTORS, false, winograd_rows>(rows, t);
}

// product (+)= a · b, a [rows][depth] by its strides, b [depth][columns], `panel` columns at a time.
template <class A>
void winograd_product(int64_t rows, int64_t columns, Tile<A> t, WinogradAhead& ahead) {
  const A *a = t.a, *b = t.b;
  A* c = t.c;
  for (int64_t k = 0; k < columns; k += winograd_columns<A>)
    for (int64_t r = 0; r < rows; r += winograd_rows) {
      touch_ahead(ahead);
      t.a = a + r * t.a_row, t.b = b + k, t.c = c + r * t.ldc + k;
      winograd_tile(at_most(winograd_rows, rows - r), at_most(winograd_columns<A>, columns - k), t);
    }
}

// body(plane, rows of that plane) for each plane.
template <class Body>
inline void for_planes(const Winograd& w, const WinogradBlock& b, Body body) {
  const int64_t height = w.axis[0].points(), width = w.axis[1].points();
  for (int64_t i = 0; i < height; ++i)
    for (int64_t j = 0; j < width; ++j) body(i * width + j, b.rows[2 * (i == height - 1) + (j == width - 1)]);
}

template <class A>
void winograd_multiply(const Winograd& w, const WinogradBlock& b, int64_t depth, int64_t columns,
                       WinogradPlanes<A> source, WinogradPlanes<A> filter, WinogradPlanes<A> product, bool add,
                       WinogradAhead& ahead) {
  for_planes(w, b, [&](int64_t plane, int64_t rows) {
    for (int64_t k = 0; k < depth; k += winograd_chain)
      winograd_product<A>(rows, columns,
                          {at_most(winograd_chain, depth - k), source.data + plane * source.pitch + k, source.ld, 1,
                           filter.data + plane * filter.pitch + k * filter.ld, filter.ld,
                           product.data + plane * product.pitch, product.ld, add || k > 0},
                          ahead);
  });
}

template <class A>
void winograd_accumulate(const Winograd& w, const WinogradBlock& b, int64_t c, int64_t m, WinogradPlanes<A> source,
                         WinogradPlanes<A> grad, WinogradPlanes<A> sums, bool add, WinogradAhead& ahead) {
  for_planes(w, b, [&](int64_t plane, int64_t rows) {
    winograd_product<A>(c, m,
                        {rows, source.data + plane * source.pitch, 1, source.ld, grad.data + plane * grad.pitch,
                         grad.ld, sums.data + plane * sums.pitch, sums.ld, add},
                        ahead);
  });
}

template <class T>
WinogradKernels<T> winograd_kernels() {
  using A = accumulator_t<T>;
  return {.columns = winograd_columns<A>,
          .rows = winograd_rows,
          .vector = lanes<A>,
          .scratch = winograd_scratch<T>,
          .touches = winograd_touches<T>,
          .source = winograd_source<T>,
          .filter = winograd_filter<T>,
          .multiply = winograd_multiply<A>,
          .target = winograd_target<T>,
          .grad = winograd_grad<T>,
          .accumulate = winograd_accumulate<A>,
          .weight = winograd_weight<A>,
          .store = winograd_store<T>};
}
// Not for float64: see kernels.h.
template WinogradKernels<float> winograd_kernels<float>();
template WinogradKernels<bfloat16> winograd_kernels<bfloat16>();
