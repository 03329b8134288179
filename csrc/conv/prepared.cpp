// A forward convolution in two steps: what its filters become, which a layer in evaluation keeps between calls, and the
// rest. What is kept is a tensor of bytes, so that it is owned, counted and freed as any tensor is:
//
//   Header | bias, of the operands' dtype | what the algorithm makes of the filters
//
// each on a cache line. The header holds all that a call was checked for and chose, so the second step does neither.
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

namespace torchconv {
namespace {

struct Header {
  uint64_t mark[2];  // of this process: the header holds an address
  ConvParams params;
  const ConvAlgorithm* algorithm;
  bool relu;
  int64_t bias, filters, end;  // in bytes from the header on; bias 0: there is none
};
static_assert(std::is_trivially_copyable_v<Header>);

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
  Header header{};
  std::copy(process_mark().begin(), process_mark().end(), header.mark);
  header.params = p, header.algorithm = choice.algorithm, header.relu = relu;
  header.filters = lines(sizeof(Header));
  if (bias) {
    header.bias = header.filters;
    header.filters += lines(p.out_channels * element_size(p.dtype));
  }
  header.end = header.filters + prepared->bytes(p);
  const Tensor kept = empty({header.end}, ScalarType::Byte);
  ask_for_large_pages(kept);
  char* memory = mutable_data<char>(kept);
  std::memcpy(memory, &header, sizeof header);
  if (bias)
    std::memcpy(memory + header.bias, bias->contiguous().const_data_ptr(), p.out_channels * element_size(p.dtype));
  prepared->prepare(p, weight, memory + header.filters);
  return kept;
}

Tensor prepared_convolution(const Tensor& input, const Tensor& prepared) {
  Header h;
  const bool whole = prepared.scalar_type() == ScalarType::Byte && prepared.dim() == 1 && prepared.is_contiguous() &&
                     prepared.size(0) >= static_cast<int64_t>(sizeof h);
  const char* memory = whole ? data<char>(prepared) : nullptr;
  if (whole) std::memcpy(&h, memory, sizeof h);
  TORCH_CHECK(whole && std::equal(h.mark, h.mark + 2, process_mark().begin()) && prepared.size(0) == h.end,
              "_prepared_convolutions: what was prepared is not of this process");
  const ConvParams& p = h.params;
  TORCH_CHECK(input.sizes() == IntArrayRef(p.input_sizes()) && input.scalar_type() == p.dtype,
              "_prepared_convolutions: prepared for ", p.dtype, " inputs of shape ", IntArrayRef(p.input_sizes()),
              ", got ", input.scalar_type(), " of shape ", input.sizes());
  const Tensor y = empty(p.output_sizes(), p.dtype, p.memory_format());
  h.algorithm->prepared->run(p, input.contiguous(p.memory_format()), memory + h.filters,
                             h.bias ? memory + h.bias : nullptr, h.relu, y);
  return y;
}

Tensor prepared_convolutions(const Tensor& input, const std::vector<Tensor>& prepared) {
  TORCH_CHECK(!prepared.empty(), "_prepared_convolutions: nothing was prepared");
  Tensor y = input;
  for (const Tensor& each : prepared) y = prepared_convolution(y, each);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchconv, CPU, m) {
  m.impl("_prepare_convolution", boxed<prepare_convolution>);
  m.impl("_prepared_convolutions", boxed<prepared_convolutions>);
}

}  // namespace torchconv
