// The banded pointwise convolution in one pass over tiles of blocks that stay in the cache: cosine transforms of the blocks, a product
// in which each frequency reads as many of the sorted channels as keep it, and the transforms back.

#include "banded.h"
#include "blocks.h"

namespace spectrim {
namespace {

constexpr int64_t CACHED = 48 * 1024;  // numbers that a tile reads its products from, and that it writes: within the second level

struct Convolution {
  Layer layer;
  Field<const float> x;
  Field<float> y;
  const float *packed, *bias;
  const Blocks& blocks;
  int64_t all;  // blocks

  Convolution(const Bands& bands, const Maps& maps, const float* x, const float* packed, const float* bias, float* y)
      : layer(bands), x(maps_at(x, maps, bands.in)), y(maps_at(y, maps, bands.out)), packed(packed), bias(bias),
        blocks(Blocks::of(bands.block)),
        all(maps.images * ((maps.height + bands.block - 1) / bands.block) * ((maps.width + bands.block - 1) / bands.block)) {}

  void there(const Tile& tile, int64_t block, int64_t part, int64_t end, float* spectrum) const {
    blocks.there(layer, layer.bands.read, x, tile, block, part, end, spectrum);
  }

  // The product with one panel of the weight, and back to the map.
  void back(const Tile& tile, int64_t index, const float* spectrum) const {
    const Panel p = panel(layer.outs, index);
    float* total = scratch(Scratch::TOTAL, layer.totals(tile.count, p.vectors));
    layer.multiply(spectrum, tile.count, index, packed, total);
    Field<float> map = y;
    map.at += p.first * LANES;
    map.channels -= p.first * LANES;
    blocks.back(layer, layer.bands.written, bias, map, tile, p, total);
  }

  void run(int threads) const {
    const int64_t panels = count_panels(layer.outs);
    const int64_t fit = std::max<int64_t>(1, CACHED / std::max(layer.top * layer.step, layer.frequencies * layer.bands.out));
    const int64_t turns = std::max<int64_t>(1, (all + threads * fit - 1) / (threads * fit));
    if (all >= threads) {
      const int64_t size = (all + threads * turns - 1) / (threads * turns), tiles = (all + size - 1) / size;
#pragma omp parallel for num_threads(threads) if (threads > 1)
      for (int64_t t = 0; t < tiles; ++t) {
        const Tile tile{t * size, std::min(size, all - t * size)};
        float* spectrum = scratch(Scratch::SPECTRUM, layer.coefficients(size));
        for (int64_t block = 0; block < tile.count; ++block) there(tile, block, 0, layer.parts, spectrum);
        for (int64_t index = 0; index < panels; ++index) back(tile, index, spectrum);
      }
      return;
    }
    // Fewer blocks than threads: those share the channels.
    const Tile tile{0, all};
    float* spectrum = scratch(Scratch::SPECTRUM, layer.coefficients(all));
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
  Convolution(bands, maps, x, packed, bias, y).run(threads);
}

}  // namespace spectrim
