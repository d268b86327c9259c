// The banded pointwise convolution in one pass over tiles of blocks that stay in the cache: cosine transforms of the blocks, a product
// in which each frequency reads as many of the sorted channels as keep it, and the transforms back. Maps are channels-last;
// coefficients lie as frequency, block, channel.

#include "banded.h"
#include "lines.h"
#include "products.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

namespace spectrim {
namespace {

constexpr int64_t CACHED = 48 * 1024;  // numbers that a tile reads its products from, and that it writes: within the second level
constexpr int SIDE = 8;                // of the largest block
constexpr int MOST = SIDE * SIDE;

// -- a layer ----------------------------------------------------------------------------------------------------------

struct Height {
  int columns;                // to the last one of which anything is kept
  std::array<int, SIDE> rows; // of each
};

struct Layer {
  Bands bands;
  int frequencies, top;               // of a block, and those that any channel keeps
  std::array<Height, MOST + 1> height;  // of the first so many frequencies
  std::array<int, MOST> rank;         // of a position
  std::array<int64_t, MOST + 1> active;  // channels that keep a frequency
  int64_t parts, outs, step;          // vectors of channels, and numbers from one row of coefficients to the next

  explicit Layer(const Bands& b) : bands(b), frequencies(b.block * b.block), top(b.kept[0]) {
    height[0] = {};
    for (int f = 0; f < frequencies; ++f) {
      const int u = b.order[f] / b.block, v = b.order[f] % b.block;
      rank[b.order[f]] = f;
      height[f + 1] = height[f];
      height[f + 1].columns = std::max(height[f].columns, v + 1);
      height[f + 1].rows[v] = std::max(height[f].rows[v], u + 1);
    }
    int64_t channels = b.in;
    for (int f = 0; f < frequencies; ++f) {
      while (channels > 0 && b.kept[channels - 1] <= f) --channels;
      active[f] = channels;
    }
    parts = (b.in + LANES - 1) / LANES;
    outs = (b.out + LANES - 1) / LANES;
    step = (parts | 1) * LANES;  // odd, so that the rows do not meet in few sets of the cache
  }
};

struct Tile {  // blocks that are done together
  int64_t first, count;
  int64_t rows(int top) const { return top * count; }
};

struct Place {  // of a block in its map
  int64_t image, top, left;
};

float* scratch(int which, int64_t numbers) {
  struct Held {
    std::unique_ptr<float, decltype(&std::free)> data{nullptr, std::free};
    int64_t size = 0;
  };
  static thread_local Held held[4];
  Held& here = held[which];
  if (here.size < numbers) {
    const size_t bytes = (numbers * sizeof(float) + 63) / 64 * 64;
    here.data.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    here.size = numbers;
    std::memset(here.data.get(), 0, bytes);
  }
  return here.data.get();
}

// -- blocks of one size -----------------------------------------------------------------------------------------------

using RowsThere = void (*)(const float*, const ptrdiff_t*, const ptrdiff_t*, vec*, Clamp);
using ColumnThere = void (*)(const vec*, float*, const ptrdiff_t*);
using ColumnBack = void (*)(const float*, const ptrdiff_t*, vec*);
using RowsBack = void (*)(const vec*, float*, const ptrdiff_t*, const ptrdiff_t*, Clamp);

template <int B>
struct Steps {
  RowsThere rows_there[2][B + 1] = {};  // as they are, and clamped
  ColumnThere column_there[B + 1] = {};
  ColumnBack column_back[B + 1] = {};
  RowsBack rows_back[2][B + 1] = {};
  constexpr Steps() { fill(std::make_integer_sequence<int, B>()); }
  template <int... N>
  constexpr void fill(std::integer_sequence<int, N...>) {
    ((rows_there[0][N + 1] = spectrim::rows_there<B, N + 1, false>), ...);
    ((rows_there[1][N + 1] = spectrim::rows_there<B, N + 1, true>), ...);
    ((column_there[N + 1] = spectrim::column_there<B, N + 1>), ...);
    ((column_back[N + 1] = spectrim::column_back<B, N + 1>), ...);
    ((rows_back[0][N + 1] = spectrim::rows_back<B, N + 1, false>), ...);
    ((rows_back[1][N + 1] = spectrim::rows_back<B, N + 1, true>), ...);
  }
};

template <int B>
struct Convolution {
  static constexpr Steps<B> STEPS{};
  const Layer& layer;
  const Maps& maps;
  const float *x, *packed, *bias;
  float* y;
  Clamp read, written;
  const RowsThere* rows_there;
  const RowsBack* rows_back;
  int64_t down, across;  // blocks of a map

