// The banded pointwise convolution as operators of torch; its arithmetic, without torch's headers, is next door.

#include "arguments.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace {

at::Tensor banded_pack(const at::Tensor& weight) {
  TORCH_CHECK(weight.scalar_type() == at::kFloat && weight.dim() == 2 && weight.is_contiguous(), "banded_pack: wrong weight");
  const int64_t in = weight.size(0), out = weight.size(1);
  auto packed = at::empty({spectrim::packed_size(in, out)}, weight.options());
  spectrim::pack(weight.const_data_ptr<float>(), in, out, packed.data_ptr<float>());
  return packed;
}

at::Tensor banded_pointwise(const at::Tensor& x, const at::Tensor& order, const at::Tensor& kept,
                            const std::optional<at::Tensor>& source, const at::Tensor& packed,
                            const std::optional<at::Tensor>& bias, int64_t block, int64_t out, double least_read,
                            double most_read, double least_written, double most_written) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat && x.size(1) > 0 && out > 0, "banded_pointwise: wrong input");
  const double limits[] = {least_read, most_read, least_written, most_written};
  const spectrim::Bands bands = spectrim::bands_of(x.size(1), out, block, order, kept, source, limits);
  spectrim::check_floats(packed, spectrim::packed_size(bands.in, out), "weight");
  const float* shift = spectrim::floats_of(bias, out, "bias");

  const auto maps = x.contiguous(at::MemoryFormat::ChannelsLast);
  auto y = at::empty({x.size(0), out, x.size(2), x.size(3)}, x.options(), at::MemoryFormat::ChannelsLast);
  if (y.numel() == 0) return y;
  const spectrim::Maps sizes{x.size(0), x.size(2), x.size(3)};
  spectrim::convolve(bands, sizes, maps.const_data_ptr<float>(), packed.const_data_ptr<float>(), shift, y.data_ptr<float>(),
                     at::in_parallel_region() ? 1 : at::get_num_threads());
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(spectrim, m) {
  m.def("banded_pack(Tensor weight) -> Tensor");
  m.def(
      "banded_pointwise(Tensor x, Tensor order, Tensor kept, Tensor? source, Tensor packed, Tensor? bias, int block, int out, "
      "float least_read, float most_read, float least_written, float most_written) -> Tensor");
}

TORCH_LIBRARY_IMPL(spectrim, CPU, m) {
  m.impl("banded_pack", banded_pack);
  m.impl("banded_pointwise", banded_pointwise);
}
