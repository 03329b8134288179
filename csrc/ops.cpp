// The table of contents: every operator's schema. Implementations register themselves in the folders (README.md); fake
// (shape-only) kernels, derivatives and typed wrappers are in torchconv/autograd/.

#include "cpu/kernels.h"
#include "conv/select.h"
#include "torch.h"

// Sizes are in the tensors' own number of spatial axes, 1 to 3. `padding` holds two numbers an axis, before and after,
// first axis first; a negative one crops.
STABLE_TORCH_LIBRARY(torchconv, m) {
  m.def("cpu_capability() -> str");

  // y = x * w + b and the two other corners of the triangle; each is bilinear, and the derivative of each is the
  // others.
  m.def(
      "convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation,"
      " SymInt groups, str algorithm) -> Tensor");
  // max(0, y), in one pass.
  m.def(
      "convolution_relu(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding,"
      " SymInt[] dilation, SymInt groups, str algorithm) -> Tensor");
  m.def(
      "convolution_input_grad(Tensor grad, Tensor weight, SymInt[] input_size, SymInt[] stride, SymInt[] padding,"
      " SymInt[] dilation, SymInt groups, str algorithm) -> Tensor");
  m.def(
      "convolution_weight_grad(Tensor grad, Tensor input, SymInt[] weight_size, SymInt[] stride, SymInt[] padding,"
      " SymInt[] dilation, SymInt groups, str algorithm, MemoryFormat memory_format) -> Tensor");
  // Of `convolution`, and max(0, y) of it: what its filters and bias become for inputs of this size, in memory that
  // only this process can read; empty where nothing is gained by keeping it. The same of a linear layer for inputs of
  // this many rows, of `max_pool` and of `avg_pool`. And y of these, one on the other's.
  m.def(
      "_prepare_convolution(Tensor weight, Tensor? bias, int[] input_size, int[] stride, int[] padding, int[] dilation,"
      " int groups, bool channels_last, str algorithm, bool relu) -> Tensor");
  m.def(
      "_prepare_max_pool(int[] kernel_size, int[] stride, int[] padding, int[] dilation, int[] output_size, bool relu)"
      " -> Tensor");
  m.def("_prepare_linear(Tensor weight, Tensor? bias, int rows, bool relu) -> Tensor");
  m.def(
      "_prepare_avg_pool(int[] kernel_size, int[] stride, int[] padding, int[] output_size, bool count_include_pad,"
      " int? divisor_override) -> Tensor");
  // What of tensors would be other if they, or what is in them, were: addresses, shapes and some elements. And whether
  // that is as it was.
  m.def("_states(Tensor[] tensors) -> Tensor");
  m.def("_same_states(Tensor[] tensors, Tensor states) -> bool");
  m.def("_run_prepared(Tensor input, Tensor[] prepared) -> Tensor");
  m.def("convolution_bias_grad(Tensor grad) -> Tensor");
  // What a ReLU with this output lets through of its gradient, and the bias gradient of that, in one pass.
  m.def("relu_bias_grad(Tensor grad, Tensor output) -> (Tensor, Tensor)");
  m.def("set_conv_precision(str precision) -> ()");
  m.def("get_conv_precision() -> str");
  m.def("set_batch_invariant(bool invariant) -> ()");
  m.def("get_batch_invariant() -> bool");
  m.def("_swap_thread_precision(str? precision) -> str?");
  m.def("_algorithms() -> str[]");
  m.def("_error_bounds(str algorithm) -> (float, float)");  // ConvAlgorithm's
  m.def(
      "_explain(str direction, int[] input_size, int[] weight_size, int[] stride, int[] padding, int[] dilation,"
      " int groups, ScalarType dtype, bool channels_last, str algorithm) -> (str, str[], int, float)");

  // Pooling. Windows are described by kernel_size, stride, padding (one number an axis) and dilation, or are adaptive
  // where kernel_size is empty; the output's spatial size is always given, so that ceil mode needs no flag.
  m.def(
      "max_pool(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation,"
      " SymInt[] output_size) -> (Tensor, Tensor)");
  m.def(
      "max_pool_scatter(Tensor grad, Tensor positions, SymInt[] input_size, SymInt[] kernel_size, SymInt[] stride,"
      " SymInt[] padding, SymInt[] dilation) -> Tensor");
  m.def(
      "max_pool_gather(Tensor input, Tensor positions, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding,"
      " SymInt[] dilation) -> Tensor");
  m.def(
      "max_pool_indices(Tensor positions, SymInt[] input_size, SymInt[] kernel_size, SymInt[] stride,"
      " SymInt[] padding, SymInt[] dilation) -> Tensor");
  m.def(
      "avg_pool(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] output_size,"
      " bool count_include_pad, int? divisor_override) -> Tensor");
  m.def(
      "avg_pool_spread(Tensor grad, SymInt[] input_size, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding,"
      " bool count_include_pad, int? divisor_override, MemoryFormat memory_format) -> Tensor");
  // max(0, y) of max_pool, in one pass.
  m.def(
      "max_pool_relu(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation,"
      " SymInt[] output_size) -> (Tensor, Tensor)");

  // Batch normalisation in training, and max(0, y) of it: the output, and the channels' means and biased variances.
  m.def("batch_norm(Tensor input, Tensor? weight, Tensor? bias, float eps, bool relu) -> (Tensor, Tensor, Tensor)");
  // The gradients of input, weight and bias.
  m.def(
      "batch_norm_grad(Tensor grad, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps,"
      " bool relu) -> (Tensor, Tensor, Tensor)");

  // Locally connected: convolution whose filters differ by position, in 1-D and 2-D, closed under differentiation as
  // convolution is. The weight is [O, C/groups, kernel..., positions...], the bias [O, positions...].
  m.def(
      "local_convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding,"
      " SymInt[] dilation, SymInt groups) -> Tensor");
  m.def(
      "local_convolution_input_grad(Tensor grad, Tensor weight, SymInt[] input_size, SymInt[] stride, SymInt[] padding,"
      " SymInt[] dilation, SymInt groups) -> Tensor");
  m.def(
      "local_convolution_weight_grad(Tensor grad, Tensor input, SymInt[] weight_size, SymInt[] stride,"
      " SymInt[] padding, SymInt[] dilation, SymInt groups) -> Tensor");
  m.def(
      "_local_workspace(str direction, int[] input_size, int[] weight_size, int[] stride, int[] padding,"
      " int[] dilation, int groups, ScalarType dtype) -> int");

  // Normalisation over windows of neighbouring channels, and its derivative.
  m.def("local_response_norm(Tensor input, SymInt size, float alpha, float beta, float k) -> Tensor");
  m.def("local_response_norm_grad(Tensor grad, Tensor input, SymInt size, float alpha, float beta, float k) -> Tensor");

  // Filters under transforms: a sparse map in rows (pointers, columns, values) from a filter's taps to those of its T
  // transformed copies, its transpose, and its derivative to its values. [D, C, *kernel] <-> [D*T, C, *kernel_size].
  m.def(
      "transform_filters(Tensor weight, Tensor pointers, Tensor columns, Tensor values, SymInt[] kernel_size)"
      " -> Tensor");
  m.def(
      "transform_filters_transpose(Tensor grad, Tensor pointers, Tensor columns, Tensor values, SymInt[] kernel_size)"
      " -> Tensor");
  m.def("transform_values_grad(Tensor grad, Tensor weight, Tensor pointers, Tensor columns) -> Tensor");

  // A convolution whose maps, T neighbours for each filter, are reduced to one: by their maximum (and which it is), by
  // taking a given one of them, by their Euclidean norm.
  m.def(
      "convolution_max(Tensor input, Tensor weight, Tensor? bias, SymInt transforms, SymInt[] stride, SymInt[] padding,"
      " SymInt[] dilation, SymInt groups, str algorithm) -> (Tensor, Tensor)");
  m.def(
      "convolution_select(Tensor input, Tensor weight, Tensor winners, SymInt[] stride, SymInt[] padding,"
      " SymInt[] dilation, SymInt groups, str algorithm) -> Tensor");
  m.def(
      "convolution_select_input_grad(Tensor grad, Tensor winners, Tensor weight, SymInt[] input_size, SymInt[] stride,"
      " SymInt[] padding, SymInt[] dilation, SymInt groups, str algorithm) -> Tensor");
  m.def(
      "convolution_select_weight_grad(Tensor grad, Tensor winners, Tensor input, SymInt[] weight_size,"
      " SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, str algorithm) -> Tensor");
  m.def(
      "convolution_norm(Tensor input, Tensor weight, Tensor? bias, SymInt transforms, SymInt[] stride,"
      " SymInt[] padding, SymInt[] dilation, SymInt groups, str algorithm) -> Tensor");
  m.def(
      "convolution_norm_grad(Tensor grad, Tensor output, Tensor input, Tensor weight, Tensor? bias, bool to_input,"
      " bool to_weight, bool to_bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups,"
      " str algorithm) -> (Tensor, Tensor, Tensor)");
}

namespace torchconv {
namespace {
std::string cpu_capability() { return kernel_table().capability; }
}  // namespace

// Operators of no tensor: no key tells them apart.
STABLE_TORCH_LIBRARY_IMPL(torchconv, CompositeImplicitAutograd, m) {
  m.impl("cpu_capability", boxed<cpu_capability>);
  m.impl("set_conv_precision", boxed<set_conv_precision>);
  m.impl("get_conv_precision", boxed<get_conv_precision>);
  m.impl("set_batch_invariant", boxed<set_batch_invariant>);
  m.impl("get_batch_invariant", boxed<get_batch_invariant>);
  m.impl("_swap_thread_precision", boxed<swap_thread_precision>);
  m.impl("_algorithms", boxed<algorithm_names>);
  m.impl("_error_bounds", boxed<error_bounds>);
}

}  // namespace torchconv
