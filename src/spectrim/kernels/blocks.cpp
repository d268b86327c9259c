// The transforms of blocks of every size, the loops over their pixels unrolled.

#include "blocks.h"

#include <utility>

namespace spectrim {
namespace {

struct Place {  // of a block in its map
  int64_t image, top, left;
};

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
class Sized final : public Blocks {
  static constexpr Steps<B> STEPS{};

  template <typename Number>
  static Place place(const Field<Number>& map, int64_t block) {
    const int64_t down = (map.height + B - 1) / B, across = (map.width + B - 1) / B;
    return {block / (down * across), block / across % down * B, block % across * B};
  }

  void there(const Layer& layer, const Limits& read, const Field<const float>& map, const Tile& tile, int64_t block,
             int64_t part, int64_t end, float* spectrum) const override {
    const Bands& bands = layer.bands;
    const Place at = place(map, tile.first + block);
    const float* image = map.at + at.image * map.image;
    ptrdiff_t lines[B], pixels[B], where[B * B];
    for (int i = 0; i < B; ++i) {
      lines[i] = std::min(at.top + i, map.height - 1) * map.down;
      pixels[i] = std::min(at.left + i, map.width - 1) * map.across;
    }
    const float* from = image;
    if (bands.source != nullptr || end * LANES > map.channels) {  // sorted, or filled up to whole vectors, on the way
      const int64_t first = part * LANES, count = std::min(end * LANES, bands.in) - first, width = (end - part) * LANES;
      float* copy = scratch(Scratch::COPY, width * B * B);
      for (int i = 0; i < B; ++i)
        for (int j = 0; j < B; ++j) {
          const float* there = image + lines[i] + pixels[j];
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
    const int64_t row = tile.count * layer.step, rows = layer.top * tile.count;
    const RowsThere* rows_there = STEPS.rows_there[read.limited()];
    const Clamp clamp{read.low, read.high};
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
      rows_there[height.columns](from + first, lines, pixels, half, clamp);
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

  void back(const Layer& layer, const Limits& written, const float* bias, const Field<float>& map, const Tile& tile,
            const Panel& panel, float* total) const override {
    const int64_t width = panel.vectors * LANES;
    float *zero = total + padded(layer.top * tile.count) * width, *mean = zero + width;
    std::memset(zero, 0, (1 + tile.count) * width * sizeof(float));
    const Height& height = layer.height[layer.top];
    ptrdiff_t where[B * B];
    for (int v = 0; v < height.columns; ++v)
      for (int u = 0; u < height.rows[v]; ++u) {
        const int f = layer.rank[u * B + v];
        where[v * B + u] = f < layer.top ? f * tile.count * width : -1;
      }
    const bool has_mean = layer.rank[0] < layer.top;
    const RowsBack* rows_back = STEPS.rows_back[written.limited()];
    const Clamp clamp{written.low, written.high};
    for (int64_t block = 0; block < tile.count; ++block) {
      const Place at = place(map, tile.first + block);
      float* from = total + block * width;
      ptrdiff_t here[B * B];
      for (int v = 0; v < height.columns; ++v)
        for (int u = 0; u < height.rows[v]; ++u)
          here[v * B + u] = where[v * B + u] >= 0 ? where[v * B + u] : zero - from;
      if (!has_mean) here[0] = mean + block * width - from;
      float* image = map.at + at.image * map.image;
      for (int vector = 0; vector < panel.vectors; ++vector) {
        const int64_t channel = (panel.first + vector) * LANES, first = vector * LANES;
        if (bias != nullptr) {  // a constant is its mean alone, times the side of the block
          float shift[LANES] = {};
          std::memcpy(shift, bias + channel, std::min<int64_t>(LANES, layer.bands.out - channel) * sizeof(float));
          float* there = from + here[0] + first;
          store(there, load(there) + load(shift) * static_cast<float>(B));
        }
        vec half[B * B];
        const int columns = has_mean ? height.columns : std::max(height.columns, 1);
        for (int v = 0; v < columns; ++v) {
          const int lines = v == 0 ? std::max(height.rows[0], 1) : height.rows[v];
          if (lines > 0) {
            STEPS.column_back[lines](from + first, here + v * B, half + v * B);
          } else {
            std::fill(half + v * B, half + (v + 1) * B, vec{});
          }
        }
        const int64_t lanes = std::min<int64_t>(LANES, map.channels - first);
        ptrdiff_t lines[B], pixels[B];
        if (lanes == LANES && at.top + B <= map.height && at.left + B <= map.width) {
          for (int i = 0; i < B; ++i) {
            lines[i] = (at.top + i) * map.down;
            pixels[i] = (at.left + i) * map.across;
          }
          rows_back[columns](half, image + first, lines, pixels, clamp);
        } else {  // what reaches over an edge is left out
          float whole[B * B * LANES];
          for (int i = 0; i < B; ++i) {
            lines[i] = i * B * LANES;
            pixels[i] = i * LANES;
          }
          rows_back[columns](half, whole, lines, pixels, clamp);
          for (int i = 0; i < B && at.top + i < map.height; ++i)
            for (int j = 0; j < B && at.left + j < map.width; ++j)
              std::memcpy(image + (at.top + i) * map.down + (at.left + j) * map.across + first, whole + (i * B + j) * LANES,
                          lanes * sizeof(float));
        }
      }
    }
  }
};

}  // namespace

const Blocks& Blocks::of(int side) {
  static const Sized<2> two;
  static const Sized<3> three;
  static const Sized<4> four;
  static const Sized<5> five;
  static const Sized<6> six;
  static const Sized<7> seven;
  static const Sized<8> eight;
  static const Blocks* const all[] = {&two, &three, &four, &five, &six, &seven, &eight};
  return *all[side - 2];
}

}  // namespace spectrim
