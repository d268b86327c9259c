// The two stages of a template convolution in one call. A block of templates goes through both before the next one
// starts: their latents stay in the cache, and outputs are written once, where they belong.
//
// Positions are the lanes. The input is packed into panels of a few positions and all channels, once for each phase of
// the stride, whatever its layout; the latents of a tap lie flat over the map between margins of zeros, so that a shift
// is an offset, and what would wrap around a row is zeroed.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef float loose __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));  // anywhere in memory
typedef float four __attribute__((vector_size(16)));
typedef float loose_four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int ints __attribute__((vector_size(16)));

constexpr int WIDE = 2 * LANES;          // positions of a panel of the input
constexpr int TOGETHER = 8;              // panels of the input that are packed together
constexpr int ROWS = 6;                  // most templates of a panel of the weights; 6 x 2 sums are held in registers
constexpr int64_t DEPTH = 256;           // channels of one product, so that a panel of the input stays in the first cache
constexpr int64_t LATENTS = 64 * 1024;   // most latents that are alive, 256 KiB
constexpr int64_t MARGIN = 8 * LANES;    // what the last positions may read beyond

struct Tap {
  int64_t phase, down, across;  // in steps of the stride
};

struct Sizes {
  int64_t images, in, height, width, out, high, wide;  // of the input and of the output
  int64_t groups, depth, templates, taps, step_down, step_across;
  int64_t rows, columns;  // of the grid that latents lie on
  int64_t phases() const { return step_down * step_across; }
  int64_t panels() const { return (templates + ROWS - 1) / ROWS; }
  int64_t first(int64_t panel) const { return panel * templates / panels(); }  // template
};

// Some images, or some rows of one: outputs from the row `first` to `last`, latents from `top` to `bottom`.
struct Tile {
  int64_t image, images, first, last, top, bottom, start;  // where its packed input starts, in panels
  int64_t positions(const Sizes& s) const { return images * (bottom - top) * s.columns; }
  int64_t panels(const Sizes& s) const { return (positions(s) + WIDE - 1) / WIDE; }
};

struct Packing {
  const Tile* tile;
  int64_t phase, panel;
};

inline vec load(const float* from) { return *reinterpret_cast<const loose*>(from); }

inline void store(float* to, vec v) { *reinterpret_cast<loose*>(to) = v; }

float* scratch(int which, int64_t numbers) {
  static thread_local std::vector<float> held[3];
  auto& own = held[which];
  if (static_cast<int64_t>(own.size()) < numbers + 16) own.resize(numbers + 16);
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(own.data()) + 63) / 64 * 64);
}

// to[column][row] = from[row][column]
void transposed(const float* const* from, int64_t rows, int64_t columns, float* to, int64_t step) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    int64_t column = 0;
    for (; column + 4 <= columns; column += 4) {
      const auto line = [&](int i) -> four { return *reinterpret_cast<const loose_four*>(from[row + i] + column); };
      const four a = line(0), b = line(1), c = line(2), d = line(3);
      const four ab = __builtin_shuffle(a, b, ints{0, 4, 1, 5}), cd = __builtin_shuffle(c, d, ints{0, 4, 1, 5});
      const four ba = __builtin_shuffle(a, b, ints{2, 6, 3, 7}), dc = __builtin_shuffle(c, d, ints{2, 6, 3, 7});
      const four out[4] = {__builtin_shuffle(ab, cd, ints{0, 1, 4, 5}), __builtin_shuffle(ab, cd, ints{2, 3, 6, 7}),
                           __builtin_shuffle(ba, dc, ints{0, 1, 4, 5}), __builtin_shuffle(ba, dc, ints{2, 3, 6, 7})};
      for (int i = 0; i < 4; ++i) *reinterpret_cast<loose_four*>(to + (column + i) * step + row) = out[i];
    }
    for (; column < columns; ++column)
      for (int i = 0; i < 4; ++i) to[column * step + row + i] = from[row + i][column];
  }
  for (; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) to[column * step + row] = from[row][column];
}

