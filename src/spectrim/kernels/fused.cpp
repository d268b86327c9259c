// A depthwise convolution with the pointwise ones beside it as one operator of torch; its arithmetic is next door.

#include "fused.h"

#include "arguments.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace {

using Maybe = std::optional<at::Tensor>;

spectrim::Pointwise side_of(int64_t in, int64_t out, int64_t block, const Maybe& order, const Maybe& kept, const Maybe& source,
                            const Maybe& packed, const Maybe& bias, const double* limits) {
  spectrim::Bands bands{in, out, 1, nullptr, nullptr, nullptr, {}, {static_cast<float>(limits[2]), static_cast<float>(limits[3])}};
  if (!packed.has_value()) return {bands, nullptr, nullptr};
  if (block > 1) {
    TORCH_CHECK(order.has_value() && kept.has_value(), "fused_depthwise: a banded side needs order and kept");
    bands = spectrim::bands_of(in, out, block, *order, *kept, source, limits);
  }
  return {bands, spectrim::floats_of(packed, spectrim::packed_size(in, out), "weight"), spectrim::floats_of(bias, out, "bias")};
}

// `sizes`: channels in the middle and of the output; side of the blocks before and behind, 1 for none; kernel, stride, zeros above,
// left, below and right. `limits`: the least and the most that is read, written by the first side, by the depthwise convolution, and
// by the other side.
at::Tensor fused_depthwise(const at::Tensor& x, const Maybe& expand_order, const Maybe& expand_kept, const Maybe& expand_source,
                           const Maybe& expand, const Maybe& expand_bias, const at::Tensor& taps, const at::Tensor& taps_bias,
                           const Maybe& project_order, const Maybe& project_kept, const at::Tensor& project,
                           const Maybe& project_bias, at::IntArrayRef sizes, at::ArrayRef<double> limits) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat && x.size(1) > 0, "fused_depthwise: wrong input");
  TORCH_CHECK(sizes.size() == 10 && limits.size() == 8, "fused_depthwise: wrong sizes or limits");
  const int64_t middle = sizes[0], out = sizes[1], kernel = sizes[4], stride = sizes[5];
  TORCH_CHECK(middle > 0 && out > 0 && (expand.has_value() || x.size(1) == middle), "fused_depthwise: wrong channels");
  TORCH_CHECK((kernel == 3 || kernel == 5) && (stride == 1 || stride == 2), "fused_depthwise: wrong kernel or stride");
  for (int side = 6; side < 10; ++side)
    TORCH_CHECK(sizes[side] >= 0 && sizes[side] < kernel, "fused_depthwise: wrong padding");
  const int64_t height = x.size(2) + sizes[6] + sizes[8] - kernel, width = x.size(3) + sizes[7] + sizes[9] - kernel;
  TORCH_CHECK(height >= 0 && width >= 0, "fused_depthwise: the maps are smaller than the kernel");
  TORCH_CHECK(x.size(2) > 0 && x.size(3) > 0, "fused_depthwise: the maps have no pixels");
  const double front[] = {limits[0], limits[1], limits[2], limits[3]};
  const double behind[] = {-INFINITY, INFINITY, limits[6], limits[7]};
  const int64_t lanes = spectrim::packed_size(1, middle);
  spectrim::check_floats(taps, kernel * kernel * lanes, "depthwise weight");
  spectrim::check_floats(taps_bias, lanes, "depthwise bias");

  const auto maps = x.contiguous(at::MemoryFormat::ChannelsLast);
  auto y = at::empty({x.size(0), out, height / stride + 1, width / stride + 1}, x.options(), at::MemoryFormat::ChannelsLast);
  if (y.numel() == 0) return y;
  const spectrim::Pointwise before =
      side_of(x.size(1), middle, sizes[2], expand_order, expand_kept, expand_source, expand, expand_bias, front);
  const spectrim::Pointwise after =
      side_of(middle, out, sizes[3], project_order, project_kept, std::nullopt, project, project_bias, behind);
  const spectrim::Depthwise depthwise{static_cast<int>(kernel), static_cast<int>(stride), sizes[6], sizes[7], y.size(2), y.size(3),
                                      taps.const_data_ptr<float>(), taps_bias.const_data_ptr<float>(),
                                      {static_cast<float>(limits[4]), static_cast<float>(limits[5])}};
  spectrim::fuse(before, depthwise, after, {x.size(0), x.size(2), x.size(3)}, maps.const_data_ptr<float>(), y.data_ptr<float>(),
                 at::in_parallel_region() ? 1 : at::get_num_threads());
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(spectrim, m) {
  m.def(
      "fused_depthwise(Tensor x, Tensor? expand_order, Tensor? expand_kept, Tensor? expand_source, Tensor? expand, "
      "Tensor? expand_bias, Tensor taps, Tensor taps_bias, Tensor? project_order, Tensor? project_kept, Tensor project, "
      "Tensor? project_bias, int[] sizes, float[] limits) -> Tensor");
}

TORCH_LIBRARY_IMPL(spectrim, CPU, m) { m.impl("fused_depthwise", fused_depthwise); }
