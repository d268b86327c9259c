// What a banded pointwise convolution is, apart from its weight, and memory to compute it in.

#pragma once

#include "banded.h"
#include "lines.h"
#include "products.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <new>

namespace spectrim {

constexpr int SIDE = 8;  // of the largest block
constexpr int MOST = SIDE * SIDE;

struct Height {
  int columns;                 // to the last one of which anything is kept
  std::array<int, SIDE> rows;  // of each
};

struct Layer {
  Bands bands;
  int frequencies, top;                  // of a block, and those that any channel keeps
  std::array<Height, MOST + 1> height;   // of the first so many frequencies
  std::array<int, MOST> rank;            // of a position
  std::array<int64_t, MOST + 1> active;  // channels that keep a frequency
  int64_t parts, outs, step;             // vectors of channels, and numbers from one row of coefficients to the next

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
    step = stepped(b.in);
  }

  // From one row of numbers to the next: odd in vectors, so that the rows do not meet in few sets of the cache.
  static int64_t stepped(int64_t channels) { return (((channels + LANES - 1) / LANES) | 1) * LANES; }

  // What the coefficients of so many blocks take, a row to spare for those that are not kept.
  int64_t coefficients(int64_t blocks) const { return (padded(blocks * top) + 1) * step; }

  // The product of the coefficients of some blocks with one panel of the weight.
  void multiply(const float* spectrum, int64_t blocks, int64_t index, const float* packed, float* total) const {
    const Panel p = panel(outs, index);
    const float* weight = packed + p.first * LANES * bands.in;
    for (int64_t row = 0; row < top * blocks; row += ROWS)
      PRODUCTS[p.vectors](spectrum + row * step, step, weight, active[row / blocks], total + row * p.vectors * LANES);
  }

  // What a product takes, and what `Blocks::back` needs behind it.
  int64_t totals(int64_t blocks, int vectors) const { return (padded(blocks * top) + 1 + blocks) * vectors * LANES; }
};

enum class Scratch { SPECTRUM, TOTAL, COPY, OTHER_SPECTRUM, MAP, STRIP, REST, COUNT };

// Memory of this thread that stays; what is in it may be anything that was.
inline float* scratch(Scratch which, int64_t numbers) {
  struct Held {
    std::unique_ptr<float, decltype(&std::free)> data{nullptr, std::free};
    int64_t size = 0;
  };
  static thread_local Held held[static_cast<int>(Scratch::COUNT)];
  Held& here = held[static_cast<int>(which)];
  if (here.size < numbers) {
    const size_t bytes = (numbers * sizeof(float) + 63) / 64 * 64;
    here.size = 0;
    here.data.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (here.data == nullptr) throw std::bad_alloc();
    here.size = numbers;
    std::memset(here.data.get(), 0, bytes);
  }
  return here.data.get();
}

}  // namespace spectrim
