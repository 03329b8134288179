// A forward convolution in two steps: what its filters become, which a layer in evaluation keeps between calls, and the
// rest. What is kept is a tensor of bytes, so that it is owned, counted and freed as any tensor is:
//
//   Convolution | bias, of the operands' dtype | what the algorithm makes of the filters
//
// each on a cache line. The record holds all that a call was checked for and chose, so the second step does neither. A
// linear layer is a convolution of one position, and pooling has a record too, so that layers that follow one another
// are run in one call.
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstring>
#include <random>

#include "buffer.h"
#include "conv/compact.h"
#include "conv/select.h"
#include "dispatch.h"
#include "pool/pool.h"

namespace torchconv {
namespace {

enum class Kind { convolution, linear, max_pool, avg_pool };

// What every record begins with.
struct Header {
  uint64_t mark[2];  // of this process: a record holds an address
  int64_t bytes;     // of all that was prepared
  Kind kind;
  bool relu;
};

struct Convolution : Header {
  ConvParams params;
  const ConvAlgorithm* algorithm;
  int64_t bias, filters;  // in bytes from the record on; bias 0: there is none
};

// A window's numbers along up to three axes; none where it is adaptive.
struct Axes {
  int64_t count, value[3];

  operator IntArrayRef() const { return {value, static_cast<size_t>(count)}; }
};

struct Pool : Header {
  Axes kernel_size, stride, padding, dilation, output_size;
  // Of means.
  bool count_include_pad, has_divisor;
  int64_t divisor_override;
};
static_assert(std::is_trivially_copyable_v<Convolution> && std::is_trivially_copyable_v<Pool>);

const std::array<uint64_t, 2>& process_mark() {
  static const auto mark = [] {
    std::random_device random;
    const auto word = [&] { return uint64_t{random()} << 32 | random(); };
    return std::array<uint64_t, 2>{word(), word()};
  }();
  return mark;
}

// Asks for pages of megabytes where a tensor not yet written has room for them: large filters are read from memory at
// each call, a third faster then.
void ask_for_large_pages([[maybe_unused]] const Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(t.mutable_data_ptr()) + page - 1) / page * page;
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(t.mutable_data_ptr()) + static_cast<uintptr_t>(t.size(0))) / page * page;
  if (end > begin + (4 << 20)) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice only
#endif
}

Header header_of(Kind kind, bool relu, int64_t bytes) {
  return {{process_mark()[0], process_mark()[1]}, bytes, kind, relu};
}

int64_t lines(int64_t bytes) { return blocks_of(bytes, 64) * 64; }

Tensor prepare_convolution(const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef input_size,
                           IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, int64_t groups,
                           bool channels_last, std::string_view algorithm, bool relu) {
  const ConvParams p =
      conv_params(input_size, weight.sizes(), {stride, padding, dilation, groups}, weight.scalar_type(), channels_last);
  check_bias(p, weight, bias);
  check_plannable("_prepare_convolution", p);
  check_algorithm(p, Direction::forward, algorithm);
  const Tensor nothing = empty({0}, ScalarType::Byte);
  if (p.batch == 0 || p.in_channels == 0) return nothing;
  const Compact compact(p, Direction::forward);
  const Choice choice = select(p, compact.params(), Direction::forward, algorithm, Filters::prepared);
  const PreparedForward* prepared = choice.algorithm->prepared;
  if (!compact.whole() || !prepared) return nothing;
  const int64_t biases = p.out_channels * element_size(p.dtype);
  const int64_t begin = lines(sizeof(Convolution)), filters = begin + (bias ? lines(biases) : 0);
  const int64_t bytes = filters + prepared->bytes(p);
  const Convolution record{header_of(Kind::convolution, relu, bytes), p, choice.algorithm, bias ? begin : 0, filters};
  const Tensor kept = empty({bytes}, ScalarType::Byte);
  ask_for_large_pages(kept);
  char* memory = mutable_data<char>(kept);
  std::memcpy(memory, &record, sizeof record);
  if (bias) std::memcpy(memory + record.bias, bias->contiguous().const_data_ptr(), biases);
  prepared->prepare(p, weight, memory + filters);
  return kept;
}

// y [rows, K] = x [rows, C] · weightᵀ [C, K] + bias: a 1 x 1 convolution of `rows` images of one pixel.
Tensor prepare_linear(const Tensor& weight, const std::optional<Tensor>& bias, int64_t rows, bool relu) {
  TORCH_CHECK(weight.dim() == 2, "_prepare_linear: weight must be [K, C], got ", weight.sizes());
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const Tensor filters =
      weight.as_strided(IntArrayRef({outputs, inputs, 1, 1}), IntArrayRef({weight.stride(0), weight.stride(1), 1, 1}));
  const int64_t input_size[] = {rows, inputs, 1, 1}, ones[] = {1, 1}, zeros[] = {0, 0, 0, 0};
  const Tensor kept = prepare_convolution(filters, bias, input_size, ones, zeros, ones, 1, false, "auto", relu);
  if (kept.size(0) > 0) {
    const Kind linear = Kind::linear;
    std::memcpy(mutable_data<char>(kept) + offsetof(Header, kind), &linear, sizeof linear);
  }
  return kept;
}

