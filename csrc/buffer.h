// Workspace, and the arithmetic of cutting work into blocks.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

namespace torchconv {

inline int64_t blocks_of(int64_t total, int64_t block) { return (total + block - 1) / block; }

template <class A>
struct Buffer {  // uninitialised, aligned to a cache line
  explicit Buffer(int64_t size) : storage(at::empty({size * static_cast<int64_t>(sizeof(A))}, at::kByte)) {}
  A* get() const { return static_cast<A*>(storage.mutable_data_ptr()); }
  at::Tensor storage;
};

}  // namespace torchconv
