// The banded pointwise convolution as operators of torch; its arithmetic, without torch's headers, is next door.

#include "banded.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>

namespace {

void check_whole(const at::Tensor& numbers, int64_t count, int from, int to, const char* name) {
  TORCH_CHECK(numbers.scalar_type() == at::kInt && numbers.dim() == 1 && numbers.numel() == count && numbers.is_contiguous(),
              "banded_pointwise: wrong ", name);
  const int* each = numbers.const_data_ptr<int>();
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) inside &= each[i] >= from && each[i] < to;
  TORCH_CHECK(inside, "banded_pointwise: wrong ", name);
}

void check_floats(const at::Tensor& numbers, int64_t count, const char* name) {
  TORCH_CHECK(numbers.scalar_type() == at::kFloat && numbers.numel() == count && numbers.is_contiguous(),
              "banded_pointwise: wrong ", name);
}

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
  TORCH_CHECK(block >= 2 && block <= 8, "banded_pointwise: blocks have sides from 2 to 8");
  const int64_t in = x.size(1), frequencies = block * block;
  check_whole(order, frequencies, 0, static_cast<int>(frequencies), "order");
  bool seen[64] = {};
  for (int64_t f = 0; f < frequencies; ++f) {
    bool& each = seen[order.const_data_ptr<int>()[f]];
    TORCH_CHECK(!each, "banded_pointwise: wrong order");
    each = true;
  }
  check_whole(kept, in, 1, static_cast<int>(frequencies) + 1, "kept");
  const int* counts = kept.const_data_ptr<int>();
  for (int64_t i = 1; i < in; ++i) TORCH_CHECK(counts[i] <= counts[i - 1], "banded_pointwise: wrong kept");
  if (source.has_value()) check_whole(*source, in, 0, static_cast<int>(in), "source");
  check_floats(packed, spectrim::packed_size(in, out), "weight");
  if (bias.has_value()) check_floats(*bias, out, "bias");

  const auto maps = x.contiguous(at::MemoryFormat::ChannelsLast);
  auto y = at::empty({x.size(0), out, x.size(2), x.size(3)}, x.options(), at::MemoryFormat::ChannelsLast);
  if (y.numel() == 0) return y;
  const spectrim::Bands bands{in, out, static_cast<int>(block), order.const_data_ptr<int>(), counts,
                              source.has_value() ? source->const_data_ptr<int>() : nullptr,
                              {static_cast<float>(least_read), static_cast<float>(most_read)},
                              {static_cast<float>(least_written), static_cast<float>(most_written)}};
  const spectrim::Maps sizes{x.size(0), x.size(2), x.size(3)};
  spectrim::convolve(bands, sizes, maps.const_data_ptr<float>(), packed.const_data_ptr<float>(),
                     bias.has_value() ? bias->const_data_ptr<float>() : nullptr, y.data_ptr<float>(),
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
