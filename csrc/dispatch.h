// From tensors and dtypes to the kernels' pointers and element types.
#pragma once

#include "cpu/numeric.h"
#include "torch.h"

namespace torchconv {

// Calls body(T{}) with the kernel type of this dtype.
template <class Name, class Body>
void for_dtype(const Name& name, ScalarType dtype, Body body) {
  if (dtype == ScalarType::Float) return body(float{});
  if (dtype == ScalarType::Double) return body(double{});
  if (dtype == ScalarType::BFloat16) return body(bfloat16{});
  TORCH_CHECK(false, name, ": no kernel for ", dtype, "; expected float32, float64 or bfloat16");
}

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

}  // namespace torchconv
