// The banded pointwise convolution of nn/band_groups.py in one call: block transforms in registers, sixteen channels at a
// time, and dense products between them. Maps are channels-last; coefficients lie as frequency, block, channel.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace {

constexpr int LANES = 16;
typedef float vec __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

// The orthonormal DCT-II of length B, split into its even and odd halves: about half of the multiplications.
template <int B>
struct Cosines {
  static constexpr int HALF = (B + 1) / 2;
  static constexpr int ODD = B / 2;
  float even[HALF][HALF];  // [frequency 2i][sum of the pixels j and B - 1 - j, or the middle one]
  float odd[ODD > 0 ? ODD : 1][ODD > 0 ? ODD : 1];
  Cosines() {
    for (int k = 0; k < B; ++k) {
      const double scale = std::sqrt((k == 0 ? 1.0 : 2.0) / B);
      for (int n = 0; n < (k % 2 ? ODD : HALF); ++n) {
        const float value = static_cast<float>(scale * std::cos(M_PI * (n + 0.5) * k / B));
        (k % 2 ? odd[k / 2][n] : even[k / 2][n]) = value;
      }
    }
  }
};

template <int B>
const Cosines<B>& cosines() {
  static const Cosines<B> table;
  return table;
}

template <int B>
inline __attribute__((always_inline)) void forward(const Cosines<B>& c, const vec* x, int step, vec* y) {
  vec sum[Cosines<B>::HALF], difference[B / 2 + 1];
#pragma GCC unroll 8
  for (int n = 0; n < B / 2; ++n) {
    sum[n] = x[n * step] + x[(B - 1 - n) * step];
    difference[n] = x[n * step] - x[(B - 1 - n) * step];
  }
  if (B % 2) sum[B / 2] = x[(B / 2) * step];
#pragma GCC unroll 8
  for (int k = 0; k < Cosines<B>::HALF; ++k) {
    vec total = sum[0] * c.even[k][0];
#pragma GCC unroll 8
    for (int n = 1; n < Cosines<B>::HALF; ++n) total += sum[n] * c.even[k][n];
    y[2 * k] = total;
  }
#pragma GCC unroll 8
  for (int k = 0; k < B / 2; ++k) {
    vec total = difference[0] * c.odd[k][0];
#pragma GCC unroll 8
    for (int n = 1; n < B / 2; ++n) total += difference[n] * c.odd[k][n];
    y[2 * k + 1] = total;
  }
}

template <int B>
inline __attribute__((always_inline)) void inverse(const Cosines<B>& c, const vec* y, vec* x, int step) {
#pragma GCC unroll 8
  for (int n = 0; n < Cosines<B>::HALF; ++n) {
    vec even = y[0] * c.even[0][n];
#pragma GCC unroll 8
    for (int k = 1; k < Cosines<B>::HALF; ++k) even += y[2 * k] * c.even[k][n];
    if (n == B / 2) {  // the middle of an odd length
      x[n * step] = even;
      continue;
    }
    vec odd = y[1] * c.odd[0][n];
#pragma GCC unroll 8
    for (int k = 1; k < B / 2; ++k) odd += y[2 * k + 1] * c.odd[k][n];
    x[n * step] = even + odd;
    x[(B - 1 - n) * step] = even - odd;
  }
}

struct Sizes {
  int64_t images, height, width, down, across, in, out;  // of maps that the block divides, or is continued to divide
  int64_t rows() const { return images * down * across; }
};

inline vec load(const float* from, int lanes) {
  vec v = {};
  if (lanes == LANES) {
    std::memcpy(&v, from, sizeof(vec));
  } else {
    std::memcpy(&v, from, lanes * sizeof(float));
  }
  return v;
}

inline void store(float* to, vec v, int lanes) {
  std::memcpy(to, &v, lanes == LANES ? sizeof(vec) : lanes * sizeof(float));
}

