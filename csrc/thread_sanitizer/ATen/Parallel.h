// In place of ATen's header in the build for ThreadSanitizer, which cannot see how libgomp's threads wait for each
// other and would call every result a race: the parallel loop on std::threads, which it can see.
#pragma once
#include_next <ATen/Parallel.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace at {

inline thread_local bool inside_parallel_for_std = false;

// As at::parallel_for: f(begin, end) over at most as many parts as there are threads, of at least `grain` each.
template <class F>
void parallel_for_std(int64_t begin, int64_t end, int64_t grain, const F& f) {
  const int64_t size = end - begin, parts = std::min<int64_t>(get_num_threads(), size / std::max<int64_t>(grain, 1));
  if (size <= 0) return;
  if (inside_parallel_for_std || parts <= 1) return f(begin, end);
  std::exception_ptr error;
  std::mutex guard;
  const auto part = [&](int64_t i) {
    inside_parallel_for_std = true;
    try {
      f(begin + size * i / parts, begin + size * (i + 1) / parts);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      error = std::current_exception();
    }
    inside_parallel_for_std = false;
  };
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < parts; ++i) threads.emplace_back(part, i);
  part(0);
  for (auto& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace at

#define parallel_for parallel_for_std
