// The driver of direct summation: plans how the targets are cut into boxes, and runs the kernels over them in parallel.
#include "conv/direct/direct.h"

#include <algorithm>

#include "buffer.h"
#include "conv/algorithm.h"
#include "conv/cost.h"
#include "conv/direct/correlate.h"
#include "conv/gathered.h"
#include "cpu/dot_bf16.h"

namespace torchconv {
namespace {

// How the targets of all residues are cut into boxes: into how many, of samples and along each axis.
struct Boxes {
  int64_t count[4];
  int64_t total() const { return count[0] * count[1] * count[2] * count[3]; }
};

// Boxes of about `room` positions, whole rows and then whole maps first. The first residue has the most positions.
Boxes boxes_of(const Gather& g, int64_t room) {
  Boxes b{};
  for (int a = 2; a >= 0; --a) {
    const int64_t size = std::clamp<int64_t>(g.count[a], 1, std::max<int64_t>(1, room));
    room /= size;
    b.count[a + 1] = std::max<int64_t>(1, blocks_of(g.count[a], size));
  }
  b.count[0] = std::max<int64_t>(1, blocks_of(g.batch, std::clamp<int64_t>(room, 1, std::max<int64_t>(1, g.batch))));
  return b;
}

// The boxes differ by one position or sample along an axis at the most.
Box box_at(const Boxes& b, const Gather& g, int64_t index) {
  Box box{};
  for (int a = 2; a >= 0; index /= b.count[a-- + 1]) {
    const int64_t i = index % b.count[a + 1];
    box.begin[a] = g.count[a] * i / b.count[a + 1];
    box.end[a] = g.count[a] * (i + 1) / b.count[a + 1];
  }
  box.n_begin = g.batch * index / b.count[0];
  box.n_end = g.batch * (index + 1) / b.count[0];
  return box;
}

// The boxes, and a few more where the tasks would be so few that the last threads would have less to do: of samples, or
// of rows where samples are fewer than that and a box has many positions.
Boxes evened(Boxes b, const Gather& g, int64_t tasks_of_a_box) {
  constexpr int64_t many = 192;
  const int64_t threads = get_num_threads();
  while (b.total() * tasks_of_a_box % threads != 0 && b.total() * tasks_of_a_box < 16 * threads && b.count[0] < g.batch)
    ++b.count[0];
  int64_t& rows = g.count[0] > 1 ? b.count[1] : b.count[2];
  const int64_t most = g.count[0] > 1 ? g.count[0] : g.count[1];
  while (b.total() * tasks_of_a_box % threads != 0 && g.positions() / b.total() >= many && rows < most) ++rows;
  return b;
}

// Elements of the source that a box of all residues reads for one of its targets, about: the taps' reach included.
double read_of(const std::vector<Gather>& g, const Boxes& boxes) {
  double read = 1;
  for (int a = 0; a < 3; ++a) {
    int64_t low = 0, high = 0;
    for (const Gather& r : g)
      for (int64_t k = 0; k < r.tap_count; ++k)
        low = std::min(low, r.taps[k].offset[a]), high = std::max(high, r.taps[k].offset[a]);
    const int64_t size = std::max<int64_t>(1, blocks_of(g.front().count[a], boxes.count[a + 1]));
    read *= static_cast<double>(size * g.front().step[a] + high - low) / static_cast<double>(size);
  }
  return read;
}

// An axis of one tap steps over a sparser map: the same gather with a step of one. Returns how far the source moves.
int64_t without_steps(Gather& g, std::vector<Tap>& taps) {
  int64_t shift = 0;
  for (int a = 0; a < 3; ++a) {
    if (g.step[a] == 1 || g.grid[a] != 1) continue;
    const int64_t offset = taps.front().offset[a], phase = (offset % g.step[a] + g.step[a]) % g.step[a];
    if (phase >= g.extent[a]) continue;
    for (Tap& tap : taps) tap.offset[a] = (offset - phase) / g.step[a];
    shift += phase * g.source.s[a];
    g.extent[a] = blocks_of(g.extent[a] - phase, g.step[a]);
    g.source.s[a] *= g.step[a];
    g.step[a] = 1;
  }
  return shift;
}

// How a gather is run, by all but the number of threads.
template <class T>
struct DirectPlan {
  std::vector<Gather> g;  // of every residue
  std::vector<Tap> taps;  // of a gather that is not as it came
  int64_t shift = 0;      // of its source
  bool channels_last, planes;
  Broadcast broadcast;
  int64_t together, units;  // groups of a task, and tasks a box they make
  Boxes boxes;              // before they are evened
  int64_t packed;           // elements of a group's packed weight, [residue][panel][depth][panel width]

