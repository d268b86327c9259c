// Between maps and the coefficients of their blocks, which lie as frequency, block, channel.

#pragma once

#include "layer.h"

namespace spectrim {

template <typename Number>
struct Field {  // maps, channels last; the channels of a pixel lie together
  Number* at;
  int64_t height, width, channels;
  ptrdiff_t image, down, across;  // numbers from one to the next
};

template <typename Number>
Field<Number> maps_at(Number* at, const Maps& maps, int64_t channels) {
  const ptrdiff_t down = maps.width * channels;
  return {at, maps.height, maps.width, channels, maps.height * down, down, channels};
}

struct Tile {  // blocks that are done together, in their order: image, from above, from the left
  int64_t first, count;
};

class Blocks {  // of one size
 public:
  virtual ~Blocks() = default;

  // The coefficients of some vectors of channels of one block of a tile; the map is continued by its last row and column.
  virtual void there(const Layer& layer, const Limits& read, const Field<const float>& map, const Tile& tile, int64_t block,
                     int64_t part, int64_t end, float* spectrum) const = 0;

  // From a product with one panel, to the first channels of a map; what reaches over its edges, or over its channels, is left out.
  virtual void back(const Layer& layer, const Limits& written, const float* bias, const Field<float>& map, const Tile& tile,
                    const Panel& panel, float* total) const = 0;

  static const Blocks& of(int side);
};

}  // namespace spectrim
