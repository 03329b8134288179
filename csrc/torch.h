// All that this library uses of torch: tensors, their layouts, a few of torch's operators, its threads, and how
// operators are registered. Built on LibTorch's stable ABI only (torch/csrc/stable, torch/headeronly, the C shims), so
// that one compiled library serves every release of torch from TORCH_TARGET_VERSION on.
//
// What an operator receives is on the CPU and below autograd: views made here are new tensors over the same memory,
// which no graph records, whatever the mode of the thread.
#pragma once
#ifndef TORCH_TARGET_VERSION
#define TORCH_TARGET_VERSION 0x020a000000000000  // 2.10
#endif
#define STRIP_ERROR_MESSAGES  // of torch's headers, which make them with string streams
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchconv {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using IntArrayRef = torch::headeronly::IntHeaderOnlyArrayRef;

// ---- messages and errors ----

// No string streams: what libstdc++ 12 makes of them is not in the oldest libstdc++ that is served.
void append(std::string& out, const char* part);
void append(std::string& out, std::string_view part);
void append(std::string& out, int64_t part);
void append(std::string& out, double part);  // six digits
void append(std::string& out, ScalarType part);
void append(std::string& out, IntArrayRef part);  // as "[1, 2]"

// The parts one after the other.
template <class... Parts>
std::string str(const Parts&... parts) {
  std::string out;
  const auto add = [&](const auto& part) {
    if constexpr (std::is_integral_v<std::decay_t<decltype(part)>>)
      append(out, static_cast<int64_t>(part));
    else
      append(out, part);
  };
  (add(parts), ...);
  return out;
}

// Raise unless the condition holds: RuntimeError in Python, or ValueError.
#define TORCH_CHECK(condition, ...)                            \
  do {                                                         \
    if (!(condition)) [[unlikely]]                             \
      throw std::runtime_error(::torchconv::str(__VA_ARGS__)); \
  } while (false)
#define TORCH_CHECK_VALUE(condition, ...)                         \
  do {                                                            \
    if (!(condition)) [[unlikely]]                                \
      throw std::invalid_argument(::torchconv::str(__VA_ARGS__)); \
  } while (false)

// Raises with what torch said, where a call of a C shim failed.
void check_call(AOTITorchError error, const char* call);

// ---- tensors ----

int64_t element_size(ScalarType dtype);  // bytes

// An owned reference to a tensor on the CPU, or to none.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(AtenTensorHandle owned);
  Tensor(const Tensor& other);
  Tensor(Tensor&& other) noexcept { swap(other); }
  Tensor& operator=(Tensor other) noexcept {
    swap(other);
    return *this;
  }
  ~Tensor() {
    if (handle_) aoti_torch_delete_tensor_object(handle_);
  }
  AtenTensorHandle get() const { return handle_; }
  AtenTensorHandle release() { return std::exchange(handle_, nullptr); }
  bool defined() const { return handle_ != nullptr; }

  int64_t dim() const { return dim_; }
  IntArrayRef sizes() const { return {sizes_, static_cast<size_t>(dim_)}; }
  IntArrayRef strides() const { return {strides_, static_cast<size_t>(dim_)}; }
  int64_t size(int64_t axis) const { return sizes_[axis]; }
  int64_t stride(int64_t axis) const { return strides_[axis]; }
  int64_t numel() const;
  ScalarType scalar_type() const;
  const void* const_data_ptr() const;
  void* mutable_data_ptr() const;

  // The memory format that PyTorch would answer in: that which the strides are like.
  MemoryFormat suggest_memory_format() const;
  bool is_contiguous(MemoryFormat format = MemoryFormat::Contiguous) const;
  // This, or a copy, in the memory format.
  Tensor contiguous(MemoryFormat format = MemoryFormat::Contiguous) const;
  Tensor to(ScalarType dtype) const;  // this, or a contiguous copy

  // Over the same memory. `offset`: elements beyond this one's first.
  Tensor as_strided(IntArrayRef sizes, IntArrayRef strides, int64_t offset = 0) const;
  Tensor alias() const { return as_strided(sizes(), strides()); }  // not recorded by a graph
  Tensor select(int64_t axis, int64_t index) const;
  Tensor narrow(int64_t axis, int64_t first, int64_t count) const;
  Tensor slice(int64_t axis, int64_t first, int64_t end, int64_t step) const;
  Tensor permute(IntArrayRef order) const;
  Tensor unsqueeze(int64_t axis) const;
  Tensor unflatten(int64_t axis, IntArrayRef sizes) const;
  Tensor view(IntArrayRef sizes) const;  // of a contiguous tensor, or of one axis; one size may be -1

  const Tensor& copy_(const Tensor& from) const;  // broadcasts and converts
  const Tensor& zero_() const;
  const Tensor& add_(const Tensor& from) const;  // contiguous ones of one shape and dtype: float32, float64 or complex

 private:
  void swap(Tensor& other) noexcept;

  AtenTensorHandle handle_ = nullptr;
  int64_t dim_ = 0;
  const int64_t *sizes_ = nullptr, *strides_ = nullptr;
};

Tensor empty(IntArrayRef sizes, ScalarType dtype, MemoryFormat format = MemoryFormat::Contiguous);
Tensor zeros(IntArrayRef sizes, ScalarType dtype);
// Over memory that outlives it.
Tensor from_blob(void* data, IntArrayRef sizes, ScalarType dtype);

inline bool is_channels_last(MemoryFormat format) {
  return format == MemoryFormat::ChannelsLast || format == MemoryFormat::ChannelsLast3d;
}

// ---- torch's operators ----

// The operator's one result, by the dispatcher. Arguments of exactly the types of its schema.
template <class... Arguments>
Tensor call(const char* name, const char* overload, const Arguments&... arguments);