  DirectPlan(const DirectPlan&) = delete;
  DirectPlan(const std::vector<TappedGather>& gathers, bool last) : channels_last(last) {
    const auto& k = kernels<T>().conv;
    for (const TappedGather& t : gathers) g.push_back(t.gather);
    if (g.size() == 1) {
      taps = gathers.front().taps;
      shift = without_steps(g.front(), taps);
      g.front().taps = taps.data();
    }
    const Gather& first = g.front();
    const int64_t residues = static_cast<int64_t>(g.size()), m = std::max<int64_t>(1, first.m);
    planes = k.prefers_planes(g.data(), residues, channels_last);
    broadcast = planes ? Broadcast::weight : Broadcast::source_narrow;
    // Channels-last, as much of a pixel as the copy below has room for: memory is read in order then.
    const int64_t some = planes ? 16 / std::max<int64_t>(1, std::min(first.c, m))
                                : (channels_last ? 256 : 0) / std::max<int64_t>(1, std::max(first.c, m));
    together = std::clamp<int64_t>(some, 1, first.groups);
    units = blocks_of(first.groups, together);
    packed = 0;
    for (const Gather& r : g) packed += k.packed_size(r, broadcast);
    // About 1,600 positions, fewer where what is copied of the source would outgrow a second-level cache.
    int64_t pixel = std::max<int64_t>(1, first.c) * together * sizeof(accumulator_t<T>);
    for (int a = 0; a < 3; ++a) pixel *= first.step[a];
    const int64_t most = std::clamp<int64_t>((1 << 20) / pixel, 96, 1600);
    int64_t room = std::max(most / residues, std::min<int64_t>(most, 48));
    boxes = boxes_of(first, room);
    // More where taps reach so far that boxes read the same elements again and again.
    const double whole = read_of(g, boxes_of(first, first.positions()));
    while (boxes.total() > first.batch && read_of(g, boxes) > 8 * whole) boxes = boxes_of(first, room *= 2);
  }

  // Elements of a task's scratch, of these boxes: smaller ones may need more, if their rows fill no vectors.
  int64_t scratch(const Boxes& cut) const {
    const auto& k = kernels<T>().conv;
    const int64_t residues = static_cast<int64_t>(g.size());
    int64_t most = 0;
    for (int64_t i = 0; i < cut.count[1] * cut.count[2] * cut.count[3]; ++i) {
      Box box = box_at(cut, g.front(), i);
      box.n_end = box.n_begin + blocks_of(g.front().batch, cut.count[0]);
      most = std::max(most, planes ? k.planes_scratch(g.data(), residues, channels_last, together, box)
                                   : k.direct_scratch(g.data(), residues, channels_last, together, box));
    }
    return most;
  }
  Boxes evened() const { return torchconv::evened(boxes, g.front(), units); }
};

template <class T>
int64_t packed_size(const DirectPlan<T>& plan) {
  return plan.g.front().groups * plan.packed;
}

template <class T>
void pack(const DirectPlan<T>& plan, const T* weight, accumulator_t<T>* packed) {
  const auto& k = kernels<T>().conv;
  const Gather& first = plan.g.front();
  const int64_t panels = k.panels(first, plan.broadcast), all = first.groups * panels;
  parallel_for(0, all, 1 + 32768 / (1 + plan.packed / panels), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      auto* to = packed + i / panels * plan.packed;
      for (const Gather& r : plan.g) {
        k.pack_weight(r, plan.broadcast, i / panels, weight, i % panels, i % panels + 1, to);
        to += k.packed_size(r, plan.broadcast);
      }
    }
  });
}