Axes axes_of(const char* name, IntArrayRef from) {
  TORCH_CHECK(from.size() <= 3, name, ": windows of 1 to 3 axes, got ", from);
  Axes axes{static_cast<int64_t>(from.size()), {}};
  std::copy(from.begin(), from.end(), axes.value);
  return axes;
}

template <class Record>
Tensor kept_record(const Record& record) {
  const Tensor kept = empty({static_cast<int64_t>(sizeof record)}, ScalarType::Byte);
  std::memcpy(mutable_data<char>(kept), &record, sizeof record);
  return kept;
}

Tensor prepare_max_pool(IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                        IntArrayRef output_size, bool relu) {
  const char* name = "_prepare_max_pool";
  return kept_record(Pool{header_of(Kind::max_pool, relu, sizeof(Pool)), axes_of(name, kernel_size),
                          axes_of(name, stride), axes_of(name, padding), axes_of(name, dilation),
                          axes_of(name, output_size), false, false, 0});
}

Tensor prepare_avg_pool(IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding, IntArrayRef output_size,
                        bool count_include_pad, std::optional<int64_t> divisor_override) {
  const char* name = "_prepare_avg_pool";
  return kept_record(Pool{header_of(Kind::avg_pool, false, sizeof(Pool)), axes_of(name, kernel_size),
                          axes_of(name, stride), axes_of(name, padding), axes_of(name, {}), axes_of(name, output_size),
                          count_include_pad, divisor_override.has_value(), divisor_override.value_or(0)});
}

Tensor run(const Tensor& input, const Convolution& c, const char* memory) {
  const ConvParams& p = c.params;
  const bool linear = c.kind == Kind::linear;
  const std::vector<int64_t> expected = p.input_sizes();
  const bool fits = linear ? input.dim() >= 2 && input.size(0) == p.batch && input.numel() == p.batch * p.in_channels
                           : input.sizes() == IntArrayRef(expected);
  TORCH_CHECK(fits && input.scalar_type() == p.dtype, "_run_prepared: prepared for ", p.dtype, " inputs of shape ",
              IntArrayRef(expected), ", got ", input.scalar_type(), " of shape ", input.sizes());
  const MemoryFormat format = linear ? MemoryFormat::Contiguous : p.memory_format();
  const Tensor y = linear ? empty({p.batch, p.out_channels}, p.dtype) : empty(p.output_sizes(), p.dtype, format);
  c.algorithm->prepared->run(p, input.contiguous(format), memory + c.filters, c.bias ? memory + c.bias : nullptr,
                             c.relu, y);
  return y;
}

Tensor run(const Tensor& input, const Pool& m) {
  if (m.kind == Kind::max_pool)
    return run_max_pool(input, m.kernel_size, m.stride, m.padding, m.dilation, m.output_size, m.relu);
  return run_avg_pool(input, m.kernel_size, m.stride, m.padding, m.output_size, m.count_include_pad,
                      m.has_divisor ? std::optional(m.divisor_override) : std::nullopt);
}

template <class Record>
Record read(const char* memory) {
  Record record;
  std::memcpy(&record, memory, sizeof record);
  return record;
}

Tensor run_one(const Tensor& input, const Tensor& prepared) {
  const bool bytes = prepared.scalar_type() == ScalarType::Byte && prepared.dim() == 1 && prepared.is_contiguous() &&
                     prepared.size(0) >= static_cast<int64_t>(sizeof(Header));
  const char* memory = bytes ? data<char>(prepared) : nullptr;
  const Header h = bytes ? read<Header>(memory) : Header{};
  TORCH_CHECK(std::equal(h.mark, h.mark + 2, process_mark().begin()) && prepared.size(0) == h.bytes,
              "_run_prepared: what was prepared is not of this process");
  const bool convolution = h.kind == Kind::convolution || h.kind == Kind::linear;
  return convolution ? run(input, read<Convolution>(memory), memory) : run(input, read<Pool>(memory));
}

Tensor run_prepared(const Tensor& input, const std::vector<Tensor>& prepared) {
  TORCH_CHECK(!prepared.empty(), "_run_prepared: nothing was prepared");
  Tensor y = input;
  for (const Tensor& each : prepared) y = run_one(y, each);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("_prepare_convolution", boxed<prepare_convolution>);
  m.impl("_prepare_linear", boxed<prepare_linear>);
  m.impl("_run_prepared", boxed<run_prepared>);
}

STABLE_TORCH_LIBRARY_IMPL(torchconv, CompositeExplicitAutograd, m) {
  m.impl("_prepare_max_pool", boxed<prepare_max_pool>);
  m.impl("_prepare_avg_pool", boxed<prepare_avg_pool>);
}

}  // namespace torchconv
