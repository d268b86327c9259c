// What both bindings ask of the tensors of a banded pointwise convolution.

#pragma once

#include "banded.h"

#include <ATen/core/Tensor.h>

#include <optional>

namespace spectrim {

inline void check_whole(const at::Tensor& numbers, int64_t count, int from, int to, const char* name) {
  TORCH_CHECK(numbers.scalar_type() == at::kInt && numbers.dim() == 1 && numbers.numel() == count && numbers.is_contiguous(),
              "banded convolution: wrong ", name);
  const int* each = numbers.const_data_ptr<int>();
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) inside &= each[i] >= from && each[i] < to;
  TORCH_CHECK(inside, "banded convolution: wrong ", name);
}

inline void check_floats(const at::Tensor& numbers, int64_t count, const char* name) {
  TORCH_CHECK(numbers.scalar_type() == at::kFloat && numbers.numel() == count && numbers.is_contiguous(),
              "banded convolution: wrong ", name);
}

inline const float* floats_of(const std::optional<at::Tensor>& numbers, int64_t count, const char* name) {
  if (!numbers.has_value()) return nullptr;
  check_floats(*numbers, count, name);
  return numbers->const_data_ptr<float>();
}

// `limits`: the least and the most that is read, and that is written.
inline Bands bands_of(int64_t in, int64_t out, int64_t block, const at::Tensor& order, const at::Tensor& kept,
                      const std::optional<at::Tensor>& source, const double* limits) {
  TORCH_CHECK(block >= 2 && block <= 8, "banded convolution: blocks have sides from 2 to 8");
  const int64_t frequencies = block * block;
  check_whole(order, frequencies, 0, static_cast<int>(frequencies), "order");
  bool seen[64] = {};
  for (int64_t f = 0; f < frequencies; ++f) {
    bool& each = seen[order.const_data_ptr<int>()[f]];
    TORCH_CHECK(!each, "banded convolution: wrong order");
    each = true;
  }
  check_whole(kept, in, 1, static_cast<int>(frequencies) + 1, "kept");
  const int* counts = kept.const_data_ptr<int>();
  for (int64_t i = 1; i < in; ++i) TORCH_CHECK(counts[i] <= counts[i - 1], "banded convolution: wrong kept");
  if (source.has_value()) check_whole(*source, in, 0, static_cast<int>(in), "source");
  const auto limit = [&](int which) { return static_cast<float>(limits[which]); };
  return {in, out, static_cast<int>(block), order.const_data_ptr<int>(), counts,
          source.has_value() ? source->const_data_ptr<int>() : nullptr, {limit(0), limit(1)}, {limit(2), limit(3)}};
}

}  // namespace spectrim
