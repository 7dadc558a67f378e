// Bias and the exact (erf) GELU behind the first product of a feed-forward layer, in place.
//
// A thread keeps one chunk of columns, whose bias it reads once, and goes down GELU_ROWS rows.
//
// Reads and writes 2 · rows · n · sizeof(T) bytes. 16384 rows of 3072 in bf16: 201 MB, floor 47 us at 4.3 TB/s; about 25
// instructions per number take as long, which is why erf is one polynomial here instead of erff and its branches.
// Reached: not run.
#pragma once

#include "numbers.cuh"

constexpr unsigned GELU_THREADS = 64;
constexpr unsigned GELU_ROWS = 8;

// x / 2 · (1 + erf(x / sqrt 2)) with an absolute error below 1e-6. The same polynomial as kernels/cpu/math.rs, which says
// where it comes from: erf(x / sqrt 2) / x in powers of u = 2 (x / 5.4)^2 - 1, exact in the tails, NaN for NaN.
DEVICE float gelu(float x) {
    constexpr float BOUND = 5.4f;
    constexpr float POLYNOMIAL[15] = {2.6185623e-1f,  -1.3065626e-1f, 9.700032e-2f,   -7.840905e-2f, 6.4212665e-2f,
                                      -5.1534094e-2f, 3.942716e-2f,   -2.7769752e-2f, 1.8872092e-2f, -1.3718318e-2f,
                                      8.006503e-3f,   -2.1217784e-3f, 1.2071691e-3f,  -2.1404212e-3f, 9.527331e-4f};
    const float bounded = fminf(BOUND, fmaxf(-BOUND, x));
    const float u = fmaf(bounded * bounded, 2.0f / (BOUND * BOUND), -1.0f);
    float p = POLYNOMIAL[14];
#pragma unroll
    for (int i = 13; i >= 0; i--) p = fmaf(p, u, POLYNOMIAL[i]);
    const float erf = fminf(1.0f, fmaxf(-1.0f, p * bounded));
    const float half = x * 0.5f;
    return fmaf(half, erf, half);
}

template <class T> DEVICE void bias_gelu(T* x, const T* bias, unsigned rows, unsigned n) {
    constexpr unsigned N = CHUNK<T>;
    const unsigned long long column = (static_cast<unsigned long long>(blockIdx.y) * GELU_THREADS + threadIdx.x) * N;
    if (column >= n) return;
    const unsigned valid = n - static_cast<unsigned>(column);
    const bool whole = n % N == 0 && aligned16(x, bias);
    const unsigned long long first = static_cast<unsigned long long>(blockIdx.x) * GELU_ROWS;
    float b[N];
    load_chunk(b, bias + column, valid, whole);
#pragma unroll 4
    for (unsigned i = 0; i < GELU_ROWS; i++) {
        if (first + i >= rows) return;
        T* at = x + (first + i) * n + column;
        float y[N];
        load_chunk(y, at, valid, whole);
#pragma unroll
        for (unsigned j = 0; j < N; j++) y[j] = gelu(y[j] + b[j]);
        store_chunk(at, y, valid, whole);
    }
}

#define GELU_ENTRIES(suffix, T)                                                                   \
    ENTRY(GELU_THREADS, 1, bias_gelu_##suffix, (T * x, const T* bias, unsigned rows, unsigned n), \
          (bias_gelu(x, bias, rows, n)))
ENTRY_PER_TYPE(GELU_ENTRIES)
