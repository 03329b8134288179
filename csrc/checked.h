// Arithmetic of sizes, whatever the integers: what leaves int64_t is known to have left it, instead of wrapping round.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "torch.h"

namespace torchconv {

// An integer; `fits` is false from the first sum or product on that left int64_t, and `value` means nothing then.
struct Checked {
  int64_t value;
  bool fits = true;
  Checked(int64_t number) : value(number) {}  // implicit: Checked(a) * b + c
};

inline Checked operator+(Checked a, Checked b) {
  a.fits = !__builtin_add_overflow(a.value, b.value, &a.value) && a.fits && b.fits;
  return a;
}
inline Checked operator-(Checked a, Checked b) {
  a.fits = !__builtin_sub_overflow(a.value, b.value, &a.value) && a.fits && b.fits;
  return a;
}
inline Checked operator*(Checked a, Checked b) {
  a.fits = !__builtin_mul_overflow(a.value, b.value, &a.value) && a.fits && b.fits;
  return a;
}

// The integer, or the largest one there is: for amounts of work, which need not be exact.
inline int64_t or_most(Checked a) { return a.fits ? a.value : INT64_MAX; }

// Raises unless a tensor of these sizes can be: no side is negative, and offsets in bytes are integers, whatever the
// element type. An empty side counts as 1, as it does in strides. what: "input", "output", "weight".
inline void check_sizes(const std::string& name, const char* what, IntArrayRef sizes) {
  Checked bytes = 16;
  for (const int64_t side : sizes) {
    TORCH_CHECK(side >= 0, name, ": ", what, " of shape ", sizes, " has a negative side");
    bytes = bytes * std::max<int64_t>(1, side);
  }
  TORCH_CHECK(bytes.fits, name, ": ", what, " of shape ", sizes, " has more elements than can be addressed");
}

}  // namespace torchconv
