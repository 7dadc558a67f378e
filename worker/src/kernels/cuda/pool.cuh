// From token vectors to one vector per sequence.
//
// A block takes 8 chunks of columns (128 bytes of a token, a cache line) of one sequence; its 32 groups of 8 threads take
// every 32nd token each and are added up in a fixed order. So a long sequence is not one thread's loop, and a row's bits
// depend on its own length alone.
//
// Reads tokens · dim · sizeof(T) bytes (cls and last: one token per row), writes rows · dim · 4. 16384 tokens of 768 in
// bf16: 25 MB, floor 6 us at 4.3 TB/s. Reached: not run.
#pragma once

#include "numbers.cuh"

constexpr unsigned POOL_COLUMN_CHUNKS = 8;
constexpr unsigned POOL_THREADS = 256;
constexpr unsigned POOL_GROUPS = POOL_THREADS / POOL_COLUMN_CHUNKS;

// As in `Pooling::ALL` of layers/pooling.rs.
constexpr unsigned POOL_CLS = 0;
constexpr unsigned POOL_MEAN = 1;
constexpr unsigned POOL_MAX = 2;
constexpr unsigned POOL_MEAN_SQRT_LEN = 3;
constexpr unsigned POOL_LAST_TOKEN = 4;

// NaN where either is.
DEVICE float larger(float a, float b) { return b != b || b > a ? b : a; }

DEVICE float combine(bool maximum, float a, float b) { return maximum ? larger(a, b) : a + b; }

// A row without tokens becomes zeroes.
template <class T>
DEVICE void pool(const T* hidden, const unsigned* offsets, unsigned mode, float* out, unsigned rows, unsigned dim) {
    constexpr unsigned N = CHUNK<T>;
    constexpr unsigned WARPS = POOL_THREADS / WARP;
    constexpr unsigned COLUMNS = POOL_COLUMN_CHUNKS * N;
    SHARED_ARRAY(float, partial, WARPS * COLUMNS);
    const unsigned long long row = blockIdx.x;
    if (row >= rows) return;
    unsigned begin = offsets[row], end = offsets[row + 1];
    const bool empty = begin >= end, maximum = mode == POOL_MAX;
    float factor = 1.0f;
    if (mode == POOL_MEAN) factor = 1.0f / static_cast<float>(end - begin);
    if (mode == POOL_MEAN_SQRT_LEN) factor = 1.0f / sqrtf(static_cast<float>(end - begin));
    if (mode == POOL_CLS && !empty) end = begin + 1;
    if (mode == POOL_LAST_TOKEN && !empty) begin = end - 1;

    const unsigned chunk = threadIdx.x % POOL_COLUMN_CHUNKS, group = threadIdx.x / POOL_COLUMN_CHUNKS;
    const unsigned long long block_column = static_cast<unsigned long long>(blockIdx.y) * COLUMNS;
    const unsigned long long column = block_column + chunk * N;
    const float neutral = maximum ? -INFINITY : 0.0f;
    float sum[N];
#pragma unroll
    for (unsigned i = 0; i < N; i++) sum[i] = neutral;
    if (column < dim) {
        const unsigned valid = dim - static_cast<unsigned>(column);
        const bool whole = dim % N == 0 && aligned16(hidden);
        const T* at = hidden + column;
#pragma unroll 4
        for (unsigned long long token = begin + group; token < end; token += POOL_GROUPS) {
            float x[N];
            load_chunk(x, at + token * dim, valid, whole);
#pragma unroll
            for (unsigned i = 0; i < N; i++) sum[i] = combine(maximum, sum[i], x[i]);
        }
    }
    // The groups of a warp first, then the warps of the block.
#pragma unroll
    for (unsigned mask = POOL_COLUMN_CHUNKS; mask < WARP; mask *= 2) {
#pragma unroll
        for (unsigned i = 0; i < N; i++) sum[i] = combine(maximum, sum[i], shuffle_xor(sum[i], mask));
    }
    if (lane_index() < POOL_COLUMN_CHUNKS) {
#pragma unroll
        for (unsigned i = 0; i < N; i++) partial[warp_index() * COLUMNS + chunk * N + i] = sum[i];
    }
    block_barrier();
    if (threadIdx.x < COLUMNS && block_column + threadIdx.x < dim) {
        float total = partial[threadIdx.x];
#pragma unroll
        for (unsigned w = 1; w < WARPS; w++) total = combine(maximum, total, partial[w * COLUMNS + threadIdx.x]);
        out[row * dim + block_column + threadIdx.x] = empty ? 0.0f : total * factor;
    }
}

#define POOL_ENTRIES(suffix, T)                                                                                      \
    ENTRY(POOL_THREADS, 1, pool_##suffix,                                                                            \
          (const T* hidden, const unsigned* offsets, unsigned mode, float* out, unsigned rows, unsigned dim),        \
          pool(hidden, offsets, mode, out, rows, dim))
ENTRY_PER_TYPE(POOL_ENTRIES)
