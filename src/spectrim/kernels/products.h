// Products of a few rows of coefficients with a panel of a packed weight, whose sums stay in registers from the first channel to the last.

#pragma once

#include "lines.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace spectrim {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int ROWS = 8;  // of a product: with 3 vectors of columns the sums fill three quarters of 32 registers
#else
constexpr int ROWS = 4;  // or of 16
#endif

#if defined(__x86_64__)
#define IN_REGISTER(v) asm("" : "+v"(v))
#elif defined(__aarch64__)
#define IN_REGISTER(v) asm("" : "+w"(v))
#else
#define IN_REGISTER(v)
#endif

template <int VECTORS>
void product(const float* a, int64_t step, const float* b, int64_t depth, float* c) {
  vec sum[ROWS][VECTORS] = {};
  for (int64_t k = 0; k < depth; ++k) {
    vec columns[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) {
      columns[j] = load(b + (k * VECTORS + j) * LANES);
      IN_REGISTER(columns[j]);  // or it would be read again for each row
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      const float value = a[i * step + k];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) sum[i][j] += columns[j] * value;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) store(c + (i * VECTORS + j) * LANES, sum[i][j]);
}

using Product = void (*)(const float*, int64_t, const float*, int64_t, float*);
constexpr Product PRODUCTS[] = {nullptr, product<1>, product<2>, product<3>};

struct Panel {
  int64_t first;  // vector of columns
  int vectors;
};

// As many panels of three vectors as can be without one of a single one.
inline int64_t count_panels(int64_t vectors) { return (vectors + 2) / 3; }

inline Panel panel(int64_t vectors, int64_t index) {
  const int64_t panels = count_panels(vectors), narrow = std::min(3 * panels - vectors, panels), wide = panels - narrow;
  if (vectors == 1) return {0, 1};
  return index < wide ? Panel{3 * index, 3} : Panel{3 * wide + 2 * (index - wide), 2};
}

// Rows of coefficients, filled up to whole products.
inline int64_t padded(int64_t rows) { return (rows + ROWS - 1) / ROWS * ROWS; }

}  // namespace spectrim