// Tasks are (box, groups, channels of some panels). How the work is cut changes no result: every output is its own
// chain of operations (direct.inl, planes.inl), so the number of threads may have a say in it.
template <class T>
void run_packed(const DirectPlan<T>& plan, const T* source, const accumulator_t<T>* packed, const T* bias, T* target) {
  const auto& k = kernels<T>().conv;
  const Gather* g = plan.g.data();
  source += plan.shift;
  const int64_t panels = k.panels(*g, plan.broadcast), residues = plan.g.size();
  const Boxes boxes = plan.evened();
  const int64_t blocks = boxes.total(), scratch_size = plan.scratch(boxes);
  int64_t chunks = 1;
  while (!plan.planes && chunks < panels && plan.units * blocks * chunks < 2 * get_num_threads()) ++chunks;
  parallel_for(0, blocks * plan.units * chunks, 1, [&](int64_t begin, int64_t end) {
    Buffer<accumulator_t<T>> scratch(scratch_size);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task % chunks, group = task / chunks % plan.units * plan.together;
      const int64_t group_end = std::min(g->groups, group + plan.together);
      const Box box = box_at(boxes, *g, task / chunks / plan.units);
      const auto* w = packed + group * plan.packed;
      if (plan.planes)
        k.planes(g, residues, plan.channels_last, group, group_end, source, w, bias, target, box, scratch.get());
      else
        k.direct(g, residues, plan.channels_last, group, group_end, source, w, bias, target, box,
                 panels * chunk / chunks, panels * (chunk + 1) / chunks, scratch.get());
    }
  });
}

}  // namespace

template <class T>
void run_direct(const std::vector<TappedGather>& gathers, bool channels_last, const T* source, const T* weight,
                const T* bias, T* target) {
  const DirectPlan<T> plan(gathers, channels_last);
  const Buffer<accumulator_t<T>> packed(packed_size(plan));
  pack(plan, weight, packed.get());
  run_packed<T>(plan, source, packed.get(), bias, target);
}

#define TORCHCONV_INSTANTIATE(T) \
  template void run_direct<T>(const std::vector<TappedGather>&, bool, const T*, const T*, const T*, T*);
TORCHCONV_INSTANTIATE(float)
TORCHCONV_INSTANTIATE(double)
TORCHCONV_INSTANTIATE(bfloat16)
#undef TORCHCONV_INSTANTIATE

double products_at_once(const ConvParams& p) { return p.dtype == ScalarType::BFloat16 && multiplies_pairs() ? 2 : 1; }

double direct_cost(const ConvParams& p, Direction direction, double at_once) {
  constexpr double correlate_product = 1.2, correlate_position = 4;
  const Channels c(p, direction);
  const double groups = static_cast<double>(p.groups), products = meetings(p);
  if (direction == Direction::weight_grad)
    return groups *
           (products / at_once * std::min(c.source * c.filled_target, c.filled_source * c.target) * correlate_product +
            volume(p.output) * (c.filled_source + c.filled_target) * correlate_position);
  const double targets = direction == Direction::forward ? volume(p.output) : volume(p.input);
  // Few: positions fill the vectors instead, or half vectors are enough.
  const double half = static_cast<double>(kernel_table().vector) / 2;
  const double target = c.target <= half ? 1.4 * half : c.filled_target, few = 2 * c.target + 1;
  return groups * std::min(products * std::ceil(c.source / at_once) * target * direct_product +
                               targets * target * direct_position,
                           products * c.source * few * direct_product + targets * few * direct_position);
}