template <int B>
void transform(const float* x, const int* source, const int* counts, const int* order, const Sizes& s, float* spectrum) {
  const Cosines<B> c = cosines<B>();
  const int64_t parts = (s.in + LANES - 1) / LANES, rows = s.rows();
  at::parallel_for(0, rows * parts, 8, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / parts, first = task % parts * LANES;
      const int lanes = static_cast<int>(std::min<int64_t>(LANES, s.in - first));
      const int64_t image = row / (s.down * s.across), top = row / s.across % s.down * B, left = row % s.across * B;
      const float* base = x + image * s.height * s.width * s.in;
      vec pixels[B * B], half[B * B], done[B];
      for (int i = 0; i < B; ++i) {
        const int64_t down = std::min(top + i, s.height - 1);
        for (int j = 0; j < B; ++j) {
          const float* there = base + (down * s.width + std::min(left + j, s.width - 1)) * s.in;
          if (source == nullptr) {
            pixels[i * B + j] = load(there + first, lanes);
          } else {
            vec v = {};
            for (int lane = 0; lane < lanes; ++lane) v[lane] = there[source[first + lane]];
            pixels[i * B + j] = v;
          }
        }
        forward<B>(c, pixels + i * B, 1, half + i * B);
      }
      const int kept = counts[first];  // the channels are sorted: the first of them keeps most
      vec all[B * B];
      int columns = 0;
      for (int f = 0; f < kept; ++f) columns = std::max(columns, order[f] % B + 1);
      for (int v = 0; v < columns; ++v) {
        forward<B>(c, half + v, B, done);
        for (int u = 0; u < B; ++u) all[u * B + v] = done[u];
      }
      float* to = spectrum + row * s.in + first;
      for (int f = 0; f < kept; ++f) store(to + f * rows * s.in, all[order[f]], lanes);
    }
  });
}

template <int B>
void back(const float* total, int kept, const int* order, const float* bias, const Sizes& s, float* y) {
  const Cosines<B> c = cosines<B>();
  const int64_t parts = (s.out + LANES - 1) / LANES, rows = s.rows();
  int columns = 0;
  for (int f = 0; f < kept; ++f) columns = std::max(columns, order[f] % B + 1);
  at::parallel_for(0, rows * parts, 8, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / parts, first = task % parts * LANES;
      const int lanes = static_cast<int>(std::min<int64_t>(LANES, s.out - first));
      const int64_t image = row / (s.down * s.across), top = row / s.across % s.down * B, left = row % s.across * B;
      vec all[B * B], half[B * B], line[B], pixels[B];
      std::memset(all, 0, sizeof(all));
      std::memset(half, 0, sizeof(half));
      for (int f = 0; f < kept; ++f) all[order[f]] = load(total + (f * rows + row) * s.out + first, lanes);
      for (int v = 0; v < columns; ++v) {
        for (int u = 0; u < B; ++u) line[u] = all[u * B + v];
        inverse<B>(c, line, half + v, B);
      }
      const vec shift = bias == nullptr ? vec{} : load(bias + first, lanes);
      float* base = y + image * s.height * s.width * s.out + first;
      for (int i = 0; i < B && top + i < s.height; ++i) {
        inverse<B>(c, half + i * B, pixels, 1);
        for (int j = 0; j < B && left + j < s.width; ++j)
          store(base + ((top + i) * s.width + left + j) * s.out, pixels[j] + shift, lanes);
      }
    }
  });
}

float* scratch(int which, int64_t numbers) {
  static thread_local std::vector<float> held[2];
  if (static_cast<int64_t>(held[which].size()) < numbers) held[which].resize(numbers);
  return held[which].data();
}