// Where the positions of a panel come from, -1 where the grid is larger than the map; returns whether they lie in a row.
bool sources(bool last, const Sizes& s, const Tile& tile, int64_t phase, int64_t panel, int64_t width, int64_t* at) {
  const int64_t begin = panel * WIDE, count = std::min(width, tile.positions(s) - begin), each = tile.bottom - tile.top;
  const int64_t plane = s.height * s.width, below = phase / s.step_across, right = phase % s.step_across;
  int64_t column = begin % s.columns, row = begin / s.columns % each, image = tile.image + begin / s.columns / each;
  bool whole = true;
  for (int64_t i = 0; i < width; ++i) {
    const int64_t y = (tile.top + row) * s.step_down + below, x = column * s.step_across + right;
    at[i] = i < count && y < s.height && x < s.width ? (last ? image : image * s.in) * plane + y * s.width + x : -1;
    whole = whole && at[i] >= 0 && at[i] == at[0] + i;
    if (++column < s.columns) continue;
    column = 0;
    if (++row < each) continue;
    row = 0, ++image;
  }
  return whole;
}

// Some panels of the input: channel by channel their positions, zeros where the grid is larger than the map.
void pack(const float* x, bool last, const Sizes& s, const Tile& tile, int64_t phase, int64_t begin, int64_t end,
          const float* zeros, float* to) {
  const int64_t plane = s.height * s.width;
  int64_t at[TOGETHER][WIDE];
  bool whole = true;
  for (int64_t each = begin; each < end; ++each) {
    const int64_t width = tile.positions(s) - each * WIDE > LANES ? WIDE : LANES;
    whole = sources(last, s, tile, phase, each, width, at[each - begin]) && width == WIDE && whole;
  }
  if (whole && !last) {
    for (int64_t c = 0; c < s.in; ++c)
      for (int64_t each = 0; each < end - begin; ++each) {
        const float* from = x + at[each][0] + c * plane;
        float* there = to + (each * s.in + c) * WIDE;
        const vec one = load(from), two = load(from + LANES);
        store(there, one);
        store(there + LANES, two);
      }
    return;
  }
  for (int64_t each = begin; each < end; ++each) {
    const int64_t width = tile.positions(s) - each * WIDE > LANES ? WIDE : LANES, *places = at[each - begin];
    float* there = to + (each - begin) * s.in * WIDE;
    if (last) {
      const float* from[WIDE];
      for (int64_t i = 0; i < width; ++i) from[i] = places[i] < 0 ? zeros : x + places[i] * s.in;
      transposed(from, width, s.in, there, width);
    } else {
      for (int64_t c = 0; c < s.in; ++c)
        for (int64_t i = 0; i < width; ++i) there[c * width + i] = places[i] < 0 ? 0.0f : x[places[i] + c * plane];
    }
  }
}

// R rows of latents for V vectors of positions.
template <int R, int V>
__attribute__((noinline)) void product(const float* a, const float* b, int64_t depth, float* z, int64_t step, bool add) {
  vec sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sums[r][v] = add ? load(z + r * step + v * LANES) : vec{};
  for (int64_t c = 0; c < depth; ++c) {
    vec x[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) x[v] = load(b + c * V * LANES + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float weight = a[c * R + r];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] += weight * x[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(z + r * step + v * LANES, sums[r][v]);
}

using Product = void (*)(const float*, const float*, int64_t, float*, int64_t, bool);
constexpr Product PRODUCTS[2][ROWS] = {
    {product<1, 1>, product<2, 1>, product<3, 1>, product<4, 1>, product<5, 1>, product<6, 1>},
    {product<1, 2>, product<2, 2>, product<3, 2>, product<4, 2>, product<5, 2>, product<6, 2>}};

// Q outputs of one template for V vectors of positions, from all its latents.
template <int Q, int V>
inline __attribute__((always_inline)) void mixed(const float* const* z, int64_t count, const float* factors,
                                                 const float* bias, float* const* y, int64_t at, int64_t lanes) {
  vec sums[Q][V];
#pragma GCC unroll 4
  for (int q = 0; q < Q; ++q)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[q][v] = vec{} + bias[q];
  for (int64_t i = 0; i < count; ++i) {
    const float* from = z[i] + at;
    float by[Q];
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) by[q] = factors[q * count + i];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const vec x = load(from + v * LANES);
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) sums[q][v] += by[q] * x;
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < Q; ++q)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      if (V > 1 || lanes >= LANES) {
        store(y[q] + at + v * LANES, sums[q][v]);
      } else {
        for (int64_t lane = 0; lane < lanes; ++lane) y[q][at + lane] = sums[q][v][lane];
      }
    }
}

