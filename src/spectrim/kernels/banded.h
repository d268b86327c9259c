// What the binding of the banded pointwise convolution asks of its arithmetic; nothing of torch in here.

#pragma once

#include <cmath>
#include <cstdint>

namespace spectrim {

struct Limits {  // of an activation
  float low = -INFINITY, high = INFINITY;
  bool limited() const { return low > -INFINITY || high < INFINITY; }
};

struct Bands {          // of one layer
  int64_t in, out;      // channels
  int block;            // side of the square blocks, 2 to 8
  const int* order;     // positions of the frequencies, in the order in which they are kept
  const int* kept;      // of each channel, most first
  const int* source;    // which channel of the map each of them is; null: they lie in order
  Limits read, written; // between which numbers are clamped on their way in and out
};

struct Maps {
  int64_t images, height, width;
};

// Numbers that the packed weight takes.
int64_t packed_size(int64_t in, int64_t out);

// From (in, out), row by row, to panels of few columns, as the products read them.
void pack(const float* weight, int64_t in, int64_t out, float* packed);

// y = clamp(IDCT(W (m DCT(clamp(x)))) + bias), channels last.
void convolve(const Bands& bands, const Maps& maps, const float* x, const float* packed, const float* bias, float* y,
              int threads);

}  // namespace spectrim