template <int B>
void run(const float* x, const int* source, const int* counts, const int* order, at::IntArrayRef sizes,
         at::IntArrayRef kept, const at::Tensor& weight, const float* bias, const Sizes& s, float* y) {
  const int64_t rows = s.rows(), top = kept[0];
  float* spectrum = scratch(0, top * rows * s.in);
  float* total = scratch(1, top * rows * s.out);
  transform<B>(x, source, counts, order, s, spectrum);
  int64_t start = 0;
  for (size_t group = 0; group < sizes.size(); ++group) {
    const auto part = at::from_blob(spectrum + start, {kept[group] * rows, sizes[group]}, {s.in, 1}, weight.options());
    auto sum = at::from_blob(total, {kept[group] * rows, s.out}, weight.options());
    const auto columns = weight.narrow(0, start, sizes[group]);
    if (group == 0) {
      at::mm_out(sum, part, columns);
    } else {
      sum.addmm_(part, columns);
    }
    start += sizes[group];
  }
  back<B>(total, static_cast<int>(top), order, bias, s, y);
}

at::Tensor banded_pointwise(const at::Tensor& x, const at::Tensor& source, const at::Tensor& order,
                            const at::Tensor& weight, const std::optional<at::Tensor>& bias, at::IntArrayRef sizes,
                            at::IntArrayRef kept, int64_t block, bool sorted) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
                  weight.is_contiguous() && x.size(1) == weight.size(0),
              "banded_pointwise: wrong input");
  TORCH_CHECK(source.scalar_type() == at::kInt && source.numel() == x.size(1) && source.is_contiguous(), "wrong source");
  TORCH_CHECK(order.scalar_type() == at::kInt && order.numel() == block * block && order.is_contiguous(), "wrong order");
  TORCH_CHECK(!bias.has_value() || (bias->scalar_type() == at::kFloat && bias->numel() == weight.size(1) && bias->is_contiguous()),
              "wrong bias");
  TORCH_CHECK(block >= 2 && block <= 8, "banded_pointwise: blocks have sides from 2 to 8");
  const auto maps = x.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t height = x.size(2), width = x.size(3);
  const Sizes s{x.size(0), height, width, (height + block - 1) / block, (width + block - 1) / block, x.size(1), weight.size(1)};
  auto y = at::empty({s.images, s.out, height, width}, x.options(), at::MemoryFormat::ChannelsLast);
  std::vector<int> counts;
  for (size_t group = 0; group < sizes.size(); ++group) {
    TORCH_CHECK(kept[group] >= 1 && kept[group] <= block * block && (group == 0 || kept[group] <= kept[group - 1]),
                "banded_pointwise: wrong groups");
    counts.insert(counts.end(), sizes[group], static_cast<int>(kept[group]));
  }
  TORCH_CHECK(static_cast<int64_t>(counts.size()) == s.in, "banded_pointwise: wrong groups");
  const int* from = source.const_data_ptr<int>();
  const int* positions = order.const_data_ptr<int>();
  for (int64_t i = 0; i < s.in; ++i) TORCH_CHECK(from[i] >= 0 && from[i] < s.in, "banded_pointwise: wrong source");
  for (int64_t i = 0; i < block * block; ++i)
    TORCH_CHECK(positions[i] >= 0 && positions[i] < block * block, "banded_pointwise: wrong order");
  const float* shift = bias.has_value() ? bias->const_data_ptr<float>() : nullptr;
  const auto run_block = block == 2   ? run<2>
                         : block == 3 ? run<3>
                         : block == 4 ? run<4>
                         : block == 5 ? run<5>
                         : block == 6 ? run<6>
                         : block == 7 ? run<7>
                                      : run<8>;
  run_block(maps.const_data_ptr<float>(), sorted ? nullptr : from, counts.data(), positions, sizes, kept, weight, shift, s,
            y.data_ptr<float>());
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(spectrim, m) {
  m.def(
      "banded_pointwise(Tensor x, Tensor source, Tensor order, Tensor weight, Tensor? bias, int[] sizes, int[] kept, "
      "int block, bool sorted) -> Tensor");
}

TORCH_LIBRARY_IMPL(spectrim, CPU, m) { m.impl("banded_pointwise", banded_pointwise); }