template <int Q, int V>
__attribute__((noinline)) void mix(const float* const* z, int64_t count, const float* factors, const float* bias,
                                   float* const* y, int64_t positions) {
  int64_t at = 0;
  for (; at + V * LANES <= positions; at += V * LANES) mixed<Q, V>(z, count, factors, bias, y, at, LANES);
  for (; at < positions; at += LANES) mixed<Q, 1>(z, count, factors, bias, y, at, positions - at);
}

using Mix = void (*)(const float* const*, int64_t, const float*, const float*, float* const*, int64_t);
constexpr int MOST = 4;  // outputs at a time
constexpr Mix MIXES[MOST] = {mix<1, 8>, mix<2, 4>, mix<3, 4>, mix<4, 2>};

struct Weights {
  const float *panels, *factors, *bias;
  const int *outputs, *first;  // outputs in the order of their templates, and where those of each start
};

// What a shift would read from the next row, or from the next image, is zero.
void cut(float* z, const Sizes& s, const Tile& tile, const Tap& tap) {
  const int64_t each = tile.bottom - tile.top, rows = tile.images * each;
  if (tap.across != 0) {
    const int64_t from = tap.across > 0 ? 0 : std::max<int64_t>(0, s.columns + tap.across);
    const int64_t to = tap.across > 0 ? std::min(tap.across, s.columns) : s.columns;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = from; column < to; ++column) z[row * s.columns + column] = 0.0f;
  }
  if (tap.down != 0 && tile.images > 1) {
    const int64_t from = tap.down > 0 ? 0 : std::max<int64_t>(0, each + tap.down);
    const int64_t to = tap.down > 0 ? std::min(tap.down, each) : each;
    for (int64_t image = 0; image < tile.images; ++image)
      std::memset(z + (image * each + from) * s.columns, 0, (to - from) * s.columns * sizeof(float));
  }
}

