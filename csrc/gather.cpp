#include "gather.h"

#include <algorithm>

namespace torchconv {

View view(const Tensor& t) {
  const int64_t lifted = 5 - t.dim(), map = t.size(2) * t.stride(2);
  View v{t.stride(0), t.stride(1), {map, map, map}};  // an axis put in front is stepped over a map at a time
  for (int64_t a = lifted; a < 3; ++a) v.s[a] = t.stride(2 + a - lifted);
  return v;
}

void copy(const std::array<int64_t, 3>& from, int64_t (&to)[3]) { std::copy(from.begin(), from.end(), to); }

namespace {

// One axis: the kernel positions that take part, and where each looks.
struct AxisTap {
  int64_t k, offset;
};
using AxisTaps = std::array<std::vector<AxisTap>, 3>;

// The axes' taps multiplied out, with where each lies in the weight tensor.
void set_taps(TappedGather& to, const AxisTaps& axes, const View& weight) {
  auto taps = std::make_shared<std::vector<Tap>>();
  for (const AxisTap& a0 : axes[0])
    for (const AxisTap& a1 : axes[1])
      for (const AxisTap& a2 : axes[2])
        taps->push_back(
            {a0.k * weight.s[0] + a1.k * weight.s[1] + a2.k * weight.s[2], {a0.offset, a1.offset, a2.offset}});
  to.gather.taps = taps->data(), to.gather.tap_count = static_cast<int64_t>(taps->size());
  to.taps = std::move(taps);
  for (int a = 0; a < 3; ++a) to.gather.grid[a] = to.gather.tap_count > 0 ? static_cast<int64_t>(axes[a].size()) : 0;
}

// The taps of each residue of the stride along an axis, of ascending offsets.
std::vector<std::vector<AxisTap>> residue_taps(const ConvParams& p, int a) {
  std::vector<std::vector<AxisTap>> taps(std::min(p.stride[a], p.input[a]));
  for (int64_t k = p.kernel[a] - 1; k >= 0; --k) {
    const int64_t at = k * p.dilation[a] - p.before[a], residue = (at % p.stride[a] + p.stride[a]) % p.stride[a];
    if (residue < static_cast<int64_t>(taps.size())) taps[residue].push_back({k, (residue - at) / p.stride[a]});
  }
  return taps;
}

// x̄ of ȳ at the input positions i ≡ residue (mod stride): there i = residue + t · stride, and tap k sees ȳ at
// t + (residue + before − k · dilation) / stride, for the taps where that is whole.
TappedGather input_grad_gather(const ConvParams& p, const View& x, const View& y, const View& weight,
                               const std::array<int64_t, 3>& residue, const AxisTaps& axes) {
  TappedGather result{};
  set_taps(result, axes, weight);
  Gather& g = result.gather;
  g.batch = p.batch, g.groups = p.groups, g.m = p.in_per_group(), g.c = p.out_per_group();
  for (int a = 0; a < 3; ++a) {
    g.base[a] = residue[a], g.spacing[a] = p.stride[a], g.step[a] = 1;
    g.count[a] = (p.input[a] - residue[a] + p.stride[a] - 1) / p.stride[a];
  }
  copy(p.output, g.extent);
  g.source = y, g.target = x;
  g.weight_g = g.c * weight.n, g.weight_m = weight.c, g.weight_c = weight.n;
  return result;
}

}  // namespace

// Source index = t · stride + (k · dilation − before).
TappedGather forward_gather(const ConvParams& p, const View& x, const View& y, const View& weight) {
  TappedGather result{};
  AxisTaps axes;
  for (int a = 0; a < 3; ++a)
    for (int64_t k = 0; k < p.kernel[a]; ++k) axes[a].push_back({k, k * p.dilation[a] - p.before[a]});
  set_taps(result, axes, weight);
  Gather& g = result.gather;
  g.batch = p.batch, g.groups = p.groups, g.m = p.out_per_group(), g.c = p.in_per_group();
  for (int a = 0; a < 3; ++a) g.spacing[a] = 1;
  copy(p.output, g.count), copy(p.input, g.extent), copy(p.stride, g.step);
  g.source = x, g.target = y;
  g.weight_g = g.m * weight.n, g.weight_m = weight.n, g.weight_c = weight.c;
  return result;
}

std::vector<TappedGather> input_grad_gathers(const ConvParams& p, const View& x, const View& y, const View& weight) {
  std::vector<TappedGather> gathers;
  const auto t0 = residue_taps(p, 0), t1 = residue_taps(p, 1), t2 = residue_taps(p, 2);
  for (size_t r0 = 0; r0 < t0.size(); ++r0)
    for (size_t r1 = 0; r1 < t1.size(); ++r1)
      for (size_t r2 = 0; r2 < t2.size(); ++r2)
        gathers.push_back(input_grad_gather(
            p, x, y, weight, {static_cast<int64_t>(r0), static_cast<int64_t>(r1), static_cast<int64_t>(r2)},
            {t0[r0], t1[r1], t2[r2]}));
  return gathers;
}

namespace {

// The weight of every group, packed: [groups][packed_size].
template <class T>
Buffer<accumulator_t<T>> packed_weight(const Gather& g, Broadcast broadcast, const T* weight) {
  const auto& k = kernels<T>().conv;
  const int64_t size = k.packed_size(g, broadcast), panels = k.panels(g, broadcast);
  Buffer<accumulator_t<T>> packed(g.groups * size);
  parallel_for(0, g.groups * panels, 1 + 32768 / (1 + size / panels), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      k.pack_weight(g, broadcast, i / panels, weight, i % panels, i % panels + 1, packed.get() + i / panels * size);
  });
  return packed;
}

Broadcast gemm_broadcast(bool channels_last) { return channels_last ? Broadcast::source : Broadcast::weight; }

// Tasks are (group, channels of some panels, 192 positions). How the work is cut changes no result: every output is its
// own chain of operations (gemm.inl), so the number of threads may have a say in it.
template <class T>
void run_gemm(const Gather& g, bool channels_last, const T* source, const T* weight, const T* bias, T* target) {
  const auto& k = kernels<T>().conv;
  const Broadcast broadcast = gemm_broadcast(channels_last);
  const auto packed = packed_weight<T>(g, broadcast, weight);
  const int64_t panels = k.panels(g, broadcast), size = k.packed_size(g, broadcast);
  const int64_t blocks = blocks_of(g.positions(), gemm_positions);
  const int64_t most = std::max<int64_t>(1, gemm_channels * panels / std::max<int64_t>(g.m, gemm_channels));
  int64_t chunks = blocks_of(panels, most);
  while (chunks < panels && g.groups * blocks * chunks < 2 * get_num_threads()) ++chunks;
  const int64_t scratch_size = k.gemm_scratch(g);
  parallel_for(0, g.groups * chunks * blocks, 1, [&](int64_t begin, int64_t end) {
    Buffer<accumulator_t<T>> scratch(scratch_size);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task % blocks, chunk = task / blocks % chunks, group = task / blocks / chunks;
      k.gemm(g, channels_last, group, source, packed.get() + group * size, bias, target, block * gemm_positions,
             std::min(g.positions(), (block + 1) * gemm_positions), panels * chunk / chunks,
             panels * (chunk + 1) / chunks, scratch.get());
    }
  });
}