  Convolution(const Layer& layer, const Maps& maps, const float* x, const float* packed, const float* bias, float* y)
      : layer(layer), maps(maps), x(x), packed(packed), bias(bias), y(y),
        read{layer.bands.read.low, layer.bands.read.high}, written{layer.bands.written.low, layer.bands.written.high},
        rows_there(STEPS.rows_there[layer.bands.read.limited()]), rows_back(STEPS.rows_back[layer.bands.written.limited()]),
        down((maps.height + B - 1) / B), across((maps.width + B - 1) / B) {}

  int64_t blocks() const { return maps.images * down * across; }

  Place place(int64_t block) const {
    return {block / (down * across), block / across % down * B, block % across * B};
  }

  // The coefficients of some channels of one block of a tile.
  void there(const Tile& tile, int64_t block, int64_t part, int64_t end, float* spectrum) const {
    const Bands& bands = layer.bands;
    const Place at = place(tile.first + block);
    const float* map = x + at.image * maps.height * maps.width * bands.in;
    ptrdiff_t lines[B], pixels[B], where[B * B];
    for (int i = 0; i < B; ++i) {
      lines[i] = std::min(at.top + i, maps.height - 1) * maps.width * bands.in;
      pixels[i] = std::min(at.left + i, maps.width - 1) * bands.in;
    }
    const float* from = map;
    if (bands.source != nullptr || end * LANES > bands.in) {  // sorted, or filled up to whole vectors, on the way
      const int64_t first = part * LANES, count = std::min(end * LANES, bands.in) - first, width = (end - part) * LANES;
      float* copy = scratch(2, width * B * B);
      for (int i = 0; i < B; ++i)
        for (int j = 0; j < B; ++j) {
          const float* there = map + lines[i] + pixels[j];
          float* here = copy + (i * B + j) * width;
          if (bands.source == nullptr) {
            std::memcpy(here, there + first, count * sizeof(float));
          } else {
            for (int64_t c = 0; c < count; ++c) here[c] = there[bands.source[first + c]];
          }
          std::memset(here + count, 0, (width - count) * sizeof(float));
        }
      for (int i = 0; i < B; ++i) {
        lines[i] = i * B * width;
        pixels[i] = i * width;
      }
      from = copy - first;
    }
    // What is transformed and not kept, a hole in the order, goes behind the last row.
    const int64_t row = tile.count * layer.step, rows = tile.rows(layer.top);
    float* to = spectrum + block * layer.step;
    int known = -1;
    for (; part < end; ++part) {
      const int64_t first = part * LANES, last = std::min(first + LANES, bands.in) - 1;
      const int most = bands.kept[first], least = bands.kept[last];
      const Height& height = layer.height[most];
      if (most != known) {
        const ptrdiff_t hole = padded(rows) * layer.step - block * layer.step;
        for (int v = 0; v < height.columns; ++v)
          for (int u = 0; u < height.rows[v]; ++u) {
            const int f = layer.rank[u * B + v];
            where[v * B + u] = f < most ? f * row : hole;
          }
        known = most;
      }
      vec half[B * B];
      rows_there[height.columns](from + first, lines, pixels, half, read);
      for (int v = 0; v < height.columns; ++v)
        if (height.rows[v] > 0) STEPS.column_there[height.rows[v]](half + v * B, to + first, where + v * B);
      if (least < most) {  // some of the lanes keep less
        float limits[LANES];
        for (int lane = 0; lane < LANES; ++lane) limits[lane] = bands.kept[std::min(first + lane, last)];
        const vec limit = load(limits);
        for (int f = least; f < most; ++f) {
          float* there = to + first + f * row;
          store(there, static_cast<float>(f) < limit ? load(there) : vec{});
        }
      }
      // Rows of a product that begins with a row that is kept.
      const int64_t multiplied = std::min<int64_t>((padded(most * tile.count) + tile.count - 1) / tile.count, layer.top);
      for (int64_t f = most; f < multiplied; ++f) store(to + first + f * row, vec{});
    }
  }