// Both stages for the templates of some panels and one tile.
void run(const Sizes& s, const std::vector<Tap>& taps, const Weights& w, const Tile& tile, int64_t begin, int64_t end,
         const float* packed, float* y) {
  const int64_t start = s.first(begin), count = s.first(end) - start, positions = tile.positions(s);
  int64_t before = 0, after = 0;
  for (const Tap& tap : taps) {
    before = std::max(before, -(tap.down * s.columns + tap.across));
    after = std::max(after, tap.down * s.columns + tap.across);
  }
  before = (before + LANES - 1) / LANES * LANES;
  const int64_t filled = (positions + LANES - 1) / LANES * LANES;
  const int64_t step = (before + filled + after + MARGIN + WIDE - 1) / WIDE * WIDE + LANES;  // no power of two
  float* latents = scratch(0, s.groups * s.taps * count * step);
  for (int64_t row = 0; row < s.groups * s.taps * count; ++row) {
    std::memset(latents + row * step, 0, before * sizeof(float));
    std::memset(latents + row * step + before + filled, 0, (step - before - filled) * sizeof(float));
  }
  std::vector<int64_t> firsts;
  for (int64_t each = begin; each <= end; ++each) firsts.push_back(s.first(each));
  const int64_t panels = tile.panels(s);
  for (int64_t phase = 0; phase < s.phases(); ++phase)
    for (int64_t group = 0; group < s.groups; ++group)
      for (int64_t from = 0; from < s.depth; from += DEPTH)
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int wide = positions - panel * WIDE > LANES;
          const float* b = packed + (tile.start + phase * panels + panel) * s.in * WIDE +
                           (group * s.depth + from) * (wide ? WIDE : LANES);
          for (int64_t k = 0; k < s.taps; ++k) {
            if (taps[k].phase != phase) continue;
            const int64_t row = group * s.taps + k;
            for (int64_t each = begin; each < end; ++each) {
              const int64_t top = firsts[each - begin], rows = firsts[each - begin + 1] - top;
              PRODUCTS[wide][rows - 1](w.panels + (row * s.templates + top) * s.depth + from * rows, b,
                                       std::min(DEPTH, s.depth - from),
                                       latents + (row * count + top - start) * step + before + panel * WIDE, step, from > 0);
            }
          }
        }
  const bool direct = tile.images == 1 && s.columns == s.wide;
  const int64_t skipped = (tile.first - tile.top) * s.columns, all = tile.images > 1 ? positions : (tile.last - tile.first) * s.columns;
  float* lines = direct ? nullptr : scratch(1, MOST * (all + LANES));
  std::vector<const float*> z(s.groups * s.taps);
  for (int64_t t = start; t < start + count; ++t) {
    for (int64_t i = 0; i < s.groups * s.taps; ++i) {
      const Tap& tap = taps[i % s.taps];
      float* row = latents + (i * count + t - start) * step + before;
      cut(row, s, tile, tap);
      z[i] = row + skipped + tap.down * s.columns + tap.across;
    }
    for (int64_t next = w.first[t]; next < w.first[t + 1];) {
      const int64_t left = w.first[t + 1] - next, several = left <= MOST ? left : left < 2 * MOST ? (left + 1) / 2 : MOST;
      float *to[MOST], bias[MOST];
      for (int64_t q = 0; q < several; ++q) {
        const int64_t n = w.outputs[next + q];
        bias[q] = w.bias == nullptr ? 0.0f : w.bias[n];
        to[q] = direct ? y + ((tile.image * s.out + n) * s.high + tile.first) * s.wide : lines + q * (all + LANES);
      }
      MIXES[several - 1](z.data(), s.groups * s.taps, w.factors + next * s.groups * s.taps, bias, to, all);
      for (int64_t q = 0; !direct && q < several; ++q)
        for (int64_t image = 0; image < tile.images; ++image)
          for (int64_t row = tile.first; row < tile.last; ++row)
            std::memcpy(y + (((tile.image + image) * s.out + w.outputs[next + q]) * s.high + row) * s.wide,
                        to[q] + (image * (tile.bottom - tile.top) + row - tile.first) * s.columns, s.wide * sizeof(float));
      next += several;
    }
  }
}

int64_t rounded_down(int64_t a, int64_t b) { return a / b - (a % b < 0); }

std::vector<Tap> taps_of(const Sizes& s, at::IntArrayRef kernel, at::IntArrayRef padding, at::IntArrayRef dilation) {
  std::vector<Tap> taps;
  for (int64_t i = 0; i < kernel[0]; ++i)
    for (int64_t j = 0; j < kernel[1]; ++j) {
      const int64_t y = i * dilation[0] - padding[0], x = j * dilation[1] - padding[1];
      const int64_t down = rounded_down(y, s.step_down), across = rounded_down(x, s.step_across);
      taps.push_back({(y - down * s.step_down) * s.step_across + x - across * s.step_across, down, across});
    }
  return taps;
}

