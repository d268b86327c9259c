// One row of a depthwise convolution, some vectors of channels wide.

#pragma once

#include "lines.h"

#include <cstdint>

namespace spectrim {

struct Taps {
  const float* weight;  // of the first of these channels
  int64_t channels;     // from one tap to the next
  const float* bias;
  bool clamped;
  Clamp clamp;
};

// PIXELS neighbours at once, so that what they both read is read once.
template <int K, int S, int PIXELS>
INLINE void neighbours(const float* const* rows, int64_t width, const Taps& taps, float* to, int64_t step) {
  vec sum[PIXELS];
#pragma GCC unroll 4
  for (int j = 0; j < PIXELS; ++j) sum[j] = load(taps.bias);
#pragma GCC unroll 5
  for (int down = 0; down < K; ++down) {
    vec tap[K];
#pragma GCC unroll 5
    for (int across = 0; across < K; ++across) tap[across] = load(taps.weight + (down * K + across) * taps.channels);
#pragma GCC unroll 11
    for (int at = 0; at < (PIXELS - 1) * S + K; ++at) {
      const vec pixel = load(rows[down] + at * width);
#pragma GCC unroll 4
      for (int j = 0; j < PIXELS; ++j)
        if (at >= j * S && at < j * S + K) sum[j] += pixel * tap[at - j * S];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < PIXELS; ++j) store(to + j * step, taps.clamped ? taps.clamp(sum[j]) : sum[j]);
}

// `rows` are the K rows it reads, from the first column of zeros on; pixels lie `width` apart there and `step` in what it writes.
template <int K, int S>
void depthwise_row(const float* const* rows, int64_t width, int vectors, Taps taps, float* to, int64_t step, int64_t pixels) {
  for (int vector = 0; vector < vectors; ++vector) {
    const float* from[K];
    for (int down = 0; down < K; ++down) from[down] = rows[down] + vector * LANES;
    float* here = to + vector * LANES;
    int64_t j = 0;
    for (; j + 4 <= pixels; j += 4) {
      neighbours<K, S, 4>(from, width, taps, here, step);
      for (int down = 0; down < K; ++down) from[down] += 4 * S * width;
      here += 4 * step;
    }
    for (; j < pixels; ++j) {
      neighbours<K, S, 1>(from, width, taps, here, step);
      for (int down = 0; down < K; ++down) from[down] += S * width;
      here += step;
    }
    taps.weight += LANES;
    taps.bias += LANES;
  }
}

using DepthwiseRow = void (*)(const float* const*, int64_t, int, Taps, float*, int64_t, int64_t);

inline DepthwiseRow depthwise_row_of(int kernel, int stride) {
  if (kernel == 3) return stride == 1 ? depthwise_row<3, 1> : depthwise_row<3, 2>;
  return stride == 1 ? depthwise_row<5, 1> : depthwise_row<5, 2>;
}

}  // namespace spectrim
