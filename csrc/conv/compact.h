// A convolution without what only its window's numbers make large: strides, dilations and paddings beyond the operands.
//
// Along an axis, output t meets tap k at element i = t·stride + k·dilation − before of the input, if that is one. Taps
// that meet no output, outputs that meet no tap and elements that no tap sees are left out. Where every element meets
// at most one pair (t, k), as under a stride beyond the filter, what is left is told without a window: the elements are
// laid out as [tap][output], and the axis' taps become channels of a convolution with one tap there. The elements are
// copies of operands, as are those that `contiguous` makes.
#pragma once

#include <array>
#include <vector>

#include "conv/params.h"
#include "torch.h"

namespace torchconv {

class Compact {
 public:
  Compact(const ConvParams& whole, Direction direction);

  const ConvParams& params() const { return params_; }  // of what is left; `whole` itself where that is all
  bool whole() const { return whole_; }
  bool empty() const { return empty_; }  // no tap meets any output
  bool whole_output() const;             // no output was left out

  // Of what is left, from the tensors of the whole.
  Tensor input(const Tensor& x) const;
  Tensor output(const Tensor& y) const;
  Tensor weight(const Tensor& w) const;
  std::vector<int64_t> weight_sizes() const;
  // The reverse, into tensors of the whole; outputs that were left out stay, elements and taps become zeros.
  void put_input(const Tensor& x, const Tensor& to) const;
  void put_output(const Tensor& y, const Tensor& to) const;
  void put_weight(const Tensor& w, const Tensor& to) const;

  int64_t copied() const;  // elements of the tensors of what is left

 private:
  // What is left along an axis. Taps w and outputs y of the whole; where strides cannot tell them, its elements x,
  // [tap][output] if folded, with −1 for a zero.
  struct Axis {
    bool whole = true, folded = false;
    int64_t input = 1, output = 1, kernel = 1;  // of the whole
    std::vector<int64_t> w, y, x;
    int64_t first = 0, tap = 1, position = 1;  // the first element; elements between taps and between outputs

    bool whole_output() const { return whole || static_cast<int64_t>(y.size()) == output; }
    int64_t taps() const { return static_cast<int64_t>(w.size()); }
  };
  using Table = std::vector<int64_t>;
  static Axis axis_of(const ConvParams& p, int axis, Direction direction, ConvParams& left);
  static Axis folded(const ConvParams& p, int axis, Table taps, Table outputs, Axis whole, ConvParams& left);
  static Axis thinned(const ConvParams& p, int axis, const Table& taps, const Table& outputs, Axis whole,
                      ConvParams& left);
  static void set_without_window(ConvParams& left, int axis, int64_t positions);
  int64_t dim(int axis) const { return axis + params_.dims - 1; }  // of the tensors
  int64_t folded_taps() const;                                     // of all folded axes
  // [N, C, folded taps..., elements...] of an input, or of one whose axes without strides are tables already.
  Tensor windows(const Tensor& x) const;
  Tensor by_taps(const Tensor& x) const;         // of what is left, its channels taken apart likewise
  Tensor weight_by_taps(const Tensor& w) const;  // [O, C, folded taps..., taps...] of a weight

  ConvParams params_;
  std::array<Axis, 3> axes_;
  bool whole_ = true, empty_ = false;
};

}  // namespace torchconv
