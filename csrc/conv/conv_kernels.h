// What convolution asks of a kernel set: the description of the work in plain numbers, and the entry points.
#pragma once
#include "cpu/numeric.h"

namespace torchconv {

// Where an element of an activation [N, C, D, H, W] lies: element strides.
struct View {
  int64_t n, c, s[3];
};

// One filter position: where it lies in the weight tensor, and where it looks in the source.
struct Tap {
  int64_t weight;
  int64_t offset[3];
};

// The one shape of work behind all three operators. Over target positions t and taps k, per group,
//   gather:     target[n, m, base + t·spacing] = bias[m] + Σ_k Σ_c weight[m, c, k] · source[n, c, t·step + offset_k]
//   correlate:  weight[m, c, k] = Σ_n Σ_t target[n, m, t] · source[n, c, t·step + offset_k]
// where a source index outside the map reads 0. The forward pass is one gather; the input gradient is one gather for
// each residue of the stride (source: the output's gradient); the weight gradient is one correlation.
struct Gather {
  int64_t batch, groups;
  int64_t m, c;                 // target and source channels of one group
  int64_t count[3];             // target positions
  int64_t base[3], spacing[3];  // target index = base + t · spacing
  int64_t extent[3], step[3];   // source size; source index = t · step + offset
  const Tap* taps;              // [grid], of ascending offsets along every axis
  int64_t tap_count, grid[3];   // grid[0] · grid[1] · grid[2], or 0
  View source, target;
  int64_t weight_g, weight_m, weight_c;  // element strides of the weight tensor
  bool relu;                             // of gather: target = max(0, the sum); NaN stays

  int64_t positions() const { return batch * count[0] * count[1] * count[2]; }
  int64_t depth() const { return tap_count * c; }  // length of one inner product, k = (tap, channel)
};

// Target positions that one task handles: samples, and t along each axis; of every residue of the stride those it has.
struct Box {
  int64_t n_begin, n_end, begin[3], end[3];
};

// A gradient of [batch, channels, positions], and into how many pieces the work is cut: by the shape alone.
struct BiasGrad {
  int64_t batch, channels, positions, splits;
};

// What counts as one tap of a correlation: each; those in a row of the kernel; all of them, copied as patches; or each,
// and positions, not channels, fill the vectors.
enum class CorrelationMode { plain, row, patch, positions };

// How the weight gradient is summed; see correlate.inl. Chosen by shape alone: the order of a sum is part of its
// result.
struct CorrelationPlan {
  CorrelationMode mode;
  bool source_lanes;              // the vectors hold source channels, and the rows target channels; or the reverse
  bool copy_source, copy_target;  // as pixels of accumulators, a block at a time; or read where they lie
  int64_t run, merged, taps;      // taps in a row of the kernel; taps that count as one; how many such
  int64_t rows, lanes;            // of one tap's sums
  int64_t row_chunk, row_chunks, lane_chunk, lane_chunks;  // a task's share of them, and how many shares
  int64_t group_block, group_blocks;                       // groups a task handles at once, and how many such
  int64_t extent[4], boxes[4];  // positions (sample, then three axes) summed in registers at once; how many such
  int64_t splits;               // parts of the sum, added at the end
  int64_t ld;                   // the sums are [splits][groups][chunks][taps][row_chunk][ld]
  int64_t chunk_sums, group_sums, split_sums;
};

// What a gather's tile broadcasts, and so how its weight is packed, in panels of target channels: the weight, against
// vectors of positions; the source, against vectors of channels; the same, against half vectors where they are enough.
enum class Broadcast { weight, source, source_narrow };

// Source and target of gather and correlate point at the whole tensors; a group's channels are found from `group`.
template <class T>
struct ConvKernels {
  using A = accumulator_t<T>;

  // The weight of one group as [panels][depth][panel width], zero-padded.
  int64_t (*panels)(const Gather&, Broadcast);
  int64_t (*packed_size)(const Gather&, Broadcast);
  void (*pack_weight)(const Gather&, Broadcast, int64_t group, const T* weight, int64_t panel_begin, int64_t panel_end,
                      A* packed);

  // gather at target positions [begin, end), at most gemm_positions of them, for the channels of some panels; packed
  // for Broadcast::source if channels_last, else for weight.
  using GatherKernel = void (*)(const Gather&, bool channels_last, int64_t group, const T* source, const A* packed,
                                const T* bias, T* target, int64_t begin, int64_t end, int64_t panel_begin,
                                int64_t panel_end, A* scratch);
  int64_t (*gemm_scratch)(const Gather&);  // in elements of A, like every size here
  GatherKernel gemm;

