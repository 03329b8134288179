// Workspace, and the arithmetic of cutting work into blocks.
#pragma once
#include "torch.h"

namespace torchconv {

inline int64_t blocks_of(int64_t total, int64_t block) { return (total + block - 1) / block; }

template <class A>
struct Buffer {  // uninitialised, aligned to a cache line
  explicit Buffer(int64_t size) : storage(empty({size * static_cast<int64_t>(sizeof(A))}, ScalarType::Byte)) {}
  A* get() const { return static_cast<A*>(storage.mutable_data_ptr()); }
  Tensor storage;
};

}  // namespace torchconv
