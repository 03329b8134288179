// Included once per capability, inside its namespace: filters under transforms, and reductions over transforms.
#pragma once
#include "cpu/numeric.inl"
#include "transform/transform_shuffles.inl"

namespace transforms {

// One item is a block of (filter, channel) pairs, counted filter by filter: at[lane] is where a pair's copies begin in
// [filters, transforms, channels, out_taps]; one transform's lie `pitch` from the next one's.
struct Item {
  int64_t first, count, at[transform_block], pitch;
};

inline Item item_of(const FilterMap& map, int64_t index) {
  Item item;
  item.first = index * transform_block;
  const int64_t rest = map.filters * map.channels - item.first;
  item.count = rest < transform_block ? rest : transform_block;
  item.pitch = map.channels * map.out_taps;
  for (int64_t l = 0; l < item.count; ++l) {
    const int64_t filter = (item.first + l) / map.channels, channel = (item.first + l) % map.channels;
    item.at[l] = filter * map.transforms * item.pitch + channel * map.out_taps;
  }
  return item;
}

// block[tap][lane] of tap of lane's from(lane); lanes beyond count are zero.
template <class From, class A>
void read_block(From from, int64_t taps, int64_t count, A* __restrict block) {
  for (int64_t l = 0; l < count; ++l) {
    const auto* lane = from(l);
    for (int64_t q = 0; q < taps; ++q) block[q * transform_block + l] = widen(lane[q]);
  }
  for (int64_t l = count; l < transform_block; ++l)
    for (int64_t q = 0; q < taps; ++q) block[q * transform_block + l] = 0;
}

template <class To, class A>
void write_block(const A* block, int64_t taps, int64_t count, To to) {
  for (int64_t l = 0; l < count; ++l) {
    auto* lane = to(l);
    for (int64_t q = 0; q < taps; ++q) narrow(block[q * transform_block + l], lane + q);
  }
}

// out[d, t, c, p] = Σ_e values[e] · weight[d, c, columns[e]] over the entries of row t·out_taps + p.
template <class T>
void apply_item(const FilterMap& map, int64_t index, const T* values, const T* weight, T* out,
                accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const Item item = item_of(map, index);
  A *source = scratch, *target = scratch + map.taps * transform_block;
  read_block([&](int64_t l) { return weight + (item.first + l) * map.taps; }, map.taps, item.count, source);
  for (int64_t t = 0; t < map.transforms; ++t) {
    const int64_t* pointers = map.pointers + t * map.out_taps;
    for (int64_t p = 0; p < map.out_taps; ++p) {
      A sum[transform_block] = {};
      for (int64_t e = pointers[p]; e < pointers[p + 1]; ++e) {
        const A value = widen(values[e]), *tap = source + map.columns[e] * transform_block;
        for (int64_t l = 0; l < transform_block; ++l) sum[l] += value * tap[l];
      }
      for (int64_t l = 0; l < transform_block; ++l) target[p * transform_block + l] = sum[l];
    }
    write_block(target, map.out_taps, item.count, [&](int64_t l) { return out + item.at[l] + t * item.pitch; });
  }
}

// weight[d, c, q] = Σ values[e] · grad[d, t, c, p] over all entries e of column q, in the order of their rows (t, p).
template <class T>
void transpose_item(const FilterMap& map, int64_t index, const T* values, const T* grad, T* weight,
                    accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  const Item item = item_of(map, index);
  A *sums = scratch, *source = scratch + map.taps * transform_block;
  for (int64_t i = 0; i < map.taps * transform_block; ++i) sums[i] = 0;
  for (int64_t t = 0; t < map.transforms; ++t) {
    read_block([&](int64_t l) { return grad + item.at[l] + t * item.pitch; }, map.out_taps, item.count, source);
    const int64_t* pointers = map.pointers + t * map.out_taps;
    for (int64_t p = 0; p < map.out_taps; ++p)
      for (int64_t e = pointers[p]; e < pointers[p + 1]; ++e) {
        const A value = widen(values[e]), *from = source + p * transform_block;
        A* sum = sums + map.columns[e] * transform_block;
        for (int64_t l = 0; l < transform_block; ++l) sum[l] += value * from[l];
      }
  }
  write_block(sums, map.taps, item.count, [&](int64_t l) { return weight + (item.first + l) * map.taps; });
}

template <class T>
void apply(const FilterMap& map, int64_t begin, int64_t end, const T* values, const T* weight, T* out,
           accumulator_t<T>* scratch) {
  auto* table = reinterpret_cast<Shuffle<accumulator_t<T>>*>(scratch);
  const int64_t in = map.shuffles(false) ? registers<accumulator_t<T>>(map) : 0;
  if (in == 1) return apply_shuffles<1>(map, begin, end, values, weight, out, table);
  if (in == 2) return apply_shuffles<2>(map, begin, end, values, weight, out, table);
  for (int64_t i = begin; i < end; ++i) apply_item(map, i, values, weight, out, scratch);
}

template <class T>
void transpose(const FilterMap& map, int64_t begin, int64_t end, const T* values, const T* grad, T* weight,
               accumulator_t<T>* scratch) {
  auto* table = reinterpret_cast<Shuffle<accumulator_t<T>>*>(scratch);
  const int64_t in = map.shuffles(true) ? registers<accumulator_t<T>>(map) : 0;
  if (in == 1) return transpose_shuffles<1>(map, begin, end, values, grad, weight, table);
  if (in == 2) return transpose_shuffles<2>(map, begin, end, values, grad, weight, table);
  for (int64_t i = begin; i < end; ++i) transpose_item(map, i, values, grad, weight, scratch);
}

// sums[e] += Σ_{d, c} grad[d, t, c, p] · weight[d, c, columns[e]] over the items' filters and channels.
template <class T>
void values_grad(const FilterMap& map, int64_t begin, int64_t end, const T* grad, const T* weight, double* sums,
                 accumulator_t<T>* scratch) {
  using A = accumulator_t<T>;
  A *source = scratch, *target = scratch + map.taps * transform_block;
  for (int64_t index = begin; index < end; ++index) {
    const Item item = item_of(map, index);
    read_block([&](int64_t l) { return weight + (item.first + l) * map.taps; }, map.taps, item.count, source);
    for (int64_t t = 0; t < map.transforms; ++t) {
      read_block([&](int64_t l) { return grad + item.at[l] + t * item.pitch; }, map.out_taps, item.count, target);
      const int64_t* pointers = map.pointers + t * map.out_taps;
      for (int64_t p = 0; p < map.out_taps; ++p)
        for (int64_t e = pointers[p]; e < pointers[p + 1]; ++e) {
          const A *w = source + map.columns[e] * transform_block, *g = target + p * transform_block;
          A product[transform_block];
          for (int64_t l = 0; l < transform_block; ++l) product[l] = w[l] * g[l];
          for (int64_t half = transform_block / 2; half > 0; half /= 2)
            for (int64_t l = 0; l < half; ++l) product[l] += product[l + half];
          sums[e] += product[0];
        }
    }
  }
}

// ---- reductions ----

// Eight elements side by side whatever the capability, since vectors are short: in channels-last as long as a group has
// filters. Indices are as wide as the elements, so that one mask chooses both.
template <class A>
struct Eight {
  typedef A values __attribute__((vector_size(8 * sizeof(A))));
  typedef decltype(values{} < values{}) indices;
};
typedef uint8_t eight_bytes __attribute__((vector_size(8)));
typedef uint16_t eight_halves __attribute__((vector_size(16)));
typedef uint32_t eight_words __attribute__((vector_size(32)));
template <class T>
using eight_t = typename Eight<accumulator_t<T>>::values;
template <class T>
using eight_indices_t = typename Eight<accumulator_t<T>>::indices;

// The first `count` <= 8 elements, zeros after them; and as many stored. Vectors go by reference: they may be wider
// than the capability's registers.
template <class V, class E>
inline void read(const E* p, int64_t count, V& v) {
  v = V{};
  if (count == 8)
    __builtin_memcpy(&v, p, sizeof v);
  else
    __builtin_memcpy(&v, p, count * sizeof(E));
}
template <class V, class E>
inline void write(E* p, int64_t count, const V& v) {
  if (count == 8)
    __builtin_memcpy(p, &v, sizeof v);
  else
    __builtin_memcpy(p, &v, count * sizeof(E));
}

template <class A>
inline void load_eight(const A* p, int64_t count, eight_t<A>& v) {
  read(p, count, v);
}
inline void load_eight(const bfloat16* p, int64_t count, eight_t<float>& v) {
  eight_halves bits;
  read(p, count, bits);
  v = reinterpret_cast<eight_t<float>>(__builtin_convertvector(bits, eight_words) << 16);
}
template <class A>
inline void store_eight(A* p, int64_t count, const eight_t<A>& v) {
  write(p, count, v);
}
inline void store_eight(bfloat16* p, int64_t count, const eight_t<float>& v) {
  const auto bits = reinterpret_cast<eight_words>(v), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const auto nan = reinterpret_cast<eight_words>((bits & 0x7fffffffu) > 0x7f800000u);
  const eight_words halves = (nan & ((bits >> 16) | 0x40u)) | (~nan & rounded);  // narrow() of each lane
  write(p, count, __builtin_convertvector(halves, eight_halves));
}

// Calls run(reduced, maps, count) for each eight elements: where they are in [outer, inner], and transform 0's in
// [outer, T, inner].
template <class Run>
inline __attribute__((always_inline)) void for_eights(const Reduction& r, int64_t begin, int64_t end, Run run) {
  for (int64_t o = begin; o < end; ++o)
    for (int64_t i = 0; i < r.inner; i += 8)
      if (r.inner - i >= 8)
        run(o * r.inner + i, o * r.transforms * r.inner + i, 8);  // a constant: no test of it is left
      else
        run(o * r.inner + i, o * r.transforms * r.inner + i, r.inner - i);
}

// y = max_t z[t], the first of equals; a NaN is larger than any number. winners says which t.
template <class T>
void max(const Reduction& r, const T* z, T* y, uint8_t* winners, int64_t begin, int64_t end) {
  for_eights(r, begin, end, [&](int64_t at, int64_t from, int64_t count) __attribute__((always_inline)) {
    eight_t<T> best, x;
    load_eight(z + from, count, best);
    eight_indices_t<T> winner = {};
    for (int32_t t = 1; t < r.transforms; ++t) {
      load_eight(z + from + t * r.inner, count, x);
      const eight_indices_t<T> kept = (best >= x) | (best != best);
      best = kept ? best : x;
      winner = kept ? winner : eight_indices_t<T>{} + t;
    }
    store_eight(y + at, count, best);
    write(winners + at, count, __builtin_convertvector(winner, eight_bytes));
  });
}

// y = z[winner].
template <class T>
void select(const Reduction& r, const T* z, const uint8_t* winners, T* y, int64_t begin, int64_t end) {
  for (int64_t o = begin; o < end; ++o)
    for (int64_t i = 0; i < r.inner; ++i) {
      const uint8_t winner = winners[o * r.inner + i];
      y[o * r.inner + i] = z[(o * r.transforms + (winner < r.transforms ? winner : 0)) * r.inner + i];
    }
}

// z[t] = grad where t is the winner, else 0: select's transpose.
template <class T>
void scatter(const Reduction& r, const T* grad, const uint8_t* winners, T* z, int64_t begin, int64_t end) {
  for_eights(r, begin, end, [&](int64_t at, int64_t from, int64_t count) __attribute__((always_inline)) {
    eight_t<T> g;
    eight_bytes bytes;
    load_eight(grad + at, count, g);
    read(winners + at, count, bytes);
    const auto winner = __builtin_convertvector(bytes, eight_indices_t<T>);
    for (int32_t t = 0; t < r.transforms; ++t)
      store_eight(z + from + t * r.inner, count, winner == t ? g : eight_t<T>{});
  });
}

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

// y = √Σ_t z[t]².
template <class T>
void euclidean_norm(const Reduction& r, const T* z, T* y, int64_t begin, int64_t end) {
  for_eights(r, begin, end, [&](int64_t at, int64_t from, int64_t count) __attribute__((always_inline)) {
    eight_t<T> sum = {}, x;
    for (int32_t t = 0; t < r.transforms; ++t) {
      load_eight(z + from + t * r.inner, count, x);
      sum += x * x;
    }
    accumulator_t<T> roots[8];
    __builtin_memcpy(roots, &sum, sizeof sum);
    for (int l = 0; l < 8; ++l) roots[l] = square_root(roots[l]);
    __builtin_memcpy(&sum, roots, sizeof sum);
    store_eight(y + at, count, sum);
  });
}

// z[t] becomes grad · z[t] / y, and 0 where y is.
template <class T>
void euclidean_norm_grad(const Reduction& r, const T* grad, const T* y, T* z, int64_t begin, int64_t end) {
  for_eights(r, begin, end, [&](int64_t at, int64_t from, int64_t count) __attribute__((always_inline)) {
    eight_t<T> length, g, x;
    load_eight(y + at, count, length);
    load_eight(grad + at, count, g);
    const eight_t<T> scale = length == 0 ? eight_t<T>{} : g / length;
    for (int32_t t = 0; t < r.transforms; ++t) {
      T* to = z + from + t * r.inner;
      load_eight(to, count, x);
      store_eight(to, count, scale * x);
    }
  });
}

}  // namespace transforms

template <class T>
TransformKernels<T> transform_kernels() {
  return {.apply = transforms::apply<T>,
          .transpose = transforms::transpose<T>,
          .values_grad = transforms::values_grad<T>,
          .max = transforms::max<T>,
          .select = transforms::select<T>,
          .scatter = transforms::scatter<T>,
          .euclidean_norm = transforms::euclidean_norm<T>,
          .euclidean_norm_grad = transforms::euclidean_norm_grad<T>};
}
TORCHCONV_EACH_TYPE(TransformKernels, transform_kernels)