Tensor view_as_real(const Tensor& t);
Tensor view_as_complex(const Tensor& t);
Tensor subtract(const Tensor& a, const Tensor& b, double times = 1);  // a - times * b

// ---- threads ----

inline int64_t get_num_threads() {
  uint32_t threads = 1;
  check_call(torch_get_num_threads(&threads), "get_num_threads");
  return threads;
}

using Range = void (*)(int64_t begin, int64_t end, void* context);
void parallel_for(int64_t begin, int64_t end, int64_t grain, Range run, void* context);

// f(begin, end) over parts of the range on torch's threads, of at least `grain` each; on this thread within another
// loop. What f throws is thrown here.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  parallel_for(
      begin, end, grain, [](int64_t a, int64_t b, void* context) { (*static_cast<const F*>(context))(a, b); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// ---- from torch's boxed values to arguments, and results back ----

// `Held` is what owns an argument during the call.
template <class T>
struct Boxed {  // numbers, booleans, dtypes and memory formats
  using Held = T;
  static Held take(StableIValue value) { return torch::stable::detail::to<T>(value); }
  static StableIValue give(const T& value) { return torch::stable::detail::from(value); }
};

template <>
struct Boxed<Tensor> {
  using Held = Tensor;
  static Tensor taken(StableIValue value) { return Tensor(torch::stable::detail::to<AtenTensorHandle>(value)); }
  static Held take(StableIValue value) {
    Tensor given = taken(value);
    TORCH_CHECK(given.defined(), "expected a tensor, got None");
    return given;
  }
  static StableIValue give(Tensor value) { return torch::stable::detail::from(value.release()); }
};

template <>
struct Boxed<std::string> {  // torch 2.13's own conversion leaks the string
  using Held = std::string;
  static Held take(StableIValue value);
  static StableIValue give(const std::string& value) { return torch::stable::detail::from(value); }
};
template <>
struct Boxed<std::string_view> : Boxed<std::string> {};

// body(element) of a list that is given away.
template <class Body>
void take_each(StableIValue value, Body body) {
  const auto list = torch::stable::detail::to<StableListHandle>(value);
  const auto free = [](StableListHandle held) { torch_delete_list(held); };
  const std::unique_ptr<StableListOpaque, decltype(free)> held(list, free);
  size_t size = 0;
  check_call(torch_list_size(list, &size), "a list");
  for (size_t i = 0; i < size; ++i) {
    StableIValue element = 0;
    check_call(torch_list_get_item(list, i, &element), "a list");
    body(element);
  }
}

template <>
struct Boxed<IntArrayRef> {
  using Held = std::vector<int64_t>;
  static Held take(StableIValue value);
  static StableIValue give(IntArrayRef value) { return torch::stable::detail::from(value); }
};

template <class T>
struct Boxed<std::vector<T>> {
  using Held = std::vector<typename Boxed<T>::Held>;
  static Held take(StableIValue value) {
    Held taken;
    take_each(value, [&](StableIValue element) { taken.push_back(Boxed<T>::take(element)); });
    return taken;
  }
  static StableIValue give(const std::vector<T>& values) {
    StableListHandle list = nullptr;
    check_call(torch_new_list_reserve_size(values.size(), &list), "a list");
    for (const T& value : values) check_call(torch_list_push_back(list, Boxed<T>::give(value)), "a list");
    return torch::stable::detail::from(list);
  }
};

template <class T>
struct Boxed<std::optional<T>> {
  using Held = std::optional<typename Boxed<T>::Held>;
  static Held take(StableIValue value) {
    const std::unique_ptr<StableIValue> box(torch::stable::detail::to<StableIValue*>(value));
    if (!box) return std::nullopt;
    if constexpr (std::is_same_v<T, Tensor>) {
      Tensor given = Boxed<Tensor>::taken(*box);
      return given.defined() ? Held(std::move(given)) : std::nullopt;
    } else {
      return Boxed<T>::take(*box);
    }
  }
  static StableIValue give(const std::optional<T>& value) {
    return torch::stable::detail::from(value ? new StableIValue(Boxed<T>::give(*value)) : nullptr);
  }
};

template <auto function, class Signature = decltype(function)>
struct Boxer;
template <auto function, class Result, class... Parameters>
struct Boxer<function, Result (*)(Parameters...)> {
  template <size_t... I>
  static void run(StableIValue* stack, std::index_sequence<I...>) {
    // In braces: taken from the first to the last.
    std::tuple<typename Boxed<std::decay_t<Parameters>>::Held...> held{
        Boxed<std::decay_t<Parameters>>::take(stack[I])...};
    if constexpr (std::is_void_v<Result>)
      function(std::get<I>(held)...);
    else
      give(stack, function(std::get<I>(held)...));
  }
  template <class T>
  static void give(StableIValue* stack, T result) {
    stack[0] = Boxed<T>::give(std::move(result));
  }
  template <class... T>
  static void give(StableIValue* stack, std::tuple<T...> results) {
    std::apply([&](T&... each) { ((*stack++ = Boxed<T>::give(std::move(each))), ...); }, results);
  }
  static void boxed(StableIValue* stack, uint64_t, uint64_t) { run(stack, std::index_sequence_for<Parameters...>()); }
};

// For registering: m.impl("operator", boxed<function>).
template <auto function>
constexpr auto boxed = &Boxer<function>::boxed;

template <class... Arguments>
Tensor call(const char* name, const char* overload, const Arguments&... arguments) {
  StableIValue stack[] = {Boxed<Arguments>::give(arguments)...};
  check_call(torch_call_dispatcher(name, overload, stack, TORCH_ABI_VERSION), name);
  return Boxed<Tensor>::take(stack[0]);
}

}  // namespace torchconv
