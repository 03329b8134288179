// The element types kernels are written for, and the type each is accumulated in.
#pragma once
#include <cstdint>
#include <cstring>

namespace torchconv {

// Storage only: the upper half of a float. Same bits as c10::BFloat16.
struct bfloat16 {
  uint16_t bits;
};

template <class T>
struct Accumulator {
  using type = T;
};
template <>
struct Accumulator<bfloat16> {
  using type = float;
};
template <class T>
using accumulator_t = typename Accumulator<T>::type;

}  // namespace torchconv
