// Whether tensors are what they were, for layers that keep what they made of them (torchconv/nn/_states.py): where they
// are, of which dtype, shape and strides, and some of their elements, all as words of 64 bits.
#include <algorithm>
#include <cstring>

#include "dispatch.h"
#include "torch.h"

namespace torchconv {
namespace {

constexpr int64_t most_samples = 16;  // of a tensor: of four bytes, spread evenly, its ends included

// word(w) for each word of a tensor's state; false as soon as that is. Memory comes last: it may not be there any more
// if anything before it differs.
template <class Word>
bool each_word(const Tensor& t, const Word& word) {
  const char* memory = static_cast<const char*>(t.const_data_ptr());
  if (!word(reinterpret_cast<uintptr_t>(memory)) || !word(static_cast<uint64_t>(t.scalar_type())) || !word(t.dim()))
    return false;
  int64_t last = 0;
  bool empty = memory == nullptr;
  for (int64_t axis = 0; axis < t.dim(); ++axis) {
    if (!word(t.size(axis)) || !word(t.stride(axis))) return false;
    empty = empty || t.size(axis) == 0;
    last += (t.size(axis) - 1) * t.stride(axis);
  }
  if (empty) return true;
  const int64_t bytes = (last + 1) * element_size(t.scalar_type());
  const int64_t size = std::min<int64_t>(bytes, 4), count = std::clamp<int64_t>(bytes / 4, 1, most_samples);
  for (int64_t s = 0; s < count; ++s) {
    uint32_t bits = 0;
    std::memcpy(&bits, memory + (bytes - size) * s / std::max<int64_t>(count - 1, 1), size);
    if (!word(bits)) return false;
  }
  return true;
}

Tensor states(const std::vector<Tensor>& tensors) {
  std::vector<uint64_t> words;
  for (const Tensor& t : tensors)
    each_word(t, [&](uint64_t w) {
      words.push_back(w);
      return true;
    });
  const int64_t bytes = static_cast<int64_t>(words.size() * sizeof(uint64_t));
  const Tensor kept = empty({bytes}, ScalarType::Byte);
  if (bytes > 0) std::memcpy(mutable_data<char>(kept), words.data(), bytes);
  return kept;
}

bool same_states(const std::vector<Tensor>& tensors, const Tensor& states) {
  TORCH_CHECK(states.scalar_type() == ScalarType::Byte && states.dim() == 1 && states.is_contiguous(),
              "_same_states: states are bytes that _states gave, got ", states.scalar_type(), " of shape ",
              states.sizes());
  const char *at = static_cast<const char*>(states.const_data_ptr()), *const end = at + states.size(0);
  const auto same = [&](uint64_t w) {
    if (end - at < static_cast<int64_t>(sizeof w) || std::memcmp(at, &w, sizeof w) != 0) return false;
    at += sizeof w;
    return true;
  };
  return std::all_of(tensors.begin(), tensors.end(), [&](const Tensor& t) { return each_word(t, same); }) && at == end;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("_states", boxed<states>);
  m.impl("_same_states", boxed<same_states>);
}

}  // namespace torchconv