  // The product with one panel of the weight, and back to the map.
  void back(const Tile& tile, int64_t index, const float* spectrum) const {
    const Bands& bands = layer.bands;
    const Panel p = panel(layer.outs, index);
    const int64_t rows = tile.rows(layer.top), width = p.vectors * LANES;
    float* total = scratch(1, (padded(rows) + 1 + tile.count) * width);
    const float* weight = packed + p.first * LANES * bands.in;
    for (int64_t row = 0; row < rows; row += ROWS)
      PRODUCTS[p.vectors](spectrum + row * layer.step, layer.step, weight, layer.active[row / tile.count], total + row * width);
    float *zero = total + padded(rows) * width, *mean = zero + width;
    std::memset(zero, 0, (1 + tile.count) * width * sizeof(float));
    const Height& height = layer.height[layer.top];
    ptrdiff_t where[B * B];
    for (int v = 0; v < height.columns; ++v)
      for (int u = 0; u < height.rows[v]; ++u) {
        const int f = layer.rank[u * B + v];
        where[v * B + u] = f < layer.top ? f * tile.count * width : -1;
      }
    const bool has_mean = layer.rank[0] < layer.top;
    for (int64_t block = 0; block < tile.count; ++block) {
      const Place at = place(tile.first + block);
      float* from = total + block * width;
      ptrdiff_t here[B * B];
      for (int v = 0; v < height.columns; ++v)
        for (int u = 0; u < height.rows[v]; ++u)
          here[v * B + u] = where[v * B + u] >= 0 ? where[v * B + u] : zero - from;
      if (!has_mean) here[0] = mean + block * width - from;
      float* map = y + at.image * maps.height * maps.width * bands.out;
      for (int vector = 0; vector < p.vectors; ++vector) {
        const int64_t first = (p.first + vector) * LANES;
        const int lanes = static_cast<int>(std::min<int64_t>(LANES, bands.out - first));
        if (bias != nullptr) {  // a constant is its mean alone, times the side of the block
          float shift[LANES] = {};
          std::memcpy(shift, bias + first, lanes * sizeof(float));
          float* there = from + here[0] + vector * LANES;
          store(there, load(there) + load(shift) * static_cast<float>(B));
        }
        vec half[B * B];
        const int columns = has_mean ? height.columns : std::max(height.columns, 1);
        for (int v = 0; v < columns; ++v) {
          const int lines = v == 0 ? std::max(height.rows[0], 1) : height.rows[v];
          if (lines > 0) {
            STEPS.column_back[lines](from + vector * LANES, here + v * B, half + v * B);
          } else {
            std::fill(half + v * B, half + (v + 1) * B, vec{});
          }
        }
        ptrdiff_t lines[B], pixels[B];
        if (lanes == LANES && at.top + B <= maps.height && at.left + B <= maps.width) {
          for (int i = 0; i < B; ++i) {
            lines[i] = (at.top + i) * maps.width * bands.out;
            pixels[i] = (at.left + i) * bands.out;
          }
          rows_back[columns](half, map + first, lines, pixels, written);
        } else {  // what reaches over an edge is left out
          float whole[B * B * LANES];
          for (int i = 0; i < B; ++i) {
            lines[i] = i * B * LANES;
            pixels[i] = i * LANES;
          }
          rows_back[columns](half, whole, lines, pixels, written);
          for (int i = 0; i < B && at.top + i < maps.height; ++i)
            for (int j = 0; j < B && at.left + j < maps.width; ++j)
              std::memcpy(map + ((at.top + i) * maps.width + at.left + j) * bands.out + first, whole + (i * B + j) * LANES,
                          lanes * sizeof(float));
        }
      }
    }
  }

