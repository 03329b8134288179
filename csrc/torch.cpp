#include "torch.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_aten.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <new>
#include <sstream>

#ifdef TORCHCONV_STD_THREADS
#include <mutex>
#include <thread>
#endif

// Of torch 2.13 and later: the message of the exception that the last failed call met. Null in earlier releases, which
// print it to stderr.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

#ifdef __GLIBCXX__
// What the headers of libstdc++ 12 make of streams, in torch's headers, and of containers is not in the oldest
// libstdc++ that is served (GCC 8's): it is compiled here.
template std::stringstream::basic_stringstream();
template std::string std::stringbuf::str() &&;
namespace std {
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std
#endif

namespace torchconv {

// ---- messages and errors ----

void append(std::string& out, const char* part) { out += part; }
void append(std::string& out, std::string_view part) { out += part; }
void append(std::string& out, int64_t part) { out += std::to_string(part); }
void append(std::string& out, double part) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", part);
  out += digits;
}
void append(std::string& out, ScalarType part) { out += torch::headeronly::toString(part); }
void append(std::string& out, IntArrayRef part) {
  out += '[';
  for (size_t i = 0; i < part.size(); ++i) {
    if (i) out += ", ";
    append(out, part[i]);
  }
  out += ']';
}

void check_call(AOTITorchError error, const char* call) {
  if (error == AOTI_TORCH_SUCCESS) [[likely]]
    return;
  const char* what =
      torch_exception_get_what_without_backtrace ? torch_exception_get_what_without_backtrace() : nullptr;
  throw std::runtime_error(what && *what ? std::string(what) : str("torch refused ", call, "; its message is above"));
}

namespace {

int32_t code_of(ScalarType dtype) { return torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)); }

// From the fastest running axis to the slowest.
struct Order {
  int64_t axes[5];
  int64_t count;
};
Order order_of(MemoryFormat format) {
  return format == MemoryFormat::ChannelsLast ? Order{{1, 3, 2, 0}, 4} : Order{{1, 4, 3, 2, 0}, 5};
}

// As c10's is_channels_last_strides: whether strides grow in the format's order, ambiguous ones not counted.
bool strides_like(MemoryFormat format, IntArrayRef sizes, IntArrayRef strides) {
  const Order order = order_of(format);
  if (static_cast<int64_t>(sizes.size()) != order.count || strides[1] == 0) return false;
  int64_t least = 0;
  for (int64_t i = 0; i < order.count; ++i) {
    const int64_t axis = order.axes[i];
    if (sizes[axis] == 0 || strides[axis] < least || (axis == 0 && least == strides[1])) return false;
    least = strides[axis] * std::max<int64_t>(sizes[axis], 1);
  }
  return true;
}

// As torch's empty: an empty side counts as 1 where the tensor is contiguous, and as 0 where it is channels-last.
void strides_of(IntArrayRef sizes, MemoryFormat format, std::vector<int64_t>& strides) {
  strides.resize(sizes.size());
  int64_t step = 1;
  if (format == MemoryFormat::Contiguous) {
    for (size_t i = sizes.size(); i-- > 0; step *= std::max<int64_t>(sizes[i], 1)) strides[i] = step;
    return;
  }
  const Order order = order_of(format);
  TORCH_CHECK(static_cast<int64_t>(sizes.size()) == order.count, "required rank ", order.count,
              " tensor to use a channels_last format, got shape ", sizes);
  for (int64_t i = 0; i < order.count; step *= sizes[order.axes[i++]]) strides[order.axes[i]] = step;
}

}  // namespace

int64_t element_size(ScalarType dtype) { return static_cast<int64_t>(aoti_torch_dtype_element_size(code_of(dtype))); }

// ---- tensors ----

