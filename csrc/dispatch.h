// From ATen's tensors and dtypes to the kernels' pointers and element types.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "kernels/numeric.h"

namespace torchconv {

// Calls body(T{}) with the kernel type of this dtype.
template <class Name, class Body>
void for_dtype(const Name& name, at::ScalarType dtype, Body body) {
  if (dtype == at::kFloat) return body(float{});
  if (dtype == at::kDouble) return body(double{});
  if (dtype == at::kBFloat16) return body(bfloat16{});
  TORCH_CHECK_NOT_IMPLEMENTED(false, name, ": no kernel for ", dtype, "; expected float32, float64 or bfloat16");
}

template <class T>
const T* data(const at::Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* mutable_data(const at::Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

}  // namespace torchconv