  // The gathers of all residues of the stride (one, if the stride is 1 or the direction forward) over a box, for the
  // channels of some panels of the groups [begin, end). packed: each group's weight in every residue's packing, for
  // Broadcast::source_narrow, in order.
  int64_t (*direct_scratch)(const Gather* residues, int64_t count, bool channels_last, int64_t groups, const Box&);
  void (*direct)(const Gather* residues, int64_t count, bool channels_last, int64_t begin, int64_t end, const T* source,
                 const A* packed, const T* bias, T* target, const Box&, int64_t panel_begin, int64_t panel_end,
                 A* scratch);
  // The same for all channels of the groups [begin, end); packed for Broadcast::weight.
  int64_t (*planes_scratch)(const Gather* residues, int64_t count, bool channels_last, int64_t groups, const Box&);
  void (*planes)(const Gather* residues, int64_t count, bool channels_last, int64_t begin, int64_t end, const T* source,
                 const A* packed, const T* bias, T* target, const Box&, A* scratch);
  bool (*prefers_planes)(const Gather* residues, int64_t count, bool channels_last);

  CorrelationPlan (*correlation_plan)(const Gather&, bool channels_last);
  int64_t (*correlate_scratch)(const Gather&, const CorrelationPlan&);
  // The sums of one chunk of a block of groups, over boxes [box_begin, box_end).
  void (*correlate)(const Gather&, const CorrelationPlan&, int64_t group_block, int64_t lane_chunk, int64_t row_chunk,
                    int64_t box_begin, int64_t box_end, const T* source, const T* target, A* sums, A* scratch);
  // The parts of sums [begin, end), added in order to the first part.
  void (*add_parts)(const CorrelationPlan&, int64_t begin, int64_t end, A* sums);
  // weight[m, c, tap], m in [m_begin, m_end), from the added sums.
  void (*store_correlation)(const Gather&, const CorrelationPlan&, int64_t group, const A* sums, int64_t m_begin,
                            int64_t m_end, T* weight);

  // Sums of a gradient over samples and positions, under the mask of a ReLU where there is one: see bias.inl.
  void (*bias_grad)(bool channels_last, const BiasGrad&, int64_t split, const T* grad, const T* output, T* masked,
                    double* sums);
  void (*store_bias)(const BiasGrad&, const double* sums, T* out);
};

template <class T>
struct DepthwiseKernels {
  using A = accumulator_t<T>;

  // Gathers of one source or one target channel a group, with their weights of all channels packed. The
  // residues of the stride together, as for direct. Contiguous: target maps [begin, end) of (sample, channel).
  void (*pack)(const Gather* residues, int64_t count, bool channels_last, const T* weight, A* packed);
  int64_t (*planes_scratch)(const Gather* residues, int64_t count);
  void (*planes)(const Gather* residues, int64_t count, int64_t begin, int64_t end, const T* source, const A* packed,
                 const T* bias, T* target, A* scratch);
  int64_t (*planes_grad_scratch)(const Gather&);
  void (*planes_grad)(const Gather&, int64_t channel_begin, int64_t channel_end, const T* source, const T* target,
                      T* weight, A* scratch);
  // Channels-last, one filter a map and at least `channels` maps: rows of targets of sample n. The gradient's
  // rows are those of all samples; it fills the channels of one block in totals, [tap][channel]; scratch is
  // [tap][block].
  int64_t channels;
  void (*pixels)(const Gather* residues, int64_t count, int64_t n, int64_t row_begin, int64_t row_end, const T* source,
                 const A* packed, const T* bias, T* target);
  void (*pixels_grad)(const Gather&, int64_t block, int64_t row_begin, int64_t row_end, const T* source,
                      const T* target, double* totals, A* scratch);
  void (*store_grad)(const Gather&, const double* totals, int64_t parts, T* weight);
};

constexpr int64_t bias_run = 64;                 // terms summed in float before the sum goes to a double
constexpr int64_t depthwise_grad_channels = 64;  // of one block of a channels-last weight gradient
// Tuning that the callers share with the kernels.
constexpr int64_t gemm_channels = 576;   // target channels one gemm task handles at the most: whole panels of any width
constexpr int64_t gemm_positions = 192;  // target positions one gemm or direct task handles
constexpr int64_t depth_block = 256;     // products summed in registers before the sum goes to memory: bounds the error
constexpr int64_t correlate_positions = 128;  // positions a tap sees, summed in registers: bounds the error
constexpr int64_t correlate_room = 96 << 10;  // sums of one task: in the second-level cache
constexpr int64_t correlate_channels = 64;    // the groups of one task have about as many: whole cache lines
constexpr int64_t correlate_tasks = 16;       // tasks wanted
constexpr int64_t correlate_sums = 4 << 20;   // partial sums there is room for

}  // namespace torchconv