Tensor::Tensor(AtenTensorHandle owned) : handle_(owned) {
  bool given = false;
  check_call(aoti_torch_is_defined(handle_, &given), "is_defined");
  if (!given) {  // None, or no tensor in C++
    aoti_torch_delete_tensor_object(release());
    return;
  }
  int64_t *sizes, *strides;
  check_call(aoti_torch_get_dim(handle_, &dim_), "dim");
  check_call(aoti_torch_get_sizes(handle_, &sizes), "sizes");
  check_call(aoti_torch_get_strides(handle_, &strides), "strides");
  sizes_ = sizes, strides_ = strides;
}

Tensor::Tensor(const Tensor& other) : dim_(other.dim_), sizes_(other.sizes_), strides_(other.strides_) {
  if (other.handle_) check_call(aoti_torch_new_tensor_handle(other.handle_, &handle_), "a reference");
}

void Tensor::swap(Tensor& other) noexcept {
  std::swap(handle_, other.handle_), std::swap(dim_, other.dim_);
  std::swap(sizes_, other.sizes_), std::swap(strides_, other.strides_);
}

int64_t Tensor::numel() const {
  int64_t count = 1;
  for (const int64_t side : sizes()) count *= side;
  return count;
}

ScalarType Tensor::scalar_type() const {
  int32_t code = 0;
  check_call(aoti_torch_get_dtype(handle_, &code), "dtype");
  return code == aoti_torch_dtype_float32() ? ScalarType::Float : torch::stable::detail::to<ScalarType>(code);
}

const void* Tensor::const_data_ptr() const {
  const void* data = nullptr;
  check_call(torch_get_const_data_ptr(handle_, &data), "const_data_ptr");
  return data;
}

void* Tensor::mutable_data_ptr() const {
  void* data = nullptr;
  check_call(torch_get_mutable_data_ptr(handle_, &data), "mutable_data_ptr");
  return data;
}

MemoryFormat Tensor::suggest_memory_format() const {
  for (const MemoryFormat format : {MemoryFormat::ChannelsLast, MemoryFormat::ChannelsLast3d})
    if (strides_like(format, sizes(), strides())) return format;
  return MemoryFormat::Contiguous;
}

bool Tensor::is_contiguous(MemoryFormat format) const {
  int64_t step = 1;
  if (format == MemoryFormat::Contiguous) {
    if (numel() == 0) return true;
    for (int64_t i = dim_ - 1; i >= 0; step *= sizes_[i--])
      if (sizes_[i] != 1 && strides_[i] != step) return false;
    return true;
  }
  const Order order = order_of(format);
  if (dim_ != order.count) return false;
  for (int64_t i = 0; i < order.count; step *= sizes_[order.axes[i++]])
    if (sizes_[order.axes[i]] != 1 && strides_[order.axes[i]] != step) return false;
  return true;
}

Tensor Tensor::contiguous(MemoryFormat format) const {
  if (is_contiguous(format)) return *this;
  Tensor copy = empty(sizes(), scalar_type(), format);
  copy.copy_(*this);
  return copy;
}

Tensor Tensor::to(ScalarType dtype) const {
  if (scalar_type() == dtype) return *this;
  Tensor copy = empty(sizes(), dtype);
  copy.copy_(*this);
  return copy;
}

Tensor Tensor::as_strided(IntArrayRef sizes, IntArrayRef strides, int64_t offset) const {
  AtenTensorHandle view = nullptr;
  check_call(aoti_torch__reinterpret_tensor(handle_, static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                            offset, &view),
             "a view");
  return Tensor(view);
}

Tensor Tensor::select(int64_t axis, int64_t index) const {
  std::vector<int64_t> sizes = this->sizes().vec(), strides = this->strides().vec();
  const int64_t offset = index * strides[axis];
  sizes.erase(sizes.begin() + axis), strides.erase(strides.begin() + axis);
  return as_strided(sizes, strides, offset);
}

Tensor Tensor::narrow(int64_t axis, int64_t first, int64_t count) const { return slice(axis, first, first + count, 1); }

Tensor Tensor::slice(int64_t axis, int64_t first, int64_t end, int64_t step) const {
  std::vector<int64_t> sizes = this->sizes().vec(), strides = this->strides().vec();
  end = std::min(end, sizes[axis]), first = std::min(first, end);
  const int64_t offset = first * strides[axis];
  sizes[axis] = (end - first + step - 1) / step, strides[axis] *= step;
  return as_strided(sizes, strides, offset);
}

