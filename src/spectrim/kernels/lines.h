// Cosine transforms of one line of vectors, of which the first N coefficients are kept. All loops unroll, all numbers in them
// are constants, and what is alike up to a sign is one constant.

#pragma once

#include <cstddef>
#include <cstring>

namespace spectrim {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef float loose __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

#define INLINE inline __attribute__((always_inline))

INLINE vec load(const float* from) { return *reinterpret_cast<const loose*>(from); }
INLINE void store(float* to, vec v) { *reinterpret_cast<loose*>(to) = v; }

// What an activation leaves of a number; one that is none stays so.
struct Clamp {
  float low, high;
  INLINE vec operator()(vec v) const {
    const vec least = vec{} + low, most = vec{} + high;
    v = least > v ? least : v;
    return most < v ? most : v;
  }
};

constexpr double root(double x) {
  double y = x > 1 ? x : 1;
  for (int i = 0; i < 60; ++i) y = (y + x / y) / 2;
  return y;
}

constexpr double cosine(int numerator, int denominator) {  // of pi times a fraction, from the first octants alone
  numerator %= 2 * denominator;
  if (numerator > denominator) numerator = 2 * denominator - numerator;
  if (2 * numerator > denominator) return -cosine(denominator - numerator, denominator);
  const double x = 3.14159265358979323846 * numerator / denominator;
  double term = 1, sum = 1;
  for (int i = 2; i < 30; i += 2) {
    term *= -x * x / (i * (i - 1));
    sum += term;
  }
  return sum;
}

// A transform of LENGTH, scaled as the whole one of length B is: row k, column n.
template <int B, int LENGTH>
struct Matrix {
  float entries[LENGTH][LENGTH] = {};
  constexpr Matrix() {
    for (int k = 0; k < LENGTH; ++k)
      for (int n = 0; n < LENGTH; ++n)
        entries[k][n] = static_cast<float>(root((k == 0 ? 1.0 : 2.0) / B) * cosine((2 * n + 1) * k, 2 * LENGTH));
  }
};

template <int B, int LENGTH>
constexpr Matrix<B, LENGTH> MATRIX;

template <int B, int LENGTH>
INLINE float entry(int k, int n) {
  return MATRIX<B, LENGTH>.entries[k][n];
}

INLINE vec add(vec total, vec v, float c) { return c < 0 ? total - v * -c : total + v * c; }
INLINE vec scaled(vec v, float c) { return c < 0 ? -(v * -c) : v * c; }

// The first N of LENGTH coefficients. The even ones are a transform of the folded line, of half the length.
template <int B, int LENGTH, int N>
INLINE void forward(const vec* x, vec* y) {
  if constexpr (LENGTH == 1) {
    y[0] = scaled(x[0], entry<B, 1>(0, 0));
  } else {
    constexpr int ODD = LENGTH / 2, FOLDED = (LENGTH + 1) / 2;
    vec sum[FOLDED], even[FOLDED];
#pragma GCC unroll 8
    for (int n = 0; n < ODD; ++n) sum[n] = x[n] + x[LENGTH - 1 - n];
    if constexpr (LENGTH % 2) sum[ODD] = x[ODD];
    if constexpr (LENGTH % 2 == 0) {
      forward<B, LENGTH / 2, (N + 1) / 2>(sum, even);
#pragma GCC unroll 8
      for (int k = 0; 2 * k < N; ++k) y[2 * k] = even[k];
    } else {
#pragma GCC unroll 8
      for (int k = 0; k < N; k += 2) {
        vec total = scaled(sum[0], entry<B, LENGTH>(k, 0));
#pragma GCC unroll 8
        for (int n = 1; n < FOLDED; ++n) total = add(total, sum[n], entry<B, LENGTH>(k, n));
        y[k] = total;
      }
    }
    if constexpr (N > 1) {
      vec difference[ODD];
#pragma GCC unroll 8
      for (int n = 0; n < ODD; ++n) difference[n] = x[n] - x[LENGTH - 1 - n];
#pragma GCC unroll 8
      for (int k = 1; k < N; k += 2) {
        vec total = scaled(difference[0], entry<B, LENGTH>(k, 0));
#pragma GCC unroll 8
        for (int n = 1; n < ODD; ++n) total = add(total, difference[n], entry<B, LENGTH>(k, n));
        y[k] = total;
      }
    }
  }
}

// The line whose first N coefficients these are, the others being zero.
template <int B, int LENGTH, int N>
INLINE void inverse(const vec* y, vec* x) {
  if constexpr (LENGTH == 1) {
    x[0] = scaled(y[0], entry<B, 1>(0, 0));
  } else {
    constexpr int ODD = LENGTH / 2, FOLDED = (LENGTH + 1) / 2;
    vec even[FOLDED];
    if constexpr (LENGTH % 2 == 0) {
      vec part[FOLDED];
#pragma GCC unroll 8
      for (int k = 0; 2 * k < N; ++k) part[k] = y[2 * k];
      inverse<B, LENGTH / 2, (N + 1) / 2>(part, even);
    } else {
#pragma GCC unroll 8
      for (int n = 0; n < FOLDED; ++n) {
        vec total = scaled(y[0], entry<B, LENGTH>(0, n));
#pragma GCC unroll 8
        for (int k = 2; k < N; k += 2) total = add(total, y[k], entry<B, LENGTH>(k, n));
        even[n] = total;
      }
    }
    if constexpr (LENGTH % 2) x[ODD] = even[ODD];
#pragma GCC unroll 8
    for (int n = 0; n < ODD; ++n) {
      if constexpr (N > 1) {
        vec odd = scaled(y[1], entry<B, LENGTH>(1, n));
#pragma GCC unroll 8
        for (int k = 3; k < N; k += 2) odd = add(odd, y[k], entry<B, LENGTH>(k, n));
        x[n] = even[n] + odd;
        x[LENGTH - 1 - n] = even[n] - odd;
      } else {
        x[n] = x[LENGTH - 1 - n] = even[n];
      }
    }
  }
}

// Between maps and lines. `half` holds lines across blocks that are transformed in one direction: frequency, pixel.

// All rows of a block of pixels, clamped or as they are; their first N coefficients.
template <int B, int N, bool CLAMPED>
void rows_there(const float* x, const ptrdiff_t* down, const ptrdiff_t* across, vec* half, Clamp clamp) {
  for (int i = 0; i < B; ++i) {
    const float* row = x + down[i];
    vec line[B], done[N];
#pragma GCC unroll 8
    for (int j = 0; j < B; ++j) line[j] = CLAMPED ? clamp(load(row + across[j])) : load(row + across[j]);
#pragma GCC unroll 8
    for (int j = 0; j < B; ++j) __builtin_prefetch(row + across[j] + 16);  // the next line of the cache; no prefetcher sees that
    forward<B, B, N>(line, done);
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) half[v * B + i] = done[v];
  }
}

// One column of them; its first N coefficients go where they belong.
template <int B, int N>
void column_there(const vec* half, float* to, const ptrdiff_t* where) {
  vec done[N];
  forward<B, B, N>(half, done);
#pragma GCC unroll 8
  for (int u = 0; u < N; ++u) store(to + where[u], done[u]);
}

template <int B, int N>
void column_back(const float* from, const ptrdiff_t* where, vec* half) {
  vec line[N], done[B];
#pragma GCC unroll 8
  for (int u = 0; u < N; ++u) line[u] = load(from + where[u]);
  inverse<B, B, N>(line, done);
#pragma GCC unroll 8
  for (int i = 0; i < B; ++i) half[i] = done[i];
}

template <int B, int N, bool CLAMPED>
void rows_back(const vec* half, float* y, const ptrdiff_t* down, const ptrdiff_t* across, Clamp clamp) {
  for (int i = 0; i < B; ++i) {
    vec line[N], done[B];
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) line[v] = half[v * B + i];
    inverse<B, B, N>(line, done);
    float* row = y + down[i];
#pragma GCC unroll 8
    for (int j = 0; j < B; ++j) store(row + across[j], CLAMPED ? clamp(done[j]) : done[j]);
  }
}

}  // namespace spectrim