// Whole images as long as their latents are few, or rows of one.
std::vector<Tile> tiles_of(const Sizes& s, const std::vector<Tap>& taps, int64_t threads) {
  const int64_t least = s.groups * s.taps * ((s.templates + s.panels() - 1) / s.panels()), plane = s.rows * s.columns;
  const int64_t most = std::max<int64_t>(LATENTS / least, 4 * s.columns);
  std::vector<Tile> tiles;
  int64_t start = 0;
  const auto add = [&](Tile tile) {
    tile.start = start;
    start += tile.panels(s) * s.phases();
    tiles.push_back(tile);
  };
  if (plane <= most) {
    const int64_t several = std::max<int64_t>(1, std::min(most / plane, (s.images + threads - 1) / threads));
    for (int64_t image = 0; image < s.images; image += several)
      add({image, std::min(several, s.images - image), 0, s.high, 0, s.rows, 0});
    return tiles;
  }
  int64_t above = 0, below = 0;
  for (const Tap& tap : taps) {
    above = std::max(above, -tap.down);
    below = std::max(below, tap.down);
  }
  const int64_t parts = (s.high + std::max<int64_t>(1, most / s.columns - above - below) - 1) /
                        std::max<int64_t>(1, most / s.columns - above - below);
  for (int64_t image = 0; image < s.images; ++image)
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = part * s.high / parts, last = (part + 1) * s.high / parts;
      add({image, 1, first, last, std::max<int64_t>(0, first - above), std::min(s.rows, last + below), 0});
    }
  return tiles;
}

