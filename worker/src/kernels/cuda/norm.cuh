// LayerNorm of token vectors, alone and fused with the look-up of embeddings.
//
// A row that fits into the registers of a warp belongs to one warp: no barrier, one read, mean and variance in two passes over
// registers (the one-pass formula cancels when the mean is large). A wider row belongs to a block, which reads it three times,
// the second and third time from cache. Which of the two depends on `dim` alone, so a row's bits do not depend on its company.
//
// layer_norm: reads and writes 2 · dim · sizeof(T) bytes per token, plus gamma and beta from cache. 16384 tokens of 768 in
// bf16: 50 MB, floor 12 us at 4.3 TB/s. Reached: not run.
// embed_norm: reads 2 · dim · sizeof(T) + 8 bytes per token (positions mostly from cache), writes dim · sizeof(T).
// 16384 tokens of 768 in bf16: 50 MB besides positions, floor 12 us at 4.3 TB/s. Reached: not run.
#pragma once

#include "numbers.cuh"

constexpr unsigned NORM_THREADS = 128;
// Numbers of a row that one lane keeps: rows up to 1024 belong to a warp. launch.rs repeats the bound.
constexpr unsigned NORM_LANE_NUMBERS = 32;
constexpr unsigned NORM_WARP_DIM = WARP * NORM_LANE_NUMBERS;

// Row that is already there.
template <class T> struct OneRow {
    const T* x;

    DEVICE void load(float (&out)[CHUNK<T>], unsigned at, unsigned valid, bool whole) const {
        load_chunk(out, x + at, valid, whole);
    }
};

// Row that is the sum of two, not rounded in between.
template <class T> struct TwoRows {
    const T* word;
    const T* position;

    DEVICE void load(float (&out)[CHUNK<T>], unsigned at, unsigned valid, bool whole) const {
        float other[CHUNK<T>];
        load_chunk(out, word + at, valid, whole);
        load_chunk(other, position + at, valid, whole);
#pragma unroll
        for (unsigned i = 0; i < CHUNK<T>; i++) out[i] += other[i];
    }
};

struct NormParameters {
    const float* gamma;
    const float* beta;
    float epsilon;
    unsigned dim;
    // Rows are whole chunks at aligned addresses.
    bool whole;
};

template <class T>
DEVICE void store_normalised(T* out, const float (&x)[CHUNK<T>], float mean, float scale, const NormParameters& norm,
                             unsigned at, unsigned valid) {
    float gamma[CHUNK<T>], beta[CHUNK<T>], y[CHUNK<T>];
    load_floats<T>(gamma, norm.gamma + at, valid, norm.whole);
    load_floats<T>(beta, norm.beta + at, valid, norm.whole);
#pragma unroll
    for (unsigned i = 0; i < CHUNK<T>; i++) y[i] = fmaf((x[i] - mean) * scale, gamma[i], beta[i]);
    store_chunk(out + at, y, valid, norm.whole);
}

// Sum of squared distances from the mean, of the numbers that exist.
template <class T> DEVICE float add_squares(float sum, const float (&x)[CHUNK<T>], float mean, unsigned valid) {
#pragma unroll
    for (unsigned i = 0; i < CHUNK<T>; i++) {
        const float distance = i < valid ? x[i] - mean : 0.0f;
        sum = fmaf(distance, distance, sum);
    }
    return sum;
}

// One row by one warp, `CHUNKS` chunks per lane: chunk c of the row belongs to lane c % 32.
template <class T, unsigned CHUNKS, class Row>
DEVICE void norm_by_warp(const Row& row, T* out, const NormParameters& norm) {
    constexpr unsigned N = CHUNK<T>;
    const unsigned lane = lane_index();
    const float per_dim = 1.0f / static_cast<float>(norm.dim);
    float x[CHUNKS][N];
    float sum = 0.0f;
#pragma unroll
    for (unsigned c = 0; c < CHUNKS; c++) {
        const unsigned at = (c * WARP + lane) * N;
        if (at < norm.dim) {
            row.load(x[c], at, norm.dim - at, norm.whole);
        } else {
#pragma unroll
            for (unsigned i = 0; i < N; i++) x[c][i] = 0.0f;
        }
    }
#pragma unroll
    for (unsigned c = 0; c < CHUNKS; c++) {
#pragma unroll
        for (unsigned i = 0; i < N; i++) sum += x[c][i];
    }
    const float mean = warp_sum(sum) * per_dim;
    float squares = 0.0f;
#pragma unroll
    for (unsigned c = 0; c < CHUNKS; c++) {
        const unsigned at = (c * WARP + lane) * N;
        squares = add_squares<T>(squares, x[c], mean, at < norm.dim ? norm.dim - at : 0);
    }
    const float scale = 1.0f / sqrtf(fmaf(warp_sum(squares), per_dim, norm.epsilon));
#pragma unroll
    for (unsigned c = 0; c < CHUNKS; c++) {
        const unsigned at = (c * WARP + lane) * N;
        if (at < norm.dim) store_normalised(out, x[c], mean, scale, norm, at, norm.dim - at);
    }
}