Tensor Tensor::permute(IntArrayRef order) const {
  std::vector<int64_t> sizes, strides;
  for (const int64_t axis : order) sizes.push_back(sizes_[axis]), strides.push_back(strides_[axis]);
  return as_strided(sizes, strides);
}

Tensor Tensor::unsqueeze(int64_t axis) const {
  std::vector<int64_t> sizes = this->sizes().vec(), strides = this->strides().vec();
  strides.insert(strides.begin() + axis, axis < dim_ ? sizes[axis] * strides[axis] : 1);
  sizes.insert(sizes.begin() + axis, 1);
  return as_strided(sizes, strides);
}

Tensor Tensor::unflatten(int64_t axis, IntArrayRef parts) const {
  std::vector<int64_t> sizes = this->sizes().vec(), strides = this->strides().vec(), steps(parts.size());
  int64_t step = strides[axis];
  for (size_t i = parts.size(); i-- > 0; step *= parts[i]) steps[i] = step;
  sizes.erase(sizes.begin() + axis), strides.erase(strides.begin() + axis);
  sizes.insert(sizes.begin() + axis, parts.begin(), parts.end());
  strides.insert(strides.begin() + axis, steps.begin(), steps.end());
  return as_strided(sizes, strides);
}

Tensor Tensor::view(IntArrayRef shape) const {
  std::vector<int64_t> sizes = shape.vec(), strides;
  int64_t known = 1;
  for (const int64_t side : sizes) known *= side < 0 ? 1 : side;
  for (int64_t& side : sizes)
    if (side < 0) side = known == 0 ? 0 : numel() / known;
  strides_of(sizes, MemoryFormat::Contiguous, strides);
  if (dim_ == 1 && sizes_[0] > 1)
    for (int64_t& stride : strides) stride *= strides_[0];
  else
    TORCH_CHECK(is_contiguous(), "torchconv: a view of a tensor that is not contiguous");
  return as_strided(sizes, strides);
}

const Tensor& Tensor::copy_(const Tensor& from) const {
  check_call(aoti_torch_copy_(handle_, from.alias().get(), 0), "copy_");
  return *this;
}

const Tensor& Tensor::zero_() const {
  check_call(aoti_torch_zero_(handle_), "zero_");
  return *this;
}

const Tensor& Tensor::add_(const Tensor& from) const {
  TORCH_CHECK(sizes() == from.sizes() && is_contiguous() && from.is_contiguous() && scalar_type() == from.scalar_type(),
              "add_: tensors of shapes ", sizes(), " and ", from.sizes());
  const auto add = [&]<class T>(T, int64_t count) {
    auto* to = static_cast<T*>(mutable_data_ptr());
    const auto* terms = static_cast<const T*>(from.const_data_ptr());
    parallel_for(0, count, 32768, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] += terms[i];
    });
  };
  switch (scalar_type()) {
    case ScalarType::Float: add(float{}, numel()); break;
    case ScalarType::Double: add(double{}, numel()); break;
    case ScalarType::ComplexFloat: add(float{}, 2 * numel()); break;
    case ScalarType::ComplexDouble: add(double{}, 2 * numel()); break;
    default: TORCH_CHECK(false, "add_: dtype ", scalar_type());
  }
  return *this;
}

Tensor empty(IntArrayRef sizes, ScalarType dtype, MemoryFormat format) {
  std::vector<int64_t> strides;
  strides_of(sizes, format, strides);
  AtenTensorHandle made = nullptr;
  check_call(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), code_of(dtype),
                                      aoti_torch_device_type_cpu(), 0, &made),
             "empty");
  return Tensor(made);
}

Tensor zeros(IntArrayRef sizes, ScalarType dtype) { return empty(sizes, dtype).zero_(); }