// ---- direct ----

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

// The boxes, and a few more where the tasks would be so few that the last threads would have less to do.
Boxes evened(Boxes b, const Gather& g, int64_t tasks_of_a_box) {
  const int64_t threads = get_num_threads();
  while (b.total() * tasks_of_a_box % threads != 0 && b.total() * tasks_of_a_box < 16 * threads && b.count[0] < g.batch)
    ++b.count[0];
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
  Boxes boxes;
  int64_t packed, scratch;  // elements: a group's packed weight, [residue][panel][depth][panel width]; a task's scratch

  DirectPlan(const DirectPlan&) = delete;
  DirectPlan(const std::vector<TappedGather>& gathers, bool last) : channels_last(last) {
    const auto& k = kernels<T>().conv;
    for (const TappedGather& t : gathers) g.push_back(t.gather);
    if (g.size() == 1) {
      taps = *gathers.front().taps;
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
    scratch = 0;
    for (int64_t i = 0; i < boxes.count[1] * boxes.count[2] * boxes.count[3]; ++i) {
      Box box = box_at(boxes, first, i);
      box.n_end = box.n_begin + blocks_of(first.batch, boxes.count[0]);
      scratch = std::max(scratch, planes ? k.planes_scratch(g.data(), residues, channels_last, together, box)
                                         : k.direct_scratch(g.data(), residues, channels_last, together, box));
    }
  }
};

template <class T>
Buffer<accumulator_t<T>> packed_weights(const DirectPlan<T>& plan, const T* weight) {
  const auto& k = kernels<T>().conv;
  const Gather& first = plan.g.front();
  const int64_t panels = k.panels(first, plan.broadcast), all = first.groups * panels;
  Buffer<accumulator_t<T>> packed(first.groups * plan.packed);
  parallel_for(0, all, 1 + 32768 / (1 + plan.packed / panels), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      auto* to = packed.get() + i / panels * plan.packed;
      for (const Gather& r : plan.g) {
        k.pack_weight(r, plan.broadcast, i / panels, weight, i % panels, i % panels + 1, to);
        to += k.packed_size(r, plan.broadcast);
      }
    }
  });
  return packed;
}