double direct_filters(const ConvParams& p, Direction direction) {
  const Channels c(p, direction);
  return static_cast<double>(p.groups * p.taps()) * c.source * c.filled_target;
}

// ---- the record ----

namespace {

double cost(const ConvParams& p, Direction direction) { return direct_cost(p, direction, products_at_once(p)); }

int64_t workspace(const ConvParams& p, Direction direction) {
  int64_t bytes = 0;
  for_dtype("direct", p.dtype, [&]<class T>(T) {
    const auto gathers = gathers_of(p, direction);
    if (direction == Direction::weight_grad) {
      bytes = correlate_workspace<T>(gathers.front().gather, p.channels_last);
    } else {
      const DirectPlan<T> plan(gathers, p.channels_last);
      bytes = (packed_size(plan) + plan.scratch(plan.boxes)) * sizeof(accumulator_t<T>);
    }
  });
  return bytes;
}

void forward(const ConvParams& p, const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu,
             const Tensor& y) {
  gathered_forward(p, x, weight, bias, relu, y,
                   [&](const auto& gathers, auto*... operands) { run_direct(gathers, p.channels_last, operands...); });
}

void input_grad(const ConvParams& p, const Tensor& gy, const Tensor& weight, const Tensor& gx) {
  gathered_input_grad(p, gy, weight, gx, [&](const auto& gathers, auto*... operands) {
    run_direct(gathers, p.channels_last, operands...);
  });
}

void weight_grad(const ConvParams& p, const Tensor& gy, const Tensor& x, const Tensor& gw) {
  const TappedGather g = forward_gather(p, view(x), view(gy), view(gw));
  for_dtype("direct", p.dtype, [&]<class T>(T) {
    run_correlate<T>(g.gather, p.channels_last, data<T>(x), data<T>(gy), mutable_data<T>(gw));
  });
}

// ---- with prepared filters: packed ----

int64_t prepared_bytes(const ConvParams& p) {
  int64_t bytes = 0;
  for_dtype("direct", p.dtype, [&]<class T>(T) {
    const auto gathers = gathers_of(p, Direction::forward);
    bytes = packed_size(DirectPlan<T>(gathers, p.channels_last)) * sizeof(accumulator_t<T>);
  });
  return bytes;
}

void prepare(const ConvParams& p, const Tensor& weight, void* filters) {
  const View strides = view(weight);
  for_dtype("direct", p.dtype, [&]<class T>(T) {
    const auto gathers = gathers_of(p, Direction::forward, &strides);
    pack(DirectPlan<T>(gathers, p.channels_last), data<T>(weight), static_cast<accumulator_t<T>*>(filters));
  });
}

void run_prepared(const ConvParams& p, const Tensor& x, const void* filters, const void* bias, bool relu,
                  const Tensor& y) {
  for_dtype("direct", p.dtype, [&]<class T>(T) {
    auto gathers = gathers_of(p, Direction::forward);
    gathers.front().gather.relu = relu;
    run_packed<T>(DirectPlan<T>(gathers, p.channels_last), data<T>(x), static_cast<const accumulator_t<T>*>(filters),
                  static_cast<const T*>(bias), mutable_data<T>(y));
  });
}

constexpr PreparedForward prepared_forward{prepared_bytes, prepare, run_prepared};

}  // namespace

constexpr ConvAlgorithm direct_algorithm{
    .name = "direct",
    .refuse = never,
    .cost = cost,
    .filters = direct_filters,
    .workspace = workspace,
    .bound = 2e-6,
    .weight_grad_bound = 1e-5,
    .forward = forward,
    .input_grad = input_grad,
    .weight_grad = weight_grad,
    .prepared = &prepared_forward,
};

}  // namespace torchconv