Tensor from_blob(void* data, IntArrayRef sizes, ScalarType dtype) {
  std::vector<int64_t> strides;
  strides_of(sizes, MemoryFormat::Contiguous, strides);
  AtenTensorHandle made = nullptr;
  check_call(aoti_torch_create_tensor_from_blob_v2(data, static_cast<int64_t>(sizes.size()), sizes.data(),
                                                   strides.data(), 0, code_of(dtype), aoti_torch_device_type_cpu(), 0,
                                                   &made, aoti_torch_layout_strided(), nullptr, 0),
             "from_blob");
  return Tensor(made);
}

Tensor view_as_real(const Tensor& t) { return call("aten::view_as_real", "", t); }

// torch 2.10 looks at the strides of axes of one element, too, which are anything where a tensor is contiguous.
Tensor view_as_complex(const Tensor& t) {
  return call("aten::view_as_complex", "", t.is_contiguous() ? t.view(t.sizes()) : t);
}

Tensor subtract(const Tensor& a, const Tensor& b, double times) {
  AtenTensorHandle made = nullptr;
  check_call(aoti_torch_aten_subtract_Tensor(a.get(), b.get(), times, &made), "subtract");
  return Tensor(made);
}

// ---- threads ----

#ifdef TORCHCONV_STD_THREADS

// For ThreadSanitizer, which cannot see how libgomp's threads wait for each other and would call every result a race:
// the loop on std::threads, which it can see.
void parallel_for(int64_t begin, int64_t end, int64_t grain, Range run, void* context) {
  static thread_local bool inside = false;
  const int64_t size = end - begin, parts = std::min<int64_t>(get_num_threads(), size / std::max<int64_t>(grain, 1));
  if (size <= 0) return;
  if (inside || parts <= 1) return run(begin, end, context);
  std::exception_ptr error;
  std::mutex guard;
  const auto part = [&](int64_t i) {
    inside = true;
    try {
      run(begin + size * i / parts, begin + size * (i + 1) / parts, context);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      error = std::current_exception();
    }
    inside = false;
  };
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < parts; ++i) threads.emplace_back(part, i);
  part(0);
  for (auto& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

#else

// No exception passes through torch's loop, which would keep its message only. It is kept by what it says and whether
// it is a ValueError: a std::exception_ptr takes a newer libstdc++ than the oldest that is served.
void parallel_for(int64_t begin, int64_t end, int64_t grain, Range run, void* context) {
  struct Guarded {
    Range run;
    void* context;
    std::atomic_flag failed = ATOMIC_FLAG_INIT;
    bool value_error = false;
    std::optional<std::string> message = std::nullopt;
    void fail(const char* what, bool is_value_error) {
      if (!failed.test_and_set()) message = what, value_error = is_value_error;
    }
  } guarded{run, context};
  const Range part = [](int64_t a, int64_t b, void* data) {
    Guarded& g = *static_cast<Guarded*>(data);
    try {
      g.run(a, b, g.context);
    } catch (const std::invalid_argument& error) {
      g.fail(error.what(), true);
    } catch (const std::exception& error) {
      g.fail(error.what(), false);
    }
  };
  check_call(torch_parallel_for(begin, end, grain, part, &guarded), "parallel_for");
  if (!guarded.message) return;
  if (guarded.value_error) throw std::invalid_argument(*guarded.message);
  throw std::runtime_error(*guarded.message);
}

#endif

// ---- arguments ----

std::string Boxed<std::string>::take(StableIValue value) {
  const auto handle = torch::stable::detail::to<StringHandle>(value);
  size_t length = 0;
  const char* data = nullptr;
  check_call(torch_string_length(handle, &length), "a string");
  check_call(torch_string_c_str(handle, &data), "a string");
  std::string taken(data, length);
  torch_delete_string(handle);
  return taken;
}

std::vector<int64_t> Boxed<IntArrayRef>::take(StableIValue value) {
  std::vector<int64_t> taken;
  take_each(value, [&](StableIValue element) { taken.push_back(torch::stable::detail::to<int64_t>(element)); });
  return taken;
}

}  // namespace torchconv