// Tasks are (box, groups, channels of some panels). As above, how the work is cut changes no result.
template <class T>
void run_direct(const std::vector<TappedGather>& gathers, bool channels_last, const T* source, const T* weight,
                const T* bias, T* target) {
  const auto& k = kernels<T>().conv;
  const DirectPlan<T> plan(gathers, channels_last);
  const Gather* g = plan.g.data();
  const auto packed = packed_weights(plan, weight);
  source += plan.shift;
  const int64_t panels = k.panels(*g, plan.broadcast), residues = plan.g.size();
  const Boxes boxes = evened(plan.boxes, *g, plan.units);
  const int64_t blocks = boxes.total();
  int64_t chunks = 1;
  while (!plan.planes && chunks < panels && plan.units * blocks * chunks < 2 * get_num_threads()) ++chunks;
  parallel_for(0, blocks * plan.units * chunks, 1, [&](int64_t begin, int64_t end) {
    Buffer<accumulator_t<T>> scratch(plan.scratch);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task % chunks, group = task / chunks % plan.units * plan.together;
      const int64_t group_end = std::min(g->groups, group + plan.together);
      const Box box = box_at(boxes, *g, task / chunks / plan.units);
      const auto* w = packed.get() + group * plan.packed;
      if (plan.planes)
        k.planes(g, residues, channels_last, group, group_end, source, w, bias, target, box, scratch.get());
      else
        k.direct(g, residues, channels_last, group, group_end, source, w, bias, target, box, panels * chunk / chunks,
                 panels * (chunk + 1) / chunks, scratch.get());
    }
  });
}

}  // namespace

template <class T>
void run_gather(const std::vector<TappedGather>& gathers, bool channels_last, Algorithm algorithm, const T* source,
                const T* weight, const T* bias, T* target) {
  if (algorithm == Algorithm::direct) return run_direct<T>(gathers, channels_last, source, weight, bias, target);
  for (const TappedGather& g : gathers) run_gemm<T>(g.gather, channels_last, source, weight, bias, target);
}

template <class T>
int64_t gather_workspace(const std::vector<TappedGather>& gathers, bool channels_last, Algorithm algorithm) {
  const auto& k = kernels<T>().conv;
  const Gather& first = gathers.front().gather;
  int64_t elements = 0;
  if (algorithm == Algorithm::direct) {
    const DirectPlan<T> plan(gathers, channels_last);
    elements = first.groups * plan.packed + plan.scratch;
  } else {
    for (const TappedGather& g : gathers)
      elements = std::max(
          elements, first.groups * k.packed_size(g.gather, gemm_broadcast(channels_last)) + k.gemm_scratch(g.gather));
  }
  return elements * sizeof(accumulator_t<T>);
}

#define INSTANTIATE(T)                                                                                              \
  template void run_gather<T>(const std::vector<TappedGather>&, bool, Algorithm, const T*, const T*, const T*, T*); \
  template int64_t gather_workspace<T>(const std::vector<TappedGather>&, bool, Algorithm);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace torchconv
