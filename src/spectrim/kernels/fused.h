// What the binding of a depthwise convolution with the pointwise ones beside it asks of its arithmetic; nothing of torch in here.

#pragma once

#include "banded.h"

namespace spectrim {

struct Pointwise {       // one side; a block of one pixel is a plain convolution
  Bands bands;
  const float* packed;   // null where there is none
  const float* bias;     // null for none
};

struct Depthwise {
  int kernel, stride;    // 3 or 5; 1 or 2
  int64_t above, left;   // zeros before the first row and column
  int64_t height, width; // of what it writes
  const float* weight;   // tap, channel; filled up to whole vectors
  const float* bias;     // likewise
  Limits written;
};

// y = project(clamp(depthwise(expand(x)))), channels last.
void fuse(const Pointwise& expand, const Depthwise& depthwise, const Pointwise& project, const Maps& maps, const float* x,
          float* y, int threads);

}  // namespace spectrim