  float* coefficients(int64_t blocks) const {
    return scratch(0, (padded(blocks * layer.top) + 1) * layer.step);
  }

  void run(int threads) const {
    const int64_t all = blocks(), panels = count_panels(layer.outs);
    const int64_t fit = std::max<int64_t>(1, CACHED / std::max(layer.top * layer.step, B * B * layer.bands.out));
    const int64_t turns = std::max<int64_t>(1, (all + threads * fit - 1) / (threads * fit));
    if (all >= threads) {
      const int64_t size = (all + threads * turns - 1) / (threads * turns), tiles = (all + size - 1) / size;
#pragma omp parallel for num_threads(threads) if (threads > 1)
      for (int64_t t = 0; t < tiles; ++t) {
        const Tile tile{t * size, std::min(size, all - t * size)};
        float* spectrum = coefficients(size);
        for (int64_t block = 0; block < tile.count; ++block) there(tile, block, 0, layer.parts, spectrum);
        for (int64_t index = 0; index < panels; ++index) back(tile, index, spectrum);
      }
      return;
    }
    // Fewer blocks than threads: those share the channels.
    const Tile tile{0, all};
    float* spectrum = coefficients(all);
    const int64_t shares = std::min<int64_t>(layer.parts, (threads + all - 1) / all);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
      for (int64_t task = 0; task < all * shares; ++task) {
        const int64_t share = task % shares;
        there(tile, task / shares, layer.parts * share / shares, layer.parts * (share + 1) / shares, spectrum);
      }
#pragma omp for
      for (int64_t index = 0; index < panels; ++index) back(tile, index, spectrum);
    }
  }
};

}  // namespace

int64_t packed_size(int64_t in, int64_t out) { return in * ((out + LANES - 1) / LANES) * LANES; }

void pack(const float* weight, int64_t in, int64_t out, float* packed) {
  const int64_t vectors = (out + LANES - 1) / LANES;
  for (int64_t index = 0; index < count_panels(vectors); ++index) {
    const Panel p = panel(vectors, index);
    const int64_t first = p.first * LANES, width = p.vectors * LANES, there = std::min(width, out - first);
    for (int64_t k = 0; k < in; ++k) {
      float* to = packed + first * in + k * width;
      std::memcpy(to, weight + k * out + first, there * sizeof(float));
      std::memset(to + there, 0, (width - there) * sizeof(float));
    }
  }
}

void convolve(const Bands& bands, const Maps& maps, const float* x, const float* packed, const float* bias, float* y,
              int threads) {
  const Layer layer(bands);
  switch (bands.block) {
    case 2: return Convolution<2>(layer, maps, x, packed, bias, y).run(threads);
    case 3: return Convolution<3>(layer, maps, x, packed, bias, y).run(threads);
    case 4: return Convolution<4>(layer, maps, x, packed, bias, y).run(threads);
    case 5: return Convolution<5>(layer, maps, x, packed, bias, y).run(threads);
    case 6: return Convolution<6>(layer, maps, x, packed, bias, y).run(threads);
    case 7: return Convolution<7>(layer, maps, x, packed, bias, y).run(threads);
    default: return Convolution<8>(layer, maps, x, packed, bias, y).run(threads);
  }
}

}  // namespace spectrim