at::Tensor two_stage(const at::Tensor& x, const at::Tensor& panels, const at::Tensor& factors, const at::Tensor& outputs,
                     const at::Tensor& first, const std::optional<at::Tensor>& bias, int64_t groups, at::IntArrayRef kernel,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  const auto is = [](const at::Tensor& t, at::ScalarType type) { return t.scalar_type() == type && t.is_contiguous() && t.is_cpu(); };
  TORCH_CHECK(kernel.size() == 2 && stride.size() == 2 && padding.size() == 2 && dilation.size() == 2, "two_stage: wrong sizes");
  for (int i = 0; i < 2; ++i)
    TORCH_CHECK(kernel[i] >= 1 && stride[i] >= 1 && padding[i] >= 0 && dilation[i] >= 1, "two_stage: wrong sizes");
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat && x.is_cpu(), "two_stage: wrong input");
  Sizes s{};
  s.images = x.size(0), s.in = x.size(1), s.height = x.size(2), s.width = x.size(3), s.out = outputs.numel();
  s.groups = groups, s.templates = first.numel() - 1, s.taps = kernel[0] * kernel[1];
  s.step_down = stride[0], s.step_across = stride[1];
  TORCH_CHECK(groups >= 1 && s.in >= 1 && s.in % groups == 0, "two_stage: wrong groups");
  s.depth = s.in / groups;
  s.high = rounded_down(s.height + 2 * padding[0] - dilation[0] * (kernel[0] - 1) - 1, stride[0]) + 1;
  s.wide = rounded_down(s.width + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1, stride[1]) + 1;
  TORCH_CHECK(s.high >= 1 && s.wide >= 1, "two_stage: the kernel is larger than the padded input");
  s.rows = std::max(s.high, (s.height + stride[0] - 1) / stride[0]);
  s.columns = std::max(s.wide, (s.width + stride[1] - 1) / stride[1]);
  TORCH_CHECK(s.templates >= 1 && is(panels, at::kFloat) && panels.numel() == s.templates * s.taps * s.in, "two_stage: wrong weights");
  TORCH_CHECK(is(factors, at::kFloat) && factors.numel() == s.out * groups * s.taps, "two_stage: wrong factors");
  TORCH_CHECK(is(outputs, at::kInt) && is(first, at::kInt), "two_stage: wrong outputs");
  TORCH_CHECK(!bias.has_value() || (is(*bias, at::kFloat) && bias->numel() == s.out), "two_stage: wrong bias");
  Weights w{panels.const_data_ptr<float>(), factors.const_data_ptr<float>(),
            bias.has_value() ? bias->const_data_ptr<float>() : nullptr, outputs.const_data_ptr<int>(), first.const_data_ptr<int>()};
  TORCH_CHECK(w.first[0] == 0 && w.first[s.templates] == s.out, "two_stage: wrong outputs");
  for (int64_t t = 0; t < s.templates; ++t) TORCH_CHECK(w.first[t] <= w.first[t + 1], "two_stage: wrong outputs");
  for (int64_t n = 0; n < s.out; ++n) TORCH_CHECK(w.outputs[n] >= 0 && w.outputs[n] < s.out, "two_stage: wrong outputs");

  const bool last = !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast);
  const auto maps = last ? x : x.contiguous();
  auto y = at::empty({s.images, s.out, s.high, s.wide}, x.options());
  if (s.images == 0) return y;
  const auto taps = taps_of(s, kernel, padding, dilation);
  const int64_t threads = at::get_num_threads();
  const auto tiles = tiles_of(s, taps, threads);
  const int64_t every = tiles.back().start + tiles.back().panels(s) * s.phases(), block = s.in * WIDE;
  float* packed = scratch(2, every * block + s.in);
  float* zeros = packed + every * block;
  std::memset(zeros, 0, s.in * sizeof(float));
  const float* from = maps.const_data_ptr<float>();
  std::vector<Packing> packings;
  for (const Tile& tile : tiles)
    for (int64_t phase = 0; phase < s.phases(); ++phase)
      for (int64_t panel = 0; panel < tile.panels(s); panel += TOGETHER) packings.push_back({&tile, phase, panel});
  at::parallel_for(0, packings.size(), std::max<int64_t>(1, 16384 / block), [&](int64_t begin, int64_t end) {
    for (int64_t each = begin; each < end; ++each) {
      const auto [tile, phase, panel] = packings[each];
      pack(from, last, s, *tile, phase, panel, std::min(panel + TOGETHER, tile->panels(s)), zeros,
           packed + (tile->start + phase * tile->panels(s) + panel) * block);
    }
  });

  // As many templates at a time as the cache holds latents of.
  const int64_t positions = tiles[0].positions(s), all = s.panels();
  int64_t several = std::max<int64_t>(1, LATENTS / (s.groups * s.taps * positions * ((s.templates + all - 1) / all)));
  if (static_cast<int64_t>(tiles.size()) < threads) several = std::min(several, std::max<int64_t>(1, all / threads));
  const int64_t blocks = (all + several - 1) / several, tasks = blocks * static_cast<int64_t>(tiles.size());
  float* to = y.data_ptr<float>();
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task)
      run(s, taps, w, tiles[task / blocks], task % blocks * all / blocks, (task % blocks + 1) * all / blocks, packed, to);
  });
  if (!last) return y;

  auto turned = at::empty({s.images, s.out, s.high, s.wide}, x.options(), at::MemoryFormat::ChannelsLast);
  const int64_t plane = s.high * s.wide, parts = (plane + WIDE - 1) / WIDE;
  float* there = turned.data_ptr<float>();
  at::parallel_for(0, s.images * parts, std::max<int64_t>(1, 16384 / (s.out * WIDE)), [&](int64_t begin, int64_t end) {
    std::vector<const float*> lines(s.out);
    for (int64_t each = begin; each < end; ++each) {
      const int64_t image = each / parts, at = each % parts * WIDE;
      for (int64_t n = 0; n < s.out; ++n) lines[n] = to + (image * s.out + n) * plane + at;
      transposed(lines.data(), s.out, std::min<int64_t>(WIDE, plane - at), there + (image * plane + at) * s.out, s.out);
    }
  });
  return turned;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(spectrim, m) {
  m.def(
      "two_stage(Tensor x, Tensor panels, Tensor factors, Tensor outputs, Tensor first, Tensor? bias, int groups, "
      "int[] kernel, int[] stride, int[] padding, int[] dilation) -> Tensor");
}

TORCH_LIBRARY_IMPL(spectrim, CPU, m) { m.impl("two_stage", two_stage); }