// Sum over the threads of a block, the same bits in all of them. `partial` is free again after the next barrier.
DEVICE float block_sum(float x, float* partial) {
    x = warp_sum(x);
    if (lane_index() == 0) partial[warp_index()] = x;
    block_barrier();
    float sum = 0.0f;
#pragma unroll
    for (unsigned w = 0; w < NORM_THREADS / WARP; w++) sum += partial[w];
    return sum;
}

// One row by one block. In place is safe: a thread writes only what it alone reads after the last barrier.
template <class T, class Row> DEVICE void norm_by_block(const Row& row, T* out, const NormParameters& norm) {
    constexpr unsigned N = CHUNK<T>;
    SHARED_ARRAY(float, sums, NORM_THREADS / WARP);
    SHARED_ARRAY(float, square_sums, NORM_THREADS / WARP);
    const float per_dim = 1.0f / static_cast<float>(norm.dim);
    float x[N];
    float sum = 0.0f;
    for (unsigned at = threadIdx.x * N; at < norm.dim; at += NORM_THREADS * N) {
        row.load(x, at, norm.dim - at, norm.whole);
#pragma unroll
        for (unsigned i = 0; i < N; i++) sum += x[i];
    }
    const float mean = block_sum(sum, sums) * per_dim;
    float squares = 0.0f;
    for (unsigned at = threadIdx.x * N; at < norm.dim; at += NORM_THREADS * N) {
        row.load(x, at, norm.dim - at, norm.whole);
        squares = add_squares<T>(squares, x, mean, norm.dim - at);
    }
    const float scale = 1.0f / sqrtf(fmaf(block_sum(squares, square_sums), per_dim, norm.epsilon));
    for (unsigned at = threadIdx.x * N; at < norm.dim; at += NORM_THREADS * N) {
        row.load(x, at, norm.dim - at, norm.whole);
        store_normalised(out, x, mean, scale, norm, at, norm.dim - at);
    }
}

// A warp's registers are allotted for the widest row; narrow rows skip what they do not need.
template <class T, class Row> DEVICE void norm_row_by_warp(const Row& row, T* out, const NormParameters& norm) {
    constexpr unsigned MOST = NORM_LANE_NUMBERS / CHUNK<T>;
    if (norm.dim <= NORM_WARP_DIM / 4) {
        norm_by_warp<T, MOST / 4>(row, out, norm);
    } else if (norm.dim <= NORM_WARP_DIM / 2) {
        norm_by_warp<T, MOST / 2>(row, out, norm);
    } else if (norm.dim <= NORM_WARP_DIM * 3 / 4) {
        norm_by_warp<T, MOST * 3 / 4>(row, out, norm);
    } else {
        norm_by_warp<T, MOST>(row, out, norm);
    }
}

// The token of this warp, or of this block where rows are wide.
DEVICE unsigned long long norm_token(unsigned dim) {
    constexpr unsigned long long WARPS = NORM_THREADS / WARP;
    return dim <= NORM_WARP_DIM ? blockIdx.x * WARPS + warp_index() : blockIdx.x;
}

template <class T, class Row> DEVICE void norm_row(const Row& row, T* out, const NormParameters& norm) {
    if (norm.dim <= NORM_WARP_DIM) {
        norm_row_by_warp(row, out, norm);
    } else {
        norm_by_block(row, out, norm);
    }
}

template <class T>
DEVICE void layer_norm(T* x, const float* gamma, const float* beta, float epsilon, unsigned tokens, unsigned dim) {
    const unsigned long long token = norm_token(dim);
    if (token >= tokens) return;
    const bool whole = dim % CHUNK<T> == 0 && aligned16(x, gamma, beta);
    T* row = x + token * dim;
    norm_row(OneRow<T>{row}, row, NormParameters{gamma, beta, epsilon, dim, whole});
}

template <class T>
DEVICE void embed_norm(const T* words, const T* positions, const float* gamma, const float* beta, float epsilon,
                       const unsigned* ids, const unsigned* position_ids, T* out, unsigned tokens, unsigned dim) {
    const unsigned long long token = norm_token(dim);
    if (token >= tokens) return;
    const bool whole = dim % CHUNK<T> == 0 && aligned16(words, positions, gamma, beta, out);
    const unsigned long long word = ids[token], position = position_ids[token];
    norm_row(TwoRows<T>{words + word * dim, positions + position * dim}, out + token * dim,
             NormParameters{gamma, beta, epsilon, dim, whole});
}

#define NORM_ENTRIES(suffix, T)                                                                                      \
    ENTRY(NORM_THREADS, 1, layer_norm_##suffix,                                                                      \
          (T * x, const float* gamma, const float* beta, float epsilon, unsigned tokens, unsigned dim),              \
          layer_norm(x, gamma, beta, epsilon, tokens, dim))                                                          \
    ENTRY(NORM_THREADS, 1, embed_norm_##suffix,                                                                      \
          (const T* words, const T* positions, const float* gamma, const float* beta, float epsilon,                 \
           const unsigned* ids, const unsigned* position_ids, T* out, unsigned tokens, unsigned dim),                \
          embed_norm(words, positions, gamma, beta, epsilon, ids, position_ids, out, tokens, dim))
ENTRY_PER_TYPE(NORM_ENTRIES)
