template <class T> constexpr PoolKernels<T> pool_kernels() { return {}; }
